"""lib/networks/slim.py: TF-Slim's variables in our modules, against what TensorFlow computes from them.

tensorflow_slim.npz holds TensorFlow's logits for made-up variables; tensorflow_slim.py made it. COMPANION_TENSORFLOW=1
makes it again here, and fetches the checkpoints that TensorFlow writes.
"""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from lib import fetch, settings, zoo
from lib.networks import slim
from lib.networks.inception_v3 import inception_v3
from lib.networks.resnet152 import ResNetV2
from lib.networks.weights import load_state
from tests.networks import tensorflow_slim as truth

KNOWN = Path(__file__).with_name("tensorflow_slim.npz")
NETWORKS = {
    "resnet_v2_152": (ResNetV2, slim.resnet_v2_state),
    "ens3_adv_inception_v3": (inception_v3, slim.inception_v3_state),
}


@pytest.fixture(scope="module", params=NETWORKS)
def case(request):
    """The name of a network, a module of it, what maps variables to its state dict, and made-up variables."""
    with np.load(KNOWN) as known:
        shapes = json.loads(str(known[f"{request.param} shapes"]))
    given = {name: truth.made_up(name, shape) for name, shape in shapes.items()} | {"global_step": np.int64(7)}
    build, mapped = NETWORKS[request.param]
    return request.param, build().eval(), mapped, given


def check_outputs(name, network, known):
    for side in truth.SIDES[name]:
        x = torch.from_numpy(truth.images(side)).permute(0, 3, 1, 2)
        with torch.inference_mode():
            assert np.abs(network(x).numpy() - known[f"{name} {side}"]).max() < 1e-4, side


def test_logits_are_tensorflows(case):
    name, network, mapped, given = case
    state = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in mapped(network, given).items()}
    load_state(network, state, name)
    with np.load(KNOWN) as known:
        assert all(known[f"{name} {side}"].std() > 0.1 for side in truth.SIDES[name])
        check_outputs(name, network, known)


def test_every_variable_is_asked_for_and_no_other_is_taken(case):
    name, network, mapped, given = case
    wanted = [each for each in given if each != "global_step" and "AuxLogits" not in each]
    for each in (wanted[0], wanted[len(wanted) // 2], wanted[-1]):
        with pytest.raises(ValueError, match=rf"^no variable '{each}'$|^93 convolutions with a norm, not 94$"):
            mapped(network, {other: value for other, value in given.items() if other != each})
    with pytest.raises(ValueError, match=r"^variable 'strange/weights' and 0 more belong to no layer$"):
        mapped(network, given | {"strange/weights": np.zeros(1)})
    mapped(network, given | {f"{wanted[0]}/Momentum": np.zeros(1)})
    ((build, other),) = [each for known, each in NETWORKS.items() if known != name]
    with torch.device("meta"), pytest.raises(ValueError, match=r"^no variable 'resnet|^100 convolutions with a norm,"):
        other(build(), given)


def archive(path, **files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_an_archive_without_one_checkpoint_is_refused(tmp_path):
    bad = tmp_path / "bad.tar.gz"
    for content in (b"", b"no archive", archive(bad, a=bytes(9999)).read_bytes()[:-20]):
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=r"^bad\.tar\.gz: cannot be unpacked \("):
            slim.variables(bad)
    with pytest.raises(ValueError, match=r"^bad\.tar\.gz: holds 0 TensorFlow checkpoints"):
        slim.variables(archive(bad, **{"train.graph": b"x"}))
    with pytest.raises(ValueError, match=r"^bad\.tar\.gz: holds 2 TensorFlow checkpoints"):
        slim.variables(archive(bad, **{"a.ckpt": b"x", "b.ckpt.index": b"x", "b.ckpt.meta": b"x"}))


def test_without_uv_or_tensorflow_one_line_says_so(tmp_path, monkeypatch):
    path = archive(tmp_path / "a.tar.gz", **{"a.ckpt": b"x"})
    monkeypatch.setattr("shutil.which", lambda name, path: None)
    with pytest.raises(FileNotFoundError, match=r"pip install uv$"):
        slim.variables(path)
    monkeypatch.setattr("shutil.which", lambda name, path: "/bin/false")
    with pytest.raises(OSError, match=r"^uv could not run tensorflow.*=="):
        slim.variables(path)


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """A folder with what TensorFlow writes here."""
    if not os.environ.get("COMPANION_TENSORFLOW"):
        pytest.skip("COMPANION_TENSORFLOW=1 runs it, a minute of CPU; uv downloads TensorFlow the first time")
    folder = tmp_path_factory.mktemp("tensorflow")
    slim.run_tensorflow(truth.__file__, folder)
    return folder


def test_a_checkpoint_that_tensorflow_writes_becomes_a_network_with_its_logits(computed, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "ROOT", tmp_path)
    paper = settings.load("paper")
    with np.load(KNOWN) as committed, np.load(computed / KNOWN.name) as known:
        for name, file in {"Res-152": "resnet_v2_152", "Inc-v3ens3": "ens3_adv_inception_v3"}.items():
            line = fetch.get_network(name, paper, file=computed / f"{file}.tar.gz")
            assert line.startswith(str(tmp_path / "models" / "paper" / f"{file}.safetensors (unverified, first seen "))
            check_outputs(file, zoo.load(name, paper).network, known)
            check_outputs(file, zoo.load(name, paper).network, committed)
