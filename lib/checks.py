"""What attacks, defenses, trainings and tasks refuse of their images, labels and networks, in one line each; and
`evaluating` and `unchanged_networks`, with which they leave a network as they found it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from numbers import Integral, Real

import torch
from torch import Tensor, nn

from lib.units import in_unit_range

Amount = float | Tensor
Defense = Callable[[Tensor], Tensor]  # images [B,3,H,W] in [0,1] -> the same shape and range


def checked_images(
    x: Tensor, eps: Amount = 0.0, networks: Iterable[nn.Module] = (), *, clipped: bool = True, **amounts: Amount
) -> Tensor:
    """The images `[B,3,H,W]`, detached: in the type of the networks, else float32 (float64 stays).

    eps, amounts (step, alpha, noise): in [0,1] units, each a number or one per image `[B,1,1,1]`.  networks: that will
    see the images.  clipped: whether values outside [0,1] are refused.  TypeError or ValueError for another type, shape
    or range, budgets in levels, and networks of another type, on another device or made in inference mode.
    """
    shape_checked(x)
    low, high = x.min().item(), x.max().item()
    if not -math.inf < low <= high < math.inf:
        raise ValueError(f"images must lie in [0,1], got values that are not finite: [{low:.3g}, {high:.3g}]")
    if clipped and not (low >= 0 and high <= 1):
        hint = "divide 0-255 levels by 255" if low >= 0 and high > 16 else "the network normalises them itself"
        hint = "clip what rounding leaves: x.clamp(0, 1)" if low > -0.1 and high < 1.1 else hint
        raise ValueError(f"images must lie in [0,1], got [{low:.8g}, {high:.8g}]; {hint}")
    in_unit_range(**{name: largest(name, value, len(x)) for name, value in {"eps": eps, **amounts}.items()})
    # Outside inference mode a tensor made within it passes no gradient; its copy does.
    x = (x.clone() if x.is_inference() else x).detach()
    wanted = network_type(x, networks)
    return x.to(wanted or (torch.float64 if x.dtype == torch.float64 else torch.float32))


def shape_checked(x: Tensor) -> None:
    """TypeError for what is no float tensor, ValueError for one that is not `[B,3,H,W]`."""
    if not isinstance(x, Tensor):
        raise TypeError(f"images must be a torch tensor [B,3,H,W], got {type(x).__name__}")
    if x.is_meta or x.is_nested or x.layout != torch.strided:
        raise TypeError("images must be a dense tensor [B,3,H,W], not sparse, nested or on the device meta")
    if not x.is_floating_point() or x.element_size() < 2:  # float8
        raise TypeError(f"images must be float in [0,1], got {x.dtype}; divide 8-bit images by 255")
    if x.ndim != 4 or x.shape[1] != 3 or not x.numel():
        turn = "; channels come second: x.permute(0, 3, 1, 2)" if x.ndim == 4 and x.shape[3] == 3 else ""
        one = "; one image: x[None]" if x.ndim == 3 and len(x) == 3 else ""
        raise ValueError(f"images must have shape [B,3,H,W], none of them 0, got {list(x.shape)}{turn}{one}")


def largest(name: str, amount: Amount, count: int) -> float:
    """The largest budget or step; of several the least one if that is not from 0 on."""
    if not isinstance(amount, Tensor):
        if isinstance(amount, bool) or not isinstance(amount, Real):
            raise TypeError(f"{name} must be a number in [0,1], or one per image as a tensor, got {amount!r}")
        return float(amount)
    if amount.numel() > 1 and amount.shape != (count, 1, 1, 1):
        raise ValueError(f"{name} must be a number or one per image, [{count},1,1,1], got {list(amount.shape)}")
    least, most = amount.min().item(), amount.max().item()
    return most if least >= 0 else least


def network_type(x: Tensor, networks: Iterable[nn.Module]) -> torch.dtype | None:
    """The type that the networks compute in: float64 if one does, None without parameters."""
    parameters = [one for net in networks if isinstance(net, nn.Module) for one in net.parameters()]
    kinds = set()
    for parameter in filter(Tensor.is_floating_point, parameters):
        if parameter.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"the network's weights are {parameter.dtype}; attack and evaluate network.float()")
        if parameter.is_inference():
            raise ValueError(
                "the network was made in torch.inference_mode(), so it passes no gradient; make it outside"
            )
        if parameter.device != x.device:
            raise ValueError(f"the images are on {x.device}, the network on {parameter.device}; move one")
        kinds.add(parameter.dtype)
    return torch.float64 if torch.float64 in kinds else torch.float32 if kinds else None


def checked_logits(logits: Tensor, count: int) -> Tensor:
    """A classifier's logits; TypeError or ValueError in one line for what is not `[count,K]`, nor `[D,count,K]` of D
    draws of a defense."""
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        raise TypeError(f"the network must give logits [B,K], a float tensor, got {type_of(logits)}")
    if logits.ndim not in (2, 3) or logits.shape[-2] != count or logits.shape[-1] < 2:  # of one class nothing is told
        raise ValueError(f"the network must give logits [{count},K], got {list(logits.shape)}")
    return logits


def checked_labels(y: Tensor, count: int, classes: int | None = None, what: str = "labels") -> Tensor:
    """Labels as int64 `[count]`. TypeError for what are no whole numbers, ValueError for another shape or a number
    outside 0..classes-1."""
    if not isinstance(y, Tensor) or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise TypeError(f"{what} must be a tensor of whole numbers [B], got {type_of(y)}")
    if y.shape != (count,):
        raise ValueError(f"{what} must have shape [{count}], a class per image, got {list(y.shape)}")
    y = (y.clone() if y.is_inference() else y).long()
    low, high = y.min().item(), y.max().item()
    if low < 0 or (classes and high >= classes):
        allowed = f"0 to {classes - 1}" if classes else "from 0 on"
        hint = "; are they counted from 1?" if low > 0 and high == classes else ""
        raise ValueError(f"{what} must be classes {allowed}, got {low if low < 0 else high}{hint}")
    return y


def checked_bytes(images: Tensor, count: bool = True) -> Tensor:
    """8-bit images `[N,3,H,W]`, or without `count` one `[3,H,W]`; else TypeError or ValueError."""
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        got = f"got {type_of(images)}; of floats in [0,1]: lib.units.to_bytes"
        raise TypeError(f"8-bit images must be a uint8 tensor, {got}")
    if images.ndim != 3 + count or images.shape[-3] != 3 or not images.numel():
        wanted = "[N,3,H,W]" if count else "[3,H,W]"
        raise ValueError(f"8-bit images must have shape {wanted}, none of them 0, got {list(images.shape)}")
    return images


def finite(numbers: Tensor, what: str) -> Tensor:
    """The numbers; FloatingPointError where one is not finite, so that it is never counted as a result."""
    if not bool(numbers.isfinite().all()):
        raise FloatingPointError(f"{what}: numbers that are not finite, which are no result; check the network")
    return numbers


def numbers(low: float, high: float = math.inf, whole: bool = False, **named: object) -> None:
    """TypeError or ValueError in one line unless each is a finite number from `low` to `high`."""
    for name, value in named.items():
        if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
            raise TypeError(f"{name} must be a {'whole ' if whole else ''}number, got {value!r}")
        if not low <= value <= high or value == math.inf:
            must = f"be {low:g} or more" if high == math.inf else f"lie in [{low:g},{high:g}]"
            raise ValueError(f"{name} must {must}, got {value}")


def checked_network(network: nn.Module) -> nn.Module:
    """The network; TypeError for what is none."""
    if not isinstance(network, nn.Module):
        raise TypeError(f"the network must be a torch.nn.Module, got {type(network).__name__}")
    return network


def of_shape(result: object, x: Tensor, who: str) -> Tensor:
    """What a defense gives; ValueError unless it is images of the shape of x."""
    if not isinstance(result, Tensor) or result.shape != x.shape:
        raise ValueError(f"{who} must return images of shape {list(x.shape)}, got {shape_of(result)}")
    return result


def type_of(value: object) -> object:
    """The type of a tensor's numbers, else the value's, for errors."""
    return value.dtype if isinstance(value, Tensor) else type(value).__name__


def shape_of(value: object) -> object:
    """A tensor's shape, else the value's type, for errors."""
    return list(value.shape) if isinstance(value, Tensor) else type(value).__name__


@contextlib.contextmanager
def usual_torch() -> Iterator[None]:
    """Within it PyTorch's defaults, whatever the caller has set: float32, CPU, gradients, no autocast, no inference
    mode. Stored results depend on none of these."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        for kind in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if device.type != "cpu":  # a mode that every call of PyTorch pays for
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        yield


