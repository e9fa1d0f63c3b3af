"""From contributions to numbers: scores by name, each with a 95 % interval over images.

A number is a function of the score in several cells over the same images: one cell for a value, two for a paired
difference, more where a part of what an attack took is asked for. Its interval comes from leaving out one image after
the other (the jackknife), which keeps the pairing; benchmarks/coverage.py measures how often it holds the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from lib.frames import Contributions, Frame
from lib.tasks import confusion
from lib.tasks.precision import Evaluation


class Estimate(NamedTuple):
    """A number, its 95 % interval, and the number of images; rates in percent."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}]"


class Score(NamedTuple):
    """How contributions become a number.

    kind: "mean" of an outcome per image; "sums", a statistic of summed counts; "precision", average precision.
    name: of the outcome, the statistic or the IoU.  factor: 100 for a rate.  rate: is each image's outcome 0 or 1 (or
    the mean of several such)?  share: does the score lie in 0 to 100?  over: what the seeds of a random defense
    become: their mean, or whether it holds in all of them, or in most.
    """

    kind: str
    name: str
    factor: float = 100.0
    rate: bool = False
    share: bool = True
    over: str = "mean"


HELD_IN = {"mean": dict, "sums": np.ndarray, "precision": Evaluation}  # contributions by kind
OVER = {"mean": lambda x: x.mean(0), "all": lambda x: x.min(0), "most": lambda x: x.mean(0) > 0.5}

SCORES = {
    "accuracy": Score("mean", "top1", rate=True),
    "top-5 accuracy": Score("mean", "top5", rate=True),
    "fooling rate": Score("mean", "fooled", rate=True),
    "accuracy in all draws": Score("mean", "top1", rate=True, over="all"),
    "accuracy in most draws": Score("mean", "top1", rate=True, over="most"),
    "target hit rate": Score("mean", "hit", rate=True),
    "silhouette": Score("mean", "silhouette", share=False),
    "PSNR (dB)": Score("mean", "psnr", 1.0, share=False),
    "features (%)": Score("mean", "features", share=False),
    "pixels": Score("sums", "pixels"),
    "pixels_void_wrong": Score("sums", "pixels_void_wrong"),
    "classes": Score("sums", "classes"),
    "iou": Score("sums", "iou"),
    "mAP@0.5": Score("precision", "0.5"),
    "mAP@0.5:0.95": Score("precision", "0.5:0.95"),
}


def estimate(score: str, frame: Frame) -> Estimate:
    """The score of one cell (of several seeds: their mean per image). ValueError for cells that differ otherwise."""
    return combined(score, [(1.0, frame)])


def combined(score: str, terms: Sequence[tuple[float, Frame]], constant: float = 0.0) -> Estimate:
    """The weighted sum of a score over cells that share their images, less a constant, paired by image.

    terms: weight and cell (a `Frame` of one cell, or of its seeds). ValueError where the images differ.
    """
    weights, chosen = np.array([weight for weight, _ in terms]), SCORES[score]
    ends = chosen.factor * np.array([weights[weights < 0].sum(), weights[weights > 0].sum()]) - constant
    found = derived(score, [frame for _, frame in terms], lambda scores: weights @ scores - constant, ends)
    return found._replace(low=max(found.low, ends[0]), high=min(found.high, ends[1])) if chosen.share else found


def derived(
    score: str,
    frames: Sequence[Frame],
    function: Callable[[np.ndarray], np.ndarray],
    ends: Sequence[float] = (),
) -> Estimate:
    """A smooth function of a score in several cells, paired by image. function: scores `[cells]` or `[cells,n]`.  ends:
    as of `over_cells`. ValueError where the images differ."""
    cells = [_one(frame, SCORES[score]) for frame in frames]
    if len({frame.images[0] for frame in frames}) > 1:
        raise ValueError("the cells do not share their images: their difference is not paired")
    if not frames[0].images[0]:
        raise ValueError("no images: a score over nothing has no value")
    return over_cells(SCORES[score], cells, function, ends)


