import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as vision

from lib.data import images


def picture(seed, size):
    """A random `size` x `size` RGB picture."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


@pytest.fixture
def neurips(tmp_path):
    """Three images, in a CSV order that is not alphabetical: two PNG and one lossless WebP."""
    folder = tmp_path / "neurips2017"
    (folder / "images").mkdir(parents=True)
    picture(0, 20).save(folder / "images" / "b.png")
    picture(1, 20).save(folder / "images" / "a.webp", lossless=True)
    picture(2, 20).save(folder / "images" / "c.png")
    (folder / "images.csv").write_text("ImageId,URL,TrueLabel\nb,x,1\na,x,1000\nc,x,389\n")
    return folder


@pytest.fixture
def imagenet(tmp_path):
    folder = tmp_path / "imagenet_val"
    (folder / "images").mkdir(parents=True)
    for seed, name in enumerate(("v2.jpeg", "v1.jpeg")):
        picture(seed, 16).save(folder / "images" / name)
    (folder / "labels.csv").write_text("file,label\nv2.jpeg,999\nv1.jpeg,0\n")
    return folder


def pixels(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_neurips_keeps_the_csv_order_and_makes_labels_zero_based(neurips):
    data = images.load_neurips2017(neurips, side=20)
    assert data.ids == ["b", "a", "c"]
    assert data.labels.tolist() == [0, 999, 388]
    assert data.images.dtype == torch.uint8 and data.labels.dtype == torch.int64
    assert torch.equal(data.images, torch.stack([pixels(picture(seed, 20)) for seed in range(3)]))


def test_imagenet_is_sorted_and_keeps_its_labels(imagenet):
    data = images.load_imagenet_val(imagenet, side=16)
    assert data.ids == ["v1", "v2"]
    assert data.labels.tolist() == [0, 999]
    assert torch.equal(data.images[0], pixels(Image.open(imagenet / "images" / "v1.jpeg")))


def test_a_list_of_ids_says_which_images_and_in_which_order(neurips, imagenet):
    data = images.load_neurips2017(neurips, side=20, ids=["c", "b"])
    assert data.ids == ["c", "b"] and data.labels.tolist() == [388, 0]
    assert torch.equal(data.images[0], pixels(picture(2, 20)))
    assert images.load_neurips2017(neurips, side=20, count=1, ids=["c", "b"]).ids == ["c"]
    assert images.load_imagenet_val(imagenet, side=16, ids=["v2"]).labels.tolist() == [999]
    with pytest.raises(
        ValueError, match=r"images\.csv has no image 'x' \(2 of the 3 images .*\); run: companion fetch"
    ):
        images.load_neurips2017(neurips, side=20, ids=["a", "x", "y"])
    with pytest.raises(ValueError, match=r"^3 images asked for, but .*images\.csv lists 2$"):
        images.load_neurips2017(neurips, side=20, count=3, ids=["c", "b"])


@pytest.mark.parametrize("side", [8, 33])
def test_other_sizes_are_squashed_as_pillow_does_bilinearly(neurips, side):
    data = images.load_neurips2017(neurips, side=side, count=1)
    assert torch.equal(data.images[0], pixels(picture(0, 20).resize((side, side), Image.BILINEAR)))


def test_images_that_are_not_square_are_squashed_not_cropped(tmp_path):
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (10, 30, 3), dtype=np.uint8))
    wide.save(tmp_path / "wide.png")
    assert torch.equal(images.read_image(tmp_path / "wide.png", 10), pixels(wide.resize((10, 10), Image.BILINEAR)))


@pytest.mark.parametrize("size", [(40, 25), (25, 40), (31, 64)])
def test_imagenet_takes_the_middle_of_images_that_are_not_square_as_torchvision_does(imagenet, size):
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    wide.save(imagenet / "images" / "v1.jpeg", "PNG")
    expected = vision.center_crop(vision.resize(wide, 32, vision.InterpolationMode.BILINEAR), [28, 28])
    assert torch.equal(images.load_imagenet_val(imagenet, side=28, count=1).images[0], pixels(expected))


def test_grey_palette_and_transparent_images_become_rgb(tmp_path):
    for mode in ("L", "P", "RGBA"):
        picture(0, 6).convert(mode).save(tmp_path / "image.png")
        assert torch.equal(
            images.read_image(tmp_path / "image.png"), pixels(picture(0, 6).convert(mode).convert("RGB"))
        )


def test_count_takes_the_first_and_refuses_more_than_there_are(neurips):
    assert images.load_neurips2017(neurips, side=20, count=2).ids == ["b", "a"]
    assert len(images.load_neurips2017(neurips, side=20, count=0)) == 0
    with pytest.raises(ValueError, match=r"^4 images asked for, but .*images\.csv lists 3$"):
        images.load_neurips2017(neurips, side=20, count=4)


def test_missing_image_is_named(neurips):
    (neurips / "images" / "a.webp").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"images/a\.png: no such image; companion data says if its set is complete"
    ):
        images.load_neurips2017(neurips, side=20)


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_corrupt_image_is_named(neurips, damage):
    file = neurips / "images" / "b.png"
    content = file.read_bytes()
    file.write_bytes({"truncated": content[: len(content) // 2], "text": b"<html>", "empty": b""}[damage])
    with pytest.raises(ValueError, match=r"images/b\.png: (corrupt image|is a web page|is an empty file)") as error:
        images.load_neurips2017(neurips, side=20)
    assert "\n" not in str(error.value)


def test_tables_may_begin_with_the_mark_of_a_spreadsheet(imagenet):
    (imagenet / "labels.csv").write_text("file,label\nv2.jpeg,999\nv1.jpeg,0\n", encoding="utf-8-sig")
    assert images.load_imagenet_val(imagenet, side=16).labels.tolist() == [0, 999]


def test_missing_csv_column_is_named(neurips, imagenet):
    (neurips / "images.csv").write_text("ImageId,Label\nb,1\n")
    with pytest.raises(ValueError, match=r"images\.csv: no column 'TrueLabel', only ImageId, Label"):
        images.load_neurips2017(neurips, side=20)
    (imagenet / "labels.csv").write_text("")
    with pytest.raises(ValueError, match=r"labels\.csv: no column 'file', only nothing"):
        images.load_imagenet_val(imagenet, side=16)


@pytest.mark.parametrize("label", ["0", "1001", "dog", ""])
def test_label_outside_the_classes_is_named(neurips, label):
    (neurips / "images.csv").write_text(f"ImageId,TrueLabel\nb,{label}\n")
    with pytest.raises(ValueError, match=rf"^b: label '?{label}'? is "):
        images.load_neurips2017(neurips, side=20)


def test_a_table_in_another_encoding_is_one_line(tmp_path):
    (tmp_path / "labels.csv").write_bytes("file,label\nk\xf6nig.png,1\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"labels\.csv: is not UTF-8; save it so$"):
        images.read_table(tmp_path / "labels.csv", ("file", "label"))


def test_missing_csv_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"images\.csv: no such file; companion data says how to get a set"):
        images.load_neurips2017(tmp_path, side=20)


def test_a_data_set_is_looked_for_in_the_repository_then_in_the_assets(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "ROOT", tmp_path / "repository")
    monkeypatch.setenv("COMPANION_ASSETS", str(tmp_path / "assets"))
    with pytest.raises(FileNotFoundError, match=r"^data/neurips2017: .*; companion data says how to get a set"):
        images.find_folder("data/neurips2017")
    (tmp_path / "assets" / "neurips2017").mkdir(parents=True)
    assert images.find_folder("data/neurips2017") == tmp_path / "assets" / "neurips2017"
    (tmp_path / "repository" / "data" / "neurips2017").mkdir(parents=True)
    assert images.find_folder("data/neurips2017") == tmp_path / "repository" / "data" / "neurips2017"
    monkeypatch.delenv("COMPANION_ASSETS")
    with pytest.raises(FileNotFoundError):
        images.find_folder("data/imagenet_val")
