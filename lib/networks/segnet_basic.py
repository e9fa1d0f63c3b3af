"""SegNet-Basic: four encoders that record where each maximum was, four decoders that put it back there.

Source: SegNet-Tutorial, Models/segnet_basic_train.prototxt, and caffe-segnet's layers. 7x7 convolutions of 64 maps
throughout, no ReLU in the decoder, and a normalisation across channels of the raw image.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class SegNetBasic(nn.Module):
    """Images `[B,3,H,W]`, RGB in [0,1], of any size from 16 up -> logits `[B,classes,H,W]`.

    classes: without void.  maps: 64 in the published network (1,416,587 parameters with 11 classes).
    """

    def __init__(self, classes: int = 11, maps: int = 64):
        super().__init__()
        # Caffe divides alpha by the size, as PyTorch does.
        self.norm = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)
        self.encoders, self.decoders = (
            nn.ModuleList(nn.Sequential(nn.Conv2d(size, maps, 7, padding=3), nn.BatchNorm2d(maps)) for size in inputs)
            for inputs in ((3, maps, maps, maps), (maps, maps, maps, maps))
        )
        self.classifier = nn.Conv2d(maps, classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.bias, 0.001)

    def forward(self, x: Tensor) -> Tensor:
        # The published network reads raw levels in OpenCV's order of the channels.
        x = self.norm(x.flip(1) * 255)
        places, sizes = [], []
        for encoder in self.encoders:
            x = encoder(x).relu()
            sizes.append(x.shape[2:])
            # Caffe's pooling rounds odd sides up.
            x, place = F.max_pool2d(x, 2, ceil_mode=True, return_indices=True)
            places.append(place)
        for decoder in self.decoders:
            x = decoder(F.max_unpool2d(x, places.pop(), 2, output_size=sizes.pop()))
        return self.classifier(x)
