"""What all defenses share: the check of their images, and a memo."""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor


def require_images(x: Tensor) -> None:
    """ValueError in one line for what is not a batch of float images `[B,3,H,W]`."""
    if not torch.is_floating_point(x):
        raise ValueError(f"images must be float in [0,1], got {x.dtype}; divide 8-bit images by 255")
    if x.ndim != 4 or x.shape[1] != 3 or not x.numel():
        raise ValueError(f"images must have shape [B,3,H,W], none of them 0, got {list(x.shape)}")


KEPT = 64


class Memo:
    """A defense that is computed once per batch of images: several victims look at the same ones. Kept off the GPU.

    It changes no result, so a stored result is that of the defense itself (`__wrapped__`).
    """

    def __init__(self, defense: Callable[[Tensor], Tensor]):
        self.__wrapped__ = defense
        self.known: dict[bytes, Tensor] = {}  # the last ones, at most KEPT images

    def __call__(self, x: Tensor) -> Tensor:
        key = hashlib.sha256(x.cpu().numpy().tobytes()).digest()
        if key not in self.known:
            self.known[key] = self.__wrapped__(x).cpu()
            while sum(map(len, self.known.values())) > max(KEPT, len(x)):
                del self.known[next(iter(self.known))]
        return self.known[key].to(x.device, copy=True)
