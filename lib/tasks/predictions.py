"""What is computed of 8-bit images, as arrays for `lib.store`: a victim's predictions, and how near they are to others.

They pass the defense first, if there is one. At most `batch` images are computed at a time, fewer where memory is short
(`lib.memory`). Victims run in inference mode and are left as found. TypeError or ValueError in one line for images or
outputs of another kind and for a victim that changes itself, FloatingPointError for outputs that are not finite.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from inspect import unwrap
from itertools import chain
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lib.checks import (
    Defense,
    checked_bytes,
    checked_logits,
    evaluating,
    finite,
    of_shape,
    shape_of,
    unchanged_networks,
)
from lib.memory import halved
from lib.tasks.precision import MAX_DETECTIONS, Arrays, Detections, detections_from, packed
from lib.units import same_size, unit_images


class Prediction(NamedTuple):
    """A classifier's five most likely classes of N images `[N,5]`, best first, and their probabilities."""

    classes: np.ndarray
    confidence: np.ndarray


@torch.no_grad()
def classify(
    victim: nn.Module, images: Tensor, defense: Defense | None = None, *, batch: int = 50, device: str = "cpu"
) -> Arrays:
    """The fields of a `Prediction` of images `[N,3,H,W]`."""

    def likely(logits: Tensor) -> Sequence[Tensor]:
        return checked_logits(logits, len(logits)).float().softmax(1).topk(min(5, logits.shape[1]))

    values, classes = _of_logits(likely, victim, images, defense, batch, device)
    return {"classes": classes, "confidence": values}


@torch.no_grad()
def segment(
    victim: nn.Module, images: Tensor, defense: Defense | None = None, *, batch: int = 4, device: str = "cpu"
) -> Arrays:
    """labels: the most likely class of every pixel, uint8 `[N,H,W]`, of images `[N,3,H,W]`."""

    def likely(logits: Tensor) -> list[Tensor]:
        if logits.ndim != 4 or logits.shape[1] > 256:
            raise ValueError(f"a segmenter gives logits [B,K,H,W] of at most 256 classes, got {list(logits.shape)}")
        return [logits.argmax(1).byte()]

    (labels,) = _of_logits(likely, victim, images, defense, batch, device)
    return {"labels": labels}


def _of_logits(
    read: Callable, victim: nn.Module, images: Tensor, defense: Defense | None, batch: int, device: str
) -> list[np.ndarray]:
    """What `read` gives of a victim's logits, several arrays, of all images."""
    name = type(victim).__name__

    def predicted(places: Sequence[int]) -> Sequence[Tensor]:
        logits = victim(seen(images, places, defense, device))
        if not isinstance(logits, Tensor) or logits.ndim < 2 or len(logits) != len(places):
            raise ValueError(f"{name} must give logits of {len(places)} images, got {shape_of(logits)}")
        finite(logits.amax(1), f"{name}'s logits")  # -inf may rule out a class
        return read(logits)

    checked_bytes(images)
    with left_as_found(victim):
        return _of_all(predicted, images, batch, victim, unwrap(defense))


def seen(images: Sequence[Tensor], places: Sequence[int], defense: Defense | None, device: str) -> Tensor:
    """The 8-bit images at these places, of one size, after the defense: `[B,3,H,W]` in [0,1]."""
    x = unit_images(torch.stack([checked_bytes(images[place], count=False) for place in places]), device)
    return of_shape(defense(x), x, "the defense") if defense else x


def _of_all(compute: Callable, images: Sequence[Tensor], batch: int, *of: object) -> list[np.ndarray]:
    """The arrays `[N,...]` of all images, in their order, of which `compute` gives those of some, of one size.

    of: see `lib.memory.halved`.
    """
    groups = same_size(images, batch)
    parts = [part for group in groups for part in halved(compute, group, batch, *of)]
    order = np.argsort(np.concatenate(groups))
    return [torch.cat(values).cpu().numpy()[order] for values in zip(*parts, strict=True)]


