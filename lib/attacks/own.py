"""A custom attack, kept to the rules of all attacks here (docs/own_attack.md)."""

from collections.abc import Callable

import torch
from torch import Tensor

from lib import linf
from lib.attacks.ascent import warn_of_zero
from lib.attacks.decision import Surrogate, members
from lib.checks import checked_images, checked_labels, evaluating, of_shape, unchanged_networks
from lib.own import HALF_LEVEL, file_of
from lib.units import LEVELS


@torch.inference_mode(False)
def own_attack(function: Callable, network: Surrogate, x: Tensor, y: Tensor, *, eps: float, **options) -> Tensor:
    """What the function of a user's file makes of the images `[B,3,H,W]`: rounded to 8 bits, within `eps`.

    options: its own, budgets and steps in [0,1] units, and ids and seed if it names them. ValueError in one line for a
    result of another shape (with snapshots: one more dimension), that is not finite, or further than half a level
    outside eps, and for a function that changes a network. Warns of images that it leaves unchanged.
    """
    networks, file = members(network), file_of(function)
    amounts = {name: options[name] for name in ("step", "alpha") if name in options}
    x, y = checked_images(x, eps, networks, **amounts), checked_labels(y, len(x)).to(x.device)
    with evaluating(*networks), unchanged_networks(file, *networks, weights=True), torch.enable_grad():
        result = function(network, x.clone(), y.clone(), eps=eps, **options)
    snapshots = options.get("snapshots")
    result = of_shape(result, x.expand(len(snapshots), *x.shape) if snapshots else x, f"{file}: the attack")
    result = result.detach().to(x)
    if not torch.isfinite(result).all():
        raise ValueError(f"{file}: the attack returns values that are not finite")
    moved = (result - x).abs().max().item()
    if moved > eps + HALF_LEVEL:
        far = f"a pixel by {LEVELS * moved:.1f} levels with an eps of {LEVELS * eps:.4g}"
        raise ValueError(f"{file}: the attack moves {far}; end it with lib.linf.project(x_adv, x, eps)")
    result = linf.quantise(result, x, eps)
    if eps:
        last = result[-1] if snapshots else result
        still = (last == linf.quantise(x, x, eps)).flatten(1).all(1)
        warn_of_zero(still, f"{file} leaves them unchanged")
    return result
