"""Attacks that ask only for logits, no gradient: a defense that beats PGD and loses to these hides its gradient.

The surrogate and the result are as in `lib.attacks.decision`. Every image draws from its own stream of random numbers,
so that neither its batch nor the others' luck changes what it gets (torchattacks' and AutoAttack's Square draw for the
batch). The margin is ascended until the budget of queries is spent.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lib import linf
from lib.attacks.ascent import EPS, ascend, draws
from lib.attacks.decision import Surrogate, margin, mean_logits, members
from lib.checks import checked_images, checked_labels, evaluating, finite, numbers
from lib.units import unit

STEP, DELTA = unit(4), unit(2.55)  # of SPSA
# Square: the share of the image's area that a square covers is halved at these queries of 10,000.
HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@torch.inference_mode(False)
def square(
    surrogate: Surrogate, x: Tensor, y: Tensor, *, ids: Sequence, seed=0, eps=EPS, queries=1000, share=0.8
) -> Tensor:
    """Square Attack for L-infinity (Andriushchenko et al. 2020, Algorithms 1 and 2): a square of the image, at a random
    place, is set to plus or minus eps in each channel, and kept where that raises the margin. Begins with vertical
    stripes. (attack.py draws signs again that change nothing; here such a query, one of ten to twenty, is spent.)
    share: of the image's area that the first squares cover, their p: 0.8 is AutoAttack's, 0.05 the paper's.
    """
    x, y, networks = _checked(surrogate, x, y, eps)
    streams = draws(x, ids, seed, "square")
    numbers(1, whole=True, queries=queries)
    numbers(0, 1, share=share)
    side = min(x.shape[-2:])

    def signs(*shape: int) -> Tensor:
        return (2.0 * (streams.uniform(*shape) < 0.5) - 1).to(x)

    with evaluating(*networks), torch.no_grad():
        best = linf.quantise(linf.project(x + eps * signs(x.shape[1], 1, x.shape[3]), x, eps), x, eps)
        value = margin(mean_logits(networks)(best), y)
        for query in range(1, queries):
            halvings = sum(10_000 * query > queries * step for step in HALVED)
            size = min(max(round((share / 2**halvings) ** 0.5 * side), 1), side)
            tops, lefts = (streams.integers(0, extent - size + 1).tolist() for extent in x.shape[-2:])
            step, tried = eps * signs(x.shape[1], 1, 1), best.clone()
            for image, (top, left) in enumerate(zip(tops, lefts, strict=True)):
                window = (image, slice(None), slice(top, top + size), slice(left, left + size))
                tried[window] = x[window] + step[image]
            best, value = _better(networks, linf.quantise(linf.project(tried, x, eps), x, eps), y, best, value)
    return best


@torch.inference_mode(False)
def corners(surrogate: Surrogate, x: Tensor, y: Tensor, *, ids: Sequence, seed=0, eps=EPS, queries=1000) -> Tensor:
    """The best of so many random corners of the ball: each pixel plus or minus eps."""
    x, y, networks = _checked(surrogate, x, y, eps)
    numbers(1, whole=True, queries=queries)
    streams, best = draws(x, ids, seed, "corners"), x
    with evaluating(*networks), torch.no_grad():
        value = margin(mean_logits(networks)(x), y)
        for _ in range(queries):
            signs = (2.0 * (streams.uniform(*x.shape[1:]) < 0.5) - 1).to(x)
            tried = linf.quantise(linf.project(x + eps * signs, x, eps), x, eps)
            best, value = _better(networks, tried, y, best, value)
    return best


@torch.inference_mode(False)
def spsa(
    surrogate: Surrogate, x: Tensor, y: Tensor, *, ids: Sequence, seed=0, eps=EPS, step=STEP, steps=20, samples=32,
    delta=DELTA,
) -> Tensor:  # fmt: skip
    """PGD with the gradient of the margin as simultaneous perturbation estimates it (Uesato et al. 2018, Algorithm 1):
    the mean over `samples` random signs v of (f(x + delta v) - f(x - delta v)) / (2 delta) times v.

    Ours: steps along the sign of the estimate (theirs are Adam's), and the numbers.  delta: in [0,1].  2 * samples
    queries a step, clipped to [0,1]: a defense may refuse what is no image.
    """
    x, y, networks = _checked(surrogate, x, y, eps, step=step, delta=delta)
    numbers(1, whole=True, samples=samples)
    numbers(1e-6, 1, delta=delta)
    streams, logits = draws(x, ids, seed, "spsa"), mean_logits(networks)

    class Estimate(torch.autograd.Function):
        @staticmethod
        def forward(context: torch.autograd.function.FunctionCtx, image: Tensor) -> Tensor:
            estimate = torch.zeros_like(image)
            for _ in range(samples):
                v = (2.0 * (streams.uniform(*image.shape[1:]) < 0.5) - 1).to(image)
                up, down = (margin(logits((image + sign * delta * v).clamp(0, 1)), y) for sign in (1, -1))
                estimate += ((up - down) / (2 * delta)).view(-1, 1, 1, 1) * v / samples
            context.save_for_backward(estimate)
            return image.new_zeros(len(image))

        @staticmethod
        def backward(context: torch.autograd.function.FunctionCtx, weight: Tensor) -> Tensor:
            (estimate,) = context.saved_tensors
            return weight.view(-1, 1, 1, 1) * estimate

    with evaluating(*networks):
        return ascend(Estimate.apply, x, eps=eps, step=step, steps=steps)


def _checked(surrogate: Surrogate, x: Tensor, y: Tensor, eps: object, **amounts: object) -> tuple:
    """The images, the labels and the networks. Errors as of `checked_images`, `checked_logits` and `checked_labels`."""
    networks = members(surrogate)
    x = checked_images(x, eps, networks, **amounts)
    with evaluating(*networks), torch.no_grad():
        classes = mean_logits(networks)(x[:1]).shape[-1]
    return x, checked_labels(y, len(x), classes).to(x.device), networks


def _better(networks: Sequence, tried: Tensor, y: Tensor, best: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """For each image the better of two, and its margin."""
    found = margin(mean_logits(networks)(tried), y)
    finite(torch.maximum(found, value), "the margin of the network's logits")
    return torch.where((found > value).view(-1, 1, 1, 1), tried, best), torch.maximum(found, value)
