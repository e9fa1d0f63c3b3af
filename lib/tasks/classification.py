"""Classification: predict and score. Drawing pictures of predictions is `lib.report.figures`' work."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lib.units import unit_images


class Prediction(NamedTuple):
    """What a victim says of N images: its `k` most likely classes `[N,k]`, best first, and their probabilities."""

    classes: np.ndarray
    confidence: np.ndarray


@torch.no_grad()
def predict(
    victim: nn.Module,
    images: Tensor,
    *,
    batch: int = 50,
    device: str = "cpu",
    k: int = 5,
    defense: Callable[[Tensor], Tensor] | None = None,
) -> Prediction:
    """The victim's top-k classes of 8-bit images `[N,3,H,W]` (uint8).

    defense: images in [0,1] -> images, in front of the victim.
    """
    parts = (unit_images(part, device) for part in images.split(batch))
    top = [victim(defense(x) if defense else x).softmax(1).topk(k) for x in parts]
    return Prediction(
        torch.cat([t.indices for t in top]).cpu().numpy(), torch.cat([t.values for t in top]).cpu().numpy()
    )


def predicted(victim: nn.Module, images: Tensor, defense, *, batch: int, device: str) -> dict[str, np.ndarray]:
    """`predict` as a stored computation."""
    return predict(victim, images, batch=batch, device=device, defense=defense)._asdict()


def unpacked(arrays: dict[str, np.ndarray]) -> Prediction:
    """What `predicted` stored."""
    return Prediction(**arrays)


def top_k(prediction: Prediction, labels: np.ndarray, k: int) -> np.ndarray:
    """Per image: is the label among the k most likely classes? `[N]` bool."""
    return (prediction.classes[:, :k] == labels[:, None]).any(1)
