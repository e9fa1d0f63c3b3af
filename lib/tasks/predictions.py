"""What is computed of 8-bit images, as arrays for `lib.store`: a victim's predictions, and how near they are to others.

They pass the defense first: images in [0,1] -> images, None for no defense.
"""

from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lib.store import Arrays
from lib.tasks.precision import LIMIT, Detections
from lib.units import same_size, unit_images

Transform = Callable[[Tensor], Tensor] | None
Detector = Callable[[list[Tensor]], list[dict[str, Tensor]]]


class Prediction(NamedTuple):
    """A classifier's five most likely classes of N images `[N,5]`, best first, and their probabilities."""

    classes: np.ndarray
    confidence: np.ndarray


@torch.no_grad()
def classify(
    victim: nn.Module, images: Tensor, defense: Transform = None, *, batch: int = 50, device: str = "cpu"
) -> Arrays:
    """The fields of a `Prediction` of images `[N,3,H,W]`."""
    top = [logits.softmax(1).topk(5) for logits in _logits(victim, images, defense, batch, device)]
    parts = {"classes": [t.indices for t in top], "confidence": [t.values for t in top]}
    return {name: torch.cat(part).cpu().numpy() for name, part in parts.items()}


@torch.no_grad()
def segment(
    victim: nn.Module, images: Tensor, defense: Transform = None, *, batch: int = 4, device: str = "cpu"
) -> Arrays:
    """labels: the most likely class of every pixel, uint8 `[N,H,W]`, of images `[N,3,H,W]`."""
    parts = [logits.argmax(1).to(torch.uint8).cpu() for logits in _logits(victim, images, defense, batch, device)]
    return {"labels": torch.cat(parts).numpy()}


def _logits(victim: nn.Module, images: Tensor, defense: Transform, batch: int, device: str) -> Iterator[Tensor]:
    for part in images.split(batch):
        x = unit_images(part, device)
        yield victim(defense(x) if defense else x)


@torch.no_grad()
def detect(
    detector: Detector, images: Sequence[Tensor], defense: Transform = None, *, batch: int = 8, device: str = "cpu"
) -> Arrays:
    """The best 100 detections in each of the images `[3,H,W]` of any sizes, as `packed` has them.

    detector: called as torchvision's are.  defense: takes images `[B,3,H,W]` of equal size.
    """
    found: list[Detections] = [None] * len(images)
    # A detector pads a mixed batch to its largest image, so what it finds would depend on an image's neighbours.
    for group in same_size(images, batch):
        x = torch.stack([unit_images(images[index], device) for index in group])
        for index, result in zip(group, detector(list(defense(x) if defense else x)), strict=True):
            order = result["scores"].argsort(descending=True, stable=True)[:LIMIT]
            boxes, scores, labels = (result[name][order].cpu().numpy() for name in ("boxes", "scores", "labels"))
            boxes = boxes.astype(np.float32).reshape(-1, 4)
            found[index] = Detections(boxes, scores.astype(np.float32), labels.astype(np.int64))
    return packed(found)


def packed(detections: Sequence[Detections]) -> Arrays:
    """Detections as flat arrays; `counts` says how many belong to each image."""
    empty = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    flat = {name: np.concatenate([getattr(d, name) for d in [empty, *detections]]) for name in Detections._fields}
    return flat | {"counts": np.array([len(d.scores) for d in detections], np.int64)}


def detections_from(arrays: Arrays) -> list[Detections]:
    """The inverse of `packed`."""
    stops = np.cumsum(arrays["counts"])[:-1]
    fields = [np.split(arrays[name], stops) for name in Detections._fields]
    return [Detections(*one) for one, _ in zip(zip(*fields, strict=True), arrays["counts"], strict=False)]


def top_k(prediction: Prediction, labels: np.ndarray, k: int) -> np.ndarray:
    """Per image: is the label among the k most likely classes? `[N]` bool."""
    return (prediction.classes[:, :k] == labels[:, None]).any(1)


@torch.no_grad()
def fidelity_of(
    clean: Sequence[Tensor], images: Sequence[Tensor], defense: Transform, tap: Transform, *, batch: int, device: str
) -> Arrays:
    """One number per image `[N]`: psnr, the peak signal-to-noise ratio in dB (infinite where nothing differs); and with
    a tap, features: the squared distance of its features, as a share of the clean features' squared size.

    clean, images: 8-bit, `[N,3,H,W]` or a list of `[3,H,W]`.  defense: applied to `images` first.
    """
    found: dict[str, list[Tensor]] = {"psnr": []} | ({"features": []} if tap else {})
    groups = same_size(clean, batch)
    for group in groups:
        x, other = (unit_images(torch.stack([of[index] for index in group]), device) for of in (clean, images))
        other = defense(other) if defense else other
        found["psnr"].append(-10 * (other - x).square().flatten(1).mean(1).log10())
        if tap:
            features = tap(x)
            away = (tap(other) - features).square().flatten(1).sum(1)
            found["features"].append(away / features.square().flatten(1).sum(1))
    order = np.argsort(np.concatenate(groups))
    return {name: torch.cat(parts).cpu().numpy()[order] for name, parts in found.items()}


# How each task predicts, and reads its stored arrays: a `Prediction`, uint8 `[N,H,W]`, or a list of `Detections`.
TASKS = {
    "classification": (classify, lambda arrays: Prediction(**arrays)),
    "segmentation": (segment, itemgetter("labels")),
    "detection": (detect, detections_from),
}
