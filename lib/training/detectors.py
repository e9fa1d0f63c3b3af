"""Training of a small detector, whose trunk begins with the weights of a trained stand-in classifier.

A `spec` is `lib.settings.networks.DetectorSpec`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib.networks.detectors import DETECTORS
from lib.rng import generator, key
from lib.training import loop
from lib.training.augment import mirrored, photographed
from lib.units import unit_images

# Ground truth of one image: boxes float32 [n,4], labels int64 [n] from 1, masks uint8 [n,H,W].
Truth = dict[str, Tensor]


def training(
    spec: Any, network: Any, images: Tensor, truth: Sequence[Truth], backbone: dict[str, Tensor], device: str = "cpu"
) -> loop.Training:
    """The training of the detector `network` (`lib.settings.NetworkSpec`) on uint8 images `[N,3,H,W]`.

    backbone: the state of the trained classifier that the trunk begins with; ValueError for another architecture's.
    """
    loop.check_and_seed(spec.seed, images)
    if len(truth) != len(images):
        raise ValueError(f"{len(truth)} entries of ground truth for {len(images)} images")
    labels = torch.cat([objects["labels"] for objects in truth])
    if not ((labels >= 1) & (labels <= network.classes)).all():  # boxes are checked by torchvision
        raise ValueError(f"labels must be 1 to {network.classes}, got {labels.unique().tolist()}")
    detector = DETECTORS[network.architecture](network.classes)
    trunk = {name: value for name, value in backbone.items() if not name.startswith("head.")}
    try:
        detector.backbone.trunk.load_state_dict(trunk)
    except RuntimeError:
        raise ValueError(f"backbone '{spec.backbone}' has another architecture than the detectors' trunk") from None
    detector = detector.to(device, memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(detector.parameters(), weight_decay=0.05, fused=True)
    steps = spec.epochs * (len(images) // spec.batch)

    def advance(step: int) -> dict[str, float]:
        chosen = loop.shuffled(len(images), spec.batch, step, spec.seed)
        g = generator(spec.seed, "augment", step)
        x, y = augmented(images[chosen], [truth[index] for index in chosen.tolist()], g)
        y = [{name: value.to(device) for name, value in objects.items()} for objects in y]
        # torchvision samples anchors and proposals with the global generator.
        torch.manual_seed(key(spec.seed, "samples", step))
        loss = sum(detector(list(x.to(device)), y).values())
        return {"loss": loop.descend(optimiser, loss, loop.warmup_cosine(spec.lr, step / steps))}

    state = {"detector": detector, "optimiser": optimiser}
    inputs = [network.architecture, network.classes, images, list(truth), backbone]
    return loop.Training(training, detector, state, steps, advance, inputs)


def ground_truth(boxes: Sequence, objects: Sequence, instances: np.ndarray) -> list[Truth]:
    """The objects of the scenes of a `lib.data.world.World` as torchvision takes them."""
    truth = []
    for corners, kinds, sheet in zip(boxes, objects, map(torch.from_numpy, instances), strict=True):
        masks = sheet == torch.arange(1, len(corners) + 1)[:, None, None]
        corners, labels = torch.from_numpy(corners).float(), torch.from_numpy(kinds) + 1
        truth.append({"boxes": corners, "labels": labels, "masks": masks.byte()})
    return truth


def mirrored_truth(truth: Truth) -> Truth:
    """The ground truth of an image whose left and right are exchanged."""
    width = truth["masks"].shape[-1]
    x0, y0, x1, y1 = truth["boxes"].unbind(1)
    return truth | {"boxes": torch.stack([width - x1, y0, width - x0, y1], 1), "masks": truth["masks"].flip(-1)}


def augmented(images: Tensor, truth: Sequence[Truth], g: torch.Generator) -> tuple[Tensor, list[Truth]]:
    """A training batch of uint8 images `[B,3,H,W]`: half of them mirrored, all `photographed`."""
    x, which = mirrored(images, g)
    y = [mirrored_truth(objects) if turn else objects for objects, turn in zip(truth, which.tolist(), strict=True)]
    return photographed(unit_images(x), g), y
