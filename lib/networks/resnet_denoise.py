"""The adversarially trained ResNet-152 of Feature Denoising (Table 1), and its baseline without denoising blocks.

Xie et al., "Feature Denoising for Improving Adversarial Robustness" (CVPR 2019); ImageNet-Adversarial-Training, nets.py
and resnet_model.py. It is not torchvision's ResNet-152: TensorFlow's "same" padding depends on the size of the image
and has the odd zero at the end, and a denoising block follows the last block of each group.

Keys follow the variables of the released files R152-Denoise.npz and R152.npz (`lib.networks.weights.from_tensorpack`).
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch.nn.functional as F
from timm.layers import create_conv2d, create_pool2d
from torch import Tensor, nn

from lib.networks.denoising import Denoising


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
        self.conv0 = create_conv2d(3, width, 7, stride=2, padding="same")
        self.bn0 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.pool = create_pool2d("max", 3, stride=2, padding="same")
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


RELEASED: dict[str, Callable[[int], nn.Module]] = {
    "resnet152_denoise": ResNetDenoise,
    "resnet152": partial(ResNetDenoise, denoise=False),
}
