"""Features of any network at a named module: the network is cut at the tap, nothing after it is computed."""

import difflib

from torch import Tensor, nn

from lib.networks.normalised import Normalised


class _Reached(Exception):
    """Carries the tapped output out of the network's forward pass."""

    def __init__(self, output: Tensor):
        self.output = output


def tapped_module(network: nn.Module, tap: str) -> nn.Module:
    """The submodule called `tap`; names are relative to the inner network of a `Normalised`.

    ValueError in one line for an unknown name, with the names nearest to it.
    """
    inner = network.network if isinstance(network, Normalised) else network
    modules = {name: module for name, module in inner.named_modules() if name}
    if tap not in modules:
        close = difflib.get_close_matches(tap, modules, n=3, cutoff=0.0)
        raise ValueError(f"{type(inner).__name__} has no tap '{tap}'; close names: {', '.join(close) or 'none'}")
    return modules[tap]


class Tap(nn.Module):
    """`Tap(network, "features.15")(x)` is the output of that submodule for images x `[B,3,H,W]`.

    The forward pass stops there, so nothing later can be paid for or overwrite the result in place. Differentiable
    with respect to x; preprocessing before the tap (a `Normalised`'s) is kept; a module that the network calls several
    times gives its first output. The wrapped network is shared, not copied, and left as found.
    """

    def __init__(self, network: nn.Module, tap: str):
        super().__init__()
        tapped_module(network, tap)
        self.network = network
        self.tap = tap
        # An attack that saves the mode, calls eval() and restores the mode must restore the network's own.
        self.training = network.training

    def extra_repr(self) -> str:
        """What distinguishes two taps of one network; stored results are keyed by it."""
        return f"tap={self.tap}"

    def forward(self, x: Tensor) -> Tensor:
        handle = tapped_module(self.network, self.tap).register_forward_hook(_stop)
        try:
            self.network(x)
        except _Reached as reached:
            return reached.output
        finally:
            handle.remove()
        raise RuntimeError(f"the forward pass of {type(self.network).__name__} never reached tap '{self.tap}'")


def _stop(module: nn.Module, inputs: tuple, output: Tensor) -> None:
    raise _Reached(output)
