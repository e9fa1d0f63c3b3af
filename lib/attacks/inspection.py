"""What an attacker sees of a network behind a defense, as stored computations on 8-bit images: whether the gradient is
the loss's own (Athalye et al. 2018; Carlini et al. 2019), how sure it is still, which classes are aimed at.

seen, in all of them: the network with its defense, or a `functools.partial` that makes it.
"""

import copy
import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.attacks.ascent import gradient
from lib.attacks.decision import wrong_classes
from lib.attacks.shards import made
from lib.checks import evaluating
from lib.rng import generator
from lib.units import unit_images

DISTANCE = 1e-6  # of the finite difference, in [0,1]
AWAY = 2 / 255  # from the images, where it is taken
Seen = nn.Module | functools.partial


def gradient_facts(seen: Seen, images: Tensor, y: Tensor, *, device: str) -> dict[str, np.ndarray]:
    """Of the cross-entropy of y `[B]` on 8-bit images `[B,3,H,W]`, a number per image `[B]`:

    difference: relative error of the gradient in float64 along its own sign, against a central finite difference.
    float32, bfloat16: cosine of these gradients with that one.  zeros: share of pixels with gradient 0 in float32.
    """
    network, y = made(seen), y.to(device)
    exact, x = copy.deepcopy(network).double(), unit_images(images, device)
    # Near the images, inside [0,1]: where clipping has a derivative, and flat parts are no ties of a maximum.
    noise = torch.rand(x.shape[1:], generator=generator("gradient facts")).to(x)
    x = x.clamp(2 * AWAY, 1 - 2 * AWAY) + AWAY * (2 * noise - 1)
    with evaluating(network, exact):
        float64 = gradient(loss_of(exact, y), x.double())
        float32 = gradient(loss_of(network, y), x).double()
        with torch.autocast(x.device.type, torch.bfloat16):
            bfloat16 = gradient(loss_of(network, y), x).double()
        way = float64.sign()
        with torch.no_grad():
            ahead, behind = (loss_of(exact, y)(x.double() + side * DISTANCE * way) for side in (1, -1))
    slope, measured = (float64 * way).flatten(1).sum(1), (ahead - behind) / (2 * DISTANCE)
    found = {
        "difference": (slope - measured).abs() / measured.abs().clamp_min(1e-12),
        "float32": F.cosine_similarity(float32.flatten(1), float64.flatten(1)),
        "bfloat16": F.cosine_similarity(bfloat16.flatten(1), float64.flatten(1)),
        "zeros": (float32 == 0).double().flatten(1).mean(1),
    }
    return {name: values.cpu().numpy() for name, values in found.items()}


def confidences(seen: Seen, images: Tensor, y: Tensor, *, device: str) -> dict[str, np.ndarray]:
    """confidence: the probability of y `[B]` on 8-bit images `[B,3,H,W]` as an attacker sees the network, `[B]`."""
    network = made(seen)
    with evaluating(network), torch.no_grad():
        loss = loss_of(network, y.to(device))(unit_images(images, device))
    return {"confidence": (-loss).exp().float().cpu().numpy()}


def aims(seen: Seen, images: Tensor, y: Tensor, which: str, ids: Sequence, seed: int, *, device: str) -> dict:
    """targets: the classes `[B]` at which a targeted attack aims (`lib.attacks.decision.wrong_classes`)."""
    found = wrong_classes(made(seen), unit_images(images, device), y.to(device), which, ids=ids, seed=seed)
    return {"targets": found.cpu().numpy()}


def traits_of(defense: Callable, other: Callable, image: Tensor, *, device: str) -> dict[str, np.ndarray]:
    """traits: does a gradient pass the defense; does another seed of it, `other`, give another image?"""
    x = unit_images(image, device).requires_grad_(True)
    result = defense(x)
    return {"traits": np.array([result.requires_grad, not torch.equal(result, other(x))])}


def loss_of(network: nn.Module, y: Tensor) -> Callable[[Tensor], Tensor]:
    """The cross-entropy of y, `[B]`, as a function of images."""
    return lambda x: F.cross_entropy(network(x), y, reduction="none")
