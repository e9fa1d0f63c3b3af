"""Random changes of whole batches of images, so that the networks do not hang on single pixels.

Without them random sign noise of 16 levels alone fools a network trained on drawn scenes, and no attack can be told
from noise. All take and give float images `[B,3,H,W]` in [0,1]; numbers come from the generator `g` alone.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.units import unit, unit_images

NOISE = unit(16)  # the strongest
SHIFT = 3  # pixels
BLOCK = 8  # side of a JPEG block


def _uniform(g: torch.Generator, count: int, low: float = 0, high: float = 1) -> Tensor:
    """One number per image, `[count,1,1,1]`."""
    return low + (high - low) * torch.rand(count, 1, 1, 1, generator=g)


def shifted(images: Tensor, g: torch.Generator) -> Tensor:
    """Each image moved by up to SHIFT pixels, its edge repeated; any dtype, `[B,3,H,W]`."""
    count, _, height, width = images.shape
    moves = torch.randint(-SHIFT, SHIFT + 1, (2, count, 1), generator=g)
    rows = (torch.arange(height) + moves[0]).clamp(0, height - 1)
    columns = (torch.arange(width) + moves[1]).clamp(0, width - 1)
    which = torch.arange(count)[:, None, None]
    return images.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def mirrored(images: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Half of the images with left and right exchanged, and which, `[B]` bool; any dtype."""
    which = torch.rand(len(images), generator=g) < 0.5
    return torch.where(which[:, None, None, None], images.flip(3), images), which


def relit(x: Tensor, g: torch.Generator) -> Tensor:
    """Contrast 0.7 to 1.3 times, brightness up to 0.1 more or less."""
    contrast, brightness = _uniform(g, len(x), 0.7, 1.3), _uniform(g, len(x), -0.1, 0.1)
    return (x - 0.5) * contrast + 0.5 + brightness


def blurred(x: Tensor, g: torch.Generator) -> Tensor:
    """Three images in ten mixed with their 3x3 mean."""
    strength = (_uniform(g, len(x)) < 0.3) * _uniform(g, len(x))
    return torch.lerp(x, F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), strength)


def noisy(x: Tensor, g: torch.Generator) -> Tensor:
    """Six images in ten with sign noise or Gaussian noise of up to NOISE."""
    noise = torch.randn(x.shape, generator=g)
    noise = torch.where(_uniform(g, len(x)) < 0.5, noise.sign(), noise)
    return x + (_uniform(g, len(x)) < 0.6) * _uniform(g, len(x), 0, NOISE) * noise


def _cosines() -> Tensor:
    """The orthonormal DCT-II matrix, `[8,8]`."""
    k, n = torch.arange(BLOCK)[:, None], torch.arange(BLOCK)
    matrix = torch.cos(math.pi * (2 * n + 1) * k / (2 * BLOCK)) * math.sqrt(2 / BLOCK)
    matrix[0] /= math.sqrt(2)
    return matrix


def compressed(x: Tensor, g: torch.Generator) -> Tensor:
    """One image in four with its 8x8 cosine coefficients rounded as JPEG does, coarser for higher frequencies.

    The sides of the images must be multiples of 8.
    """
    chosen = torch.rand(len(x), generator=g) < 0.25
    quality = _uniform(g, len(x), unit(4), unit(16))[chosen]
    count, channels, height, width = x[chosen].shape
    cosines = _cosines()
    frequency = torch.arange(BLOCK)
    steps = quality[..., None, None] * (1 + frequency[:, None] + frequency)
    blocks = x[chosen].reshape(count, channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(3, 4)
    rounded = torch.round(cosines @ blocks @ cosines.T / steps) * steps
    out = x.clone()
    out[chosen] = (cosines.T @ rounded @ cosines).transpose(3, 4).reshape(count, channels, height, width)
    return out


def photographed(x: Tensor, g: torch.Generator) -> Tensor:
    """Light, blur, noise, compression: what moves no pixel, so that labels of pixels stay true."""
    return compressed(noisy(blurred(relit(x, g), g).clamp(0, 1), g), g).clamp(0, 1)


def augmented(images: Tensor, g: torch.Generator) -> Tensor:
    """A training batch of uint8 images `[B,3,H,W]`: shifted, then as `photographed`."""
    return photographed(unit_images(shifted(images, g)), g)
