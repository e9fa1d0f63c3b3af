"""CDA: a trained generator proposes an adversary in one pass; the ball projection makes it one of any budget."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lib import linf
from lib.attacks.ascent import EPS, convolved
from lib.attacks.diversity import translation_kernel
from lib.checks import checked_images, evaluating, finite, unwrapped
from lib.networks.cda_generator import CDAGenerator

LEAST_SIDE = 5  # pixels: a border of one, where a quarter of the side is left, is reflected


@torch.no_grad()
def cda(generator: CDAGenerator, x: Tensor, *, eps=EPS, smoothing=False) -> Tensor:
    """Cross-domain adversaries `[B,3,H,W]` of images of any size, rounded to 8 bits, within eps.

    eps: need not be the budget of the training (10 levels; the paper's Table 4 takes 8 and 16).  smoothing: blur what
    the generator proposes before the projection, the released eval.py's --gk, off by default there too
    (Muzammal-Naseer/CDA, gaussian_smoothing.py and eval.py:92-96: 3x3, sigma 1); Appendices D and G of the supplement
    do not say whether theirs did.  Errors as of `checked_images`; FloatingPointError for proposals that are not finite.
    """
    if not hasattr(unwrapped(generator), "remainder"):
        raise TypeError(f"CDA needs a generator (lib.networks.cda_generator), got {type(generator).__name__}")
    x = checked_images(x, eps, [generator])
    with evaluating(generator):
        proposed = finite(proposal(generator, x), "what the generator proposes").to(x)
    proposed = convolved(proposed, translation_kernel(3, 1.0)) if smoothing else proposed
    return linf.quantise(proposed, x, eps)


def proposal(generator: CDAGenerator, x: Tensor) -> Tensor:
    """What the generator makes of x, of the same size, in [0,1].

    Sides that it would not give back unchanged, or below LEAST_SIDE, are filled up below and on the right by repeating
    the edge, and cut back.
    """
    height, width = x.shape[-2:]
    fitting = [side + (unwrapped(generator).remainder - side) % 4 for side in (height, width)]
    below, right = (
        to + (4 if to < LEAST_SIDE else 0) - side for to, side in zip(fitting, (height, width), strict=True)
    )
    return generator(F.pad(x, (0, right, 0, below), mode="replicate"))[:, :, :height, :width]
