"""Image files of every kind that a user's folder may hold, through every command that reads folders."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lib import folders, zoo
from lib.data import images
from lib.data.images import image_files, read_image, remarks
from lib.data.sets import load_set
from lib.data.unlabelled import unlabelled
from lib.experiment import explore
from lib.networks.small import ARCHITECTURES
from lib.networks.wrappers import Normalised
from lib.settings import Data
from tests.conftest import companion, refused

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

SIDE = 48
RED, WHITE, GREY = (255, 0, 0), (255, 255, 255), (100, 100, 100)


def plain(colour, width=SIDE, height=SIDE):
    return Image.new("RGB", (width, height), colour)


def grey16(path):
    """Black to white in 16 bits."""
    Image.fromarray(np.linspace(0, 65535, SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE)).save(path)


def palette(path):
    plain(RED).quantize(4).save(path)


def clear(path):
    """The left half is red, the right half invisible; what is hidden there is green."""
    pixels = np.full((SIDE, SIDE, 4), (*RED, 255), np.uint8)
    pixels[:, SIDE // 2 :] = 0, 255, 0, 0
    Image.fromarray(pixels).save(path)


def clear_palette(path):
    """A palette of which one colour is invisible."""
    image = Image.new("P", (SIDE, SIDE), 0)
    image.putpalette([*RED, 0, 255, 0])
    image.paste(1, (SIDE // 2, 0, SIDE, SIDE))
    image.save(path, transparency=1)


def animated(path):
    plain(RED).save(path, save_all=True, append_images=[plain(GREY), plain(WHITE)], lossless=True)


def cmyk(path):
    plain(RED).convert("CMYK").save(path, quality=100)


def sideways(path):
    """Red at the left; its camera says: to be turned clockwise, so that red is on top."""
    image = plain(GREY, 2 * SIDE, SIDE)
    image.paste(RED, (0, 0, SIDE, SIDE))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, exif=exif)


def rgb48(path):
    """16 bits per colour, which Pillow reads but does not write."""
    row = b"\0" + struct.pack(">3H", 0xFFFF, 0, 0) * SIDE
    ends = [(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(row * SIDE))]
    chunks = [kind + content for kind, content in [*ends, (b"IEND", b"")]]
    framed = [struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each)) for each in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(framed))


GOOD = {
    "rgb48.png": rgb48,
    "grey16.png": grey16,
    "palette.png": palette,
    "alpha.png": clear,
    "alpha_palette.png": clear_palette,
    "animated.webp": animated,
    "cmyk.jpg": cmyk,
    "exif.png": sideways,
    "one_bit.png": lambda path: plain(WHITE).convert("1").save(path),
    "grey_alpha.png": lambda path: plain(GREY).convert("LA").save(path),
}


def jpeg_bytes():
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "JPEG")
    return file.getvalue()


def tiff_bytes(dtype):
    """32 bits a pixel; Pillow reads a TIFF under any name."""
    file = io.BytesIO()
    Image.fromarray(np.linspace(0, 1, SIDE * SIDE).reshape(SIDE, SIDE).astype(dtype)).save(file, "TIFF")
    return file.getvalue()


def huge_png(width, height):
    """The beginning of a PNG of so many pixels."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"")]
    framed = [struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each)) for each in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


BAD = {
    "truncated.jpg": (jpeg_bytes()[:900], "corrupt image (image file is truncated"),
    "heic.jpg": (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "is HEIC under another name"),
    "avif.jpeg": (b"\x00\x00\x00\x18ftypavif\x00\x00\x00\x00", "is AVIF under another name"),
    "page.png": (b"<!DOCTYPE html><html>quota exceeded</html>", "is a web page"),
    "empty.png": (b"", "is an empty file"),
    "pointer.webp": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
    "text.bmp": (b"no image", "corrupt image (no format that is known)"),
    "floats.png": (tiff_bytes(np.float32), "32 bits a channel, whose white is not known; save it with 8 or 16"),
    "integers.png": (tiff_bytes(np.int32), "32 bits a channel, whose white is not known; save it with 8 or 16"),
    "huge.png": (huge_png(40_000, 40_000), "too large for the memory, or more than 1,000,000,000 pixels"),
}
STRAY = {"._grey16.png": b"\x00\x05\x16\x07", ".DS_Store": b"", "Thumbs.db": b"", "labels.csv": b"file,label\n"}


