"""A network that takes images in [0,1]: normalisation, resizing, channel order and label offset live inside it."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Normalised(nn.Module):
    """`network((x - mean) / std)` for images x `[B,3,H,W]`, RGB, in [0,1].

    mean, std: per channel, on the [0,1] scale.  resize: side of the square that the network wants, or None to feed
    images at their own size.  background: the network's first logit is TF-Slim's "background" class and is dropped, so
    that labels are 0-based everywhere.
    """

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        resize: int | None = None,
        background: bool = False,
    ):
        super().__init__()
        self.network = network
        self.resize = resize
        self.background = background
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def extra_repr(self) -> str:
        """What its weights and buffers do not say; stored results are keyed by it."""
        return f"resize={self.resize}, background={self.background}"

    def forward(self, x: Tensor) -> Tensor:
        if self.resize and x.shape[-2:] != (self.resize, self.resize):
            x = F.interpolate(x, (self.resize, self.resize), mode="bilinear", antialias=True, align_corners=False)
        logits = self.network((x - self.mean) / self.std)
        return logits[:, 1:] if self.background else logits
