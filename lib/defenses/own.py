"""A defense of the user's own, kept to the rules of all defenses here (docs/own_defense.md)."""

from collections.abc import Callable

import torch
from torch import Tensor

from lib.checks import checked_images, of_shape, unchanged_networks
from lib.own import HALF_LEVEL, file_of, stateless

SAME = 0.1 / 255  # of [0,1]: what a batch's rounding may change an image by, on average


def own_defense(function: Callable, x: Tensor, **options) -> Tensor:
    """What the function of an own file makes of images `[B,3,H,W]`: the same shape, float32 (float64 stays), in [0,1].

    A gradient passes through if it does in the file. ValueError in one line for a result of another shape or further
    than half a level outside [0,1], and for a function that changes its input, a network among its options or names of
    its file, or that gives the first image alone (unless a gradient is asked for) another result than in its batch.
    """
    amounts = {name: options[name] for name in ("eps", "noise") if name in options}
    checked_images(x, clipped=False, **amounts)
    file, given = file_of(function), x.clone()
    with unchanged_networks(file, *options.values(), weights=True), stateless(function):
        try:
            result = function(given, **options)
        except RuntimeError as error:
            if x.dtype != torch.float64:
                raise
            why = f"with which its gradient is checked ({' '.join(str(error).split())[:200]})"
            raise ValueError(
                f"{file}: the defense fails on float64 images, {why}; make its tensors with .to(x)"
            ) from None
        if not torch.equal(given.detach(), x.detach()):
            raise ValueError(f"{file}: the defense changes its images in place; begin with x.clone()")
        result = of_shape(result, x, f"{file}: the defense")
        low, high = result.min().item(), result.max().item()
        if not (low >= -HALF_LEVEL and high <= 1 + HALF_LEVEL):
            raise ValueError(f"{file}: the defense must return images in [0,1], got [{low:.3g}, {high:.3g}]")
        if not result.requires_grad:
            again = function(x[:1].clone(), **options)
            if (again - result[:1]).abs().mean().item() > SAME:
                must = "it must keep no state, treat every image alone, and draw random numbers from a seed (lib.rng)"
                raise ValueError(f"{file}: the defense gives one image two results, in its batch and alone; {must}")
    return result.to(torch.float64 if x.dtype == torch.float64 else torch.float32).clamp(0, 1)
