"""Attacks on a network's features: SSP (one perturbation per image) and FFF (one perturbation for all images)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib import linf
from lib.attacks.ascent import EPS, Objective, ascend, draws, uniform_start, warn_of_zero
from lib.checks import checked_images, evaluating, finite, numbers, shape_checked
from lib.networks.wrappers import activations, plain, tapped_modules
from lib.rng import USUAL, generator
from lib.units import LEVELS, unit

SSP_STEP = unit(2.55)  # 0.01 (ssp.py:21)


@torch.inference_mode(False)
def ssp(
    extractor: nn.Module,
    x: Tensor,
    *,
    ids: Sequence,
    seed=0,
    eps=EPS,
    step=SSP_STEP,
    steps=100,
    start="noise",
    snapshots=None,
) -> Tensor:
    """Self-supervised perturbation: as far as possible from the clean image in a network's features; no labels.

    extractor: images `[B,3,H,W]` in [0,1] -> features `[B,...]`, usually `Tap(network, layer)`; the paper's is VGG-16's
    conv3-3 after its ReLU (supplement, Appendix F; ssp.py:50).  start: "noise", a standard normal image that meets x
    only in the first projection, as the released ssp.py:80 does; or "perturbed", x plus uniform noise within eps, as
    its README describes.  All else: as in `decision.py`.
    """
    x = checked_images(x, eps, [extractor], step=step)
    if start not in ("noise", "perturbed"):
        raise ValueError(f"start must be 'noise' or 'perturbed', got '{start}'")
    streams = draws(x, ids, seed, "ssp")
    perturbed = start == "perturbed"
    first = linf.project(uniform_start(x, eps, streams), x, eps) if perturbed else streams.normal(*x.shape[1:]).to(x)
    with evaluating(extractor):
        objective = feature_distance(extractor, x)
        return ascend(objective, x, eps=eps, step=step, steps=steps, start=first, snapshots=snapshots)


def feature_distance(extractor: nn.Module, x: Tensor) -> Objective:
    """Mean squared distance of the features to those of x, per image; x's features are computed once."""
    with torch.no_grad():
        clean = extractor(x.clone())
    if not isinstance(clean, Tensor):
        raise TypeError(f"the extractor must give features [B,...], a tensor, got {type(clean).__name__}")
    if clean.ndim < 2 or len(clean) != len(x):
        raise ValueError(f"the extractor must give features [{len(x)},...], got {list(clean.shape)}")
    each = tuple(range(1, clean.ndim))
    return lambda x_adv: F.mse_loss(extractor(x_adv.clone()), clean, reduction="none").mean(each)


@torch.inference_mode(False)
def fff(
    network: nn.Module,
    taps: Sequence[str],
    shape: Sequence[int],
    *,
    seed=0,
    eps=EPS,
    iterations=10_000,
    lr=0.1,
    halve_every=300,
) -> Tensor:
    """Fast Feature Fool: one perturbation `[1,3,H,W]` within eps, trained without any data.

    Minimises -sum over the layers of log(mean|activation|) when the network sees the perturbation alone (around its
    mean image), with Adam on the 0-255 scale from a uniform start; every `halve_every` iterations the variable is
    halved, which frees pixels that are stuck at the clip bound.

    network: a `Normalised` network.  taps: names of the layers, in the order in which they run.  shape: (3, H, W).
    lr, start, halving and layers: fast-feature-fool, train.py and misc/losses.py, which ends early where a fooling rate
    on images stops rising; 10,000 iterations: supplement, Appendix F.

    Errors as of `ascend` and `tapped_modules`.
    """
    network = plain(network)
    if not hasattr(network, "mean"):
        raise TypeError(f"FFF starts from a network's mean image: wrap it in Normalised, not {type(network).__name__}")
    numbers(1, whole=True, iterations=iterations, halve_every=halve_every)
    numbers(1e-6, 1e6, lr=lr)
    checked_images(network.mean.new_zeros(1, *shape), eps, [network])
    noise = torch.rand(1, *shape, generator=generator(seed, "fff"), **USUAL).to(network.mean)
    levels = (eps * LEVELS * (2 * noise - 1)).requires_grad_(True)
    optimiser = torch.optim.Adam([levels], lr=lr)
    modules = tapped_modules(network, taps)
    with evaluating(network), torch.enable_grad():
        for iteration in range(1, iterations + 1):
            perturbation = levels.clamp(-eps * LEVELS, eps * LEVELS) / LEVELS
            loss = -sum(a.abs().mean().log() for a in activations(network, modules, network.mean + perturbation))
            (levels.grad,) = torch.autograd.grad(loss, levels)
            optimiser.step()
            if iteration == 1 and eps:
                warn_of_zero((levels.grad == 0).all()[None], "the first gradient of FFF is zero")
            # Halving is for going on: a perturbation halved last would use half of its budget.
            if iteration % halve_every == 0 and iteration < iterations:
                levels.data.div_(2)
    budget = math.floor(eps * LEVELS + 1e-3)
    return finite(levels.detach(), "the perturbation of FFF").round().clamp(-budget, budget) / LEVELS


def add_perturbation(x: Tensor, perturbation: Tensor, eps: float) -> Tensor:
    """The universal perturbation `[1,3,H,W]` added to images `[B,3,H,W]` of the same size, projected and rounded to 8
    bits."""
    x = checked_images(x, eps)
    shape_checked(finite(perturbation, "the perturbation"))
    if len(perturbation) != 1 or perturbation.shape[1:] != x.shape[1:]:
        raise ValueError(f"a perturbation of {list(perturbation.shape)} does not fit images {list(x.shape[1:])}")
    return linf.quantise(x + perturbation.to(x), x, eps)
