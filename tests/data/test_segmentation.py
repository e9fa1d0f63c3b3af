"""lib/data/segmentation.py and sets.py: CamVid's layout, the embedded data set with labelled pixels."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lib.data import world
from lib.data.segmentation import CAMVID_CLASSES, CAMVID_COLOURS, VOID, WORLD_COLOURS, load_camvid, read_label
from lib.data.sets import load_set
from lib.settings import Scenes
from lib.tasks.confusion import confusions

SIDES = (24, 32)


@pytest.fixture
def camvid(tmp_path) -> Path:
    """Six pairs of 24x32: image k is of level 10 k, its label of class k, with one void pixel."""
    for folder in ("test", "testannot"):
        (tmp_path / folder).mkdir()
    lines = []
    for number in range(6):
        Image.fromarray(np.full((*SIDES, 3), 10 * number, np.uint8)).save(tmp_path / "test" / f"f{number}.png")
        label = np.full(SIDES, number, np.uint8)
        label[0, 0] = 11
        Image.fromarray(label).save(tmp_path / "testannot" / f"f{number}.png")
        lines.append(f"test/f{number}.png testannot/f{number}.png")
    (tmp_path / "test.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_pairs_are_read_with_void_apart(camvid):
    data = load_camvid(camvid, "test", SIDES)
    assert data.images.shape == (6, 3, *SIDES) and data.images.dtype == torch.uint8
    assert data.labels.shape == (6, *SIDES) and data.labels.dtype == torch.uint8
    assert (data.labels[:, 0, 0] == VOID).all() and data.labels[:, 1, 1].tolist() == list(range(6))
    assert data.ids == [f"f{number}" for number in range(6)] and len(data) == 6


def test_a_count_is_spread_over_the_whole_list(camvid):
    assert load_camvid(camvid, "test", SIDES, 3).ids == ["f0", "f2", "f4"]
    assert load_camvid(camvid, "test", SIDES, 6).ids == load_camvid(camvid, "test", SIDES).ids


def test_a_list_of_ids_says_which_pairs_and_in_which_order(camvid):
    data = load_camvid(camvid, "test", SIDES, ids=["f4", "f1"])
    assert data.ids == ["f4", "f1"] and data.labels[:, 1, 1].tolist() == [4, 1]
    with pytest.raises(ValueError, match=r"test\.txt has no image 'f9' \(1 of the 2 images"):
        load_camvid(camvid, "test", SIDES, ids=["f1", "f9"])


def test_a_list_may_begin_with_a_mark_and_hold_names_of_another_encoding(camvid):
    text = (camvid / "test.txt").read_text()
    (camvid / "test.txt").write_text(text, encoding="utf-8-sig")
    assert len(load_camvid(camvid, "test", SIDES)) == 6
    (camvid / "test.txt").write_bytes("é.png é.png\n".encode("latin-1"))
    with pytest.raises(FileNotFoundError, match="no such image"):
        load_camvid(camvid, "test", SIDES)


def test_the_tutorials_own_list_is_understood(camvid):
    text = (camvid / "test.txt").read_text()
    (camvid / "test.txt").write_text(
        text.replace("test/", "/SegNet/CamVid/test/").replace("testannot/", "/SegNet/CamVid/testannot/")
    )
    assert len(load_camvid(camvid, "test", SIDES)) == 6


def test_smaller_images_keep_whole_classes(camvid):
    data = load_camvid(camvid, "test", (12, 16))
    assert data.images.shape[2:] == data.labels.shape[1:] == (12, 16)
    assert set(data.labels[3].unique().tolist()) <= {3, VOID}


def damage_size(root):
    Image.fromarray(np.zeros((5, 7), np.uint8)).save(root / "testannot" / "f2.png")


def damage_class(root):
    Image.fromarray(np.full(SIDES, 12, np.uint8)).save(root / "testannot" / "f2.png")


def damage_colour(root):
    Image.fromarray(np.zeros((*SIDES, 3), np.uint8)).save(root / "testannot" / "f2.png")


@pytest.mark.parametrize(
    "damage, message",
    [
        (
            lambda root: (root / "testannot" / "f2.png").unlink(),
            "f2.png: no such image; companion data says if its set is complete",
        ),
        (lambda root: (root / "test" / "f2.png").unlink(), "f2.png: no such image"),
        (lambda root: (root / "test.txt").unlink(), "test.txt: no such list; get it with"),
        (lambda root: (root / "testannot" / "f2.png").write_bytes(b"nothing"), "f2.png: corrupt image"),
        (damage_size, "f2.png: the label has 5x7 pixels, its image 24x32"),
        (damage_class, "f2.png: a label is one channel of classes 0 to 11; unknown here: 12"),
        (damage_colour, "f2.png: a label is one channel of classes 0 to 11"),
        (
            lambda root: (root / "test.txt").write_text("test/f0.png\n"),
            "test.txt, line 1: not 'image label' but 'test/f0.png'",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(camvid, damage, message):
    damage(camvid)
    with pytest.raises((FileNotFoundError, ValueError)) as caught:
        load_camvid(camvid, "test", SIDES)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def label(camvid, image):
    """The label that a file of f2's label gives."""
    image.save(camvid / "testannot" / "f2.png")
    return read_label(camvid / "testannot" / "f2.png")


