"""The attacks as stored computations: a shard of 8-bit images in, its adversaries out."""

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lib.memory import halved
from lib.networks.wrappers import Tf32
from lib.precision import stated
from lib.units import to_bytes, unit_images


def made(network: nn.Module | functools.partial) -> nn.Module:
    """The network, which a partial such as `partial(Adaptive, victim, defense)` makes first."""
    return network() if isinstance(network, functools.partial) else network


def attack_shard(
    attack: Callable[..., Tensor],
    networks: Sequence[nn.Module | functools.partial],
    images: Sequence[Tensor],
    given: Mapping[str, object],
    options: Mapping[str, object],
    *,
    device: str,
    coupled: bool = False,
) -> dict[str, np.ndarray]:
    """The adversaries of one shard: images, uint8 `[S,B,3,H,W]`, for S snapshots (1 without).

    networks: none, one, or an ensemble, as `made` takes them.  images: uint8, B of `[3,H,W]`.  given: of y `[B]`, ids
    and seed, those that the attack names.  options: budgets and steps in [0,1].  coupled: the images are attacked
    together, whatever memory that takes; others a part at a time where memory is short.
    """
    victims = [made(network) for network in networks]
    first = [victims[0] if len(victims) == 1 else victims] if victims else []

    def attacked(places: Sequence[int]) -> np.ndarray:
        part = {name: [value[k] for k in places] if name == "ids" else value for name, value in given.items()}
        part |= {"y": given["y"][list(places)].to(device)} if "y" in given else {}
        x = unit_images(torch.stack([images[k] for k in places]), device)
        result = attack(*first, x, **part, **options)
        return to_bytes(result if options.get("snapshots") else result[None]).numpy()

    places = range(len(images))
    with stated(device, tf32=any(isinstance(network, Tf32) for network in victims)):
        parts = [attacked(places)] if coupled else halved(attacked, places, len(images), attack, *victims)
    return {"images": np.concatenate(parts, 1)}


def universal_perturbation(
    attack: Callable, network: nn.Module, taps: Sequence[str], shape: Sequence[int], options: Mapping, *, device: str
) -> dict[str, np.ndarray]:
    """The one perturbation `[1,3,H,W]` of an attack without images on a network's layers; shape: (3, H, W)."""
    return {"perturbation": attack(network.to(device), taps, tuple(shape), **options).cpu().numpy()}
