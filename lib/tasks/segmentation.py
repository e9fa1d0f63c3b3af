"""Segmentation: predict a class per pixel, and score it as SegNet does, void counted either way."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lib.units import unit_images


class Scores(NamedTuple):
    """In percent. pixels: correct share of the labelled pixels.  pixels_void_wrong: of all pixels, void always wrong.

    classes: mean over the classes of their correct share.  iou: mean intersection over union, without void pixels.
    """

    pixels: float
    pixels_void_wrong: float
    classes: float
    iou: float


@torch.no_grad()
def predict(
    victim: nn.Module,
    images: Tensor,
    *,
    batch: int = 4,
    device: str = "cpu",
    defense: Callable[[Tensor], Tensor] | None = None,
) -> np.ndarray:
    """The most likely class of every pixel, uint8 `[N,H,W]`, of 8-bit images `[N,3,H,W]` (uint8).

    defense: images in [0,1] -> images, in front of the victim.
    """
    parts = []
    for part in images.split(batch):
        x = unit_images(part, device)
        parts.append(victim(defense(x) if defense else x).argmax(1).to(torch.uint8).cpu())
    return torch.cat(parts).numpy()


def predicted(victim: nn.Module, images: Tensor, defense, *, batch: int, device: str) -> dict[str, np.ndarray]:
    """`predict` as a stored computation."""
    return {"labels": predict(victim, images, batch=batch, device=device, defense=defense)}


def unpacked(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """What `predicted` stored."""
    return arrays["labels"]


def confusions(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Pixels per image, true class (last: void) and predicted class, int64 `[N,classes+1,classes]`.

    predicted: `[N,H,W]` in 0..classes-1; labels: the same shape, every value from `classes` up is void.
    """
    if predicted.shape != labels.shape:
        raise ValueError(f"predictions {predicted.shape} and labels {labels.shape} differ in shape")
    cell = np.minimum(labels.astype(np.int64), classes) * classes + predicted
    size = (classes + 1) * classes
    return np.stack([np.bincount(image.ravel(), minlength=size) for image in cell]).reshape(-1, classes + 1, classes)


def scores(confusion: np.ndarray) -> Scores:
    """The scores of a confusion matrix `[classes+1,classes]` (true class, last void, x predicted class).

    Source: SegNet-Tutorial, Scripts/compute_test_results.m: void pixels are left out. A class without any pixel does
    not count in a mean. `pixels_void_wrong` is the other way to read an accuracy "per pixel".
    """
    known = confusion[:-1].astype(float)
    right, true, said = np.diag(known), known.sum(1), known.sum(0)
    there, seen = true > 0, true + said > 0
    return Scores(
        100 * right.sum() / known.sum(),
        100 * right.sum() / confusion.sum(),
        100 * (right[there] / true[there]).mean(),
        100 * (right[seen] / (true + said - right)[seen]).mean(),
    )
