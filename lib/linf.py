"""The L-infinity ball: projection and 8-bit rounding.

Images are float tensors `[B,3,H,W]` in [0,1]; `eps` is a float or a tensor that broadcasts against them, in the same
units (16/255, not 16).
"""

import torch
from torch import Tensor

from lib.units import LEVELS


def project(x_adv: Tensor, x: Tensor, eps: float | Tensor) -> Tensor:
    """The nearest point to `x_adv` that lies within `eps` of `x` and in [0,1]."""
    return torch.minimum(torch.maximum(x_adv, x - eps), x + eps).clamp(0, 1)


def quantise(x_adv: Tensor, x: Tensor, eps: float | Tensor) -> Tensor:
    """The 8-bit values nearest to `x_adv` (any numbers) that lie within `eps` of `x` and in [0,1].

    `255 * |result - x| <= 255 * eps` exactly for an 8-bit `x`, else up to a thousandth of a level, what float32 rounds.
    Where no 8-bit value lies within `eps` of a pixel, which takes a pixel off the grid and a budget below half a level,
    it is the rounding of `x`. Rounding, not truncation: that moves 7 to 9 % of the pixels at the edge of the ball to 15
    or 17 levels.
    """
    levels, grid = torch.as_tensor(eps, dtype=x.dtype, device=x.device) * LEVELS, x * LEVELS
    low, high = torch.ceil(grid - levels - 1e-3), torch.floor(grid + levels + 1e-3)
    rounded = torch.minimum(torch.maximum(torch.round(x_adv * LEVELS), low), high)
    rounded = torch.where(low <= high, rounded, torch.round(grid)).clamp(0, LEVELS)
    return (rounded + 0.0) / LEVELS  # no negative zero
