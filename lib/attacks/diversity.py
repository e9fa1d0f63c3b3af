"""Input diversity (DIM) and the translation-invariant kernel (DIM-TI)."""

from collections.abc import Callable

import torch
from torch import Tensor

from lib.checks import checked_logits
from lib.rng import Streams

RATIO = 330 / 299  # the released code resizes 299-pixel images to 299..329 and pads to 330
FILL = 0.5  # mid-grey, zero in the released code's [-1,1] input space


def resize_and_pad(x: Tensor, streams: Streams) -> Tensor:
    """Each image `[C,H,W]` enlarged (nearest neighbour) to a random size and padded to `[C,RATIO*H,RATIO*W]`.

    Size uniform over the whole numbers from H to RATIO*H - 1, offset uniform over what is left; the result stays
    enlarged, as in the released code (Translation-Invariant-Attacks and DI-2-FGSM, attack_iter.py, `input_diversity`).
    One draw per image; the released code draws once per batch, which would make results depend on the batch.
    ValueError for images too small to be enlarged by a pixel.
    """
    height, width = x.shape[-2:]
    tall, wide = round(height * RATIO), round(width * RATIO)
    if tall <= height or wide <= width:
        raise ValueError(f"images of {height}x{width} are too small for input diversity; the least size is 5x5")
    new_height = streams.integers(height, tall)
    new_width = (width + (new_height - height) * (wide - width) // (tall - height)).clamp(max=wide - 1)
    rows = selection(height, new_height, streams.integers(0, tall - new_height), tall).to(x)
    columns = selection(width, new_width, streams.integers(0, wide - new_width), wide).to(x)
    inside = rows.sum(-1)[:, None, :, None] * columns.sum(-1)[:, None, None, :]
    # The caller's autocast would round the images.
    with torch.autocast(x.device.type, enabled=False):
        return rows[:, None] @ x @ columns[:, None].mT + FILL * (1 - inside)


def selection(size: int, new_size: Tensor, offset: Tensor, out: int) -> Tensor:
    """0/1 matrices `[B,out,size]`: row i picks the source of output position i, or nothing in the padding. The product
    with them is an exact nearest-neighbour resize and pad of images that are all resized differently."""
    position = torch.arange(out, device="cpu")[None] - offset[:, None]
    source = position * size // new_size[:, None]
    valid = (position >= 0) & (position < new_size[:, None])
    return ((torch.arange(size, device="cpu") == source[..., None]) & valid[..., None]).float()


def diverse(network: Callable[[Tensor], Tensor], streams: Streams, probability: float) -> Callable[[Tensor], Tensor]:
    """`network` on images of which each is, with `probability`, randomly resized and padded first."""

    def forward(x: Tensor) -> Tensor:
        chosen = streams.uniform() < probability
        moved = resize_and_pad(x, streams)
        groups = [(moved, chosen), (x, ~chosen)]
        parts = [images[mask.to(x.device)] for images, mask in groups if mask.any()]
        outputs = [checked_logits(network(part), len(part)) for part in parts]
        order = torch.cat([mask.nonzero().flatten() for _, mask in groups]).argsort()
        return torch.cat(outputs)[order.to(x.device)]

    return forward


def translation_kernel(size: int = 15, edge: float = 3.0) -> Tensor:
    """The Gaussian kernel `[size,size]` of DIM-TI: the normal density at `size` points on [-edge, edge], so that sigma
    is 7/3 pixels by default (Translation-Invariant-Attacks, attack_iter.py, `gkern`)."""
    points = torch.linspace(-edge, edge, size, dtype=torch.float64, device="cpu")
    density = torch.exp(-(points**2) / 2)
    kernel = density[:, None] * density[None, :]
    return (kernel / kernel.sum()).float()
