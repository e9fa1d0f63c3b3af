"""Detection: predict boxes; `lib.tasks.precision` scores them by COCO's average precision."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from lib.data.images import same_size
from lib.tasks.classification import unit_images
from lib.tasks.precision import LIMIT, Detections, Evaluation, evaluate

__all__ = ["Detections", "Evaluation", "evaluate", "pack", "predict", "unpack"]


@torch.no_grad()
def predict(
    detector: Callable[[list[Tensor]], list[dict[str, Tensor]]],
    images: Sequence[Tensor],
    *,
    batch: int = 8,
    device: str = "cpu",
    defense: Callable[[Tensor], Tensor] | None = None,
) -> list[Detections]:
    """The detections in 8-bit images `[3,H,W]` (uint8) of any sizes, one entry per image.

    detector: called as torchvision's are, a list of images `[3,H,W]` in [0,1] to a list of dicts of boxes, scores and
    labels.  defense: applied first, to images `[B,3,H,W]` of equal size.
    """
    found: list[Detections] = [None] * len(images)
    # A detector pads a mixed batch to its largest image, so what it finds would depend on an image's neighbours.
    for group in same_size(images, batch):
        x = torch.stack([unit_images(images[index], device) for index in group])
        for index, result in zip(group, detector(list(defense(x) if defense else x)), strict=True):
            found[index] = _best(result)
    return found


def _best(result: dict[str, Tensor]) -> Detections:
    order = result["scores"].argsort(descending=True, stable=True)[:LIMIT]
    boxes, scores, labels = (result[name][order].cpu().numpy() for name in ("boxes", "scores", "labels"))
    return Detections(boxes.astype(np.float32).reshape(-1, 4), scores.astype(np.float32), labels.astype(np.int64))


def pack(detections: Sequence[Detections]) -> dict[str, np.ndarray]:
    """Detections as flat arrays, for `lib.store`; `counts` says how many belong to each image."""
    empty = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    flat = {name: np.concatenate([getattr(d, name) for d in [empty, *detections]]) for name in Detections._fields}
    return flat | {"counts": np.array([len(d.scores) for d in detections], np.int64)}


def unpack(arrays: dict[str, np.ndarray]) -> list[Detections]:
    """The inverse of `pack`."""
    stops = np.cumsum(arrays["counts"]).tolist()
    starts = [0, *stops[:-1]]
    fields = [arrays[name] for name in Detections._fields]
    return [Detections(*(field[a:b] for field in fields)) for a, b in zip(starts, stops, strict=False)]