def point(score: str, frame: Frame) -> float:
    """The score without its interval."""
    chosen = SCORES[score]
    cell = _one(frame, chosen)
    if chosen.kind == "precision":
        return cell.ap(chosen.name)
    if chosen.kind == "sums":
        return float(getattr(confusion.scores(cell.sum(0)), chosen.name))
    return chosen.factor * float(np.mean(cell[chosen.name]))


def _one(frame: Frame, score: Score) -> Contributions:
    """The contributions of one cell; of its outcomes over several seeds what the score says."""
    if not len(frame):
        raise ValueError("no such cell: nothing of the frame is at these columns")
    others = frame.cells.drop(columns="seed").drop_duplicates()
    if len(others) > 1:
        differ = [name for name in others if others[name].nunique() > 1]
        raise ValueError(f"{len(others)} cells where one is asked for; they differ in {', '.join(differ)}")
    first = frame.parts[0]
    if not isinstance(first, HELD_IN[score.kind]) or (isinstance(first, dict) and score.name not in first):
        raise ValueError(f"these cells have no '{score.name}': it is a score of another task")
    if len(frame) == 1:
        return first
    if not isinstance(first, dict):
        raise ValueError("several seeds of confusion counts or of detections have no mean per image: choose one seed")
    return {name: OVER[score.over](np.stack([part[name] for part in frame.parts])) for name in first}


def over_cells(
    score: Score,
    cells: Sequence[Contributions],
    function: Callable[[np.ndarray], np.ndarray],
    ends: Sequence[float] = (),
) -> Estimate:
    """`derived` of contributions. ends: the least and the most that the function can be, where it is linear.

    Average precision of one cell, or with a cell within ten points of 0 or 100, is never given an interval narrower
    than the exact bound of as many images that agree: there leaving out single images says too little.
    """
    values, others = map(np.array, zip(*[_with_and_without(score, cell) for cell in cells], strict=True))
    floor = score.kind == "precision" and (len(cells) == 1 or bool((np.minimum(values, 100 - values) < 10).any()))
    span = score.factor if score.share else 0.0
    return interval(float(function(values)), function(others), ends if score.rate else (), span, floor)


def _with_and_without(score: Score, cell: Contributions) -> tuple[float, np.ndarray]:
    """The score of a cell, and without one image after the other, `[n]`."""
    with np.errstate(invalid="ignore", divide="ignore"):
        if score.kind == "precision":
            n = len(cell.image_ids)
            return cell.ap(score.name), cell.resampled(1 - np.eye(n, dtype=int), score.name)
        if score.kind == "sums":
            sums = cell.sum(0)
            return tuple(getattr(confusion.scores(counts), score.name) for counts in (sums, sums - cell))
        values = score.factor * np.asarray(cell[score.name], dtype=float)
        return values.mean(), (values.sum() - values) / (len(values) - 1)


def interval(
    value: float, others: np.ndarray, ends: Sequence[float] = (), span: float = 100.0, floor: bool = False
) -> Estimate:
    """The 95 % interval of a score from its values without one image after the other (Tukey's pseudo-values).

    ends: the least and the most that one image of a rate can give. Two made-up images, one at each end, are then added
    (Bonett and Price 2012), without which the interval of a rate close to an end is too narrow; its middle is then not
    the value.  Where all images agree, nothing but the exact binomial bound says how many may not: with 95 % confidence
    at most 1 - 0.025^(1/n) of all. floor: never narrower than that.  span: between the ends of the scale; 0 where it
    has none, and no bound of that kind.
    """
    from scipy import stats  # slow to import, and redrawing a figure needs no interval

    n = len(others)
    images = n * value - (n - 1) * others[np.isfinite(others)]
    margin = span * (1 - 0.025 ** (1 / n))
    if len(images) < 2 or np.ptp(images) < 1e-9 * span:
        return Estimate(value, value - margin, value + margin, n)
    if len(ends):
        images = np.append(images, ends)
        middle, half = images.mean(), stats.norm.ppf(0.975) * images.std() / np.sqrt(n + 2)
    else:
        middle, half = value, stats.t.ppf(0.975, n - 1) * images.std(ddof=1) / np.sqrt(n)
    half = max(half, margin if floor else 0)
    return Estimate(value, float(middle - half), float(middle + half), n)
