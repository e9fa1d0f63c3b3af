"""The paper's defense: a Neural Representation Purifier (`lib.networks.purifier`) before the victim.

Source: NRP/purify.py. Unlike the transforms of Appendix E it has a gradient, the true one, for attacks that know of it
(`lib.attacks.adaptive`).
"""

import torch
from torch import Tensor, nn

from lib.checks import checked_images, evaluating, finite, of_shape
from lib.defenses.noise import noisy

HALF = torch.float16, torch.bfloat16
MAX_HALO = 64  # tiles overlap by no more than this on each side


def nrp(
    x: Tensor, *, network: nn.Module, noise: float = 0.0, eps: float = 16 / 255, seed: int = 0, tile: int | None = None
) -> Tensor:
    """Purified images `[B,3,H,W]` in [0,1], float32 (float64 stays), of images of that shape and device.

    x may leave [0,1], as the first iterate of PGD does.  network: a loaded purifier, not changed.
    noise: standard deviation of the normal noise that is added first and projected to within `eps` of x and to [0,1]
    (NRP/purify.py:50-55). 0 is the paper's static inference, `lib.defenses.noise.NOISE` its dynamic one.
    seed: of the noise, as of `noisy`.
    tile: None, or the side of the squares in which large images are purified to save memory; see `in_tiles`.

    Differentiable in x, exactly: through the clamp, the network and the projection; the noise counts as constant.
    ValueError or TypeError in one line as of `lib.checks.checked_images`, and for options that mean nothing.
    """
    kind = checked_images(x, eps, [network], clipped=False, noise=noise).dtype
    x = noisy(x.to(kind), noise, eps, seed).clone()  # a network may change its input in place
    # Half precision would round what is purified, whatever the victim runs in.
    with evaluating(network), torch.autocast(x.device.type, enabled=False):
        purified = network(x) if tile is None else in_tiles(network, x, tile)
    purified = of_shape(purified, x, f"the purifier {type(network).__name__}")
    return finite(purified, "what the purifier gives").to(x.dtype).clamp(0, 1)


def in_tiles(network: nn.Module, x: Tensor, tile: int) -> Tensor:
    """`network(x)` for images of any size, computed in windows of at most `tile` x `tile` pixels.

    Of every window only those pixels are kept that its cut edges cannot reach (`halo`), so the result is that of the
    whole image up to rounding. The big NRP reaches 347 pixels; its overlap is capped at MAX_HALO, so its result is an
    approximation. ValueError for a tile of which nothing would be kept.
    """
    edge = halo(network)
    if tile <= 2 * edge:
        raise ValueError(f"tile must be more than {2 * edge} pixels for this purifier, got {tile}")
    # What is kept of a window; a side of the image that fits is not cut.
    height, width = (size if size <= tile else tile - 2 * edge for size in x.shape[-2:])

    def kept(top: int, left: int) -> Tensor:
        above, before = min(top, edge), min(left, edge)
        window = x[..., top - above : top + height + edge, left - before : left + width + edge]
        return network(window)[..., above : above + height, before : before + width]

    tops, lefts = range(0, x.shape[-2], height), range(0, x.shape[-1], width)
    return torch.cat([torch.cat([kept(top, left) for left in lefts], -1) for top in tops], -2)


def halo(network: nn.Module) -> int:
    """How many pixels away an input pixel can change the output, at most MAX_HALO.

    The sum over all convolutions, each taken to be on the longest path and to keep the size: 2 * blocks + 2 for
    NRPResG; NRP's 15 * blocks + 2 is cut to the cap from 5 blocks on.
    """
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    reach = sum(max(layer.dilation) * (max(layer.kernel_size) // 2) for layer in convolutions)
    return min(reach, MAX_HALO)
