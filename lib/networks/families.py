"""The families of networks: each registers beside its architectures how an entry of a scale becomes a network.

`lib.zoo` imports the modules that register. A `spec` is an entry of a scale's `networks` (`lib.settings.NetworkSpec`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn


class Family(NamedTuple):
    """build: spec -> the architecture, with random weights.  trained: by the pipeline.

    convert: the state dict of a published file -> the architecture's.  load: (spec, file) -> the network, for a file
    that is no state dict, or a library's.  file: (spec, download) -> the file of a library's weights tag, or None.
    """

    build: Callable[[Any], nn.Module] | None
    trained: bool = False
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict
    load: Callable[[Any, Path], nn.Module] | None = None
    file: Callable[[Any, bool], Path | None] | None = None


FAMILIES: dict[str, Family] = {}


def family(name: str, *sizes: str, **facts: Any) -> Callable:
    """Registers the architecture, or the dict of architectures by name, that it is applied to, and returns it.

    sizes: the fields of a spec that an architecture is called with.  facts: as of `Family`.  Its builder raises
    ValueError in one line for an architecture that is not in the dict.
    """

    def register(made: Any) -> Any:
        def build(spec: Any) -> nn.Module:
            if isinstance(made, dict) and spec.architecture not in made:
                raise ValueError(f"family {name} has no architecture '{spec.architecture}', only {', '.join(made)}")
            architecture = made[spec.architecture] if isinstance(made, dict) else made
            return architecture(*(getattr(spec, size) for size in sizes))

        FAMILIES[name] = Family(build, **facts)
        return made

    return register
