"""A defense of the user's own, kept to the rules of all defenses here (docs/own_defense.md)."""

from collections.abc import Callable

from torch import Tensor

from lib.defenses.batches import require_images
from lib.own import HALF_LEVEL, file_of


def own_defense(function: Callable, x: Tensor, **options) -> Tensor:
    """What the function of an own file makes of images `[B,3,H,W]` in [0,1]: the same shape, float32, clipped to [0,1].

    A gradient passes through if it does in the file. ValueError in one line for images or a result of another shape,
    and for a result further than half a level outside [0,1].
    """
    require_images(x)
    result, file = function(x, **options), file_of(function)
    if not isinstance(result, Tensor) or result.shape != x.shape:
        found = list(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise ValueError(f"{file}: the defense must return images of shape {list(x.shape)}, got {found}")
    low, high = result.min().item(), result.max().item()
    if not (low >= -HALF_LEVEL and high <= 1 + HALF_LEVEL):
        raise ValueError(f"{file}: the defense must return images in [0,1], got [{low:.3g}, {high:.3g}]")
    return result.float().clamp(0, 1)
