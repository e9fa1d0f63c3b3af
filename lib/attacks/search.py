"""Attacks that ask only for logits, no gradient: a defense that beats PGD and loses to these hides its gradient.

The surrogate and the result are as in `lib.attacks.decision`. The margin is ascended until the budget of queries is
spent. Every image draws from its own stream, so that its result depends on no other image (torchattacks' and
AutoAttack's Square draw for the batch).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lib import linf
from lib.attacks.ascent import EPS, ascend, draws
from lib.attacks.decision import Surrogate, clean_logits, margin, mean_logits, members
from lib.checks import checked_images, checked_labels, evaluating, finite, numbers
from lib.units import unit

SPSA_STEP, DELTA = unit(4), unit(2.55)
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
    x, y, networks = _prepared(surrogate, x, y, eps)
    numbers(1, whole=True, queries=queries)
    numbers(0, 1, share=share)
    streams, side = draws(x, ids, seed, "square"), min(x.shape[-2:])

    def with_square(best: Tensor, query: int) -> Tensor:
        halvings = sum(10_000 * query > queries * step for step in HALVED)
        size = min(max(round((share / 2**halvings) ** 0.5 * side), 1), side)
        tops, lefts = (streams.integers(0, extent - size + 1).tolist() for extent in x.shape[-2:])
        step, tried = eps * streams.signs(x.shape[1], 1, 1).to(x), best.clone()
        for image, (top, left) in enumerate(zip(tops, lefts, strict=True)):
            window = (image, slice(None), slice(top, top + size), slice(left, left + size))
            tried[window] = x[window] + step[image]
        return tried

    stripes = linf.quantise(x + eps * streams.signs(x.shape[1], 1, x.shape[3]).to(x), x, eps)
    return _best_found(networks, x, y, eps, stripes, range(1, queries), with_square)


@torch.inference_mode(False)
def corners(surrogate: Surrogate, x: Tensor, y: Tensor, *, ids: Sequence, seed=0, eps=EPS, queries=1000) -> Tensor:
    """The best of so many random corners of the ball: each pixel plus or minus eps."""
    x, y, networks = _prepared(surrogate, x, y, eps)
    numbers(1, whole=True, queries=queries)
    streams = draws(x, ids, seed, "corners")

    def corner(best: Tensor, query: int) -> Tensor:
        return x + eps * streams.signs(*x.shape[1:]).to(x)

    return _best_found(networks, x, y, eps, x, range(queries), corner)


def _best_found(
    networks: Sequence, x: Tensor, y: Tensor, eps: object, best: Tensor, queries: range, proposed: Callable
) -> Tensor:
    """Random search: of each image what has the highest margin, among the first `best` and what is proposed from the
    best so far. proposed: (best, number of the query) -> images, brought into the ball here."""
    logits = mean_logits(networks)
    with evaluating(*networks), torch.no_grad():
        value = margin(logits(best), y)
        for query in queries:
            tried = linf.quantise(proposed(best, query), x, eps)
            found = margin(logits(tried), y)
            best = torch.where((found > value).view(-1, 1, 1, 1), tried, best)
            value = finite(torch.maximum(found, value), "the margin of the network's logits")
    return best


@torch.inference_mode(False)
def spsa(
    surrogate: Surrogate,
    x: Tensor,
    y: Tensor,
    *,
    ids: Sequence,
    seed=0,
    eps=EPS,
    step=SPSA_STEP,
    steps=20,
    samples=32,
    delta=DELTA,
) -> Tensor:
    """PGD with the gradient of the margin as simultaneous perturbation estimates it (Uesato et al. 2018, Algorithm 1):
    the mean over `samples` random signs v of (f(x + delta v) - f(x - delta v)) / (2 delta) times v.

    Ours: steps along the sign of the estimate (theirs are Adam's), and the numbers.  delta: in [0,1].  2 * samples
    queries a step, clipped to [0,1]: a defense may refuse what is no image.
    """
    x, y, networks = _prepared(surrogate, x, y, eps, step=step, delta=delta)
    numbers(1, whole=True, samples=samples)
    numbers(1e-6, 1, delta=delta)
    streams, logits = draws(x, ids, seed, "spsa"), mean_logits(networks)

    def with_estimated_gradient(image: Tensor) -> Tensor:
        estimate = torch.zeros_like(image)
        with torch.no_grad():
            for _ in range(samples):
                v = streams.signs(*image.shape[1:]).to(image)
                up, down = (margin(logits((image + sign * delta * v).clamp(0, 1)), y) for sign in (1, -1))
                estimate += ((up - down) / (2 * delta)).view(-1, 1, 1, 1) * v / samples
        return (image * estimate).flatten(1).sum(1)

    with evaluating(*networks):
        return ascend(with_estimated_gradient, x, eps=eps, step=step, steps=steps)


def _prepared(surrogate: Surrogate, x: Tensor, y: Tensor, eps: object, **amounts: object) -> tuple:
    """The images, the labels and the networks. Errors as of `checked_images`, `checked_logits` and `checked_labels`."""
    networks = members(surrogate)
    x = checked_images(x, eps, networks, **amounts)
    classes = clean_logits(networks, x[:1]).shape[-1]
    return x, checked_labels(y, len(x), classes).to(x.device), networks