@pytest.fixture
def folder(tmp_path) -> Path:
    """Every good file, every bad one, and what else lies in folders."""
    source = tmp_path / "in"
    source.mkdir()
    for name, write in GOOD.items():
        write(source / name)
    for name, content in [*((name, content) for name, (content, _) in BAD.items()), *STRAY.items()]:
        (source / name).write_bytes(content)
    (source / "album.png").mkdir()
    (source / "gone.png").symlink_to(source / "nowhere.png")
    return source


@pytest.fixture
def networks(monkeypatch, tmp_path):
    """The networks of the scale, tiny and untrained."""
    made = {}

    def load(name, scale, device="cpu", fast=False):
        torch.manual_seed(len(name))
        return made.setdefault(name, Normalised(ARCHITECTURES["vgg16"](12), (0.5,) * 3, (0.25,) * 3).eval())

    monkeypatch.setattr(zoo, "load", load)
    monkeypatch.setenv("COMPANION_STORE", str(tmp_path / "store"))
    return made


# What is read of the good ones.


def pixel(name, folder, row=5, column=5):
    return read_image(folder / name)[:, row, column].tolist()


def test_16_bits_are_rounded_to_8_not_clipped(folder):
    found = read_image(folder / "grey16.png")
    expected = (np.linspace(0, 65535, SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE) / 257).round()
    assert torch.equal(found, torch.from_numpy(expected.astype(np.uint8)).expand(3, -1, -1))


def test_colours_come_out_as_they_are_seen(folder):
    assert pixel("palette.png", folder) == list(RED) and pixel("animated.webp", folder) == list(RED)
    assert pixel("one_bit.png", folder) == list(WHITE) and pixel("grey_alpha.png", folder) == list(GREY)
    assert max(abs(a - b) for a, b in zip(pixel("cmyk.jpg", folder), RED, strict=True)) <= 3


@pytest.mark.parametrize("name", ["alpha.png", "alpha_palette.png"])
def test_what_is_invisible_is_white_whatever_is_hidden_there(folder, name):
    assert pixel(name, folder) == list(RED) and pixel(name, folder, 5, SIDE - 5) == list(WHITE)


def test_photographs_stand_upright_but_published_sets_are_read_as_they_are(folder):
    upright = read_image(folder / "exif.png")
    assert upright.shape == (3, 2 * SIDE, SIDE) and upright[:, 5, 5].tolist() == list(RED)
    as_stored = read_image(folder / "exif.png", upright=False)
    assert as_stored.shape == (3, SIDE, 2 * SIDE) and torch.equal(as_stored.flip(1).transpose(1, 2), upright)


def test_what_is_lost_is_said(folder):
    said = {name: remarks(folder / name) for name in GOOD}
    assert said["grey16.png"] == said["rgb48.png"] == ["16 bits, rounded to 8"]
    assert said["animated.webp"] == ["animated, the first of 3 pictures"]
    assert said["alpha.png"] == said["alpha_palette.png"] == ["transparent, laid on white"]
    assert not any(said[name] for name in ("palette.png", "cmyk.jpg", "exif.png", "grey_alpha.png"))


def test_187_megapixels_are_a_good_file(tmp_path, monkeypatch):
    """Pillow's own limit is 179 million pixels; a larger file opens, and above what is free is called good."""
    path = tmp_path / "in" / "huge.png"
    path.parent.mkdir()
    path.write_bytes(huge_png(17_000, 11_000))
    with images.open_image(path) as file:
        assert file.size == (17_000, 11_000)
    plain(RED).save(path.parent / "small.png")
    monkeypatch.setattr(folders, "free_memory", lambda: 4e9)
    line = refused("defend", "median", path.parent, tmp_path / "out")
    assert "huge.png: a good file, but too large here: its pixels take about 19 GB, and 4 GB are free" in line
    assert (tmp_path / "out" / "small.png").is_file()


# The commands.


def check(line, folder, out):
    """One line names every bad file with its reason; every good one is there; nobody is told to delete anything."""
    assert f"{len(GOOD)} of {len(GOOD) + len(BAD)} images are there; not done: " in line
    for name, (_, reason) in BAD.items():
        assert f"{folder / name}: {reason}" in line
    assert "delete" not in line and "remove" not in line
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{Path(name).stem}.png" for name in GOOD)
    for path in out.iterdir():
        with Image.open(path) as image:
            assert image.format == "PNG" and image.mode == "RGB"


