"""Weight files: read without running code from them, checked against a SHA-256, recognised, loaded strictly.

    companion convert NRP.pth models/paper/NRP.safetensors

turns NRP.pth or NRP_resG.pth (Muzammal-Naseer/NRP), or R152-Denoise.npz or R152.npz (ImageNet-Adversarial-Training),
into a safetensors file, in which no code can hide, and prints what it is. `lib.zoo` loads both.
"""

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO, ClassVar

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from lib.digests import content_sha256
from lib.networks.denoising import Denoising
from lib.networks.purifier import NRP, NRPResG

FORMATS = (".safetensors", ".npz", ".pth", ".pt", ".ckpt")
# TensorFlow's axes of a weight in PyTorch's order, by their number: convolution and linear layer.
AXES = {4: (3, 2, 0, 1), 2: (1, 0)}
# tensorpack's variables; a batch normalisation lies within the scope of its convolution, e.g. conv1/bn/mean/EMA.
VARIABLES = {"W": "weight", "b": "bias", "gamma": "weight", "beta": "bias"}
VARIABLES |= {"mean/EMA": "running_mean", "variance/EMA": "running_var"}


def check_sha256(path: Path, sha256: str | None) -> None:
    """ValueError in one line if the file, or the tensors of an .npz, have another SHA-256; None checks nothing."""
    if sha256 and (found := content_sha256(path)) != sha256:
        name = f"{path.name}{': of its tensors the' if path.suffix == '.npz' else ':'}"
        raise ValueError(f"{name} SHA-256 is {found}, expected {sha256}; move {path} away and get the file again")


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a safetensors, npz or torch file; pickled code is never run. ValueError in one line, naming the
    file, if it is corrupt or holds more than plain arrays."""
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
        return inner_state(torch.load(path, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError:
        raise ValueError(f"{path.name}: holds more than tensors; save its state dict as safetensors first") from None
    except OSError:
        raise
    except Exception as error:  # of bytes that are no such file the readers raise whatever comes
        raise unreadable(path, error) from None


def unreadable(path: Path, error: object) -> ValueError:
    """The error, in one line, of a file of weights that is damaged or another."""
    return ValueError(f"{path.name}: cannot be read ({' '.join(str(error).split())[:200]})")


class Inert:
    """In place of whatever a pickle names beside tensors: takes anything and does nothing."""

    def __new__(cls, *_: object, **__: object) -> "Inert":
        return super().__new__(cls)

    def __getattr__(self, name: str) -> object:
        if name in ("append", "extend", "__setstate__"):
            return lambda *_: None
        raise AttributeError(name)

    def __call__(self, *_: object, **__: object) -> "Inert":
        return self

    def __setitem__(self, key: object, value: object) -> None:
        pass


class InertUnpickler(pickle.Unpickler):
    """Makes tensors and plain containers; no other code is found, so none is run."""

    ALLOWED: ClassVar = {
        "collections.OrderedDict": OrderedDict,
        "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
        "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
    }

    def find_class(self, module: str, name: str) -> type | Callable:
        return self.ALLOWED.get(f"{module}.{name}", Inert)


MISTAKEN = (AttributeError, TypeError, ValueError)  # what a pickle raises whose objects are not what they seemed


def dilled_state(path: Path) -> dict[str, Tensor]:
    """The network's state dict in a checkpoint of MadryLab's, pickled with dill: of all else nothing is run or kept.

    ValueError in one line, naming the file, if it is another file or corrupt.
    """

    def load(file: BinaryIO, **options: object) -> object:
        return InertUnpickler(file, **options).load()

    unpickling = SimpleNamespace(__name__="inert", Unpickler=InertUnpickler, load=load)
    try:
        if zipfile.is_zipfile(path) and any("constants.pkl" in name for name in zipfile.ZipFile(path).namelist()):
            raise ValueError("TorchScript, which is a program")  # torch would run it without the unpickler
        return inner_state(torch.load(path, map_location="cpu", weights_only=False, pickle_module=unpickling))
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, LookupError, *MISTAKEN) as error:
        raise unreadable(path, error) from None


def inner_state(checkpoint: object) -> dict[str, Tensor]:
    """The network's own state dict in a training checkpoint: MadryLab/robustness has it under `model` or `state_dict`,
    with prefixes before the keys, the network's once more with `module.attacker.model.`. ValueError for others."""
    if not isinstance(checkpoint, dict):
        raise ValueError(f"a {type(checkpoint).__name__}, not a state dict")
    states = [checkpoint.get("state_dict"), checkpoint.get("model"), checkpoint]
    state = next(state for state in states if isinstance(state, dict))
    for prefix in ("module.model.", "module.attacker.model.", "module."):
        if inner := {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}:
            state = inner
            break
    if wrong := [key for key, value in state.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"no state dict: '{wrong[0]}' is a {type(state[wrong[0]]).__name__}, not a tensor")
    return state


