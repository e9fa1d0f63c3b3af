"""lib/data/unlabelled.py: the world's scenes, folders of photographs, errors."""

import numpy as np
import pytest
import torch
from PIL import Image

from lib import settings
from lib.data import images
from lib.data import unlabelled as module
from lib.data.unlabelled import Photographs, unlabelled


def save(path, seed, height=20, width=30, mode="RGB"):
    """A random picture in a file; its pixels, uint8 `[3,H,W]`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).convert(mode)
    picture.save(path, **({"lossless": True} if path.suffix == ".webp" else {}))
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


@pytest.fixture
def folder(tmp_path):
    """Images of three lossless formats, several sizes and modes, and what is no image; the pixels by path."""
    root = tmp_path / "photographs"
    pixels = {
        "b.png": save(root / "b.png", 0, 20, 30),
        "a/z.BMP": save(root / "a" / "z.BMP", 1, 33, 8),
        "a/deep/y.webp": save(root / "a" / "deep" / "y.webp", 2, 9, 9),
        "c.png": save(root / "c.png", 3, 5, 7, mode="L"),
    }
    (root / "notes.txt").write_text("no image")
    (root / "a" / "index.json").write_text("{}")
    (root / "empty").mkdir()
    return root, pixels


@pytest.mark.parametrize(
    ("source", "style", "count"),
    [("world", "natural", 3000), ("world/comic", "comic", 500), ("world/painted", "painted", 500)],
)
def test_the_world_is_its_training_scenes_in_one_style(source, style, count):
    data = unlabelled(source)
    assert len(data) == count and {(image.shape, image.dtype) for image in data} == {((3, 48, 48), torch.uint8)}
    # Rows of fifty scenes, see lib/data/world.py; the sheet is read here without it.
    sheet = np.asarray(Image.open(settings.ROOT / "data" / "world" / f"train_{style}.webp"))
    for number in (0, 49, 50, 345, count - 1):
        row, column = divmod(number, 50)
        tile = sheet[48 * row : 48 * row + 48, 48 * column : 48 * column + 48]
        assert np.array_equal(data[number].permute(1, 2, 0).numpy(), tile), number


def test_a_folder_is_read_with_those_below_it_sorted_by_path(folder):
    root, pixels = folder
    data = unlabelled(str(root))
    assert isinstance(data, Photographs) and len(data) == 4
    assert [path.relative_to(root).as_posix() for path in data.paths] == sorted(pixels)
    for image, name in zip(data, sorted(pixels), strict=True):
        assert image.dtype == torch.uint8 and torch.equal(image, pixels[name]), name
    assert torch.equal(data[-1], pixels[max(pixels)])


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "JPG", "JPEG", "png", "PNG", "webp", "bmp"])
def test_every_common_format_is_found_and_decoded(tmp_path, suffix):
    save(tmp_path / f"x.{suffix}", 0)
    (image,) = unlabelled(str(tmp_path))
    decoded = np.array(Image.open(tmp_path / f"x.{suffix}"))
    assert torch.equal(image, torch.from_numpy(decoded).permute(2, 0, 1))


def test_images_are_read_when_asked_for(folder, monkeypatch):
    read = []
    decode = module.read_image
    monkeypatch.setattr(module, "read_image", lambda path: read.append(path.name) or decode(path))
    data = unlabelled(str(folder[0]))
    assert not read
    data[2]
    assert read == ["b.png"]


def test_a_relative_folder_is_looked_for_in_the_repository_then_in_the_assets(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "ROOT", tmp_path / "repository")
    monkeypatch.setenv("COMPANION_ASSETS", str(tmp_path / "assets"))
    there = save(tmp_path / "assets" / "coco" / "few" / "x.png", 1)
    assert torch.equal(unlabelled("coco/few")[0], there)
    here = save(tmp_path / "repository" / "coco" / "few" / "x.png", 2)
    assert torch.equal(unlabelled("coco/few")[0], here)


def test_data_in_the_repository_are_in_the_assets_without_that_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "ROOT", tmp_path / "repository")
    monkeypatch.setenv("COMPANION_ASSETS", str(tmp_path / "assets"))
    there = save(tmp_path / "assets" / "comics" / "x.png", 1)
    assert torch.equal(unlabelled("data/comics")[0], there)
    here = save(tmp_path / "repository" / "data" / "comics" / "x.png", 2)
    assert torch.equal(unlabelled("data/comics")[0], here)


@pytest.mark.parametrize("name", ["comics", "paintings"])
def test_a_missing_collection_names_the_command(name, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COMPANION_ASSETS", raising=False)
    with pytest.raises(FileNotFoundError, match=rf"^data/{name}: .*; companion data says how to get a set") as error:
        unlabelled(f"data/{name}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("assets", [None, "", "elsewhere"])
def test_a_missing_folder_is_named_in_one_line(assets, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COMPANION_ASSETS", raising=False)
    if assets is not None:
        monkeypatch.setenv("COMPANION_ASSETS", assets)
    for name in ("coco/none", str(tmp_path / "none")):
        with pytest.raises(
            FileNotFoundError, match=rf"^{name}: neither here nor in the repository nor in \$COMPANION_ASSETS"
        ):
            unlabelled(name)


def test_a_folder_without_images_says_what_an_image_is(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"no images here \(\.bmp, \.jpeg, \.jpg, \.png, \.webp\)$") as error:
        unlabelled(str(tmp_path))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_a_corrupt_image_is_named_in_one_line(folder):
    root, _ = folder
    (root / "b.png").write_bytes(b"<html>")
    with pytest.raises(ValueError, match=r"b\.png: is a web page, no image$") as error:
        list(unlabelled(str(root)))
    assert "\n" not in str(error.value)


def test_a_large_image_is_no_attack_on_the_reader(folder, monkeypatch):
    """Pillow's limit, which is one against bombs from the network, is left as found."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    data = unlabelled(str(folder[0]))
    data.check(5)
    assert len(list(data)) == len(data) and Image.MAX_IMAGE_PIXELS == 50
    monkeypatch.setattr(images, "LARGEST", 100)
    with pytest.raises(ValueError, match=r": too large for the memory, or more than 100 pixels$"):
        list(data)


def test_a_folder_with_the_name_of_an_image_is_none(tmp_path):
    save(tmp_path / "album.png" / "x.png", 0)
    assert [path.name for path in unlabelled(str(tmp_path)).paths] == ["x.png"]


def test_images_too_small_for_a_crop_are_named_before_any_is_decoded(folder, monkeypatch):
    root, _ = folder
    monkeypatch.setattr(module, "read_image", lambda path: pytest.fail("decoded"))
    data = unlabelled(str(root))
    data.check(5)  # the smallest is 7x5
    with pytest.raises(ValueError, match=r"c\.png: 7x5 pixels hold no crop of 6x6; move it away$"):
        data.check(6)
    with pytest.raises(ValueError, match=r"a/deep/y\.webp: 9x9 pixels hold no crop of 10x10"):
        data.check(10)
    (root / "a" / "broken.jpg").write_bytes(b"<html>")
    with pytest.raises(ValueError, match=r"broken\.jpg: is a web page, no image$") as error:
        unlabelled(str(root)).check(5)
    assert "\n" not in str(error.value)
