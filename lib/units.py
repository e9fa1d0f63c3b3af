"""The two units of a pixel, levels 0 to 255 and [0,1]: the only place that converts them (imports nothing of lib).

Files, params.yaml, commands and screens speak in levels, 8-bit images and budgets alike; the code of lib in [0,1].
Each side refuses what can only be meant in the other's unit: `in_levels`, `in_unit_range`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Real
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # commands that need no network need no torch
    from torch import Tensor

LEVELS = 255
# Options that are numbers of levels in params.yaml.
OF_ATTACKS = frozenset({"eps", "step", "alpha", "delta"})
OF_DEFENSES = frozenset({"eps", "noise"})
STEPS = ("step", "alpha")  # judged against eps
LEAST = 0.5  # levels: a smaller budget changes no 8-bit image
HUGE = 32  # levels: of a budget from here on every step is a small part
WIDE = 0.1  # of [0,1]: a step from which on it must not be more than twice the budget


def unit(levels: float) -> float:
    """A budget, step or noise in levels, in [0,1] units."""
    return levels / LEVELS


def in_unit(options: Mapping[str, object], levels: frozenset[str]) -> dict[str, object]:
    """Options of an attack or a defense with those named in `levels` converted to [0,1] units. Errors as of
    `in_levels`."""
    in_levels(options, levels)
    return {name: unit(value) if name in levels else value for name, value in options.items()}


def in_levels(options: Mapping[str, object], names: frozenset[str]) -> None:
    """ValueError in one line unless the options of these names are numbers from 0 to 255 that can be levels.

    A budget or a noise below half a level changes no 8-bit image, so it is one in [0,1]. A step may be small: it is one
    in [0,1] if it would be in reach of eps as such, and so many steps of it in levels would not.
    """
    eps, steps = options.get("eps"), options.get("steps", 1)
    for name in sorted(names & options.keys()):
        value = options[name]
        if isinstance(value, str) and "/" in value:
            top, _, bottom = value.partition("/")
            exact = f"write {top.strip()}" if bottom.strip() == str(LEVELS) else "write a number"
            raise ValueError(f"{name} is in 0-255 levels, a plain number: {exact} for {value}")
        if isinstance(value, bool) or not isinstance(value, Real):
            raise ValueError(f"{name} is in 0-255 levels, a number, not {value!r}")
        if not 0 <= value <= LEVELS:
            raise ValueError(f"{name} is in 0-255 levels, got {value}")
        small = 0 < value < LEAST
        if name in STEPS:
            known = isinstance(eps, Real) and isinstance(steps, int)
            small = known and 0 < value * LEVELS <= 1.1 * min(eps, HUGE) and value * steps < eps
        if small:
            near = f"{value:.4g}*{LEVELS} = {value * LEVELS:.4g}"
            raise ValueError(f"{name} is in 0-255 levels: {value:.4g} looks like [0,1]; {near}")


def in_unit_range(eps: float = 0.0, **others: float) -> None:
    """ValueError in one line unless a budget, and noise, step or alpha by their names, can be in [0,1] units.

    A step of 25 levels or more that is more than twice the budget, so that it leads from anywhere in the ball beyond
    it, is one in levels.
    """
    for name, value in {"eps": eps, **others}.items():
        if not value >= 0:
            raise ValueError(f"{name} must be 0 or more, got {value:.4g}")
        if value > 1 or (name in STEPS and value >= WIDE and value > 2 * eps + 1e-6 and eps > 0):
            beside = f" for an eps of {eps:.4g}" if name in STEPS else ""
            levels = f"looks like levels{beside}; {value:.4g} of {LEVELS} levels is {name}={unit(value):.4g}"
            reading = levels if value <= LEVELS else f"is neither that nor levels{beside}"
            raise ValueError(f"{name} must lie in [0,1]: {value:.4g} {reading}")


def unit_images(images: Tensor, device: str = "cpu") -> Tensor:
    """8-bit images as float32 in [0,1] on `device`."""
    return images.to(device).float() / LEVELS


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0,1] rounded to 8 bits, as uint8 on the CPU. FloatingPointError for numbers that are not finite, which
    would become black, ValueError for others outside [0,1], which would wrap around."""
    levels = (images * LEVELS).round()
    if not ((levels >= 0) & (levels <= LEVELS)).all():
        if not levels.isfinite().all():
            raise FloatingPointError("images with numbers that are not finite are no result; check the network")
        low, high = images.min().item(), images.max().item()
        raise ValueError(f"images must lie in [0,1] to be rounded to 8 bits, got [{low:.3g}, {high:.3g}]")
    return levels.byte().cpu()


def same_size(images: Iterable[Tensor], batch: int) -> list[list[int]]:
    """The indices of the images in groups of equal size, at most `batch` in each: no pixel need be resized away."""
    sizes: dict[tuple, list[int]] = {}
    for index, image in enumerate(images):
        sizes.setdefault(tuple(image.shape), []).append(index)
    most = max(batch, 1)
    return [group[start : start + most] for group in sizes.values() for start in range(0, len(group), most)]
