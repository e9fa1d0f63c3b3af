"""The two units of a pixel, levels 0 to 255 and [0,1]: the only place that converts them (imports nothing of lib).

Files, params.yaml, commands and screens speak in levels, 8-bit images and budgets alike; the code of lib in [0,1].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # commands that need no network need no torch
    from torch import Tensor

LEVELS = 255
# Options that are numbers of levels in params.yaml.
OF_ATTACKS = frozenset({"eps", "step", "alpha", "delta"})
OF_DEFENSES = frozenset({"eps", "noise"})


def unit(levels: float) -> float:
    """A budget, step or noise in levels, in [0,1] units."""
    return levels / LEVELS


def in_unit(options: Mapping[str, object], levels: frozenset[str]) -> dict[str, object]:
    """Options of an attack or a defense with those named in `levels` converted to [0,1] units."""
    return {name: unit(value) if name in levels else value for name, value in options.items()}


def unit_images(images: Tensor, device: str = "cpu") -> Tensor:
    """8-bit images as float32 in [0,1] on `device`."""
    return images.to(device).float() / LEVELS


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0,1] rounded to 8 bits, as uint8 on the CPU."""
    return (images * LEVELS).round().byte().cpu()


def same_size(images: Iterable[Tensor], batch: int) -> list[list[int]]:
    """The indices of the images in groups of equal size, at most `batch` in each: no pixel need be resized away."""
    sizes: dict[tuple, list[int]] = {}
    for index, image in enumerate(images):
        sizes.setdefault(tuple(image.shape), []).append(index)
    return [group[start : start + batch] for group in sizes.values() for start in range(0, len(group), batch)]
