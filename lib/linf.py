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
    """`x_adv` rounded to 8 bits without leaving the ball of `eps` around `x`.

    Of the 8-bit values within `eps` of `x` the nearest: `255 * |result - x| <= 255 * eps` for every `x` in [0,1], on
    the 8-bit grid or not (up to a thousandth of a level, what float32 rounds); of an 8-bit `x` as whole numbers,
    exactly. Where no 8-bit value lies within `eps` of a pixel, which takes a pixel off the grid and a budget below half
    a level, it is the rounding of `x`. Rounding, not truncation: truncating moves 7 to 9 % of the pixels at the edge of
    the ball to 15 or 17 levels.
    """
    levels, grid = torch.as_tensor(eps, dtype=x.dtype, device=x.device) * LEVELS, x * LEVELS
    low, high = torch.ceil(grid - levels - 1e-3) + 0.0, torch.floor(grid + levels + 1e-3)  # + 0.0: no negative zero
    rounded = torch.minimum(torch.maximum(torch.round(x_adv * LEVELS), low), high)
    return torch.where(low <= high, rounded, torch.round(grid)).clamp(0, LEVELS) / LEVELS
