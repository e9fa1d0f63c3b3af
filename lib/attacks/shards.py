"""The attacks as stored computations: a shard of 8-bit images in, its adversaries out."""

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from lib.networks.wrappers import Tf32
from lib.precision import stated
from lib.units import to_bytes, unit_images


def attack_shard(
    attack: Callable[..., Tensor],
    networks: Sequence[nn.Module | functools.partial],
    images: Tensor,
    given: Mapping[str, object],
    options: Mapping[str, object],
    *,
    device: str,
) -> dict[str, np.ndarray]:
    """The adversaries of one shard: images, uint8 `[S,B,3,H,W]`, for S snapshots (1 without).

    networks: none, one, or an ensemble; a `functools.partial` makes one, such as `partial(Adaptive, victim, defense)`.
    images: uint8 `[B,3,H,W]`.  given: of y `[B]`, ids and seed, those that the attack names.  options: budgets and
    steps in [0,1].
    """
    made = [network() if isinstance(network, functools.partial) else network for network in networks]
    first = [made[0] if len(made) == 1 else made] if made else []
    labels = {"y": given["y"].to(device)} if "y" in given else {}
    with stated(device, tf32=any(isinstance(network, Tf32) for network in made)):
        result = attack(*first, unit_images(images, device), **given | labels, **options)
    return {"images": to_bytes(result if options.get("snapshots") else result[None]).numpy()}


def universal_perturbation(
    attack: Callable, network: nn.Module, taps: Sequence[str], shape: Sequence[int], options: Mapping, *, device: str
) -> dict[str, np.ndarray]:
    """The one perturbation `[1,3,H,W]` of an attack without images on a network's layers; shape: (3, H, W)."""
    return {"perturbation": attack(network.to(device), taps, tuple(shape), **options).cpu().numpy()}
