"""The adversarially trained ResNet-152 of Feature Denoising (Table 1), and its baseline without denoising blocks.

Xie et al., "Feature Denoising for Improving Adversarial Robustness" (CVPR 2019); ImageNet-Adversarial-Training, nets.py
and resnet_model.py. It is not torchvision's ResNet-152: TensorFlow's "same" padding depends on the size of the image
and has the odd zero at the end, and a denoising block follows the last block of each group.

Keys follow the variables of the released files R152-Denoise.npz and R152.npz; `from_tensorpack` converts those.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.networks.denoising import Denoising
from lib.networks.families import family
from lib.networks.resnet_v2 import UNITS, max_pool_same, pad_same

# TensorFlow's axes of a weight in PyTorch's order, by their number: convolution and linear layer.
AXES = {4: (3, 2, 0, 1), 2: (1, 0)}

# tensorpack's variables; a batch normalisation lies within the scope of its convolution, e.g. conv1/bn/mean/EMA.
VARIABLES = {
    "W": "weight",
    "b": "bias",
    "gamma": "weight",
    "beta": "bias",
    "mean/EMA": "running_mean",
    "variance/EMA": "running_var",
}


class StridedConv(nn.Conv2d):
    """A convolution with "same" padding: `[B,C,H,W]` -> `[B,outputs,ceil(H/stride),ceil(W/stride)]`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(pad_same(x, self.kernel_size[0], self.stride[0]))


def conv_same(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias, with "same" padding; that is symmetric unless a kernel larger than 1 has a stride."""
    if stride == 1 or kernel == 1:
        return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return StridedConv(inputs, outputs, kernel, stride, bias=False)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 beside a shortcut: `[B,inputs,H,W]` -> `[B,4*width,H/stride,W/stride]`."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = conv_same(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv_same(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv_same(width, outputs, 1), nn.BatchNorm2d(outputs)
        self.projects = inputs != outputs
        if self.projects:
            self.convshortcut, self.bnshortcut = conv_same(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.bnshortcut(self.convshortcut(x)) if self.projects else x
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNetDenoise(nn.Module):
    """Images `[B,3,H,W]`, RGB, scaled to [-1,1], to logits `[B,classes]`; the released weights saw 224x224.

    blocks: of the four groups.  width: of conv0.  denoise: False for the baseline, R152.npz.
    """

    def __init__(self, classes: int = 1000, blocks: tuple[int, ...] = UNITS, width: int = 64, denoise: bool = True):
        super().__init__()
        self.conv0, self.bn0 = conv_same(3, width, 7, 2), nn.BatchNorm2d(width)
        self.group0 = _group(width, width, blocks[0], 1, denoise)
        self.group1 = _group(4 * width, 2 * width, blocks[1], 2, denoise)
        self.group2 = _group(8 * width, 4 * width, blocks[2], 2, denoise)
        self.group3 = _group(16 * width, 8 * width, blocks[3], 2, denoise)
        self.linear = nn.Linear(32 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = max_pool_same(F.relu(self.bn0(self.conv0(x))))
        x = self.group3(self.group2(self.group1(self.group0(x))))
        return self.linear(x.mean((2, 3)))


def _group(inputs: int, width: int, blocks: int, stride: int, denoise: bool) -> nn.Sequential:
    """`blocks` bottlenecks, the first of them with the stride, and a denoising block."""
    group = nn.Sequential()
    for index in range(blocks):
        shape = (4 * width, width, 1) if index else (inputs, width, stride)
        group.add_module(f"block{index}", Bottleneck(*shape))
    if denoise:
        group.add_module("denoise", Denoising(4 * width))
    return group


RELEASED: dict[str, Callable[[int], nn.Module]] = {
    "resnet152_denoise": ResNetDenoise,
    "resnet152": partial(ResNetDenoise, denoise=False),
}


def from_tensorpack(arrays: Mapping[str, np.ndarray | Tensor]) -> dict[str, Tensor]:
    """The variables of a released file under this module's keys and in PyTorch's layout.

    `group0/block0/conv1/W` becomes `group0.block0.conv1.weight` (axes 3,2,0,1), `group0/block0/conv1/bn/gamma`
    `group0.block0.bn1.weight`, and `group0_denoise/conv/W` `group0.denoise.conv.weight`. The released networks read
    OpenCV's order of the channels; the first convolution is turned round to take RGB. What is no variable of tensorpack
    is left as it is, so that a strict load (`lib.networks.weights.load_state`) refuses it by its name.
    """
    return dict(_converted(name, torch.as_tensor(array)) for name, array in arrays.items())


def _converted(name: str, value: Tensor) -> tuple[str, Tensor]:
    # tensorpack itself writes and reads names with TensorFlow's ":0" at their end and without.
    found = re.fullmatch(rf"(.+)/({'|'.join(VARIABLES)})(:0)?", name)
    if not found:
        return name, value
    if found[2] == "W" and value.dim() in AXES:
        value = value.permute(AXES[value.dim()])
    if found[1] == "conv0" and value.dim() == 4:
        value = value.flip(1)
    scope = re.sub(r"conv(\w*)/bn$", r"bn\1", found[1]).replace("_denoise/", "/denoise/")
    return f"{scope}/{VARIABLES[found[2]]}".replace("/", "."), value


family("resnet_denoise", "classes", convert=from_tensorpack)(RELEASED)
