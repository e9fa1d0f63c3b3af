"""What is computed of 8-bit images, as arrays for `lib.store`: a victim's predictions, and how near they are to others.

They pass the defense first: images in [0,1] -> images, None for no defense. At most `batch` images are computed at a
time, fewer where memory is short (`lib.memory`).
"""

from collections.abc import Callable, Sequence
from inspect import unwrap
from itertools import chain
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lib.memory import halved
from lib.tasks.precision import LIMIT, Detections, detections_from, packed
from lib.units import same_size, unit_images

Arrays = dict[str, np.ndarray]
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
    values, classes = _of_logits(lambda logits: logits.softmax(1).topk(5), victim, images, defense, batch, device)
    return {"classes": classes, "confidence": values}


@torch.no_grad()
def segment(
    victim: nn.Module, images: Tensor, defense: Transform = None, *, batch: int = 4, device: str = "cpu"
) -> Arrays:
    """labels: the most likely class of every pixel, uint8 `[N,H,W]`, of images `[N,3,H,W]`."""
    (labels,) = _of_logits(lambda logits: [logits.argmax(1).byte()], victim, images, defense, batch, device)
    return {"labels": labels}


def _of_logits(
    read: Callable, victim: nn.Module, images: Tensor, defense: Transform, batch: int, device: str
) -> list[np.ndarray]:
    """What `read` gives of a victim's logits, several arrays, of all images."""

    def predicted(places: range) -> list[Tensor]:
        x = unit_images(images[places.start : places.stop], device)
        return read(victim(defense(x) if defense else x))

    found = halved(predicted, range(len(images)), batch, victim, unwrap(defense))
    return [torch.cat(parts).cpu().numpy() for parts in zip(*found, strict=True)]


@torch.no_grad()
def detect(
    detector: Detector, images: Sequence[Tensor], defense: Transform = None, *, batch: int = 8, device: str = "cpu"
) -> Arrays:
    """The best 100 detections in each of the images `[3,H,W]` of any sizes, as `packed` has them.

    detector: called as torchvision's are.  defense: takes images `[B,3,H,W]` of equal size.
    """
    found: list[Detections] = [None] * len(images)

    def in_group(group: Sequence[int]) -> list[dict[str, Tensor]]:
        x = torch.stack([unit_images(images[index], device) for index in group])
        return detector(list(defense(x) if defense else x))

    # A detector pads a mixed batch to its largest image, so what it finds would depend on an image's neighbours.
    for group in same_size(images, batch):
        results = chain.from_iterable(halved(in_group, group, batch, detector, unwrap(defense)))
        for index, result in zip(group, results, strict=True):
            order = result["scores"].argsort(descending=True, stable=True)[:LIMIT]
            boxes, scores, labels = (result[name][order].cpu().numpy() for name in ("boxes", "scores", "labels"))
            boxes = boxes.astype(np.float32).reshape(-1, 4)
            found[index] = Detections(boxes, scores.astype(np.float32), labels.astype(np.int64))
    return packed(found)


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

    def measured(group: Sequence[int]) -> list[Tensor]:
        x, other = (unit_images(torch.stack([of[index] for index in group]), device) for of in (clean, images))
        other = defense(other) if defense else other
        psnr = -10 * (other - x).square().flatten(1).mean(1).log10()
        if not tap:
            return [psnr]
        features = tap(x)
        away = (tap(other) - features).square().flatten(1).sum(1)
        return [psnr, away / features.square().flatten(1).sum(1)]

    groups = same_size(clean, batch)
    found = [part for group in groups for part in halved(measured, group, batch, tap, unwrap(defense))]
    order = np.argsort(np.concatenate(groups))
    numbers = [torch.cat(parts).cpu().numpy()[order] for parts in zip(*found, strict=True)]
    return dict(zip(("psnr", "features"), numbers, strict=False))


# How each task predicts, and reads its stored arrays: a `Prediction`, uint8 `[N,H,W]`, or a list of `Detections`.
TASKS = {
    "classification": (classify, lambda arrays: Prediction(**arrays)),
    "segmentation": (segment, itemgetter("labels")),
    "detection": (detect, detections_from),
}
