"""Features of any network at named modules: the forward pass ends at the last of them, nothing after it is computed."""

import difflib
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from lib.networks.normalised import Normalised


class _Reached(Exception):
    """Ends the network's forward pass."""


def tapped_modules(network: nn.Module, taps: Sequence[str]) -> dict[str, nn.Module]:
    """The submodules of these names, which are relative to the inner network of a `Normalised`.

    ValueError in one line for an unknown name, with the names nearest to it, and for no name.
    """
    if not taps:
        raise ValueError("at least one tap is needed")
    inner = network.network if isinstance(network, Normalised) else network
    modules = {name: module for name, module in inner.named_modules() if name}
    for tap in taps:
        if tap not in modules:
            close = difflib.get_close_matches(tap, modules, n=3, cutoff=0.0)
            raise ValueError(f"{type(inner).__name__} has no tap '{tap}'; close names: {', '.join(close) or 'none'}")
    return {tap: modules[tap] for tap in taps}


def activations(network: nn.Module, modules: Mapping[str, nn.Module], x: Tensor) -> list[Tensor]:
    """The outputs of the tapped modules for images x `[B,3,H,W]`, from one forward pass that ends at the last one.

    modules: of `tapped_modules`, in the order in which they run.  RuntimeError where the last never runs.
    """
    found: dict[nn.Module, Tensor] = {}
    last = list(modules)[-1]

    def record(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        found[module] = output
        if module is modules[last]:
            raise _Reached

    handles = [module.register_forward_hook(record) for module in modules.values()]
    try:
        network(x)
    except _Reached:
        return [found[module] for module in modules.values()]
    finally:
        for handle in handles:
            handle.remove()
    raise RuntimeError(f"the forward pass of {type(network).__name__} never reached tap '{last}'")


class Tap(nn.Module):
    """`Tap(network, "features.15")(x)` is the output of that submodule for images x `[B,3,H,W]`.

    The forward pass stops there, so nothing later can be paid for or overwrite the result in place. Differentiable
    with respect to x; preprocessing before the tap (a `Normalised`'s) is kept; a module that the network calls several
    times gives its first output. The wrapped network is shared, not copied, and left as found.
    """

    def __init__(self, network: nn.Module, tap: str):
        super().__init__()
        tapped_modules(network, [tap])
        self.network = network
        self.tap = tap
        # An attack that saves the mode, calls eval() and restores the mode must restore the network's own.
        self.training = network.training

    def extra_repr(self) -> str:
        """What distinguishes two taps of one network; stored results are keyed by it."""
        return f"tap={self.tap}"

    def forward(self, x: Tensor) -> Tensor:
        return activations(self.network, tapped_modules(self.network, [self.tap]), x)[0]
