"""Explicit randomness, one stream per image.

Every image owns a generator keyed by (seed, image id, purpose), so it sees the same random start, resize and target
whatever the batch size, the order of the images or the device: numbers are drawn on the CPU and then moved.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

USUAL = {"dtype": torch.float32, "device": "cpu"}  # whatever defaults the caller has set


def key(*parts: object) -> int:
    """A 63-bit seed from any printable parts; equal parts give equal seeds on every machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*parts: object) -> torch.Generator:
    """One CPU generator keyed by `parts`."""
    return torch.Generator("cpu").manual_seed(key(*parts))


def moved(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor of the CPU on the device of another one; no GPU is waited for."""
    return tensor.pin_memory().to(like.device, non_blocking=True) if like.is_cuda else tensor.to(like.device)


class Streams:
    """One generator per image of a batch; each call draws the next values of every image.

    ids: the images' identifiers (anything printable), one per image of the batch.
    """

    def __init__(self, seed: int, ids: Sequence[object], purpose: str):
        self.generators = [generator(seed, image, purpose) for image in ids]

    def uniform(self, *shape: int) -> Tensor:
        """Uniform in [0,1), `[B, *shape]`."""
        return torch.stack([torch.rand(shape, generator=g, **USUAL) for g in self.generators])

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, `[B, *shape]`."""
        return torch.stack([torch.randn(shape, generator=g, **USUAL) for g in self.generators])

    def signs(self, *shape: int) -> Tensor:
        """Plus or minus one with equal chances, `[B, *shape]`."""
        return 2.0 * (self.uniform(*shape) < 0.5) - 1

    def integers(self, low: Tensor | int, high: Tensor | int) -> Tensor:
        """One whole number in [low, high) per image, `[B]` int64; the bounds may differ from image to image."""
        low = torch.as_tensor(low, device="cpu")
        width = torch.as_tensor(high, device="cpu") - low
        precise = USUAL | {"dtype": torch.float64}
        draws = torch.stack([torch.rand((), generator=g, **precise) for g in self.generators])
        return low + (draws * width).floor().long()