def paletted(numbers, colours):
    image = Image.fromarray(np.array(numbers, np.uint8).reshape(1, -1), "L")
    image.putpalette(np.array(colours, np.uint8).tobytes())
    return image


GREYS = [(number, number, number) for number in range(256)]


def test_a_palette_is_read_by_its_numbers_or_by_camvids_colours(camvid):
    assert label(camvid, paletted([0, 5, 11, 255], GREYS)).tolist() == [[0, 5, VOID, VOID]]
    assert label(camvid, paletted([0, 5, 8], CAMVID_COLOURS)).tolist() == [[0, 5, 8]]
    # Numbers that are no classes, colours that are.
    coloured = [(0, 0, 0)] * 20 + [CAMVID_COLOURS[3], CAMVID_COLOURS[9]]
    assert label(camvid, paletted([0, 20, 21], coloured)).tolist() == [[VOID, 3, 9]]
    other = [CAMVID_COLOURS[4], CAMVID_COLOURS[2]]
    with pytest.raises(ValueError, match="its numbers and its palette's colours name other classes"):
        label(camvid, paletted([0, 1], other))


def test_a_label_in_colour_is_read_by_camvids_colours(camvid):
    colours = np.array([[*CAMVID_COLOURS, (0, 0, 0)]], np.uint8)
    assert label(camvid, Image.fromarray(colours)).tolist() == [[*range(11), VOID]]
    with pytest.raises(ValueError, match="or CamVid's colours; this has others"):
        label(camvid, Image.fromarray(colours + 1))


def test_unknown_classes_are_named(camvid):
    with pytest.raises(ValueError, match=r"one channel of classes 0 to 11; unknown here: 12, 31, 32, 40, 50, \.\.\."):
        label(camvid, Image.fromarray(np.array([[0, 12, 31, 32, 40, 50, 60, 255]], np.uint8)))


def test_predictions_of_classes_that_the_images_lack_are_refused():
    with pytest.raises(ValueError, match="class 7 is predicted, but the images' classes are 0 to 2"):
        confusions(np.array([[[7]]]), np.array([[[0]]]), 3)


def test_more_images_than_there_are_is_an_error(camvid):
    with pytest.raises(ValueError, match=r"7 images asked for, but .*test\.txt lists 6"):
        load_camvid(camvid, "test", SIDES, 7)


def test_every_class_has_a_colour_of_its_own():
    assert len(set(CAMVID_COLOURS)) == len(CAMVID_CLASSES) == 11
    assert len(set(WORLD_COLOURS)) == len(world.PIXEL_CLASSES)


def test_the_world_gives_pixels_or_boxes():
    pixels = load_set(Scenes(name="world", labels="pixels", count=5))
    assert pixels.images.shape == (5, 3, 48, 48) and int(pixels.labels.max()) < len(pixels.classes)
    boxes = load_set(Scenes(name="world", labels="boxes", count=5))
    assert boxes.ids == pixels.ids and torch.equal(torch.stack(list(boxes.images)), pixels.images)
    with pytest.raises(ValueError, match="401 images asked for, but the embedded data set has 400 test scenes"):
        load_set(Scenes(name="world", labels="pixels"), count=401)


def test_settings_refuse_labels_that_a_data_set_has_not():
    with pytest.raises(ValueError, match="coco has no labelled pixels here"):
        Scenes(name="coco", labels="pixels")


ASSETS = Path(os.environ.get("COMPANION_ASSETS", "/nowhere")) / "camvid"


@pytest.mark.skipif(not ASSETS.is_dir(), reason="no assets")
def test_the_real_test_split_has_its_published_statistics():
    data = load_camvid(ASSETS, "test")
    assert data.images.shape == (233, 3, 360, 480)
    void = (data.labels == VOID).float().mean().item()
    assert void == pytest.approx(0.0383, abs=5e-5)
    shares = torch.bincount(data.labels.flatten().long(), minlength=256)[:11] / data.labels.numel()
    # Of all pixels, void included.
    known = [17.07, 24.61, 1.18, 25.81, 9.27, 11.25, 1.01, 1.18, 3.97, 0.63, 0.19]
    assert [round(100 * share, 2) for share in shares.tolist()] == pytest.approx(known, abs=0.011)
