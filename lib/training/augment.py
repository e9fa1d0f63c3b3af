"""Random crops, and random changes of whole batches, so that the networks do not hang on single pixels.

Without them random sign noise of 16 levels alone fools a network trained on drawn scenes, and no attack can be told
from noise. All but `crops` take and give images `[B,3,H,W]`, floats in [0,1] unless said; numbers come from `g` alone.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.checks import checked_bytes
from lib.units import unit, unit_images

MOST_NOISE = unit(16)
SHIFT = 3  # pixels
JPEG_BLOCK = 8  # its side
FREQUENCIES = torch.arange(JPEG_BLOCK)
# The orthonormal DCT-II matrix.
COSINES = torch.cos(math.pi * (2 * FREQUENCIES + 1) * FREQUENCIES[:, None] / (2 * JPEG_BLOCK)) * math.sqrt(
    2 / JPEG_BLOCK
)
COSINES[0] /= math.sqrt(2)


def crops(side: int, read: Callable[[int], Tensor], chosen: Sequence[int], g: torch.Generator | None = None) -> Tensor:
    """A square of each chosen image, `[B,3,side,side]`: a random one, mirrored half of the time, or without `g` the
    centre. ValueError for a smaller image.  read: index -> uint8 `[3,H,W]`, in threads."""
    with ThreadPoolExecutor() as readers:
        images = list(readers.map(read, chosen))
    squares = []
    for image in images:
        height, width = checked_bytes(image, count=False).shape[-2:]
        if min(height, width) < side:
            raise ValueError(f"an image of {width}x{height} pixels holds no crop of {side}x{side}; leave it out")
        top, left, turn = (height - side) // 2, (width - side) // 2, False
        if g is not None:
            counts = (height - side + 1, width - side + 1, 2)
            top, left, turn = (int(torch.randint(count, (), generator=g)) for count in counts)
        square = image[:, top : top + side, left : left + side]
        squares.append(square.flip(-1) if turn else square)
    return unit_images(torch.stack(squares))


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


def with_noise(x: Tensor, g: torch.Generator) -> Tensor:
    """Six images in ten with sign noise or Gaussian noise of up to MOST_NOISE."""
    noise = torch.randn(x.shape, generator=g)
    noise = torch.where(_uniform(g, len(x)) < 0.5, noise.sign(), noise)
    return x + (_uniform(g, len(x)) < 0.6) * _uniform(g, len(x), 0, MOST_NOISE) * noise


def compressed(x: Tensor, g: torch.Generator) -> Tensor:
    """One image in four with its 8x8 cosine coefficients rounded as JPEG does, coarser for higher frequencies.

    The sides of the images must be multiples of 8.
    """
    chosen = torch.rand(len(x), generator=g) < 0.25
    quality = _uniform(g, len(x), unit(4), unit(16))[chosen]
    steps = quality[..., None, None] * (1 + FREQUENCIES[:, None] + FREQUENCIES)
    blocks = x[chosen].unflatten(2, (-1, JPEG_BLOCK)).unflatten(4, (-1, JPEG_BLOCK)).transpose(3, 4)
    rounded = torch.round(COSINES @ blocks @ COSINES.T / steps) * steps
    out = x.clone()
    out[chosen] = (COSINES.T @ rounded @ COSINES).transpose(3, 4).flatten(4).flatten(2, 3)
    return out


def photographed(x: Tensor, g: torch.Generator) -> Tensor:
    """Light, blur, noise, compression: what moves no pixel, so that labels of pixels stay true."""
    return compressed(with_noise(blurred(relit(x, g), g).clamp(0, 1), g), g).clamp(0, 1)


def augmented(images: Tensor, g: torch.Generator) -> Tensor:
    """A training batch of uint8 images: shifted, then as `photographed`."""
    return photographed(unit_images(shifted(images, g)), g)
