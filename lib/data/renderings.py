"""Comics and paintings made from photographs: stand-ins for two source domains of CDA (Naseer et al. 2019).

The real collections, Kaggle's comic-books-classification and painter-by-numbers, need an account there (see `companion
data`). A rendering has their flat colours within ink lines, or strokes that follow the forms, but the photograph's
subjects, composition and light, and one hand in place of hundreds.

No weights, no random numbers: the same bytes on every call. Widths of lines and strokes are in pixels, chosen by eye
for photographs with sides of 250 to 650.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn.functional import grid_sample
from torchvision.transforms.functional import to_pil_image

from lib.checks import checked_bytes
from lib.units import to_bytes, unit_images

LEAST_SIDE = 32  # of the smallest picture: below, a line is as wide as what it bounds


def comic(image: Tensor) -> Tensor:
    """A photograph, uint8 `[3,H,W]`, as flat colours within ink lines: at most 20, and under a line 2 shades of each.

    The lines are the dark side of a difference of Gaussians, smoothed along the edges (Kang et al. 2007, "Coherent
    line drawing"); the colours are Pillow's k-means.  TypeError for other than uint8, ValueError for another shape.
    """
    x = _floats(image)
    x = along(x, tangents(x), 4)
    directions = tangents(x)
    colour = flat_colours(along(x, directions, 2))
    return to_bytes((colour * (1 - ink(x, directions))).clamp(0, 1)).contiguous()


def painting(image: Tensor) -> Tensor:
    """A photograph, uint8 `[3,H,W]`, in strokes that follow its structures. Errors as of `comic`.

    Smoothing along the edges in turn with sharpening across them (Kyprianidis and Kang 2011, "Image and video
    abstraction by coherence-enhancing filtering").
    """
    x = _floats(image)
    for sigma in (5, 4):
        directions = tangents(x)
        x = shock(along(x, directions, sigma), directions)
    x = along(x, directions, 1)  # takes the jags off the borders of the strokes
    return torch.from_numpy(np.array(_vivid(x, 1.2))).permute(2, 0, 1).contiguous()


RENDERINGS: dict[str, Callable[[Tensor], Tensor]] = {"comic": comic, "painting": painting}


def tangents(x: Tensor, sigma: float = 2) -> Tensor:
    """Unit vectors (x, y), `[2,H,W]`, along the edges of `x` `[3,H,W]`; their sign means nothing.

    The lesser eigenvector of the structure tensor in windows of the standard deviation `sigma`, summed over the
    channels (Di Zenzo 1986: edges between colours of one brightness count too).
    """
    from skimage.feature import structure_tensor  # here: no other training needs it

    tensors = [structure_tensor(channel, sigma, mode="nearest", order="rc") for channel in x.numpy()]
    yy, yx, xx = np.sum(tensors, axis=0)
    across = np.arctan2(2 * yx, xx - yy) / 2
    return torch.from_numpy(np.stack([-np.sin(across), np.cos(across)]).astype(np.float32))


def along(x: Tensor, directions: Tensor, sigma: float) -> Tensor:
    """`x` `[C,H,W]` averaged along curves that follow `directions` `[2,H,W]` both ways, with Gaussian weights.

    A line integral convolution (Cabral and Leedom 1993) in steps of one pixel, out to two standard deviations.
    """
    heading = torch.stack([directions, -directions], 1)  # [2,2 ways,H,W]
    place = _positions(x)[:, None].repeat(1, 2, 1, 1)
    total, weights = x.clone(), 1.0
    for step in range(1, math.ceil(2 * sigma) + 1):
        place = _inside(place + heading)
        weight = math.exp(-((step / sigma) ** 2) / 2)
        total += weight * _sample(x, place).sum(0)
        weights += 2 * weight
        heading = _onward(directions, place, heading)
    return total / weights


def shock(x: Tensor, directions: Tensor, sigma: float = 1.5) -> Tensor:
    """`x` `[3,H,W]` sharpened across `directions` `[2,H,W]`: each pixel takes its lightest or darkest neighbour there.

    The lightest where the brightness, smoothed by `sigma`, is convex down, the darkest where it is convex up.
    """
    smooth = torch.from_numpy(gaussian_filter(_grey(x).numpy(), sigma, mode="nearest"))
    normal = torch.stack([-directions[1], directions[0]])
    places = _positions(x)[:, None] + torch.stack([-normal, torch.zeros_like(normal), normal], 1)
    samples = _sample(torch.cat([x, smooth[None]]), _inside(places))  # [3 places,4,H,W]
    colours, (before, here, after) = samples[:, :3], samples[:, 3]
    brightness = torch.stack([_grey(colour) for colour in colours])
    bend = before + after - 2 * here
    chosen = torch.where(bend < 0, brightness.argmax(0), brightness.argmin(0))
    chosen[bend.abs() < 5e-4] = 1  # as good as flat: stays
    return colours.gather(0, chosen.expand(1, 3, -1, -1))[0]


def ink(x: Tensor, directions: Tensor) -> Tensor:
    """How dark the line is at each pixel of `x` `[3,H,W]`: 0 to 1 in steps of a third, `[H,W]`."""
    grey = _grey(x).numpy()
    difference = gaussian_filter(grey, 1.6, mode="nearest") - gaussian_filter(grey, 1, mode="nearest")
    line = along(torch.from_numpy(difference)[None], directions, 3)[0]
    # Few steps from no line to black: a little smoothness at its border, yet few colours.
    return ((line - 0.012) / 0.012).clamp(0, 1).mul(3).round() / 3


def flat_colours(x: Tensor) -> Tensor:
    """`x` `[3,H,W]` in at most 20 somewhat stronger colours, without specks; `[3,H,W]`."""
    picture = _vivid(x, 1.4)
    # On few pixels: Pillow's k-means is slow.
    few = picture.resize((96, 96), Image.Resampling.NEAREST).quantize(20, kmeans=1)
    indexed = picture.quantize(palette=few, dither=Image.Dither.NONE)
    palette = np.array(indexed.getpalette(), np.float32).reshape(-1, 3) / 255
    areas = Image.fromarray(np.asarray(indexed)).filter(ImageFilter.ModeFilter(5))
    return torch.from_numpy(palette[np.asarray(areas)]).permute(2, 0, 1)


def _floats(image: Tensor) -> Tensor:
    if min(checked_bytes(image, count=False).shape[1:]) < LEAST_SIDE:
        raise ValueError(f"H and W of an image must be at least {LEAST_SIDE}, got {list(image.shape)}")
    return unit_images(image.contiguous())


def _vivid(x: Tensor, saturation: float) -> Image.Image:
    """The picture of `x` `[3,H,W]` with its colours farther from grey by this factor."""
    return ImageEnhance.Color(to_pil_image(to_bytes(x.clamp(0, 1)))).enhance(saturation)


def _grey(x: Tensor) -> Tensor:
    """The brightness `[H,W]` of `[3,H,W]` (ITU-R BT.601)."""
    return 0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2]


def _positions(x: Tensor) -> Tensor:
    """The coordinates (x, y) of every pixel, `[2,H,W]`."""
    return torch.from_numpy(np.indices(x.shape[-2:], np.float32)[::-1].copy())


def _inside(places: Tensor) -> Tensor:
    """Coordinates `[2,n,H,W]` moved onto the image's border where they are beyond it."""
    height, width = places.shape[-2:]
    return torch.stack([places[0].clamp(0, width - 1), places[1].clamp(0, height - 1)])


def _sample(x: Tensor, places: Tensor) -> Tensor:
    """`x` `[C,H,W]` at the places `[2,n,H,W]` inside it, interpolated: `[n,C,H,W]`."""
    height, width = x.shape[-2:]
    grid = torch.stack([places[0] * (2 / (width - 1)), places[1] * (2 / (height - 1))], -1) - 1
    return grid_sample(x.expand(len(grid), -1, -1, -1), grid, padding_mode="border", align_corners=True)


def _onward(directions: Tensor, places: Tensor, heading: Tensor) -> Tensor:
    """The directions of the pixels nearest to the places `[2,n,H,W]`, with the sign that goes on as `heading` does."""
    nearest = places[1].round().long() * directions.shape[2] + places[0].round().long()
    turned = directions.flatten(1)[:, nearest]
    return torch.where((turned * heading).sum(0) < 0, -turned, turned)
