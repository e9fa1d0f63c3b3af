"""Training of SegNet-Basic.

Source: SegNet-Tutorial, Models/segnet_basic_solver.prototxt and segnet_basic_train.prototxt: SGD, learning rate 0.1
(twice that for biases), momentum 0.9, weight decay 5e-4 (none for biases), batches of 4, weighted softmax loss.
Not as published: the forward pass in bfloat16 and, where a scale says so, a falling rate and mirrored images.

A `spec` is `lib.settings.networks.SegmenterSpec`. Images are uint8 `[N,3,H,W]`, labels uint8 `[N,H,W]`: a class from 0,
and any higher number for a pixel without a label (void).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from lib.networks.segnet_basic import SegNetBasic
from lib.rng import generator
from lib.training import loop
from lib.training.augment import mirrored
from lib.units import unit_images

# Median-frequency balancing as the prototxt prints it.
CAMVID_WEIGHTS = {
    "sky": 0.2595, "building": 0.1826, "pole": 4.5640, "road": 0.1417, "pavement": 0.9051, "tree": 0.3826,
    "sign symbol": 9.6446, "fence": 1.8418, "car": 0.6823, "pedestrian": 6.2478, "bicyclist": 7.3614,
}  # fmt: skip


def training(
    spec: Any, network: Any, images: Tensor, labels: Tensor, classes: Sequence[str], device: str = "cpu"
) -> loop.Training:
    """The training of the SegNet-Basic `network` (`lib.settings.NetworkSpec`); classes: their names.

    After the last step its batch normalisation is computed over all images.
    """
    loop.check_and_seed(spec.seed, images, labels)
    segmenter = SegNetBasic(len(classes), network.maps).to(device, memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(groups(segmenter), spec.lr, momentum=0.9)
    weights = torch.tensor(class_weights(labels, classes), device=device)

    def advance(step: int) -> dict[str, float]:
        chosen = loop.shuffled(len(images), spec.batch, step, spec.seed)
        x, y = augmented(spec, images[chosen], labels[chosen], generator(spec.seed, "augment", step))
        x, y = x.to(device, memory_format=torch.channels_last), y.to(device)
        with torch.autocast(x.device.type, torch.bfloat16):
            logits = segmenter(x)
        if step % (spec.steps // spec.cycles) == 0:
            optimiser.state.clear()
        loss = loop.descend(optimiser, weighted_loss(logits.float(), y, weights), spec.lr * decay(spec, step))
        if step + 1 == spec.steps:
            # The published network has no running statistics; compute_bn_statistics.py takes them over all images.
            # Shuffled: neighbouring frames of a video are alike, and their variance leaves out that between scenes.
            order = torch.randperm(len(images), generator=generator(spec.seed, "statistics"))
            update_bn((unit_images(images[part]) for part in order.split(spec.batch)), segmenter, device)
        return {"loss": loss}

    state = {"segmenter": segmenter, "optimiser": optimiser}
    inputs = [network.maps, list(classes), images, labels]
    return loop.Training(training, segmenter, state, spec.steps, advance, inputs)


def groups(network: nn.Module) -> list[dict]:
    """The solver's groups of parameters: a convolution's bias learns twice as fast, and no bias decays."""
    biases = [module.bias for module in network.modules() if isinstance(module, nn.Conv2d)]
    shifts = [module.bias for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    others = [parameter for name, parameter in network.named_parameters() if not name.endswith("bias")]
    return [
        {"params": others, "factor": 1, "weight_decay": 5e-4},
        {"params": shifts, "factor": 1, "weight_decay": 0.0},
        {"params": biases, "factor": 2, "weight_decay": 0.0},
    ]


def decay(spec: Any, step: int) -> float:
    """The share of the learning rate at a step: 1, or half a cosine down to 0, once per cycle."""
    if spec.decay == "constant":
        return 1.0
    cycle = spec.steps // spec.cycles
    return 0.5 * (1 + math.cos(math.pi * (step % cycle) / cycle))


def weighted_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Sum of the weighted cross-entropies over the number of labelled pixels (caffe-segnet, softmax_loss_layer.cpp).

    PyTorch's own mean divides by the sum of the weights, with which a learning rate of 0.1 means something else.
    """
    void = labels >= len(weights)  # -100: what PyTorch leaves out
    total = F.cross_entropy(logits, labels.long().masked_fill(void, -100), weights, reduction="sum")
    return total / (~void).sum().clamp(min=1)  # a batch without any labelled pixel teaches nothing


def class_weights(labels: Tensor, classes: Sequence[str]) -> list[float]:
    """SegNet's balancing: the median of the classes' frequencies over each class's own; CamVid's as printed.

    A class's frequency: its pixels over all pixels, void too, of the images that show it. Without any it weighs 0.
    """
    if tuple(classes) == tuple(CAMVID_WEIGHTS):
        return list(CAMVID_WEIGHTS.values())
    count = len(classes)
    counts = torch.stack([torch.bincount(image.flatten().long(), minlength=count)[:count] for image in labels])
    pixels = (counts > 0).sum(0) * labels[0].numel()
    present = pixels > 0
    frequency = counts.sum(0)[present].double() / pixels[present]
    weights = torch.zeros(count, dtype=torch.float64)
    # NumPy's median: PyTorch's takes the lower of the two middle values.
    weights[present] = frequency.quantile(0.5) / frequency
    return weights.tolist()


def augmented(spec: Any, x: Tensor, y: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """A batch of images as floats in [0,1] and its labels; half are mirrored if the spec says so."""
    if spec.augment == "flip":
        x, which = mirrored(x, g)
        y = torch.where(which[:, None, None], y.flip(2), y)
    return unit_images(x), y
