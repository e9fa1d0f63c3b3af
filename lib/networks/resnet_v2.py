"""ResNet-v2-152 as TF-Slim defines it: the paper's "Res-152" at 299x299 (Tables 3 and 5), which no PyTorch library has.

He et al., "Identity Mappings in Deep Residual Networks" (2016). It is not timm's `resnetv2_152`: TF-Slim has the stride
of blocks 1-3 in their last unit instead of in the first of the next, biases on the root, on every third convolution and
on the shortcuts, and TensorFlow's "same" padding before the pool.

Keys follow the variables of the checkpoint: `resnet_v2_152/block1/unit_1/bottleneck_v2/conv1/weights` is
`block1.0.conv1.weight` (axes 3,2,0,1), `.../conv1/BatchNorm/gamma` is `block1.0.bn1.weight` (beta, moving_mean and
moving_variance are bias, running_mean and running_var), `preact`, `shortcut`, `postnorm` and `logits` keep their names,
and the root `resnet_v2_152/conv1` is `root`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.networks.families import family

UNITS = (3, 8, 36, 3)  # of a ResNet-152's blocks


class Unit(nn.Module):
    """Pre-activation bottleneck `[B,inputs,H,W]` -> `[B,4*width,H/stride,W/stride]`."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        outputs = 4 * width
        self.stride = stride
        self.preact = nn.BatchNorm2d(inputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if inputs != outputs else None
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        preact = F.relu(self.preact(x))
        shortcut = self.shortcut(preact) if self.shortcut else x[:, :, :: self.stride, :: self.stride]
        residual = F.relu(self.bn1(self.conv1(preact)))
        residual = F.relu(self.bn2(self.conv2(residual)))
        return shortcut + self.conv3(residual)


@family("resnet_v2_slim", "classes")
class ResNetV2(nn.Module):
    """Images `[B,3,H,W]`, scaled to [-1,1], to logits `[B,classes]`; the released weights have 1001, 0 = background."""

    def __init__(self, classes: int = 1001):
        super().__init__()
        self.root = nn.Conv2d(3, 64, 7, stride=2, padding=3)
        self.block1 = _units(64, 64, UNITS[0], stride=2)
        self.block2 = _units(256, 128, UNITS[1], stride=2)
        self.block3 = _units(512, 256, UNITS[2], stride=2)
        self.block4 = _units(1024, 512, UNITS[3], stride=1)
        self.postnorm = nn.BatchNorm2d(2048)
        self.logits = nn.Linear(2048, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = max_pool_same(self.root(x))
        x = self.block4(self.block3(self.block2(self.block1(x))))
        return self.logits(F.relu(self.postnorm(x)).mean((2, 3)))


def _units(inputs: int, width: int, units: int, stride: int) -> nn.Sequential:
    """`units` bottlenecks, the last of them with the stride."""
    shapes = [(inputs, 1)] + [(4 * width, 1)] * (units - 2) + [(4 * width, stride)]
    return nn.Sequential(*(Unit(channels, width, step) for channels, step in shapes))


def pad_same(x: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """x `[B,C,H,W]` with `value` around it as in TensorFlow's "same" padding; where an odd number is added to a side,
    one more at its end."""
    pads = []
    for side in (x.shape[-1], x.shape[-2]):
        outputs = -(-side // stride)
        added = max((outputs - 1) * stride + kernel - side, 0)
        pads += [added // 2, added - added // 2]
    return F.pad(x, pads, value=value)


def max_pool_same(x: Tensor) -> Tensor:
    """3x3 max pooling with stride 2 and "same" padding: an even side is padded at its end only."""
    return F.max_pool2d(pad_same(x, 3, 2, -torch.inf), 3, stride=2)
