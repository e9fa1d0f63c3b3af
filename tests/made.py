"""Hand-made frames, whose numbers are known."""

import numpy as np
import pandas as pd

from lib.frames import KEYS, Frame, join
from lib.tasks.precision import Detections, evaluate_boxes

BLANK = dict.fromkeys(KEYS, "") | {"eps": 16.0, "steps": 10, "seed": 0, "defense": "none", "victim": "Inc-v3"}


def cell(part, **columns) -> Frame:
    """A frame of one cell. part: its contributions; the number of right images out of n as (right, n); or outcomes."""
    if isinstance(part, tuple):
        right, n = part
        part = {"top1": np.arange(n) < right}
    count = len(next(iter(part.values()))) if isinstance(part, dict) else len(getattr(part, "image_ids", part))
    return Frame(pd.DataFrame([BLANK | columns]), [part], [tuple(f"i{k:03}" for k in range(count))])


def frame(*cells: Frame) -> Frame:
    """Cells as one frame."""
    return join(cells)


def pixels(right: int, images: int = 12) -> np.ndarray:
    """Confusions of images of 40 pixels of the first of two classes, of which `right` are right."""
    counts = np.zeros((images, 3, 2), np.int64)
    counts[:, 0] = right, 40 - right
    return counts


def found(hits: int):
    """The evaluation of a detector that finds the one object in the first `hits` of eight images, and nothing else."""
    truth = {
        "images": [{"id": k, "width": 40, "height": 40} for k in range(1, 9)],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": k, "image_id": k, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}
            for k in range(1, 9)
        ],
    }
    return evaluate_boxes(truth, range(1, 9), [one(k < hits) for k in range(8)])


def one(there: bool) -> Detections:
    """The object, or nothing."""
    count = int(there)
    return Detections(
        np.array([[5, 5, 25, 25]] * count, np.float32).reshape(-1, 4), np.full(count, 0.9), np.ones(count)
    )


def precision(hits: int) -> float:
    """Average precision of `hits` objects found of eight and no false alarm: 1 up to that recall, at 101 recalls."""
    return 100 * (hits * 100 // 8 + 1) / 101 if hits else 0.0
