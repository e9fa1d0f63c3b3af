"""The feature-scattering attack (FSA): one transport plan couples a whole batch, so images scatter from each other.

Sources: Zhang & Wang 2019 (arXiv 1907.10764) and its code, Haichao-Zhang/FeatureScatter, attack_methods.py and ot.py;
the NRP supplement attacks with it in Appendix C, Table 3.
"""

import math
from collections.abc import Sequence
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.attacks.ascent import EPS, STEP, Objective, ascend, draws, uniform_start
from lib.attacks.decision import Surrogate, mean_logits, members
from lib.checks import checked_images, evaluating, numbers

GRADIENTS = ("unrolled", "envelope")


@torch.inference_mode(False)
def fsa(
    surrogate: Surrogate,
    x: Tensor,
    *,
    ids: Sequence,
    seed=0,
    eps=EPS,
    step=STEP,
    steps=10,
    batch=60,
    reg=0.01,
    iterations=100,
    tolerance=0.1,
    gradient="unrolled",
    snapshots=None,
) -> Tensor:
    """A batch's logits as far as possible, in transport distance, from its clean logits; no labels.

    surrogate, x, ids, seed, eps, step, snapshots, the result and errors: as in `decision.py`; a network value that is
    not finite spoils its whole batch.  batch: how many images share a transport plan, see `grouped`; of one image alone
    the distance is the cosine distance.  reg, iterations, tolerance, gradient: see `sinkhorn` and `scattering`.

    Every image starts uniformly at random within eps, not clipped to [0,1] (the released code reads `random_start` but
    does not use it): at the clean image the cosine distance of one image has no gradient.

    The released attack trains networks on CIFAR and SVHN, with one step of size eps = 8/255 and batches of 60
    (fs_train.sh). An image alone in its batch is attacked most strongly: those of a batch may trade places in the plan.
    Table 3's surrogate, steps, step and batch are not stated: the defaults are the other attacks' (Appendix F) and 60.
    """
    networks, results = members(surrogate), []
    x = checked_images(x, eps, networks, step=step)
    start = uniform_start(x, eps, draws(x, ids, seed, "fsa"))
    like = {"dtype": x.dtype, "device": x.device}
    eps, step = (torch.as_tensor(amount, **like).expand(len(x), 1, 1, 1) for amount in (eps, step))
    transport = {"reg": reg, "iterations": iterations, "tolerance": tolerance, "gradient": gradient}
    groups = grouped(ids, batch)
    with evaluating(*networks):
        for rows in groups:
            objective = transport_distance(networks, x[rows], **transport)
            schedule = {"eps": eps[rows], "step": step[rows], "steps": steps, "snapshots": snapshots}
            results.append(ascend(objective, x[rows], start=start[rows], **schedule))
    # Images are the fourth dimension from the end, with and without snapshots.
    given = torch.tensor(list(chain.from_iterable(groups)), device=x.device).argsort()
    return torch.cat(results, dim=-4).index_select(-4, given)


def grouped(ids: Sequence, batch: int) -> list[list[int]]:
    """The positions of the images in groups of `batch` in the order of their ids as text; the last may be smaller."""
    numbers(1, whole=True, batch=batch)
    order = sorted(range(len(ids)), key=lambda place: str(ids[place]))
    return [order[first : first + batch] for first in range(0, len(order), batch)]


def transport_distance(networks: Sequence, x: Tensor, **transport) -> Objective:
    """Each image's share of the transport distance to the batch x, whose logits are computed once."""
    logits = mean_logits(networks)
    with torch.no_grad():
        clean = logits(x)
    return lambda x_adv: scattering(clean, logits(x_adv), **transport)


def scattering(
    clean: Tensor, perturbed: Tensor, *, reg=0.01, iterations=100, tolerance=0.1, gradient="unrolled"
) -> Tensor:
    """Each perturbed image's share `[m]` of the transport distance sum(plan * cost) of logits `[n,K]` and `[m,K]`.

    gradient: "unrolled", through every Sinkhorn iteration, as the released code; or "envelope", with the plan held
    constant, in half the time: once converged, the gradient of the distance minus reg times the plan's entropy.
    """
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient must be 'unrolled' or 'envelope', got '{gradient}'")
    cost = cosine_cost(clean, perturbed)
    plan = sinkhorn(cost if gradient == "unrolled" else cost.detach(), reg, iterations, tolerance)
    return (plan * cost).sum(0)


def cosine_cost(clean: Tensor, perturbed: Tensor) -> Tensor:
    """max(0, 1 - cosine) of every clean row with every perturbed row, `[n,m]` (ot.py: norms are at least 1e-6).

    Half precision is raised to float32. Where rounding puts the cosine above 1, the gradient is zero.
    """
    clean, perturbed = (z if z.dtype == torch.float64 else z.float() for z in (clean, perturbed))
    # In a training under autocast the product would be rounded to 1/256, and reg is 1/100.
    with torch.autocast(clean.device.type, enabled=False):
        cosine = F.normalize(clean, dim=1, eps=1e-6) @ F.normalize(perturbed, dim=1, eps=1e-6).T
    return (1 - cosine).clamp(min=0)


def sinkhorn(cost: Tensor, reg=0.01, iterations=100, tolerance=0.0) -> Tensor:
    """The entropy-regularised transport plan `[n,m]` of a cost `[n,m]` between uniform marginals 1/n and 1/m.

    tolerance: end once the rows' potential, in units of the cost, moves by less in sum; the released ot.py has 0.1,
    which ends after 2 to some ten iterations, before the rows' marginal is met. 0: all iterations run.

    Differentiable. Each iteration fits the rows and then the columns (the order of ot.py), so the columns are exact and
    the rows approach theirs. In the log domain: the plain kernel exp(-cost/reg) underflows.
    """
    numbers(0, tolerance=tolerance)
    numbers(1e-9, reg=reg)
    numbers(1, whole=True, iterations=iterations)
    n, m = cost.shape
    log_kernel = -cost / reg
    rows, columns = cost.new_zeros(n, 1), cost.new_zeros(1, m)
    for _ in range(iterations):
        before, rows = rows, -math.log(n) - torch.logsumexp(log_kernel + columns, dim=1, keepdim=True)
        columns = -math.log(m) - torch.logsumexp(log_kernel + rows, dim=0, keepdim=True)
        if tolerance and reg * (rows - before).detach().abs().sum() < tolerance:
            break
    return torch.exp(log_kernel + rows + columns)
