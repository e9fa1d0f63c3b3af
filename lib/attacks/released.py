"""The attack of the authors' script on the victim behind NRP (Muzammal-Naseer/NRP, bypass_nrp.py), mistakes included.

It is a row of the protocol (notebooks/h_protocol.ipynb), so that what the script does is told from what is meant: see
`lib.attacks.decision.pgd`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lib import linf
from lib.attacks.ascent import EPS, draws, gradient
from lib.attacks.decision import Surrogate, mean_logits, members
from lib.checks import checked_images, evaluating, numbers
from lib.units import LEVELS, unit

TWO = unit(2)


@torch.inference_mode(False)
def bypass_nrp(surrogate: Surrogate, x: Tensor, *, ids: Sequence, seed=0, eps=EPS, step=TWO, steps=10) -> Tensor:
    """Targeted PGD from the clean image with steps of 2 levels, `[B,3,H,W]` of 8-bit values.

    Targets are uniform over all classes but the first: the script means to leave out the true one. The result is
    truncated to 8 bits, not rounded, so it may leave the budget by a level: k / 255 * 255 is below k for some levels k.
    """
    networks = members(surrogate)
    x = checked_images(x, eps, networks, step=step)
    numbers(1, whole=True, steps=steps)
    logits, x_adv = mean_logits(networks), x
    with evaluating(*networks):
        with torch.no_grad():
            classes = logits(x[:1]).shape[-1]
        target = draws(x, ids, seed, "bypass_nrp").integers(1, classes).to(x.device)
        for _ in range(steps):
            grad = gradient(lambda images: F.cross_entropy(logits(images), target, reduction="none"), x_adv)
            x_adv = linf.project(x_adv - step * grad.sign(), x, eps)
    return (LEVELS * x_adv).floor() / LEVELS
