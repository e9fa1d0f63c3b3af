"""CDA's generator: a network that turns any image into an unbounded adversary in one pass.

Keys and shapes are those of the released files netG_*_rl.pth (Muzammal-Naseer/CDA, generators.py). Images `[B,3,H,W]`
in [0,1], RGB, not normalised; the output lies in [0,1] too. The ball around the image is `lib.attacks.generators`'s.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lib.networks.families import family


def normed(layer: nn.Module) -> list[nn.Module]:
    """The layer (without a bias of its own), batch norm, ReLU."""
    return [layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU(inplace=True)]


def down(inputs: int, outputs: int) -> nn.Sequential:
    """Half the side."""
    return nn.Sequential(*normed(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)))


def up(inputs: int, outputs: int) -> nn.Sequential:
    """Twice the side."""
    layer = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1, bias=False)
    return nn.Sequential(*normed(layer))


class DropoutBlock(nn.Module):
    """x plus two 3x3 convolutions with dropout between them."""

    def __init__(self, width: int):
        super().__init__()
        first, second = (nn.Conv2d(width, width, 3, bias=False) for _ in range(2))
        self.block = nn.Sequential(
            nn.ReflectionPad2d(1),
            *normed(first),
            nn.Dropout(0.5),
            nn.ReflectionPad2d(1),
            second,
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class Generator(nn.Module):
    """The released generator; 7,841,411 parameters as published (width 64, 6 blocks).

    `[B,3,H,W]` to `[B,3,4*ceil(H/4),4*ceil(W/4)]`: the same size where the sides are multiples of four.
    """

    # What a side that the network gives back unchanged leaves when divided by four.
    remainder = 0

    def __init__(self, width: int = 64, blocks: int = 6):
        super().__init__()
        self.block1 = nn.Sequential(nn.ReflectionPad2d(3), *normed(nn.Conv2d(3, width, 7, bias=False)))
        self.block2 = down(width, 2 * width)
        self.block3 = down(2 * width, 4 * width)
        self.count = blocks
        for number in range(1, blocks + 1):
            self.add_module(f"resblock{number}", DropoutBlock(4 * width))
        self.upsampl1 = up(4 * width, 2 * width)
        self.upsampl2 = up(2 * width, width)
        self.blockf = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7))

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(x)))
        for number in range(1, self.count + 1):
            x = self.get_submodule(f"resblock{number}")(x)
        return (torch.tanh(self.blockf(self.upsampl2(self.upsampl1(x)))) + 1) / 2


class InceptionGenerator(Generator):
    """The variant for Inception's 299 pixels: one row on top and one column on the right are cut off.

    `[B,3,H,W]` to `[B,3,4*ceil(H/4)-1,4*ceil(W/4)-1]`.
    """

    remainder = 3

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :, 1:, :-1]


GENERATORS: dict[str, Callable[[int, int], Generator]] = {
    "cda_generator": Generator,
    "cda_generator_inception": InceptionGenerator,
}
family("cda_generator", "width", "blocks", trained=True)(GENERATORS)
