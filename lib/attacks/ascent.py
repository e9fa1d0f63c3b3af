"""The one loop of the paper: ascend an objective inside an L-infinity ball by sign steps.

An attack chooses the objective (what to maximise, per image), the schedule (start, step, steps) and the gradient rule
(plain, momentum, translation-smoothed).
"""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lib import linf
from lib.checks import Amount, checked_images, numbers
from lib.rng import Streams
from lib.units import unit

EPS, STEP = unit(16), unit(1.6)  # the budget and the step of most attacks (supplement, Appendix F)

Objective = Callable[[Tensor], Tensor]
Rule = Callable[[Tensor], Tensor]


def ascend(
    objective: Objective, x: Tensor, *, eps: Amount, step: Amount, steps: int, start=None, rule=None, snapshots=None
) -> Tensor:
    """Adversaries `[B,3,H,W]` in [0,1], rounded to 8 bits, within `eps` of the images.

    objective: images `[B,3,H,W]` -> one value per image `[B]`, to maximise.  x: the clean images, in [0,1].
    eps, step: in [0,1] units, a number or one per image `[B,1,1,1]`.
    start: the first iterate (default x). It may lie outside the ball and outside [0,1]; the first step projects it.
    rule: gradient -> direction (default the gradient itself); may keep state, so give each call a new one.
    snapshots: numbers of steps at which to record; the result is then `[len(snapshots),B,3,H,W]` from one run.

    Errors as of `checked_images`; ValueError for steps below 1, snapshots that do not ascend within 1..steps or no
    gradient, FloatingPointError for one that is not finite. Warns of images whose first gradient is zero.
    """
    x = checked_images(x, eps, step=step)
    numbers(1, whole=True, steps=steps)
    wanted = list(snapshots or [steps])
    if wanted != sorted(set(wanted)) or not 1 <= wanted[0] <= wanted[-1] <= steps:
        raise ValueError(f"snapshots must ascend within 1..{steps}, got {wanted}")
    x_adv = x if start is None else start.detach()
    x_adv = x_adv.clone() if x_adv.is_inference() else x_adv
    low, high = (linf.project(bound, x, eps) for bound in (x - 1, x + 1))
    recorded, finite = [], torch.ones(len(x), dtype=torch.bool, device=x.device)
    for done in range(1, steps + 1):
        direction = gradient(objective, x_adv)
        if done == 1:
            still = (direction == 0).flatten(1).all(1)
        finite &= direction.flatten(1).sum(1).isfinite()
        # To look at a number waits for the GPU, which then waits for the next step's commands: there not in each step.
        if (x.device.type == "cpu" or done in wanted) and not finite.all():
            bad = (~finite).nonzero().flatten().tolist()
            raise FloatingPointError(f"the gradient is not finite for images {bad} of the batch; check the network")
        direction = direction if rule is None else rule(direction)
        x_adv = (x_adv + step * direction.sign()).clamp(low, high)
        if done in wanted:
            recorded.append(linf.quantise(x_adv, x, eps))
    warn_of_zero(still, "the gradient is zero at the first step")
    return torch.stack(recorded) if snapshots else recorded[0]


def gradient(objective: Objective, x: Tensor) -> Tensor:
    """d(sum of objective)/dx; parameters collect nothing."""
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        total = objective(x).sum()
        (grad,) = torch.autograd.grad(total, x, allow_unused=True) if total.requires_grad else (None,)
    if grad is None:
        raise ValueError("the network passes no gradient to the images (a detach, no_grad or a whole number in it)")
    return grad.detach()


def warn_of_zero(images: Tensor, what: str) -> None:
    """A warning with the share of the images `[B]` bool of which something is true that makes an attack idle."""
    if count := int(images.sum()):
        share = f"{count} of {len(images)} images ({100 * count / len(images):.0f} %)"
        warnings.warn(f"{share}: {what}, as where a network is saturated or masks its gradient", stacklevel=3)


def draws(x: Tensor, ids: Sequence, seed: int, purpose: str) -> Streams:
    """One stream of random numbers per image; TypeError or ValueError unless each has an id of its own, in order."""
    if not hasattr(ids, "__getitem__"):
        raise TypeError(f"ids must be a list, one per image in their order, got {type(ids).__name__}")
    if len(ids) != len(x):
        raise ValueError(f"{len(ids)} ids for {len(x)} images; every image needs its own: it keys its random numbers")
    if twice := [name for name, count in Counter(map(str, ids)).items() if count > 1]:
        raise ValueError(f"id '{twice[0]}' is given twice; it keys an image's random numbers, so each needs its own")
    return Streams(seed, ids, purpose)


def uniform_start(x: Tensor, eps: Amount, streams: Streams) -> Tensor:
    """x plus uniform noise within `eps`, not clipped to [0,1]."""
    return x + eps * (2 * streams.uniform(*x.shape[1:]).to(x) - 1)


def momentum(decay: float = 1.0, kernel: Tensor | None = None) -> Rule:
    """MI-FGSM's rule: g <- decay * g + grad / mean|grad| of each image (Non-Targeted-Adversarial-Attacks,
    attack_iter.py).  kernel: `[k,k]`, convolves the gradient first (Translation-Invariant-Attacks, attack_iter.py)."""
    numbers(0, decay=decay)
    memory: Tensor | float = 0.0

    def accumulate(grad: Tensor) -> Tensor:
        nonlocal memory
        grad = grad if kernel is None else convolved(grad, kernel)
        size = grad.abs().mean(dim=(1, 2, 3), keepdim=True)
        # An image whose gradient vanishes keeps its direction instead of becoming NaN.
        memory = decay * memory + grad / torch.where(size > 0, size, torch.ones_like(size))
        return memory

    return accumulate


def convolved(x: Tensor, kernel: Tensor) -> Tensor:
    """Every channel of x `[B,C,H,W]` convolved with `kernel` `[k,k]`, zeros beyond the edge."""
    channels, size = x.shape[1], kernel.shape[-1]
    last = x.contiguous(memory_format=torch.channels_last)  # on CPUs four times as fast
    kernels = kernel.to(x).expand(channels, 1, size, size)
    return F.conv2d(last, kernels, padding=size // 2, groups=channels).contiguous()
