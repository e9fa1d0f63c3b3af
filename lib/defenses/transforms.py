"""Transforms as defenses (supplement, Appendix E): JPEG compression, total-variation minimisation, median filtering.

All take images `[B,3,H,W]`, float, in [0,1], on any device, and give the same shape in float32. Every image is treated
alone. No gradient passes through. Errors as of `lib.checks.checked_images`, and for options that mean nothing.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg

from lib.checks import checked_images, numbers
from lib.defenses import bregman
from lib.units import in_unit_range, to_bytes, unit_images

# Planes are filtered on the CPU in pieces of about this many pixels, which stay in its cache.
PIECE = 2**16
JPEG_SIDE = 65_500  # libjpeg's JPEG_MAX_DIMENSION; torchvision's encoder ends the process beyond it


def jpeg(x: Tensor, *, quality: int = 75) -> Tensor:
    """JPEG compression at `quality` 1..100 (supplement, Appendix E: 75, 50, 20); x is rounded to 8 bits first.

    libjpeg-turbo through torchvision, bit for bit what Pillow writes and reads: chroma at half size (4:2:0). On the
    CPU: torchvision has a GPU's nvJPEG keep the chroma at full size, which is another defense.
    """
    x = checked_images(x).float().contiguous()
    if quality not in range(1, 101) or isinstance(quality, float):  # 1.0 may mean 100 %
        raise ValueError(f"JPEG quality must be a whole number from 1 to 100, got {quality}")
    if max(x.shape[-2:]) > JPEG_SIDE:
        raise ValueError(f"a side of a JPEG image has at most {JPEG_SIDE} pixels, got {x.shape[-2]}x{x.shape[-1]}")
    files = encode_jpeg(list(to_bytes(x)), int(quality))
    return unit_images(torch.stack(decode_jpeg(files, ImageReadMode.RGB)), x.device)


def tvm(x: Tensor, *, weight: float = 30.0, max_iterations: int = 100, tolerance: float = 1e-3) -> Tensor:
    """Total-variation minimisation by split Bregman (supplement, Appendix E: weights 30 and 10), see bregman.py.

    weight: as in `skimage.restoration.denoise_tv_bregman`: the smaller, the smoother.
    max_iterations, tolerance: scikit-image's defaults; a plane stops when its sweep changes it by less, RMSE in [0,1]
    (scikit-image of the paper's time stopped all three together, which changes the result a little).
    Every colour plane is denoised alone; scikit-image's `channel_axis` starts each from the result of the one before.
    """
    x = checked_images(x).float().contiguous()
    numbers(0, tolerance=tolerance)
    numbers(1e-9, weight=weight)
    in_unit_range(tolerance=tolerance)
    numbers(1, whole=True, max_iterations=max_iterations)
    if min(x.shape[-2:]) < 2:
        raise ValueError(f"TVM needs images of at least 2x2 pixels, got {x.shape[-2]}x{x.shape[-1]}")
    parts = [bregman.batched(part, weight, max_iterations, tolerance) for part in pieces(x)]
    return torch.cat(parts).clamp_(0, 1).view_as(x)


def median(x: Tensor, *, window: int = 3) -> Tensor:
    """The median of the `window` x `window` pixels (3 or 5) around each, per channel (supplement, Appendix E: 3).

    At the border the image is reflected, its edge repeated: exactly scipy.ndimage.median_filter, mode "reflect".
    """
    x = checked_images(x).float().contiguous()
    if window not in (3, 5):
        raise ValueError(f"the window of the median must be 3 or 5, got {window}")
    height, width = x.shape[-2:]
    reflected = [np.pad(np.arange(size), window // 2, mode="symmetric") for size in (height, width)]
    rows, columns = (torch.from_numpy(index).to(x.device) for index in reflected)
    medians = []
    for part in pieces(x):
        padded = part.index_select(1, rows).index_select(2, columns)
        places = itertools.product(range(window), repeat=2)
        medians.append(elementwise_median([padded[:, i : i + height, j : j + width] for i, j in places]))
    return torch.cat(medians).view_as(x)


def pieces(x: Tensor) -> Sequence[Tensor]:
    """The planes of all images, on a CPU so many at a time that they stay in its cache."""
    planes = x.flatten(0, 1)
    return planes.split(len(planes) if x.is_cuda else max(1, PIECE // planes[0].numel()))


def elementwise_median(values: Sequence[Tensor]) -> Tensor:
    """The elementwise median of an odd number of tensors of one shape, by minima and maxima of whole tensors.

    Of n // 2 + 2 values neither the smallest nor the largest can be the median of n: both go, and another value comes.
    """
    half = len(values) // 2 + 2
    pool, others = list(values[:half]), list(values[half:])
    while len(pool) > 1:
        last, middle = len(pool) - 1, len(pool) // 2
        pairs = [(i, last - i) for i in range(middle)]
        pairs += [(0, i) for i in range(1, last // 2 + 1)] + [(i, last) for i in range(middle, last)]
        for i, j in pairs:
            pool[i], pool[j] = torch.minimum(pool[i], pool[j]), torch.maximum(pool[i], pool[j])
        pool = pool[1:-1] + others[:1]
        others = others[1:]
    return pool[0]
