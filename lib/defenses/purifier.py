"""The paper's defense, a Neural Representation Purifier (`lib.networks.purifier`) before the victim, and its control.

Source: NRP/purify.py. Unlike the transforms of Appendix E it has a gradient, the true one, for attacks that know of it
(`lib.attacks.adaptive`).
"""

import hashlib

import torch
from torch import Tensor, nn

from lib import linf
from lib.checks import checked_images, evaluating, finite, of_shape
from lib.rng import Streams

NOISE = 0.05  # standard deviation of the paper's dynamic inference, 12.75 levels (NRP/purify.py:50-55)

MAX_HALO = 64  # tiles overlap by no more than this on each side


def nrp(
    x: Tensor, *, network: nn.Module, noise: float = 0.0, eps: float = 16 / 255, seed: int = 0, tile: int | None = None
) -> Tensor:
    """Purified images `[B,3,H,W]` in [0,1], float32 (float64 stays), of images of that shape and device.

    x may leave [0,1], as the first iterate of PGD does.  network: a loaded purifier, not changed.
    noise: standard deviation of the normal noise that is added first (NRP/purify.py:50-55). 0 is the paper's static
    inference, NOISE its dynamic one.  eps, seed: as of `noisy`.
    tile: None, or the side of the squares in which large images are purified to save memory; see `in_tiles`.

    Differentiable in x, exactly; the noise counts as constant. Errors as of `lib.checks.checked_images`.
    """
    kind = checked_images(x, eps, [network], clipped=False, noise=noise).dtype
    x = noisy(x.to(kind), noise, eps, seed).clone()  # a network may change its input in place
    # Half precision would round what is purified, whatever the victim runs in.
    with evaluating(network), torch.autocast(x.device.type, enabled=False):
        purified = network(x) if tile is None else in_tiles(network, x, tile)
    purified = of_shape(purified, x, f"the purifier {type(network).__name__}")
    return finite(purified, "what the purifier gives").to(x.dtype).clamp(0, 1)


def noise(x: Tensor, *, noise: float = NOISE, eps: float = 16 / 255, seed: int = 0) -> Tensor:
    """Images with the noise of the dynamic NRP alone: the control of every purifier."""
    return nrp(x, network=nn.Identity(), noise=noise, eps=eps, seed=seed)


def noisy(x: Tensor, noise: float, eps: float, seed: int) -> Tensor:
    """Images plus normal noise of this standard deviation, within `eps` of them and in [0,1]; unchanged for 0.

    seed: of the noise, which depends on it and on the image's own content, not on the batch or the device. The iterates
    of an attack meet fresh noise at every step, even with the defender's seed: one step's tells nothing of the next.
    """
    if not noise:
        return x
    normal = Streams(seed, contents(x), "nrp").normal(*x.shape[1:])
    return linf.project(x + noise * normal.to(x), x, eps)


def contents(x: Tensor) -> list[str]:
    """A digest of each image, at 16 bits per value: in a float's last bits one device differs from another."""
    levels = (x.detach() * 65535).round().to(torch.int32).cpu().numpy()
    return [hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest() for image in levels]


def in_tiles(network: nn.Module, x: Tensor, tile: int) -> Tensor:
    """`network(x)` for images of any size, computed in windows of at most `tile` x `tile` pixels.

    Of every window only those pixels are kept that its cut edges cannot reach (`halo`), so the result is that of the
    whole image up to rounding; of the big NRP, which reaches 347 pixels, an approximation.
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
    """How many pixels away an input pixel can change the output, at most MAX_HALO: all convolutions are taken to be on
    one path, 2 * blocks + 2 for NRPResG, 15 * blocks + 2 for NRP."""
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    return min(sum(max(layer.dilation) * (max(layer.kernel_size) // 2) for layer in convolutions), MAX_HALO)
