"""Faster copies of networks whose weights no longer change: each BatchNorm in the convolution before it.

    folded(network)     # after network.eval(); its logits and gradients are the same up to rounding

Module names stay, so that layers can be tapped as before; only a convolution with something folded in has no output of
its own left (`lib.networks.wrappers.tapped_modules` refuses it).
"""

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

# Kinds by name, as torchvision and timm take seconds to import. A convolution that computes its weight is none of them.
CONVOLUTIONS = {"torch.nn.modules.conv.Conv2d", "timm.layers.conv2d_same.Conv2dSame"}
NORMS = {"torch.nn.modules.batchnorm.BatchNorm2d", "torchvision.ops.misc.FrozenBatchNorm2d"}
NORMS |= {"timm.layers.norm_act.BatchNormAct2d"}


class Folded(nn.Sequential):
    """In the place of a BatchNorm: the identity, and what timm's applies after it."""


def folded(network: nn.Module, keep: Collection[nn.Module] = ()) -> nn.Module:
    """The network, in eval mode, with every BatchNorm folded that is all that reads a convolution's output.

    Changed in place; folded in float64. keep: convolutions whose own output is wanted. What torch.fx cannot trace is
    searched part by part, and what cannot be shown to be such a pair is left as it is.
    """
    names = list(network.named_modules(remove_duplicate=False))
    uses = Counter(module for _, module in names)
    for conv, norm in list(_pairs(network)):
        if uses[conv] == uses[norm] == 1 and conv not in keep:
            _fold(conv, norm)
            (path,) = (name for name, module in names if module is norm)
            after = [(name, part) for name, part in norm.named_children() if not isinstance(part, nn.Identity)]
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, Folded(OrderedDict(after)))
    return network


def is_folded(module: nn.Module) -> bool:
    """Whether a convolution gives what its BatchNorm gave."""
    return getattr(module, "folded", False)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return kind(module) in CONVOLUTIONS | NORMS or super().is_leaf_module(module, name)


def kind(module: nn.Module) -> str:
    """The class of a module with where it is defined."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _pairs(network: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Convolutions and the BatchNorms that alone read them, each called once in a forward pass of `network`."""
    try:
        graph = _traced(network)
    except Exception:  # a forward pass that looks at values or shapes; what it raises when traced can be anything
        for child in network.children():
            yield from _pairs(child)
        return
    calls = [node for node in graph.nodes if node.op == "call_module"]
    count = Counter(node.target for node in calls)
    read = {node.target.rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    for node in calls:
        norm, before = network.get_submodule(node.target), node.args[0] if node.args else None
        if kind(norm) not in NORMS or not isinstance(before, fx.Node) or before.op != "call_module":
            continue
        conv, targets = network.get_submodule(before.target), (before.target, node.target)
        alone = len(before.users) == 1 and all(count[target] == 1 and target not in read for target in targets)
        if kind(conv) in CONVOLUTIONS and alone and norm.running_mean is not None and not conv.training:
            yield conv, norm


def _traced(network: nn.Module) -> fx.Graph:
    """Its graph; what modules keep of their input, as torchvision's pooling of regions does, is put back."""
    before = [(vars(module), dict(vars(module))) for module in network.modules()]
    try:
        return _Tracer().trace(network)
    finally:
        for attributes, known in before:
            attributes.clear()
            attributes.update(known)


@torch.no_grad()
def _fold(conv: nn.Module, norm: nn.Module) -> None:
    given = (conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    *before, scale, shift = (None if tensor is None else tensor.double() for tensor in given)
    made = fuse_conv_bn_weights(*before, norm.eps, scale, shift)
    like = conv.weight
    conv.weight, conv.bias = (nn.Parameter(tensor.to(like.dtype), like.requires_grad) for tensor in made)
    conv.folded = True