@contextlib.contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Run with the networks in inference mode; afterwards every submodule is as it was."""
    modes = [(module, module.training) for network in networks for module in checked_network(network).modules()]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside `torch.compile` or DataParallel, whose layers have names, else TypeError."""
    if isinstance(checked_network(network), torch.jit.ScriptModule):
        raise TypeError("the layers of a TorchScript network cannot be read; take the network that it was made from")
    while compiled := network._modules.get("_orig_mod"):
        network = compiled
    parallel = isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel)
    return unwrapped(network.module) if parallel else network


@contextlib.contextmanager
def unchanged_networks(who: str, *values: object, weights: bool = False) -> Iterator[None]:
    """Within it, code that is not ours runs. ValueError, naming `who`, if a network among the values is left with other
    hooks, mode, parts, parameters or buffers; all but the contents of its tensors is put back before.

    weights: compare the contents too, not only PyTorch's counts of changes, which an assignment to `.data` escapes.
    """
    modules = list(dict.fromkeys(part for value in values if isinstance(value, nn.Module) for part in value.modules()))
    own = [dict(vars(module)) for module in modules]
    inner = [(value, dict(value)) for known in own for value in known.values() if isinstance(value, dict)]
    before, shared, changes = [module_state(module, weights) for module in modules], global_state(), []
    try:
        yield
    finally:
        for module, known, facts in zip(modules, own, before, strict=True):
            now = module_state(module, weights)
            # What was None may be kept from the first pass, as torchvision's pooling of regions does.
            changes += [what for what, value in facts.items() if now.get(what) != value]
            methods = [name for name, value in vars(module).items() if name not in known and callable(value)]
            changes += [f"{name} of {type(module).__name__}" for name in methods]  # replaced
        changes += ["hooks on all modules, or PyTorch's settings"] if shared != global_state() else []
        if changes:
            for attributes, known in [*zip(map(vars, modules), own, strict=True), *inner]:
                attributes.clear()
                attributes.update(known)
    if changes:
        known = ", ".join(dict.fromkeys(changes))
        raise ValueError(f"{who} changes the network ({known}), so later results would be wrong; leave it as found")


