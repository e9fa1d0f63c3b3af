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
    """Round `x_adv` to 8 bits without leaving the ball of `eps` around the 8-bit rounding of `x`.

    A budget that is no whole number of levels is rounded down, so `255 * |result - x| <= 255 * eps` holds exactly,
    as whole numbers, for every `x` that is itself an 8-bit image. Rounding, not truncation: truncating moves 7 to 9 %
    of the pixels at the edge of the ball to 15 or 17 levels.
    """
    levels = torch.as_tensor(eps, dtype=x.dtype, device=x.device) * LEVELS
    budget = torch.floor(levels + 1e-3)
    grid = torch.round(x * LEVELS)
    moved = torch.round(x_adv * LEVELS)
    return torch.minimum(torch.maximum(moved, grid - budget), grid + budget).clamp(0, LEVELS) / LEVELS
