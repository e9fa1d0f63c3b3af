"""Segmentation: predict a class per pixel; `lib.tasks.confusion` scores it as SegNet does."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from lib.tasks.classification import unit_images
from lib.tasks.confusion import Scores, confusions, scores

__all__ = ["Scores", "confusions", "predict", "scores"]


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
