"""Segmentation: predict a class per pixel; `lib.tasks.confusion` scores."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from lib.units import unit_images


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
