"""What a network is, as a part of a store's key."""

import inspect
from pathlib import Path

from torch import nn

from lib.store import code_digest, digest


def network_digest(network: nn.Module) -> str:
    """SHA-256 of the weights, buffers (normalisation included), structure and code of lib."""
    tensors = {
        name: tensor.detach().cpu().numpy() for name, tensor in [*network.named_parameters(), *network.named_buffers()]
    }
    kinds = {type(module) for module in network.modules() if type(module).__module__.startswith("lib.")}
    code = code_digest({Path(inspect.getfile(kind)) for kind in kinds})
    return digest(repr(network), code, *[part for name in sorted(tensors) for part in (name, tensors[name])])
