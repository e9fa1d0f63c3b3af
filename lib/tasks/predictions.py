"""What is computed of 8-bit images, as arrays for `lib.store`: a victim's predictions, and how near they are to others.

They pass the defense first: images in [0,1] -> images, None for no defense. Victims run in inference mode and are left
as found. TypeError or ValueError in one line for images or outputs of another kind and for a victim that changes
itself, FloatingPointError for outputs that are not finite.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lib.checks import checked_bytes, checked_logits, evaluating, finite, unchanged
from lib.tasks.precision import LIMIT, Detections
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
    logits = (checked_logits(z, len(z)) for z in _logits(victim, images, defense, batch, device))
    top = [z.float().softmax(1).topk(min(5, z.shape[1])) for z in logits]
    parts = {"classes": [t.indices for t in top], "confidence": [t.values for t in top]}
    return {name: torch.cat(part).cpu().numpy() for name, part in parts.items()}


@torch.no_grad()
def segment(
    victim: nn.Module, images: Tensor, defense: Transform = None, *, batch: int = 4, device: str = "cpu"
) -> Arrays:
    """labels: the most likely class of every pixel, uint8 `[N,H,W]`, of images `[N,3,H,W]`."""
    parts = []
    for logits in _logits(victim, images, defense, batch, device):
        if logits.ndim != 4 or logits.shape[1] > 256:
            raise ValueError(f"a segmenter gives logits [B,K,H,W] of at most 256 classes, got {list(logits.shape)}")
        parts.append(logits.argmax(1).to(torch.uint8).cpu())
    return {"labels": torch.cat(parts).numpy()}


def _logits(victim: nn.Module, images: Tensor, defense: Transform, batch: int, device: str) -> Iterator[Tensor]:
    with left_as_found(victim):
        for part in checked_bytes(images).split(batch):
            x = unit_images(part, device)
            logits = victim(defense(x) if defense else x)
            if not isinstance(logits, Tensor) or len(logits) != len(x):
                found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                raise ValueError(f"{type(victim).__name__} must give logits of {len(x)} images, got {found}")
            finite(logits.amax(1), f"{type(victim).__name__}'s logits")  # -inf may rule out a class
            yield logits


@contextlib.contextmanager
def left_as_found(network: object) -> Iterator[None]:
    """A network, if it is one, in inference mode and watched."""
    networks = [network] if isinstance(network, nn.Module) else []
    with evaluating(*networks), unchanged(f"{type(network).__name__}'s forward pass", *networks):
        yield


@torch.no_grad()
def detect(
    detector: Detector, images: Sequence[Tensor], defense: Transform = None, *, batch: int = 8, device: str = "cpu"
) -> Arrays:
    """The best 100 detections in each of the images `[3,H,W]` of any sizes, as `packed` has them.

    detector: called as torchvision's are.  defense: takes images `[B,3,H,W]` of equal size.
    """
    found: list[Detections] = [None] * len(images)
    # A detector pads a mixed batch to its largest image, so what it finds would depend on an image's neighbours.
    with left_as_found(detector):
        for group in same_size(images, batch):
            x = torch.stack([unit_images(checked_bytes(images[index], count=False), device) for index in group])
            for index, result in zip(group, detector(list(defense(x) if defense else x)), strict=True):
                found[index] = best(result, type(detector).__name__)
    return packed(found)


def best(result: dict[str, Tensor], name: str) -> Detections:
    """The 100 detections of the highest scores; name: the detector's, for errors."""
    scores = finite(result["scores"], f"{name}'s scores")
    order = scores.argsort(descending=True, stable=True)[:LIMIT]
    boxes, scores, labels = (result[key][order].cpu().numpy() for key in ("boxes", "scores", "labels"))
    finite(result["boxes"], f"{name}'s boxes")
    return Detections(boxes.astype(np.float32).reshape(-1, 4), scores.astype(np.float32), labels.astype(np.int64))


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
        error = finite((other - x).square().flatten(1).mean(1), "the difference of the images")
        found["psnr"].append(-10 * error.log10())
        if tap:
            features = tap(x)
            away = (tap(other) - features).square().flatten(1).sum(1)
            share = away / features.square().flatten(1).sum(1)
            found["features"].append(finite(share, "the distance of the features"))
    order = np.argsort(np.concatenate(groups))
    return {name: torch.cat(parts).cpu().numpy()[order] for name, parts in found.items()}


# How each task predicts, and reads its stored arrays: a `Prediction`, uint8 `[N,H,W]`, or a list of `Detections`.
TASKS = {
    "classification": (classify, lambda arrays: Prediction(**arrays)),
    "segmentation": (segment, itemgetter("labels")),
    "detection": (detect, detections_from),
}
