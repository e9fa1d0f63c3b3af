"""Inception-v3 as TF-Slim computes it (tensorflow/models, research/slim/nets/inception_v3.py): timm's module and keys,
but an average pool next to the border leaves the zeros around the image out, as TensorFlow's "same" padding does."""

import torch
import torch.nn.functional as F
from timm.layers import ConvNormAct
from timm.models.inception_v3 import InceptionV3
from torch import Tensor


class AfterPool(ConvNormAct):
    """The convolution after a pool of 3x3: takes back that the zeros around the image counted."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / F.avg_pool2d(torch.ones_like(x[:1, :1]), 3, stride=1, padding=1))


def inception_v3(classes: int = 1001) -> InceptionV3:
    """Images `[B,3,299,299]`, scaled to [-1,1], to logits `[B,classes]`; the released weights have 1001, 0 =
    background."""
    network = InceptionV3(num_classes=classes)
    for name, module in network.named_modules():
        if name.endswith("branch_pool"):
            module.__class__ = AfterPool  # it has the same parts
    return network
