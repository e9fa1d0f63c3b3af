"""`companion defend` and `companion attack`: a defense or an attack on a folder of images."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lib import folders, zoo
from lib.attacks.decision import fgsm
from lib.data.images import read_image
from lib.defenses import defense
from lib.defenses.purifier import NOISE
from lib.networks.purifier import NRP, NRPResG, begin_as_identity
from lib.networks.small import ARCHITECTURES
from lib.networks.wrappers import Normalised
from tests.conftest import companion, refused

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")


@pytest.fixture
def images(tmp_path):
    """A folder with one image of every kind, all of other sizes."""
    source = tmp_path / "in"
    source.mkdir()
    random = np.random.default_rng(0)
    for k, name in enumerate(["a.png", "b.JPG", "c.jpeg", "d.webp", "e.bmp"]):
        levels = random.integers(0, 256, (20 + k, 31 - 2 * k, 3), dtype=np.uint8)
        Image.fromarray(levels).save(source / name)
    return source


def purifier(kind=NRPResG):
    """A tiny one that changes images."""
    torch.manual_seed(0)
    network = kind(width=4, blocks=2)
    begin_as_identity(network)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return network.requires_grad_(False)


@pytest.fixture
def weights(tmp_path):
    """The file of a tiny purifier."""
    path = tmp_path / "NRP_resG.pth"
    torch.save(purifier().state_dict(), path)
    return path


def run(kind, *arguments):
    status, out, err = companion("defend", kind, *arguments)
    assert status == 0, err
    return out, err


def failure(kind, *arguments):
    return refused("defend", kind, *arguments)


@pytest.mark.parametrize(
    ("arguments", "spec"),
    [
        (["jpeg", "--quality", "20"], {"kind": "jpeg", "quality": 20}),
        (["tvm", "--weight", "10"], {"kind": "tvm", "weight": 10.0}),
        (["median", "--window", "5"], {"kind": "median", "window": 5}),
        (["jpeg"], {"kind": "jpeg", "quality": 75}),
        (["tvm"], {"kind": "tvm", "weight": 30.0}),
        (["median"], {"kind": "median", "window": 3}),
    ],
)
def test_every_image_becomes_a_lossless_png(images, tmp_path, monkeypatch, arguments, spec):
    run(*arguments, images, tmp_path / "deep" / "out")
    written = sorted((tmp_path / "deep" / "out").iterdir())
    assert [path.name for path in written] == ["a.png", "b.png", "c.png", "d.png", "e.png"]
    for source, result in zip(sorted(images.iterdir()), written, strict=True):
        expected = defense(**spec)(read_image(source)[None] / 255)[0]
        assert torch.equal(read_image(result), (expected * 255).round().byte())


@pytest.mark.parametrize(("kind", "name"), [(NRPResG, "NRP_resG.pth"), (NRP, "NRP.pth"), (NRPResG, "own.safetensors")])
@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ([], {}),
        (["--dynamic"], {"noise": NOISE}),
        (["--dynamic", "--seed", "3"], {"noise": NOISE, "seed": 3}),
    ],
)
def test_a_purifier_on_images_of_several_sizes(images, tmp_path, monkeypatch, kind, name, arguments, options):
    network, path = purifier(kind), tmp_path / name
    (save_file if path.suffix == ".safetensors" else torch.save)(network.state_dict(), path)
    run("nrp", "--weights", path, *arguments, images, tmp_path / "out")
    for source, result in zip(sorted(images.iterdir()), sorted((tmp_path / "out").iterdir()), strict=True):
        x = read_image(source)
        expected = defense("nrp", network=network, **options)(x[None] / 255)[0]
        found = read_image(result)
        assert found.shape == x.shape and not torch.equal(found, x)
        # A GPU may round a value at the edge of two levels the other way.
        assert (found.int() - (expected * 255).round().int()).abs().max() <= torch.cuda.is_available()


def test_dynamic_and_static_purification_differ(images, weights, tmp_path, monkeypatch):
    for name, arguments in {"static": [], "0": ["--dynamic"], "1": ["--dynamic", "--seed", "1"]}.items():
        run("nrp", "--weights", weights, *arguments, images, tmp_path / name)
    static, first, second = (read_image(tmp_path / name / "a.png").int() for name in ("static", "0", "1"))
    assert (static - first).abs().float().mean() > 1 and (first - second).abs().float().mean() > 1


def test_a_purifier_in_tiles(images, weights, tmp_path, monkeypatch):
    run("nrp", "--weights", weights, images, tmp_path / "whole")
    run("nrp", "--weights", weights, "--tile", 16, images, tmp_path / "tiles")
    for whole in (tmp_path / "whole").iterdir():
        difference = read_image(whole).int() - read_image(tmp_path / "tiles" / whole.name).int()
        assert difference.abs().max() <= 1 and (difference != 0).float().mean() < 0.01


def test_a_purifier_s_errors_are_one_line(images, weights, tmp_path, monkeypatch):
    nowhere, torn, other = (tmp_path / name for name in ("nowhere.pth", "torn.pth", "other.safetensors"))
    torn.write_bytes(b"<html>quota exceeded</html>")
    save_file({"fc.weight": torch.zeros(2, 2)}, other)
    for arguments, message in [
        (["--weights", nowhere], "nowhere.pth is no such file"),
        (["--weights", tmp_path], "is no such file"),
        (["--weights", torn], "torn.pth"),
        (["--weights", other], "other.safetensors: "),
        (["--weights", weights, "--tile", "12"], "tile must be more than 12 pixels"),
    ]:
        assert message in failure("nrp", *arguments, images, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_a_gpu_that_is_too_small_leads_to_tiles(images, weights, tmp_path, monkeypatch):
    def exhausted(x):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(folders, "nrp_in_file", lambda **options: exhausted)
    assert "--tile" in failure("nrp", "--weights", weights, images, tmp_path / "out")


def test_a_purifier_needs_its_weights(images, tmp_path):
    assert "nrp needs --weights" in failure("nrp", images, tmp_path / "out")


def test_progress_and_the_number_of_images_are_said(images, tmp_path):
    out, err = run("median", images, tmp_path / "out")
    assert out.strip().endswith("out: 5 images") and "5/5" in err


def test_what_is_left_out_is_named(images, tmp_path):
    (images / "labels.csv").write_text("a,1\n")
    (images / "more").mkdir()
    assert "left out, no images: labels.csv, more" in run("median", images, tmp_path / "out")[1]


def test_a_missing_or_empty_folder(tmp_path, monkeypatch):
    assert "no such folder" in failure("jpeg", tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("")
    assert "no images here" in failure("jpeg", tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unreadable_file_is_named_at_the_end_and_the_others_are_done(images, tmp_path, monkeypatch):
    (images / "c.jpeg").write_bytes(b"no image")
    message = failure("jpeg", images, tmp_path / "out")
    assert "4 of 5 images are there; not done: " in message and "c.jpeg: corrupt image" in message
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["a.png", "b.png", "d.png", "e.png"]


def test_two_images_of_one_stem(images, tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(images / "a.bmp")
    message = failure("median", images, tmp_path / "out")
    assert "a.bmp and a.png would both become a.png" in message and not (tmp_path / "out").exists()


def test_the_same_folder_twice(images, monkeypatch):
    before = {path: path.read_bytes() for path in images.iterdir()}
    assert "name another folder" in failure("jpeg", images, images / ".." / "in")
    assert {path: path.read_bytes() for path in images.iterdir()} == before


def test_a_wrong_option_value(images, tmp_path, monkeypatch):
    assert "from 1 to 100" in failure("jpeg", "--quality", "0", images, tmp_path / "out")


def test_an_interrupted_write_leaves_no_file(tmp_path, monkeypatch):
    def interrupted(self, file, **options):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        folders.save_png(torch.zeros(3, 4, 4), tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


# Attacks.


@pytest.fixture
def networks(monkeypatch):
    """The networks of the scale, tiny and untrained."""
    made = {}

    def load(name, scale, device="cpu", fast=False):
        torch.manual_seed(len(name))
        return made.setdefault(name, Normalised(ARCHITECTURES["vgg16"](12), (0.5,) * 3, (0.25,) * 3).eval())

    monkeypatch.setattr(zoo, "load", load)
    return made


@pytest.fixture
def photographs(tmp_path):
    """Three images of other sizes, large enough for the networks."""
    folder, random = tmp_path / "photographs", np.random.default_rng(1)
    folder.mkdir()
    for name, shape in {"a.png": (40, 52), "b.jpg": (48, 48), "c.webp": (56, 44)}.items():
        Image.fromarray(random.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(folder / name)
    return folder


@pytest.mark.parametrize("name", ["SSP", "MI-FGSM", "Noise"])
def test_an_attack_keeps_the_budget_at_every_size(photographs, networks, tmp_path, monkeypatch, name):
    monkeypatch.setenv("COMPANION_STORE", str(tmp_path / "store"))
    steps = [] if name == "Noise" else ["--steps", 2]
    status, out, err = companion("attack", name, photographs, tmp_path / "out", "--eps", 8, *steps)
    assert status == 0, err
    assert out.startswith(f"{tmp_path / 'out'}: 3 images, {name}")
    assert ("labels predicted by" in out) == (name == "MI-FGSM") and ("on " in out) == (name != "Noise")
    for source, result in zip(sorted(photographs.iterdir()), sorted((tmp_path / "out").iterdir()), strict=True):
        moved = (read_image(result).int() - read_image(source).int()).abs()
        assert result.suffix == ".png" and moved.max() == (3 if name == "MI-FGSM" else 8)  # two steps of 1.6


def test_labels_of_a_file_are_those_that_the_attack_leaves(photographs, networks, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_STORE", str(tmp_path / "store"))
    labels = tmp_path / "labels.csv"
    labels.write_text("file,label\na.png,1\nb.jpg,2\nc.webp,3\n")
    status, out, err = companion("attack", "FGSM", photographs, tmp_path / "out", "--labels", labels)
    assert status == 0 and f"labels of {labels}" in out, err
    (network,) = networks.values()
    for label, path in enumerate(sorted(photographs.iterdir()), 1):
        x = read_image(path)[None] / 255
        expected = fgsm(network, x, torch.tensor([label]))[0]
        assert torch.equal(read_image(tmp_path / "out" / f"{path.stem}.png"), (expected * 255).round().byte())


def test_what_cannot_be_attacked_is_one_line(photographs, networks, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_STORE", str(tmp_path / "store"))
    (tmp_path / "other.csv").write_text("name\na.png\n")
    (tmp_path / "few.csv").write_text("file,label\na.png,1\n")
    for arguments, message in [
        (["SPS"], "no attack 'SPS'; did you mean 'SPSA'? There are: Noise"),
        (["FFF"], "FFF makes one perturbation for images of one size"),
        (["CDA", "--surrogate", "VGG-16"], "no surrogate 'VGG-16' for CDA at scale mini; did you mean 'CDA-"),
        (["FGSM", "--labels", tmp_path / "other.csv"], "is no table with the columns file and label"),
        (["FGSM", "--labels", tmp_path / "few.csv"], "few.csv: no label for b.jpg"),
        (["FGSM", "--labels", tmp_path / "nowhere.csv"], "nowhere.csv"),
    ]:
        name, *more = arguments
        assert message in refused("attack", name, photographs, tmp_path / "out", *more)
