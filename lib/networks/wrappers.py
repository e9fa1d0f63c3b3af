"""Modules around any network: images in [0,1] instead of normalised ones, half precision, features at a named layer."""

import copy
import difflib
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.checks import unwrapped
from lib.networks.frozen import is_folded
from lib.units import in_unit_range


class Normalised(nn.Module):
    """`network((x - mean) / std)` for images x `[B,3,H,W]`, RGB, in [0,1].

    resize: side of the square that the network wants, or None to feed images at their own size.  background: the
    network's first logit is TF-Slim's "background" class and is dropped, so that labels are 0-based everywhere.
    ValueError for a mean or a deviation in levels, such as 123.7, and for others than three numbers each.
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
        if len(mean) != 3 or len(std) != 3 or not min(std) > 0 <= min(mean):
            raise ValueError(f"mean and std must be three numbers each, from 0 on, std above 0, got {mean} and {std}")
        in_unit_range(mean=max(mean), std=max(std))
        self.network, self.resize, self.background = network, resize, background
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)

    def extra_repr(self) -> str:
        """Stored results are keyed by it."""
        return f"resize={self.resize}, background={self.background}"

    def forward(self, x: Tensor) -> Tensor:
        if self.resize and x.shape[-2:] != (self.resize, self.resize):
            x = F.interpolate(x, (self.resize, self.resize), mode="bilinear", antialias=True, align_corners=False)
        logits = self.network((x - self.mean) / self.std)
        return logits[:, 1:] if self.background else logits


class Bf16(nn.Module):
    """`network` under bfloat16 autocast; images go in and results come out as float32.

    About 2.5 times faster than float32 on CPUs with AVX-512 bf16, but 12 to 18 % of the gradient's signs differ
    (docs/performance.md), so it is an option of a scale (`precision: bf16`) for surrogates only.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.network(x).float()


class Tf32(nn.Module):
    """`network`, which `lib.attacks.shards` attacks with a GPU's TF32: products of ten bits, sums in float32."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


SURROGATES = {"float32": lambda network: network, "tf32": Tf32, "bf16": Bf16}  # as a scale's `precision` says


class Tap(nn.Module):
    """`Tap(network, "features.15")(x)` is the output of that submodule for images x `[B,3,H,W]`, with a gradient.

    The forward pass stops there, so nothing later can be paid for or overwrite the result in place. A `Normalised`'s
    preprocessing is kept; a module that is called several times gives its first output. The network, of a compiled one
    or one in DataParallel the one inside, is shared, not copied, and left as found.
    """

    def __init__(self, network: nn.Module, tap: str):
        super().__init__()
        network = plain(network)
        tapped_modules(network, [tap])
        self.network, self.tap = network, tap
        # An attack that saves the mode, calls eval() and restores the mode must restore the network's own.
        self.training = network.training

    def extra_repr(self) -> str:
        """Stored results are keyed by it."""
        return f"tap={self.tap}"

    def forward(self, x: Tensor) -> Tensor:
        return activations(self.network, tapped_modules(self.network, [self.tap]), x)[0]


def plain(network: nn.Module) -> nn.Module:
    """The network without `torch.compile` or DataParallel around it, or around what a `Normalised` holds: compiled code
    need not call the hooks that read a layer."""
    network = unwrapped(network)
    if isinstance(network, Normalised) and (inner := unwrapped(network.network)) is not network.network:
        network = copy.copy(network)
        network._modules = {**network._modules, "network": inner}
    return network


def tapped_modules(network: nn.Module, taps: Sequence[str]) -> dict[str, nn.Module]:
    """The `inner_modules` of these names; ValueError in one line for an unknown name, with the names nearest to it, and
    for no name."""
    if not taps:
        raise ValueError("at least one tap is needed")
    modules = inner_modules(network)
    for tap in taps:
        if tap not in modules:
            kind = type(network.network if isinstance(network, Normalised) else network).__name__
            close = difflib.get_close_matches(tap, modules, n=3, cutoff=0.0)
            raise ValueError(f"{kind} has no tap '{tap}'; close names: {', '.join(close) or 'none'}")
        if is_folded(modules[tap]):
            hint = "and no output of its own; tap a network without, of lib.zoo.load"
            raise ValueError(f"'{tap}' has a BatchNorm folded in, {hint}")
    return {tap: modules[tap] for tap in taps}


def inner_modules(network: nn.Module) -> dict[str, nn.Module]:
    """All submodules by name, of a `Normalised` those of the network within."""
    inner = network.network if isinstance(network, Normalised) else network
    return {name: module for name, module in inner.named_modules() if name}


class _Reached(Exception):
    """Ends the network's forward pass."""


def activations(network: nn.Module, modules: Mapping[str, nn.Module], x: Tensor) -> list[Tensor]:
    """The outputs of the `tapped_modules`, for images x `[B,3,H,W]`, from one forward pass that ends when all have run.
    RuntimeError where one never runs."""
    found: dict[nn.Module, Tensor] = {}
    wanted = set(modules.values())

    def record(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        found.setdefault(module, output)
        if len(found) == len(wanted):
            raise _Reached

    handles = [module.register_forward_hook(record) for module in modules.values()]
    try:
        network(x)
    except _Reached:
        return [found[module] for module in modules.values()]
    finally:
        for handle in handles:
            handle.remove()
    missing = next(name for name, module in modules.items() if module not in found)
    raise RuntimeError(f"the forward pass of {type(network).__name__} never reached tap '{missing}'")
