"""The baseline that every attack must beat: random noise of the same size."""

from collections.abc import Sequence

from torch import Tensor

from lib import linf
from lib.attacks.ascent import checked, draws


def sign_noise(x: Tensor, *, ids: Sequence, seed=0, eps=16 / 255) -> Tensor:
    """x plus or minus eps, the sign of every pixel drawn at random; `[B,3,H,W]`, rounded to 8 bits, within eps."""
    x = checked(x)
    direction = draws(x, ids, seed, "noise").normal(*x.shape[1:]).to(x)
    return linf.quantise(linf.project(linf.sign_step(x, direction, eps), x, eps), x, eps)