def from_tensorpack(arrays: Mapping[str, np.ndarray | Tensor]) -> dict[str, Tensor]:
    """The variables of a file of Feature Denoising's under PyTorch's keys and in its layout.

    `group0/block0/conv1/W` becomes `group0.block0.conv1.weight`, `group0/block0/conv1/bn/gamma`
    `group0.block0.bn1.weight`, and `group0_denoise/conv/W` `group0.denoise.conv.weight`. The released networks read
    OpenCV's order of the channels; the first convolution is turned round to take RGB. What is no variable of tensorpack
    stays, so that a strict load refuses it by its name.
    """
    state = {}
    for name, array in arrays.items():
        value = torch.as_tensor(array)
        # tensorpack itself writes and reads names with TensorFlow's ":0" at their end and without.
        if found := re.fullmatch(rf"(.+)/({'|'.join(VARIABLES)})(:0)?", name):
            scope = re.sub(r"conv(\w*)/bn$", r"bn\1", found[1]).replace("_denoise/", "/denoise/")
            name = f"{scope}/{VARIABLES[found[2]]}".replace("/", ".")
            value = value.permute(AXES[value.dim()]) if found[2] == "W" and value.dim() in AXES else value
            value = value.flip(1) if found[1] == "conv0" and value.dim() == 4 else value
        state[name] = value
    return state


def load_state(network: nn.Module, state: dict[str, Tensor], file: str) -> nn.Module:
    """Copy `state` into `network` and return it; half precision is widened to the network's own type. ValueError in one
    line, naming file and key, for a missing, unexpected or mis-shaped key, but for BatchNorm's count of steps."""
    wanted = network.state_dict()
    for problem, keys in (("missing", wanted.keys() - state.keys()), ("unexpected", state.keys() - wanted.keys())):
        if keys := {key for key in keys if not key.endswith("num_batches_tracked")}:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise ValueError(f"{file}: {problem} key '{min(keys)}'{more} for {type(network).__name__}")
    for key, value in state.items():
        held = isinstance(value, Tensor) and (not value.is_floating_point() or not value.isfinite().all())
        if held and key in wanted and wanted[key].is_floating_point():
            raise ValueError(f"{file}: '{key}' holds other numbers than finite floats; get or train the file again")
    try:
        network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{file}: {' '.join(str(error).split())[:300]}") from None
    return network


def recognised_purifier(state: dict[str, Tensor], file: str) -> nn.Module:
    """The purifier whose weights these are, frozen, in eval mode; its sizes are read off keys and shapes. ValueError in
    one line, naming `file`, if it is no purifier, or as of `load_state`."""
    for trunk, architecture in (("RRDB_trunk", NRP), ("recon_trunk", NRPResG)):
        if blocks := _parts(state, trunk):
            network = architecture(_length(state, "conv_first.weight", file), len(blocks))
            return load_state(network, state, file).eval().requires_grad_(False)
    raise ValueError(f"{file}: neither NRP nor NRP_resG, it has no RRDB_trunk and no recon_trunk")


def read_purifier(path: Path) -> nn.Module:
    """The purifier in a file of weights; as `read_state` and `recognised_purifier`."""
    return recognised_purifier(read_state(path), path.name)


def recognised(state: dict[str, Tensor], file: str) -> nn.Module:
    """The purifier, or the ResNet of Feature Denoising, whose weights these are; as `recognised_purifier`."""
    state = from_tensorpack(state)
    groups = [_parts(state, f"group{number}") for number in range(4)]
    if not groups[0]:
        return recognised_purifier(state, file)
    from lib.networks.resnet152 import ResNetDenoise  # imports timm, which takes seconds

    network = ResNetDenoise(
        classes=_length(state, "linear.bias", file),
        blocks=[len(group - {"denoise"}) for group in groups],
        width=_length(state, "conv0.weight", file),
        denoise=any("denoise" in group for group in groups),
    )
    return load_state(network, state, file).eval().requires_grad_(False)


def _parts(state: dict[str, Tensor], module: str) -> set[str]:
    return {key.split(".")[1] for key in state if key.startswith(f"{module}.")}


def _length(state: dict[str, Tensor], key: str, file: str) -> int:
    if not isinstance(state.get(key), Tensor) or not state[key].dim():
        raise ValueError(f"{file}: missing key '{key}'")
    return len(state[key])


def network_in_words(network: nn.Module) -> str:
    """A recognised network in words."""
    parts = list(network.children())
    blocks = "+".join(str(len(part)) for part in parts if isinstance(part, nn.Sequential))
    denoising = sum(isinstance(module, Denoising) for module in network.modules())
    among = f" ({denoising} of them denoising)" if denoising else ""
    count = sum(parameter.numel() for parameter in network.parameters())
    return f"{type(network).__name__} of width {parts[0].out_channels}, {blocks} blocks{among}, {count:,} parameters"


def to_safetensors(source: Path, target: Path) -> nn.Module:
    """Write the weights in the released file `source` to the safetensors file `target`; their network.
    ValueError or OSError in one line, and nothing is written, if `source` is missing or none of the known files."""
    if target.suffix != ".safetensors" or target.is_dir():
        raise ValueError(f"{target}: must end in .safetensors, and be no folder")
    network = recognised(read_state(source), source.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(network.state_dict(), target)
    return network
