"""The outputs of many layers in one forward pass."""

from collections.abc import Sequence

from torch import Tensor, nn

from lib.networks.taps import Tap, tapped_module


class Responses:
    """`with Responses(network, taps) as responses: responses(x)` gives the taps' outputs, in the order of `taps`.

    taps: module names in the order in which the network runs them; the forward pass stops at the last one. The hooks
    are gone afterwards. ValueError for an unknown name or no name.
    """

    def __init__(self, network: nn.Module, taps: Sequence[str]):
        if not taps:
            raise ValueError("at least one tap is needed")
        self.modules = [tapped_module(network, tap) for tap in taps]
        self.end = Tap(network, taps[-1])

    def __enter__(self) -> "Responses":
        self.outputs: dict[int, Tensor] = {}
        self.handles = [
            module.register_forward_hook(self._recorder(index)) for index, module in enumerate(self.modules[:-1])
        ]
        return self

    def __exit__(self, *exc: object) -> None:
        for handle in self.handles:
            handle.remove()

    def __call__(self, x: Tensor) -> list[Tensor]:
        last = self.end(x)
        return [*(self.outputs[index] for index in range(len(self.modules) - 1)), last]

    def _recorder(self, index: int):
        def record(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            self.outputs[index] = output

        return record
