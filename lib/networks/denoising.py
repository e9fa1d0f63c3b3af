"""The denoising block of Feature Denoising: every position becomes a mean over all positions that resemble it.

Xie et al., "Feature Denoising for Improving Adversarial Robustness" (CVPR 2019), section 4.2 and figure 5; as in the
released ResNet-152 (ImageNet-Adversarial-Training, resnet_model.py, `denoising`; its ResNeXt-101 has another).
"""

import torch
from torch import Tensor, nn


class Denoising(nn.Module):
    """Features x `[B,C,H,W]`, C even -> x + norm(conv(the weighted mean of x)), of the same shape.

    The weight of position j in the mean at position i is the softmax over j of theta(x_i) . phi(x_j) / sqrt(C/2), with
    theta and phi 1x1 convolutions to C/2 channels (non-local means with an embedded Gaussian), so that time and memory
    grow with (H * W)^2. Fresh weights leave x as it is: the norm begins at zero.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.embedding_theta, self.embedding_phi = (nn.Conv2d(channels, channels // 2, 1, bias=False) for _ in range(2))
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        nn.init.normal_(self.embedding_theta.weight, std=0.01)
        nn.init.normal_(self.embedding_phi.weight, std=0.01)
        nn.init.zeros_(self.bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        theta, phi = self.embedding_theta(x).flatten(2), self.embedding_phi(x).flatten(2)
        weights = torch.softmax(theta.mT @ phi / theta.shape[1] ** 0.5, dim=-1)
        mean = x.flatten(2) @ weights.mT
        return x + self.bn(self.conv(mean.view_as(x)))
