"""Two ResNet-152s that no PyTorch library has, with TensorFlow's "same" padding, whose odd zero is at the end.

ResNet-v2-152 as TF-Slim defines it is the paper's "Res-152" at 299x299 (Tables 3 and 5): He et al., "Identity Mappings
in Deep Residual Networks" (2016). It is not timm's `resnetv2_152`: TF-Slim has the stride of blocks 1-3 in their last
unit instead of in the first of the next, and biases on the root, on every third convolution and on the shortcuts. Keys
follow the variables of the checkpoint: `resnet_v2_152/block1/unit_1/bottleneck_v2/conv1/weights` is
`block1.0.conv1.weight` (axes 3,2,0,1), `.../conv1/BatchNorm/gamma` is `block1.0.bn1.weight` (beta, moving_mean and
moving_variance are bias, running_mean and running_var), `preact`, `shortcut`, `postnorm` and `logits` keep their names,
and the root `resnet_v2_152/conv1` is `root`.

Feature Denoising's adversarially trained ResNet-152 (Table 1; see `lib.networks.denoising`), and its baseline without
denoising blocks: ImageNet-Adversarial-Training, nets.py and resnet_model.py. It is not torchvision's ResNet-152: a
denoising block follows the last block of each group. Keys follow the variables of the released files R152-Denoise.npz
and R152.npz (`lib.networks.weights.from_tensorpack`).
"""

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from timm.layers import create_conv2d, create_pool2d
from torch import Tensor, nn

from lib.networks.denoising import Denoising


class Unit(nn.Module):
    """Pre-activation bottleneck `[B,inputs,H,W]` -> `[B,4*width,H/stride,W/stride]`."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        outputs, self.stride = 4 * width, stride
        self.preact = nn.BatchNorm2d(inputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if inputs != outputs else None
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        preact = F.relu(self.preact(x))
        shortcut = self.shortcut(preact) if self.shortcut else x[:, :, :: self.stride, :: self.stride]
        residual = F.relu(self.bn1(self.conv1(preact)))
        residual = F.relu(self.bn2(self.conv2(residual)))
        return shortcut + self.conv3(residual)


class ResNetV2(nn.Sequential):
    """Images `[B,3,H,W]`, scaled to [-1,1], to logits `[B,classes]`; the released weights have 1001, 0 = background."""

    def __init__(self, classes: int = 1001):
        super().__init__()
        self.root = nn.Conv2d(3, 64, 7, stride=2, padding=3)
        self.pool = create_pool2d("max", 3, stride=2, padding="same")
        inputs = 64
        for number, (width, units, stride) in enumerate(((64, 3, 2), (128, 8, 2), (256, 36, 2), (512, 3, 1)), 1):
            shapes = [(inputs, 1)] + [(4 * width, 1)] * (units - 2) + [(4 * width, stride)]
            self.add_module(f"block{number}", nn.Sequential(*(Unit(size, width, step) for size, step in shapes)))
            inputs = 4 * width
        self.postnorm = nn.BatchNorm2d(inputs)
        self.relu, self.mean, self.flat = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.logits = nn.Linear(inputs, classes)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 beside a shortcut: `[B,inputs,H,W]` -> `[B,4*width,H/stride,W/stride]`."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = create_conv2d(width, width, 3, stride=stride, padding="same"), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.projects = inputs != outputs
        if self.projects:
            self.convshortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.bnshortcut = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.bnshortcut(self.convshortcut(x)) if self.projects else x
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNetDenoise(nn.Sequential):
    """Images `[B,3,H,W]`, RGB, scaled to [-1,1], to logits `[B,classes]`; the released weights saw 224x224.

    blocks: of the four groups.  width: of conv0.  denoise: False for the baseline, R152.npz.
    """

    def __init__(
        self, classes: int = 1000, blocks: Sequence[int] = (3, 8, 36, 3), width: int = 64, denoise: bool = True
    ):
        super().__init__()
        self.conv0, self.bn0 = create_conv2d(3, width, 7, stride=2, padding="same"), nn.BatchNorm2d(width)
        self.relu, self.pool = nn.ReLU(), create_pool2d("max", 3, stride=2, padding="same")
        inputs = width
        for number, count in enumerate(blocks):
            inner = width * 2**number
            group = nn.Sequential()
            for index in range(count):
                group.add_module(f"block{index}", Bottleneck(inputs, inner, 2 if number and not index else 1))
                inputs = 4 * inner
            if denoise:
                group.add_module("denoise", Denoising(inputs))
            self.add_module(f"group{number}", group)
        self.mean, self.flat = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.linear = nn.Linear(inputs, classes)


TENSORPACK = {"resnet152_denoise": ResNetDenoise, "resnet152": partial(ResNetDenoise, denoise=False)}
