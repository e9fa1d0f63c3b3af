"""lib/frames.py: choosing cells, and frames on disk."""

import subprocess
import sys

import numpy as np
import pytest

from lib.frames import join, load_frame, save_frame
from lib.settings import ROOT
from lib.tasks.precision import Detections, evaluate_boxes
from tests.made import cell, found, frame, pixels


@pytest.fixture
def attacked():
    cells = [("none", "", 0, 0), ("SSP", "VGG-16", 16, 10), ("SSP", "VGG-16", 16, 100), ("SSP", "R-AT", 8, 10)]
    return frame(
        *[cell((k, 4), attack=a, surrogate=s, eps=float(e), steps=n) for k, (a, s, e, n) in enumerate(cells)],
        cell((4, 4), attack="DIM", surrogate="VGG-16 + Inc-v3"),
    )


@pytest.mark.parametrize(
    ("where", "places"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"attack": "SSP"}, [1, 2, 3]),
        ({"attack": ["none", "DIM"]}, [0, 4]),
        ({"surrogate": "VGG*"}, [1, 2, 4]),
        ({"surrogate": ""}, [0]),
        ({"attack": "!none", "eps": 16}, [1, 2, 4]),
        ({"attack": "SSP", "steps": "max"}, [2]),
        ({"surrogate": "R-AT", "steps": ["max", 5]}, [3]),
        ({"attack": "FFF"}, []),
    ],
)
def test_cells_are_chosen_by_value_pattern_and_the_largest_there_is(attacked, where, places):
    chosen = attacked.where(**where)
    assert [int(part["top1"].sum()) for part in chosen.parts] == places == [len(chosen) and p for p in places]
    assert len(chosen) == len(chosen.cells) == len(chosen.images)


def test_a_column_that_is_not_there_is_an_error(attacked):
    with pytest.raises(KeyError, match="colour"):
        attacked.where(colour="red")


def test_the_rows_are_tidy(attacked):
    rows = attacked.rows
    assert len(rows) == 20 and rows["image"].tolist()[:4] == ["i000", "i001", "i002", "i003"]
    assert rows.groupby(["attack", "surrogate", "steps"])["top1"].sum()[("SSP", "VGG-16", 100)] == 2


def test_labels_that_some_cells_have_are_empty_in_the_others(attacked):
    both = join([attacked, cell((1, 2), source="A")])
    assert both.cells["source"].tolist() == [""] * 5 + ["A"]


def test_a_number_that_some_cells_lack_is_found_by_the_same_name_before_and_after_saving(tmp_path):
    both = join([cell((1, 2)), cell((2, 2), decay=0.5), cell((1, 2), decay=1.0)])
    save_frame(both, tmp_path / "frame.npz")
    for read in (both, load_frame(tmp_path / "frame.npz")):
        assert read.cells["decay"].tolist() == ["", "0.5", "1"] and len(read.where(decay="0.5")) == 1


def detections(seed):
    """Random detections and objects of three classes, one of which is only detected, with a crowd among the objects."""
    rng = np.random.default_rng(seed)
    ids = list(range(10, 22))
    objects = []
    for number, (image, label) in enumerate(zip(rng.choice(ids, 25), rng.integers(1, 3, 25), strict=True), 1):
        x, y, w, h = (float(v) for v in (*rng.integers(0, 20, 2), *rng.integers(8, 16, 2)))
        box = {"bbox": [x, y, w, h], "area": w * h, "iscrowd": int(number == 3)}
        objects.append({"id": number, "image_id": int(image), "category_id": int(label), **box})
    truth = {"images": [{"id": k} for k in ids], "categories": [{"id": k} for k in (1, 2, 3)], "annotations": objects}
    predicted = []
    for image in ids:
        boxes = [[*a["bbox"][:2], a["bbox"][0] + a["bbox"][2], a["bbox"][1] + a["bbox"][3]]
                 for a in objects if a["image_id"] == image]  # fmt: skip
        labels = [a["category_id"] for a in objects if a["image_id"] == image] + [3, 1]
        boxes = np.array([*boxes, [0, 0, 9, 9], [4, 4, 30, 30]], np.float32) + rng.normal(0, 1.5, (len(labels), 4))
        predicted.append(Detections(boxes.astype(np.float32), rng.random(len(labels)), np.array(labels)))
    return evaluate_boxes(truth, ids, predicted)


def test_a_frame_comes_back_as_it_was_and_as_the_same_bytes(attacked, tmp_path):
    whole = join([
        attacked, cell(pixels(30), task="segmentation"), cell(found(3), task="detection"),
        cell(detections(0), eps=8.0), cell(found(0)), cell(detections(1)), cell(pixels(2, 3)),
        cell({"psnr": np.array([np.inf, 31.25])}),
    ])  # fmt: skip
    for name in ("a.npz", "b.npz"):
        save_frame(whole, tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    again = load_frame(tmp_path / "a.npz")
    assert again.cells.equals(whole.cells) and again.images == whole.images
    for part, other in zip(whole.parts, again.parts, strict=True):
        if isinstance(part, dict):
            assert part.keys() == other.keys() and all(np.array_equal(part[name], other[name]) for name in part)
        elif isinstance(part, np.ndarray):
            assert np.array_equal(part, other)
        else:
            for iou in ("0.5", "0.5:0.95"):
                assert part.ap(iou) == other.ap(iou)  # pycocotools' own number, to the bit
                size = len(part.image_ids)
                drawn = np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), 50)
                assert np.array_equal(part.resampled(drawn, iou), other.resampled(drawn, iou))
    save_frame(again, tmp_path / "c.npz")
    assert (tmp_path / "c.npz").read_bytes() == (tmp_path / "a.npz").read_bytes()


def test_tables_and_claims_are_made_without_torch():
    code = "import sys; from lib.report import claims, tables, figures; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
