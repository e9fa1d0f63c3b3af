"""Input diversity (DIM) and the translation-invariant kernel (DIM-TI)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.checks import checked_logits, numbers
from lib.rng import Streams, moved

RATIO = 330 / 299  # the released code resizes 299-pixel images to 299..329 and pads to 330
FILL = 0.5  # mid-grey, zero in the released code's [-1,1] input space


def resize_and_pad(x: Tensor, streams: Streams, chosen: Tensor | None = None) -> Tensor:
    """Each image `[C,H,W]` enlarged (nearest neighbour) to a random size and padded to `[C,RATIO*H,RATIO*W]`; chosen:
    bool `[B]`, those to return (default all).

    Size uniform over the whole numbers from H to RATIO*H - 1, offset uniform over what is left; the result stays
    enlarged (Translation-Invariant-Attacks and DI-2-FGSM, attack_iter.py, `input_diversity`; there one draw for the
    whole batch, on which results would depend). ValueError for images too small to be enlarged by a pixel.
    """
    height, width = x.shape[-2:]
    tall, wide = round(height * RATIO), round(width * RATIO)
    if tall <= height or wide <= width:
        raise ValueError(f"images of {height}x{width} are too small for input diversity; the least size is 5x5")
    new_height = streams.integers(height, tall)
    new_width = (width + (new_height - height) * (wide - width) // (tall - height)).clamp(max=wide - 1)
    top, left = streams.integers(0, tall - new_height), streams.integers(0, wide - new_width)
    drawn = torch.stack([new_height, new_width, top, left], 1)
    if chosen is not None:
        x, drawn = x[moved(chosen.nonzero().flatten(), x)], drawn[chosen]
    return (placed if x.device.type == "cpu" else placed_at_once)(x, drawn, tall, wide)


def placed(x: Tensor, drawn: Tensor, tall: int, wide: int) -> Tensor:
    """Each image enlarged to its size and put at its place, `[B,C,tall,wide]`; drawn: `[B,4]`, the height, width, top
    and left of each."""
    images = []
    for image, (new_height, new_width, top, left) in zip(x, drawn.tolist(), strict=True):
        rows = torch.arange(new_height, device="cpu") * x.shape[-2] // new_height
        columns = torch.arange(new_width, device="cpu") * x.shape[-1] // new_width
        around = (left, wide - new_width - left, top, tall - new_height - top)
        images.append(F.pad(image.index_select(2, columns).index_select(1, rows), around, value=FILL))
    return torch.stack(images) if images else x.new_empty(0, x.shape[1], tall, wide)


def placed_at_once(x: Tensor, drawn: Tensor, tall: int, wide: int) -> Tensor:
    """The same for all images at once, as a GPU wants it."""
    new_height, new_width, top, left = moved(drawn, x).T
    rows = selection(x.shape[-2], new_height, top, tall).to(x.dtype)
    columns = selection(x.shape[-1], new_width, left, wide).to(x.dtype)
    inside = rows.sum(-1)[:, None, :, None] * columns.sum(-1)[:, None, None, :]
    # The caller's autocast would round the images.
    with torch.autocast(x.device.type, enabled=False):
        return rows[:, None] @ x @ columns[:, None].mT + FILL * (1 - inside)


def selection(size: int, new_size: Tensor, offset: Tensor, out: int) -> Tensor:
    """0/1 matrices `[B,out,size]`: row i picks the source of output position i, or nothing in the padding. The product
    with them is an exact nearest-neighbour resize and pad of images that are all resized differently."""
    position = torch.arange(out, device=offset.device)[None] - offset[:, None]
    source = position * size // new_size[:, None]
    valid = (position >= 0) & (position < new_size[:, None])
    return ((torch.arange(size, device=offset.device) == source[..., None]) & valid[..., None]).float()


def diverse(network: Callable[[Tensor], Tensor], streams: Streams, probability: float) -> Callable[[Tensor], Tensor]:
    """`network` on images of which each is, with `probability`, randomly resized and padded first."""

    def forward(x: Tensor) -> Tensor:
        chosen = streams.uniform() < probability
        resized = resize_and_pad(x, streams, chosen)
        others = (~chosen).nonzero().flatten()
        groups = [group for group in (resized, x[moved(others, x)]) if len(group)]
        order = torch.cat([chosen.nonzero().flatten(), others]).argsort()
        # Images are the last dimension but one, with several draws of a defense too.
        outputs = [checked_logits(network(group), len(group)) for group in groups]
        return torch.cat(outputs, -2).index_select(-2, moved(order, x))

    return forward


def translation_kernel(size: int = 15, edge: float = 3.0) -> Tensor:
    """The Gaussian kernel `[size,size]` of DIM-TI: the normal density at `size` points on [-edge, edge], so that sigma
    is 7/3 pixels by default (Translation-Invariant-Attacks, attack_iter.py, `gkern`)."""
    numbers(1, whole=True, kernel=size)
    numbers(0, edge=edge)
    if size % 2 == 0:
        raise ValueError(f"kernel must be odd, so that it has a middle, got {size}")
    points = torch.linspace(-edge, edge, size, dtype=torch.float64, device="cpu")
    density = torch.exp(-(points**2) / 2)
    kernel = density[:, None] * density[None, :]
    return (kernel / kernel.sum()).float()