@pytest.mark.parametrize("kind", ["jpeg", "tvm", "median"])
def test_a_defended_folder_has_every_good_image(folder, tmp_path, kind):
    status, _, err = companion("defend", kind, folder, tmp_path / "out")
    assert status == 1
    check(err.strip().split("\n")[-1], folder, tmp_path / "out")
    assert "alpha.png: transparent, laid on white" in err and "animated.webp: animated" in err
    assert "left out, no images: " in err and "._grey16.png" in err and "album.png" in err and "gone.png" in err
    with Image.open(tmp_path / "out" / "exif.png") as image:
        assert image.size == (SIDE, 2 * SIDE) and image.getpixel((5, 5))[0] > 200


@pytest.mark.parametrize("name", ["Noise", "FGSM"])
def test_an_attacked_folder_has_every_good_image(folder, networks, tmp_path, name):
    line = refused("attack", name, folder, tmp_path / "out")
    check(line, folder, tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        source = next(folder / name for name in GOOD if Path(name).stem == path.stem)
        assert (read_image(path).int() - read_image(source).int()).abs().max() <= 16


def test_a_file_that_may_not_be_read_is_named(folder, tmp_path, monkeypatch):
    opened = Path.open

    def guarded(path, *arguments, **options):
        if path.name == "palette.png" and path.parent == folder:
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", guarded)
    line = refused("defend", "median", folder, tmp_path / "out")
    assert f"{folder / 'palette.png'}: you may not read this file; change its permissions" in line


def test_a_result_that_cannot_be_written_keeps_no_other_from_being_done(tmp_path):
    source, out, long = tmp_path / "in", tmp_path / "out", "a" * 250
    source.mkdir()
    (out / "b.png").mkdir(parents=True)
    for name in (long, "b", "c", "new\nline"):
        plain(GREY).save(source / f"{name}.png")
    line = refused("defend", "median", source, out)
    assert "2 of 4 images are there; not done: " in line and "b.png: cannot be written (Is a directory)" in line
    assert f"{long}.png: cannot be written (File name too long)" in line
    assert (out / "c.png").is_file() and (out / "new\nline.png").is_file()


def test_a_bad_file_with_an_odd_name_is_named_in_one_line(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("new\nline.png", "tab\t.png"):
        (tmp_path / "in" / name).write_bytes(b"")
    plain(GREY).save(tmp_path / "in" / "a.png")
    assert "new line.png: is an empty file" in refused("defend", "median", tmp_path / "in", tmp_path / "out")


def test_a_file_in_place_of_a_folder_is_said(tmp_path):
    plain(GREY).save(tmp_path / "a.png")
    assert "a.png: a file; name its folder" in refused("defend", "median", tmp_path / "a.png", tmp_path / "out")


@pytest.mark.parametrize("rows", ["a.png,0\na.png,3\n", f"a.png,{10**20}\n", "a.png,0.5\n", "a.png,\n"])
def test_a_table_of_labels_has_each_file_once_with_a_whole_number(tmp_path, networks, rows):
    source = tmp_path / "in"
    source.mkdir()
    plain(GREY).save(source / "a.png")
    (tmp_path / "labels.csv").write_text(f"file,label\n{rows}")
    for command in (("attack", "FGSM", source, tmp_path / "out"), ("measure", source, source)):
        assert "file and label (each file once, a whole number)" in refused(
            *command, "--labels", tmp_path / "labels.csv"
        )


def test_images_that_are_too_small_for_an_attack_are_named(tmp_path, networks):
    source = tmp_path / "in"
    source.mkdir()
    plain(GREY).save(source / "a.png")
    plain(GREY, 2, 1).save(source / "b.png")
    line = refused("attack", "DIM", source, tmp_path / "out")
    assert "1 of 2 images are there; not done: b.png (2x1): " in line and (tmp_path / "out" / "a.png").is_file()


@pytest.mark.parametrize("label, message", [(99, "classes 0 to 11, got 99"), (12, "counted from 1"), (-1, "no label")])
def test_labels_beyond_the_network_s_classes_are_said(tmp_path, networks, label, message):
    source = tmp_path / "in"
    source.mkdir()
    plain(GREY).save(source / "a.png")
    (tmp_path / "labels.csv").write_text(f"file,label\na.png,{label}\n")
    assert message in refused("attack", "FGSM", source, tmp_path / "out", "--labels", tmp_path / "labels.csv")


@pytest.mark.parametrize("eps", ["0.0627", "300", "nan", "-1"])
def test_a_budget_of_a_command_is_in_levels(tmp_path, networks, eps):
    source = tmp_path / "in"
    source.mkdir()
    plain(GREY).save(source / "a.png")
    line = refused("attack", "FGSM", source, tmp_path / "out", "--eps", eps)
    assert "eps is in 0-255 levels" in line and ("0.0627*255 = 15.99" in line) == (eps == "0.0627")
    assert "eps is in 0-255 levels" in refused("measure", source, source, "--eps", eps)


def test_own_photographs_and_training_images_are_read_the_same_way(folder, tmp_path):
    for name in [*BAD, "gone.png"]:
        (folder / name).unlink()
    assert [path.name for path in image_files(folder)] == sorted(GOOD)
    assert [path.name for path in unlabelled(str(folder)).paths] == sorted(GOOD)
    own = tmp_path / "own" / "photos"
    own.mkdir(parents=True)
    folder.rename(own / "images")
    (own / "labels.csv").write_text("file,label\nexif.png,0\n")
    (own / "classes.txt").write_text("red\n")
    found = load_set(Data(name=str(own), side=SIDE)).images[0]
    explored = explore.from_folder(own / "images", SIDE, len(GOOD))
    assert torch.equal(found, explored.images[explored.ids.index("exif.png")])


# Adversaries from anywhere, evaluated.


@pytest.fixture
def pair(tmp_path, networks):
    """Clean images, and adversaries of 8 levels."""
    clean, adversaries = tmp_path / "clean", tmp_path / "adversaries"
    for place in (clean, adversaries):
        place.mkdir()
    random = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        x = random.integers(8, 248, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(x).save(clean / f"{name}.png")
        Image.fromarray(x + random.choice(np.array([-8, 8], np.int8), x.shape).astype(np.uint8)).save(
            adversaries / f"{name}.png"
        )
    (tmp_path / "labels.csv").write_text("file,label\na.png,0\nb.png,1\nc.png,2\n")
    return clean, adversaries, tmp_path / "labels.csv"


def evaluated(pair, *options):
    clean, adversaries, labels = pair
    status, out, err = companion("measure", adversaries, clean, "--labels", labels, *options)
    return status, out, err


@pytest.mark.parametrize("label, message", [(12, "counted from 1"), (99, "0 to 11, got 99"), (-1, "got -1")])
def test_labels_beyond_the_victim_s_classes_are_no_wrong_predictions(pair, label, message):
    pair[2].write_text(f"file,label\na.png,{label}\nb.png,1\nc.png,2\n")
    status, out, err = evaluated(pair)
    assert status == 1 and ": 2 adversaries of" in out and "a.png: labels must be classes" in err and message in err


def test_good_adversaries_are_evaluated_without_a_warning(pair, networks):
    status, out, err = evaluated(pair, "--eps", 8)
    assert status == 0 and "WARNING" not in out and "at most 8 levels" in out, err
    (network,) = networks.values()
    x = torch.stack([read_image(path) for path in sorted(pair[0].iterdir())]) / 255
    right = (network(x).argmax(1) == torch.arange(3)).float().mean().item()
    assert f"accuracy, clean: {100 * right:.1f} %" in out and "fooled: " in out


def test_adversaries_that_are_jpeg_files_are_said(pair):
    Image.open(pair[1] / "b.png").save(pair[1] / "b.jpg", quality=95)
    (pair[1] / "b.png").unlink()
    Image.open(pair[1] / "c.png").save(pair[1] / "c.webp", quality=90)
    (pair[1] / "c.png").unlink()
    status, out, _ = evaluated(pair)
    assert status == 0 and "WARNING: 2 of 3 adversaries are JPEG or lossy WebP files" in out and "b.jpg, c.webp" in out


def test_lossless_webp_is_no_loss(pair):
    Image.open(pair[1] / "c.png").save(pair[1] / "c.webp", lossless=True)
    (pair[1] / "c.png").unlink()
    assert "WARNING" not in evaluated(pair, "--eps", 8)[1]


def test_adversaries_outside_their_budget_are_said_with_how_far(pair):
    status, out, _ = evaluated(pair, "--eps", 4)
    assert status == 0 and "WARNING: 3 of 3 lie outside 4 levels: a.png by 8, b.png by 8, c.png by 8" in out


def test_adversaries_without_a_partner_of_their_size_are_named_and_the_others_evaluated(pair):
    (pair[0] / "a.png").unlink()
    Image.open(pair[1] / "b.png").resize((24, 24)).save(pair[1] / "b.png")
    status, out, err = evaluated(pair)
    assert status == 1 and ": 1 adversaries of" in out
    assert "a.png: no clean image of this name; b.png: 24x24 pixels, its clean image 48x48" in err
