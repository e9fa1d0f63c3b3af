"""CDA's generator: a network that turns any image into an unbounded adversary in one pass.

Keys and shapes are those of the released files netG_*_rl.pth (Muzammal-Naseer/CDA, generators.py). Images `[B,3,H,W]`
in [0,1], RGB, not normalised; the output lies in [0,1] too.
"""

import torch
from torch import Tensor, nn


def normed(layer: nn.Module) -> list[nn.Module]:
    """The layer (without a bias of its own), batch norm, ReLU."""
    return [layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU(inplace=True)]


class DropoutBlock(nn.Module):
    """x plus two 3x3 convolutions with dropout between them."""

    def __init__(self, width: int):
        super().__init__()
        self.block = nn.Sequential(
            nn.ReflectionPad2d(1),
            *normed(nn.Conv2d(width, width, 3, bias=False)),
            nn.Dropout(0.5),
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class CDAGenerator(nn.Sequential):
    """The released generator; 7,841,411 parameters as published (width 64, 6 blocks).

    `[B,3,H,W]` to `[B,3,4*ceil(H/4),4*ceil(W/4)]`: the same size where the sides are multiples of four.
    """

    remainder = 0  # what a side that the network gives back unchanged leaves when divided by four

    def __init__(self, width: int = 64, blocks: int = 6):
        super().__init__()
        halved = {"stride": 2, "padding": 1, "bias": False}
        doubled = halved | {"output_padding": 1}
        self.block1 = nn.Sequential(nn.ReflectionPad2d(3), *normed(nn.Conv2d(3, width, 7, bias=False)))
        self.block2 = nn.Sequential(*normed(nn.Conv2d(width, 2 * width, 3, **halved)))
        self.block3 = nn.Sequential(*normed(nn.Conv2d(2 * width, 4 * width, 3, **halved)))
        for number in range(1, blocks + 1):
            self.add_module(f"resblock{number}", DropoutBlock(4 * width))
        self.upsampl1 = nn.Sequential(*normed(nn.ConvTranspose2d(4 * width, 2 * width, 3, **doubled)))
        self.upsampl2 = nn.Sequential(*normed(nn.ConvTranspose2d(2 * width, width, 3, **doubled)))
        self.blockf = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7))

    def forward(self, x: Tensor) -> Tensor:
        return (torch.tanh(super().forward(x)) + 1) / 2


class InceptionGenerator(CDAGenerator):
    """The variant for Inception's 299 pixels: one row on top and one column on the right are cut off."""

    remainder = 3

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :, 1:, :-1]


GENERATORS = {"cda_generator": CDAGenerator, "cda_generator_inception": InceptionGenerator}
