"""`python -m lib.defenses`: a defense on a folder of images."""

import runpy
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lib.data.images import read_image
from lib.defenses import __main__ as command
from lib.defenses import defense, folder
from lib.defenses.purifier import NOISE
from lib.networks.purifier import NRP, NRPResG, begin_as_identity

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


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["defenses", *map(str, arguments)])
    command.main()


def failure(monkeypatch, *arguments):
    """The one line with which the command ends; a message as exit code means status 1."""
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, *arguments)
    assert isinstance(end.value.code, str) and "\n" not in end.value.code
    return end.value.code


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
    run(monkeypatch, *arguments, images, tmp_path / "deep" / "out")
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
    run(monkeypatch, "nrp", "--weights", path, *arguments, images, tmp_path / "out")
    for source, result in zip(sorted(images.iterdir()), sorted((tmp_path / "out").iterdir()), strict=True):
        x = read_image(source)
        expected = defense("nrp", network=network, **options)(x[None] / 255)[0]
        found = read_image(result)
        assert found.shape == x.shape and not torch.equal(found, x)
        # A GPU may round a value at the edge of two levels the other way.
        assert (found.int() - (expected * 255).round().int()).abs().max() <= torch.cuda.is_available()


def test_dynamic_and_static_purification_differ(images, weights, tmp_path, monkeypatch):
    for name, arguments in {"static": [], "0": ["--dynamic"], "1": ["--dynamic", "--seed", "1"]}.items():
        run(monkeypatch, "nrp", "--weights", weights, *arguments, images, tmp_path / name)
    static, first, second = (read_image(tmp_path / name / "a.png").int() for name in ("static", "0", "1"))
    assert (static - first).abs().float().mean() > 1 and (first - second).abs().float().mean() > 1


def test_a_purifier_in_tiles(images, weights, tmp_path, monkeypatch):
    run(monkeypatch, "nrp", "--weights", weights, images, tmp_path / "whole")
    run(monkeypatch, "nrp", "--weights", weights, "--tile", 16, images, tmp_path / "tiles")
    for whole in (tmp_path / "whole").iterdir():
        difference = read_image(whole).int() - read_image(tmp_path / "tiles" / whole.name).int()
        assert difference.abs().max() <= 1 and (difference != 0).float().mean() < 0.01


def test_a_purifier_s_errors_are_one_line(images, weights, tmp_path, monkeypatch):
    nowhere, torn, other = (tmp_path / name for name in ("nowhere.pth", "torn.pth", "other.safetensors"))
    torn.write_bytes(b"<html>quota exceeded</html>")
    save_file({"fc.weight": torch.zeros(2, 2)}, other)
    for arguments, message in [
        (["--weights", nowhere], "nowhere.pth: no such file of weights"),
        (["--weights", tmp_path], "no such file of weights"),
        (["--weights", torn], "torn.pth"),
        (["--weights", other], "other.safetensors: "),
        (["--weights", weights, "--tile", "12"], "tile must be more than 12 pixels"),
    ]:
        assert message in failure(monkeypatch, "nrp", *arguments, images, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_a_gpu_that_is_too_small_leads_to_tiles(images, weights, tmp_path, monkeypatch):
    def exhausted(*arguments):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(command, "defend_folder", exhausted)
    assert "--tile" in failure(monkeypatch, "nrp", "--weights", weights, images, tmp_path / "out")


def test_a_purifier_needs_its_weights(images, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, "nrp", images, tmp_path / "out")
    assert end.value.code == 2 and "--weights" in capsys.readouterr().err


def test_as_a_program_with_a_progress_bar(images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["defenses", "median", str(images), str(tmp_path / "out")])
    runpy.run_path(command.__file__, run_name="__main__")
    printed = capsys.readouterr()
    assert printed.out.strip().endswith("out: 5 images") and "5/5" in printed.err


def test_what_is_left_out_is_named(images, tmp_path, monkeypatch, capsys):
    (images / "labels.csv").write_text("a,1\n")
    (images / "more").mkdir()
    run(monkeypatch, "median", images, tmp_path / "out")
    assert "left out, no images: labels.csv, more" in capsys.readouterr().err


def test_a_missing_or_empty_folder(tmp_path, monkeypatch):
    assert "no such folder" in failure(monkeypatch, "jpeg", tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("")
    assert "no images here" in failure(monkeypatch, "jpeg", tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unreadable_file_keeps_what_was_written(images, tmp_path, monkeypatch):
    (images / "c.jpeg").write_bytes(b"no image")
    assert "c.jpeg: corrupt image" in failure(monkeypatch, "jpeg", images, tmp_path / "out")
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["a.png", "b.png"]


def test_two_images_of_one_stem(images, tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(images / "a.bmp")
    message = failure(monkeypatch, "median", images, tmp_path / "out")
    assert "a.bmp and a.png would both become a.png" in message and not (tmp_path / "out").exists()


def test_the_same_folder_twice(images, monkeypatch):
    before = {path: path.read_bytes() for path in images.iterdir()}
    assert "name another folder" in failure(monkeypatch, "jpeg", images, images / ".." / "in")
    assert {path: path.read_bytes() for path in images.iterdir()} == before


def test_a_wrong_option_value(images, tmp_path, monkeypatch):
    assert "from 1 to 100" in failure(monkeypatch, "jpeg", "--quality", "0", images, tmp_path / "out")


def test_an_interrupted_write_leaves_no_file(tmp_path, monkeypatch):
    def interrupted(self, path, **options):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        folder.save(torch.zeros(3, 4, 4), tmp_path / "x.png")
    assert not list(tmp_path.iterdir())