def module_state(module: nn.Module, weights: bool) -> dict[str, object]:
    """What of one module must stay, in words: its tensors, hooks and parts (by the objects), and plain attributes."""
    kind = type(module).__name__
    tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    found = {f"parameters or buffers of {kind}": {name: signature(tensor, weights) for name, tensor in tensors}}
    for name, value in vars(module).items():
        if isinstance(value, dict) and name.startswith("_"):
            found[f"{name.strip('_').replace('_', ' ')} of {kind}"] = {key: id(part) for key, part in value.items()}
        elif isinstance(value, bool | int | float | str):
            found["training mode" if name == "training" else f"{name} of {kind}"] = value
    return found


def signature(tensor: Tensor, weights: bool) -> tuple:
    """What tells a tensor from a changed one; weights: with its contents, the sum of their bit patterns."""
    facts = [id(tensor), tensor.shape, tensor.dtype, tensor.device, tensor.data_ptr(), tensor.requires_grad]
    facts += [] if tensor.is_inference() else [tensor._version]
    if weights:
        whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32}.get(tensor.element_size(), torch.int64)
        facts.append(tensor.detach().flatten().view(whole).sum(dtype=torch.int64).item())
    return tuple(facts)


def global_state() -> list:
    """What PyTorch keeps for all: its settings, and how many hooks it calls for every module."""
    settings = [torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled(), torch.get_num_threads()]
    settings += [torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()]
    known = vars(torch.nn.modules.module).items()
    return settings + [len(hooks) for name, hooks in known if name.startswith("_global_") and name.endswith("hooks")]
