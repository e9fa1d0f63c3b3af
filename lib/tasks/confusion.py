"""Counts of true and predicted classes per image, and the scores of segmentation; without torch."""

from typing import NamedTuple

import numpy as np


class Scores(NamedTuple):
    """In percent, each a number or an array for several sums of confusions."""

    pixels: np.ndarray  # correct share of the labelled pixels
    pixels_void_wrong: np.ndarray  # of all pixels, void always wrong
    classes: np.ndarray  # mean over the classes of their correct share
    iou: np.ndarray  # mean intersection over union, without void pixels


def confusions(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Pixels per image, true class (last: void) and predicted class, int64 `[N,classes+1,classes]`.

    predicted: `[N,H,W]` in 0..classes-1; labels: the same shape, every value from `classes` up is void.
    """
    if predicted.shape != labels.shape:
        raise ValueError(f"predictions {predicted.shape} and labels {labels.shape} differ in shape")
    if predicted.size and not 0 <= predicted.min() <= predicted.max() < classes:
        raise ValueError(f"class {predicted.max()} is predicted, but the images' classes are 0 to {classes - 1}")
    size, counts = (classes + 1) * classes, []
    for true, found in zip(labels, predicted, strict=True):  # one at a time: whole numbers take eight times its memory
        cell = np.minimum(true.astype(np.int64), classes) * classes + found
        counts.append(np.bincount(cell.ravel(), minlength=size))
    return np.stack(counts).reshape(-1, classes + 1, classes)


def scores(confusion: np.ndarray) -> Scores:
    """The scores of confusion matrices `[...,classes+1,classes]` (true class, last void, x predicted class), `[...]`.

    Source: SegNet-Tutorial, Scripts/compute_test_results.m: void pixels are left out. In the mean over classes one
    without a true pixel does not count, in that of IoU one without any pixel, true or predicted (the script divides by
    all). `pixels_void_wrong` is the other way to read an accuracy "per pixel".
    """
    known = confusion[..., :-1, :].astype(float)
    right, true, predicted = np.diagonal(known, axis1=-2, axis2=-1), known.sum(-1), known.sum(-2)
    with np.errstate(invalid="ignore"):
        shares, unions = right / true, right / (true + predicted - right)
    return Scores(
        100 * right.sum(-1) / known.sum((-2, -1)),
        100 * right.sum(-1) / confusion.sum((-2, -1)),
        100 * np.nanmean(shares, -1),
        100 * np.nanmean(unions, -1),
    )
