"""ResNet-v2-152 as TF-Slim defines it: the paper's "Res-152" at 299x299 (Tables 3 and 5), which no PyTorch library has.

He et al., "Identity Mappings in Deep Residual Networks" (2016). It is not timm's `resnetv2_152`: TF-Slim has the stride
of blocks 1-3 in their last unit instead of in the first of the next, biases on the root, on every third convolution and
on the shortcuts, and TensorFlow's "same" padding before the pool.

Keys follow the variables of the checkpoint: `resnet_v2_152/block1/unit_1/bottleneck_v2/conv1/weights` is
`block1.0.conv1.weight` (axes 3,2,0,1), `.../conv1/BatchNorm/gamma` is `block1.0.bn1.weight` (beta, moving_mean and
moving_variance are bias, running_mean and running_var), `preact`, `shortcut`, `postnorm` and `logits` keep their names,
and the root `resnet_v2_152/conv1` is `root`.
"""

import torch.nn.functional as F
from timm.layers import create_pool2d
from torch import Tensor, nn


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


class ResNetV2(nn.Sequential):
    """Images `[B,3,H,W]`, scaled to [-1,1], to logits `[B,classes]`; the released weights have 1001, 0 = background."""

    def __init__(self, classes: int = 1001):
        super().__init__()
        self.root = nn.Conv2d(3, 64, 7, stride=2, padding=3)
        self.pool = create_pool2d("max", 3, stride=2, padding="same")
        inputs = 64
        for number, (width, units, stride) in enumerate(((64, 3, 2), (128, 8, 2), (256, 36, 2), (512, 3, 1)), 1):
            shapes = [(inputs, 1)] + [(4 * width, 1)] * (units - 2) + [(4 * width, stride)]
            self.add_module(
                f"block{number}", nn.Sequential(*(Unit(channels, width, step) for channels, step in shapes))
            )
            inputs = 4 * width
        self.postnorm = nn.BatchNorm2d(inputs)
        self.relu, self.mean, self.flat = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.logits = nn.Linear(inputs, classes)
