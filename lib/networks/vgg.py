"""VGG-16: the part that SSP reads (up to conv3-3), and the paper's names of its layers."""

from torch import Tensor, nn

from lib.networks.families import family

VGG16_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def _tap_names() -> dict[str, str]:
    """`relu3_3` -> `features.15` and so on: the 13 activations and 5 pools, in the order of the forward pass."""
    taps, index = {}, 0
    for block, widths in enumerate(VGG16_WIDTHS, start=1):
        for layer in range(1, len(widths) + 1):
            taps[f"relu{block}_{layer}"] = f"features.{index + 1}"
            index += 2
        taps[f"pool{block}"] = f"features.{index}"
        index += 1
    return taps


TAPS = _tap_names()


@family("vgg16_conv3_3")
class VGG16Conv33(nn.Module):
    """torchvision's `vgg16().features[:16]`, with its key names (`features.0.weight` to `features.14.bias`).

    Images `[B,3,H,W]`, already normalised, to relu3_3 features `[B,256,H//4,W//4]`. The cut is after the activation
    of conv3-3, where the released SSP code reads it (NRP/ssp.py, lines 50-51); `[:15]` would be the plain convolution.
    """

    def __init__(self):
        super().__init__()
        layers, channels = [], 3
        for block, widths in enumerate(VGG16_WIDTHS[:3]):
            if block:
                layers.append(nn.MaxPool2d(2))
            for width in widths:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)