@contextlib.contextmanager
def left_as_found(network: object) -> Iterator[None]:
    """A network, if it is one, in inference mode and watched."""
    networks = [network] if isinstance(network, nn.Module) else []
    with evaluating(*networks), unchanged_networks(f"{type(network).__name__}'s forward pass", *networks):
        yield


@torch.no_grad()
def detect(
    detector: Callable, images: Sequence[Tensor], defense: Defense | None = None, *, batch: int = 8, device: str = "cpu"
) -> Arrays:
    """The best 100 detections in each of the images `[3,H,W]` of any sizes, as `packed` has them.

    detector: called as torchvision's are.
    """
    found: dict[int, Detections] = {}

    def detected(places: Sequence[int]) -> list[dict[str, Tensor]]:
        return detector(list(seen(images, places, defense, device)))

    # A detector pads a mixed batch to its largest image, so what it finds would depend on an image's neighbours.
    with left_as_found(detector):
        for group in same_size(images, batch):
            results = chain.from_iterable(halved(detected, group, batch, detector, unwrap(defense)))
            for place, result in zip(group, results, strict=True):
                found[place] = best(result, type(detector).__name__)
    return packed([found[place] for place in range(len(images))])


def best(result: dict[str, Tensor], name: str) -> Detections:
    """The 100 detections of the highest scores; name: the detector's, for errors."""
    parts = [result.get(key) for key in ("boxes", "scores", "labels")] if isinstance(result, dict) else [None]
    sizes = [part.numel() if isinstance(part, Tensor) else -1 for part in parts]
    if sizes != [4 * sizes[-1], sizes[-1], sizes[-1]]:
        raise TypeError(f"{name} must give tensors boxes [n,4], scores [n] and labels [n] for each image")
    scores = finite(result["scores"], f"{name}'s scores")
    order = scores.argsort(descending=True, stable=True)[:MAX_DETECTIONS]
    boxes, scores, labels = (result[key][order].cpu().numpy() for key in ("boxes", "scores", "labels"))
    finite(result["boxes"], f"{name}'s boxes")
    return Detections(boxes.astype(np.float32).reshape(-1, 4), scores.astype(np.float32), labels.astype(np.int64))


def top_k(prediction: Prediction, labels: np.ndarray, k: int) -> np.ndarray:
    """Per image: is the label among the k most likely classes? `[N]` bool."""
    return (prediction.classes[:, :k] == labels[:, None]).any(1)


@torch.no_grad()
def fidelity_of(
    clean: Sequence[Tensor],
    images: Sequence[Tensor],
    defense: Defense | None,
    tap: Callable | None,
    *,
    batch: int,
    device: str,
) -> Arrays:
    """One number per image `[N]`: psnr, the peak signal-to-noise ratio in dB (infinite where nothing differs); and with
    a tap, features: the squared distance of its features, as a share of the clean features' squared size.

    clean, images: 8-bit, `[N,3,H,W]` or a list of `[3,H,W]`.  defense: applied to `images` first.
    """

    def measured(places: Sequence[int]) -> list[Tensor]:
        x, other = seen(clean, places, None, device), seen(images, places, defense, device)
        error = finite((other - x).square().flatten(1).mean(1), "the difference of the images")
        psnr = -10 * error.log10()
        if not tap:
            return [psnr]
        features = tap(x)
        away = (tap(other) - features).square().flatten(1).sum(1)
        return [psnr, finite(away / features.square().flatten(1).sum(1), "the distance of the features")]

    found = _of_all(measured, clean, batch, tap, unwrap(defense))
    return dict(zip(("psnr", "features"), found, strict=False))


# How each task predicts, and reads its stored arrays: a `Prediction`, uint8 `[N,H,W]`, or a list of `Detections`.
TASKS = {
    "classification": (classify, lambda arrays: Prediction(**arrays)),
    "segmentation": (segment, itemgetter("labels")),
    "detection": (detect, detections_from),
}
