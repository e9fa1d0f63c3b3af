"""CDA: a trained generator proposes an adversary in one pass; the ball projection makes it one of any budget."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lib import linf
from lib.attacks.ascent import EPS, convolved
from lib.attacks.diversity import translation_kernel
from lib.checks import checked_images, evaluating, unwrapped
from lib.networks.cda_generator import Generator

LEAST = 5  # pixels: a border of one, where a quarter of the side is left, is reflected


@torch.no_grad()
def cda(generator: Generator, x: Tensor, *, eps=EPS, smoothing=False) -> Tensor:
    """Cross-domain adversaries `[B,3,H,W]` of images of any size, rounded to 8 bits, within eps.

    x, eps: as in `decision.py`; eps need not be the budget of the training (10 levels; the paper's Table 4 takes 8 and
    16).  smoothing: blur what the generator proposes before the projection, the released eval.py's --gk, off by default
    there too (Muzammal-Naseer/CDA, gaussian_smoothing.py and eval.py:92-96: 3x3, sigma 1); Appendices D and G of the
    supplement do not say whether theirs did.
    Errors: see `checked_images`; FloatingPointError where what is proposed is not finite.
    """
    if not hasattr(unwrapped(generator), "remainder"):
        raise TypeError(f"CDA needs a generator (lib.networks.cda_generator), got {type(generator).__name__}")
    x = checked_images(x, eps, [generator])
    with evaluating(generator):
        proposed = proposal(generator, x).to(x)
    if not torch.isfinite(proposed).all():
        raise FloatingPointError("what the generator proposes is not finite; check its weights")
    proposed = convolved(proposed, translation_kernel(3, 1.0)) if smoothing else proposed
    return linf.quantise(linf.project(proposed, x, eps), x, eps)


def proposal(generator: Generator, x: Tensor) -> Tensor:
    """What the generator makes of x, of the same size, in [0,1].

    Sides that it would not give back unchanged, or below LEAST, are filled up by repeating the edge, below and on the
    right, and what was filled up is cut off again.
    """
    height, width = x.shape[-2:]
    fitting = [side + (unwrapped(generator).remainder - side) % 4 for side in (height, width)]
    below, right = (to + (4 if to < LEAST else 0) - side for to, side in zip(fitting, (height, width), strict=True))
    return generator(F.pad(x, (0, right, 0, below), mode="replicate"))[:, :, :height, :width]
