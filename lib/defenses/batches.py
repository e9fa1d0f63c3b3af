"""What every defense asks of its input."""

import torch
from torch import Tensor


def require_images(x: Tensor) -> None:
    """ValueError in one line for what is not a batch of float images `[B,3,H,W]`."""
    if not torch.is_floating_point(x):
        raise ValueError(f"images must be float in [0,1], got {x.dtype}; divide 8-bit images by 255")
    if x.ndim != 4 or x.shape[1] != 3 or not x.numel():
        raise ValueError(f"images must have shape [B,3,H,W], none of them 0, got {list(x.shape)}")
