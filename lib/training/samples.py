"""Crops of images without labels, and what tells one set of such images from another."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from lib.units import unit_images

EXAMPLES = 6  # images of a sheet


def fingerprint(data: Sequence[Tensor]) -> list:
    """What tells one set of images from another: the pixels; for files (`lib.data.unlabelled.Photographs`) the names
    and sizes, and the first one's pixels, which show how files are read."""
    if hasattr(data, "paths"):
        return [*(f"{path.name} {path.stat().st_size}" for path in data.paths), data[0]]
    return list(data)


def crops(side: int, data: Sequence[Tensor], chosen: Sequence[int], g: torch.Generator | None = None) -> Tensor:
    """A square of each chosen image, `[B,3,side,side]` in [0,1]: a random one, mirrored half of the time, or without
    `g` the centre. ValueError for an image that is smaller."""
    with ThreadPoolExecutor() as readers:
        images = list(readers.map(data.__getitem__, chosen))
    squares = []
    for image in images:
        height, width = image.shape[-2:]
        if min(height, width) < side:
            raise ValueError(f"an image of {width}x{height} pixels holds no crop of {side}x{side}; leave it out")
        top, left, mirrored = (height - side) // 2, (width - side) // 2, False
        if g is not None:
            counts = (height - side + 1, width - side + 1, 2)
            top, left, mirrored = (int(torch.randint(count, (), generator=g)) for count in counts)
        square = image[:, top : top + side, left : left + side]
        squares.append(square.flip(-1) if mirrored else square)
    return unit_images(torch.stack(squares))


def magnified(change: Tensor) -> Tensor:
    """Ten times a difference of images, as an image; grey: none."""
    return (0.5 + 10 * change).clamp(0, 1)
