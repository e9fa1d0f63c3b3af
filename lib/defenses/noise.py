"""Random noise before the victim: what the dynamic NRP adds first, and alone the control of every purifier."""

import hashlib

import torch
from torch import Tensor

from lib import linf
from lib.checks import checked_images
from lib.rng import Streams

NOISE = 0.05  # standard deviation of the paper's dynamic inference, 12.75 levels (NRP/purify.py:50-55)


def noise(x: Tensor, *, noise: float = NOISE, eps: float = 16 / 255, seed: int = 0) -> Tensor:
    """Images `[B,3,H,W]` with the noise of the dynamic NRP and nothing else; float32 (float64 stays), in [0,1].

    noise, eps, seed, and the images: as of `lib.defenses.purifier.nrp`, errors too. Differentiable in x.
    """
    kind = checked_images(x, eps, clipped=False, noise=noise).dtype
    return noisy(x.to(kind), noise, eps, seed).clamp(0, 1)


def noisy(x: Tensor, noise: float, eps: float, seed: int) -> Tensor:
    """Images plus normal noise of this standard deviation, within `eps` of them and in [0,1]; unchanged for 0.

    seed: of the noise, which depends on it and on the image's own content, not on the batch or the device. The iterates
    of an attack meet fresh noise at every step, even with the defender's seed: one step's tells nothing of the next.
    """
    if not noise:
        return x
    normal = Streams(seed, contents(x), "nrp").normal(*x.shape[1:])
    return linf.project(x + noise * normal.to(x), x, eps)


def contents(x: Tensor) -> list[str]:
    """A digest of each image, at 16 bits per value: in a float's last bits one device differs from another."""
    levels = (x.detach() * 65535).round().to(torch.int32).cpu().numpy()
    return [hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest() for image in levels]
