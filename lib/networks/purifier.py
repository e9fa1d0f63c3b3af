"""The Neural Representation Purifier: its two released architectures and the critic it is trained against.

Keys and shapes are those of the released files NRP.pth and NRP_resG.pth (Muzammal-Naseer/NRP, networks.py and
modules/module_util.py). Images `[B,3,H,W]` in [0,1], RGB, not normalised, of any size; the output has the same shape
and is not clamped (`lib.defenses.purifier` does that).
"""

from collections import OrderedDict
from functools import partial

import torch
from torch import Tensor, nn

from lib.memory import recomputed

RESIDUAL_SCALE = 0.2
MUCH = 1 << 20  # numbers: 128x128 pixels of 64 channels
conv3x3 = partial(nn.Conv2d, kernel_size=3, padding=1)  # keeps the size


def small_conv(inputs: int, outputs: int) -> nn.Conv2d:
    """3x3, begun as the released residual blocks are: a tenth of He's weights, biases zero (modules/module_util.py)."""
    layer = conv3x3(inputs, outputs)
    nn.init.kaiming_normal_(layer.weight)
    nn.init.zeros_(layer.bias)
    layer.weight.data.mul_(0.1)
    return layer


class DenseBlock(nn.Module):
    """Five convolutions, each seeing all before it; a fifth of the last is added to the input."""

    def __init__(self, width: int, growth: int):
        super().__init__()
        for number in range(5):
            self.add_module(f"conv{number + 1}", small_conv(width + number * growth, growth if number < 4 else width))
        self.activation = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            seen.append(self.activation(layer(torch.cat(seen, 1))))
        return x + RESIDUAL_SCALE * self.conv5(torch.cat(seen, 1))


class RRDB(nn.Sequential):
    """Residual in residual: three dense blocks; a fifth of what comes out is added to the input.

    Where a gradient passes through a frozen one and its input has MUCH in it, what is inside is computed again on the
    way back instead of kept: a third more time, and 23 of them fit where one did.
    """

    def __init__(self, width: int, growth: int):
        super().__init__(OrderedDict((f"RDB{number}", DenseBlock(width, growth)) for number in (1, 2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        again = x.requires_grad and x.numel() >= MUCH and not self.RDB1.conv1.weight.requires_grad
        return recomputed(self.whole, x) if again else self.whole(x)

    def whole(self, x: Tensor) -> Tensor:
        return x + RESIDUAL_SCALE * super().forward(x)


class NRP(nn.Sequential):
    """The purifier of NRP.pth: 23 RRDB blocks, whose dense layers grow by half of `width`; 16,550,275 parameters (its
    README says 14 million). ESRGAN's generator without its skip over the whole network and activation at the end."""

    def __init__(self, width: int = 64, blocks: int = 23):
        super().__init__()
        self.conv_first = conv3x3(3, width)
        self.RRDB_trunk = nn.Sequential(*(RRDB(width, width // 2) for _ in range(blocks)))
        self.trunk_conv = conv3x3(width, 3)


class ResidualBlock(nn.Module):
    """Convolution, ReLU, convolution, added to the input; no batch normalisation."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.conv2 = small_conv(width, width), small_conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(torch.relu(self.conv1(x)))


class NRPResG(nn.Sequential):
    """The purifier of NRP_resG.pth: 23 plain residual blocks, 1,702,211 parameters (its README says 1.2 million)."""

    def __init__(self, width: int = 64, blocks: int = 23):
        super().__init__()
        self.conv_first = conv3x3(3, width)
        self.activation = nn.LeakyReLU(0.1)
        self.recon_trunk = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.conv_last = conv3x3(width, 3)


PURIFIERS = {"nrp": NRP, "nrp_resg": NRPResG}


@torch.no_grad()
def begin_as_identity(purifier: nn.Module) -> None:
    """Fresh weights with which the purifier nearly gives back what it gets, so that a training need not first learn to
    copy the image; ours, not the paper's."""
    ends = [layer for layer in purifier.children() if isinstance(layer, nn.Conv2d)]
    for layer in ends:
        nn.init.dirac_(layer.weight[:3])
        nn.init.zeros_(layer.bias)
    if isinstance(purifier, NRP):
        # What goes through a fresh RRDB block grows by a fifth.
        ends[-1].weight.mul_((1 + RESIDUAL_SCALE) ** -len(purifier.RRDB_trunk))


class Critic(nn.Module):
    """Which of two images is the real one: one number per image, `[B,3,side,side]` -> `[B]`, side a multiple of 32.

    Five pairs of a 3x3 and a strided 4x4 convolution, then two linear layers; 64 channels and a side of 128 are
    ESRGAN's (BasicSR, discriminator_arch.py, VGGStyleDiscriminator128), whose framework the authors say they used.
    """

    def __init__(self, width: int = 64, side: int = 128):
        super().__init__()
        layers, inputs = [], 3
        for channels in (width, 2 * width, 4 * width, 8 * width, 8 * width):
            for kernel, stride in ((3, 1), (4, 2)):
                norm = [nn.BatchNorm2d(channels)] if layers else []
                layers += [nn.Conv2d(inputs, channels, kernel, stride, 1, bias=not norm), *norm, nn.LeakyReLU(0.2)]
                inputs = channels
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(inputs * (side // 32) ** 2, 100), nn.LeakyReLU(0.2), nn.Linear(100, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1)).flatten()
