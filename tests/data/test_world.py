"""tools/draw_world.py and lib/data/world.py: what is drawn, stored, loaded and checked."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import RidgeClassifier

from lib import settings
from lib.data import world
from lib.data.world import BACKGROUNDS, CLASSES, PIXEL_CLASSES, SIDE
from lib.settings import ROOT
from tools import draw_world
from tools.draw_world import OUTLINES, STYLES, TEXTURES, draw

COUNTS = {("train", style): 60 if style == "natural" else 55 for style in STYLES}
COUNTS |= {("val", "natural"): 60, ("test", "natural"): 60}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    draw_world.generate(root, seed=5, counts=COUNTS)
    return root


@pytest.fixture
def copy(stored, tmp_path):
    for path in stored.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.fixture(scope="module")
def scenes():
    return [draw(1, "test", index) for index in range(48)]


def test_boxes_are_the_extents_of_the_masks(scenes):
    for scene in scenes:
        for number, (x0, y0, x1, y1) in enumerate(scene.boxes):
            rows, columns = np.nonzero(scene.instances == number + 1)
            assert (x0, y0) == (columns.min(), rows.min())
            assert (x1, y1) == (columns.max() + 1, rows.max() + 1)


def test_pixels_of_an_instance_have_its_class_and_all_others_are_background(scenes):
    for scene in scenes:
        for number, kind in enumerate(scene.objects):
            names = {PIXEL_CLASSES[k] for k in scene.pixels[scene.instances == number + 1]}
            assert names == {CLASSES[kind]}
        assert {PIXEL_CLASSES[k] for k in scene.pixels[scene.instances == 0]} <= set(BACKGROUNDS)


def test_the_main_object_is_the_largest_and_the_others_have_other_classes(scenes):
    for scene in scenes:
        areas = np.bincount(scene.instances.ravel())[1:]
        assert len(areas) == len(scene.objects) and 2 <= len(areas) <= 4
        assert areas.argmax() == 0 and scene.objects[0] == scene.label
        assert len(set(scene.objects)) == len(scene.objects)


def test_objects_differ_from_what_lies_behind_them(scenes):
    for scene in scenes:
        inside = scene.image[scene.instances == 1].mean(0)
        outside = scene.image[scene.instances == 0].astype(float)
        assert np.abs(outside - inside).mean() > 20


def test_every_class_appears_equally_often_as_the_main_object(scenes):
    assert np.bincount([scene.label for scene in scenes]).tolist() == [4] * len(CLASSES)


def test_the_same_arguments_draw_the_same_scene_and_others_another():
    first = draw(0, "train", 7)
    for field, again in zip(first, draw(0, "train", 7), strict=True):
        assert np.array_equal(field, again)
    for other in (draw(1, "train", 7), draw(0, "test", 7), draw(0, "val", 7), draw(0, "train", 19)):
        assert (other.image != first.image).mean() > 0.5


def test_styles_share_masks_and_differ_in_pixels():
    natural, comic, painted = (draw(0, "test", 3, style) for style in STYLES)
    for other in (comic, painted):
        for field in ("boxes", "objects", "instances", "pixels"):
            assert np.array_equal(getattr(natural, field), getattr(other, field))
    assert (natural.image != comic.image).mean() > 0.5 and (natural.image != painted.image).mean() > 0.5
    colours = [len(np.unique(scene.image.reshape(-1, 3), axis=0)) for scene in (natural, comic)]
    assert colours[1] < 30 < colours[0]  # a comic has few flat colours


def test_an_unknown_style_or_split_is_named():
    with pytest.raises(ValueError, match="'cubist'"):
        draw(0, "test", 0, "cubist")
    with pytest.raises(ValueError, match=r"'holdout'"):
        draw(0, "holdout", 0)


@pytest.mark.parametrize("style", STYLES)
def test_what_is_loaded_is_what_was_drawn(stored, style):
    loaded = world.load_scenes("train", style, root=stored)
    assert loaded.images.shape == (COUNTS["train", style], 3, SIDE, SIDE) and loaded.images.dtype == torch.uint8
    assert loaded.ids[17] == "train-00017" and len(set(loaded.ids)) == len(loaded.images)
    for index in (0, 49, 50, 54):  # both sides of the end of a row of tiles
        scene = draw(5, "train", index, style)
        assert np.array_equal(loaded.images[index].permute(1, 2, 0), scene.image)
        assert np.array_equal(loaded.instances[index], scene.instances)
        assert np.array_equal(loaded.pixels[index], scene.pixels)
        assert np.array_equal(loaded.boxes[index], scene.boxes)
        assert np.array_equal(loaded.objects[index], scene.objects)
        assert loaded.labels[index] == scene.label


def test_an_untouched_world_passes_the_check(stored):
    draw_world.check_drawn(stored)


def _repaint(path: Path, pixels: int, levels: int) -> None:
    sheet = np.asarray(Image.open(path)).copy()
    sheet.reshape(-1)[:pixels] ^= levels
    options = {"lossless": True} if path.suffix == ".webp" else {}
    Image.fromarray(sheet).save(path, **options)


@pytest.mark.parametrize("name", ["train_natural.webp", "train_painted.webp", "test_instances.png", "train_pixels.png"])
def test_a_changed_sheet_fails_the_check_by_name(copy, name):
    _repaint(copy / name, pixels=1, levels=4)
    with pytest.raises(ValueError, match=name) as caught:
        draw_world.check_drawn(copy)
    assert "\n" not in str(caught.value)


def test_the_check_forgives_one_level_in_few_pixels_of_an_image_only(copy):
    _repaint(copy / "train_natural.webp", pixels=5, levels=1)
    draw_world.check_drawn(copy)
    _repaint(copy / "train_natural.webp", pixels=3000, levels=1)
    with pytest.raises(ValueError, match="train_natural"):
        draw_world.check_drawn(copy)


def test_a_changed_label_fails_the_check(copy):
    path = copy / "world.json"
    index = json.loads(path.read_text())
    index["splits"]["test"]["boxes"][3][0][2] += 1
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"world.json"):
        draw_world.check_drawn(copy)


def test_a_missing_world_names_the_command_that_fetches_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"dvc pull data.dvc"):
        world.load_scenes("test", root=tmp_path / "nothing")


def test_a_missing_or_truncated_sheet_is_one_clear_error(copy):
    path = copy / "test_natural.webp"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"test_natural.webp cannot be read"):
        world.load_scenes("test", root=copy)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"test_natural.webp is missing"):
        world.load_scenes("test", root=copy)


def test_an_unknown_split_lists_the_known_ones(stored):
    with pytest.raises(ValueError, match=r"no holdout/natural.*train/comic.*val/natural"):
        world.load_scenes("holdout", root=stored)


def command(*arguments):
    """The script in a process of its own."""
    script = [sys.executable, "tools/draw_world.py", *map(str, arguments)]
    return subprocess.run(script, cwd=ROOT, env=os.environ | {"PYTHONPATH": "."}, capture_output=True, text=True)


def test_the_contact_sheet_is_a_small_readable_picture(stored, tmp_path):
    out = tmp_path / "sheet.png"
    done = command("--root", stored, "--sheet", out)
    assert done.returncode == 0 and done.stdout == f"{out}: contact sheet of {stored}\n", done.stderr
    assert out.stat().st_size < 400_000
    assert min(Image.open(out).size) > 400


def test_the_script_ends_a_missing_world_in_one_line(tmp_path):
    done = command("--check", "--root", tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("draw_world: ") and "dvc pull" in done.stderr
    assert done.stderr.count("\n") == 1


def test_every_class_has_an_outline_and_a_texture():
    assert tuple(OUTLINES) == tuple(TEXTURES) == CLASSES


def test_a_count_takes_the_first_scenes_and_refuses_more_than_there_are(stored):
    few, whole = world.load_scenes("test", count=7, root=stored), world.load_scenes("test", root=stored)
    assert torch.equal(few.images, whole.images[:7]) and torch.equal(few.pixels, whole.pixels[:7])
    assert few.ids == whole.ids[:7] and torch.equal(few.labels, whole.labels[:7])
    assert len(few.boxes) == len(few.objects) == len(few.instances) == 7
    with pytest.raises(ValueError, match=r"^61 images asked for, but the embedded data set has 60 test scenes$"):
        world.load_scenes("test", count=61, root=stored)


def test_the_pinned_scenes_are_those_that_the_generator_draws():
    for split, style in world.COUNTS:
        stored = world.load_scenes(split, style)
        assert len(stored.ids) == world.COUNTS[split, style]
        for index in (0, 17, len(stored.ids) - 1):
            drawn = draw(draw_world.SEED, split, index, style)
            assert np.abs(drawn.image.astype(int) - stored.images[index].permute(1, 2, 0).numpy()).max() <= 1
            assert drawn.label == stored.labels[index]


def test_a_linear_classifier_on_pixels_stays_under_60_percent():
    train, test = (world.load_scenes(split) for split in ("train", "test"))
    flat = [split.images.flatten(1).numpy() / np.float32(255) for split in (train, test)]
    best = max(RidgeClassifier(alpha=a).fit(flat[0], train.labels).score(flat[1], test.labels) for a in (100, 1000))
    assert 1 / 12 < best < 0.6


def test_the_committed_stand_ins_are_accurate_and_withstand_noise():
    """results/mini/train/networks: what the pipeline measured when it trained them."""
    scale, folder = settings.load("mini"), ROOT / "results/mini/train/networks"
    records = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    assert set(records) == {*scale.stand_ins, *scale.segmenters, *scale.detectors, *scale.purifiers, *scale.generators}
    for name in scale.stand_ins:
        assert records[name]["accuracy"] >= 0.9, name
        assert records[name]["accuracy"] - records[name]["accuracy_noise"] <= 0.15, name
    for name in scale.detectors:
        assert records[name]["map_50"] >= 60, name
