"""Weight files: read without running code from them, checked against a SHA-256, loaded strictly."""

import hashlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

FORMATS = (".safetensors", ".npz", ".pth", ".pt", ".ckpt")

# TensorFlow's axes of a weight in PyTorch's order, by their number: convolution and linear layer.
AXES = {4: (3, 2, 0, 1), 2: (1, 0)}

# tensorpack's variables; a batch normalisation lies within the scope of its convolution, e.g. conv1/bn/mean/EMA.
VARIABLES = {"W": "weight", "b": "bias", "gamma": "weight", "beta": "bias"}
VARIABLES |= {"mean/EMA": "running_mean", "variance/EMA": "running_var"}


def verify(path: Path, sha256: str | None) -> None:
    """ValueError in one line if the file does not have this SHA-256; None checks nothing."""
    if not sha256:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ValueError(f"{path.name}: SHA-256 is {found}, expected {sha256}; delete {path} and get the file again")


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a safetensors, npz or torch file; pickled code is never run.

    ValueError in one line, naming the file, if it is corrupt or holds more than plain arrays.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(loaded, dict):
            raise ValueError(f"a {type(loaded).__name__}, not a state dict")
        return inner_state(loaded)
    except (ValueError, RuntimeError, EOFError, zipfile.BadZipFile, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path.name}: cannot be read ({reason})") from None
    except pickle.UnpicklingError:
        raise ValueError(f"{path.name}: holds more than tensors; save its state dict as safetensors first") from None


def inner_state(checkpoint: dict) -> dict[str, Tensor]:
    """The network's own state dict in a training checkpoint.

    MadryLab/robustness keeps it under `model` or `state_dict`, with `module.model.` before the keys and once more with
    `module.attacker.model.`, beside its normaliser's constants.
    """
    state = next(
        (checkpoint[key] for key in ("state_dict", "model") if isinstance(checkpoint.get(key), dict)), checkpoint
    )
    for prefix in ("module.model.", "module.attacker.model.", "module."):
        inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if inner:
            return inner
    return state


def from_tensorpack(arrays: Mapping[str, np.ndarray | Tensor]) -> dict[str, Tensor]:
    """The variables of a file of Feature Denoising's under PyTorch's keys and in its layout (`resnet_denoise`).

    `group0/block0/conv1/W` becomes `group0.block0.conv1.weight` (axes 3,2,0,1), `group0/block0/conv1/bn/gamma`
    `group0.block0.bn1.weight`, and `group0_denoise/conv/W` `group0.denoise.conv.weight`. The released networks read
    OpenCV's order of the channels; the first convolution is turned round to take RGB. What is no variable of tensorpack
    is left as it is, so that a strict load refuses it by its name.
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


def load_state(network: nn.Module, state: dict[str, Tensor], file: str) -> None:
    """Copy `state` into `network`, every key; half precision is widened to the network's own type.

    ValueError in one line, naming file and key, for a missing, unexpected or mis-shaped key. BatchNorm's
    `num_batches_tracked` counts training steps and is not asked for.
    """
    wanted = network.state_dict()
    for problem, keys in (("missing", wanted.keys() - state.keys()), ("unexpected", state.keys() - wanted.keys())):
        if keys := {key for key in keys if not key.endswith("num_batches_tracked")}:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise ValueError(f"{file}: {problem} key '{min(keys)}'{more} for {type(network).__name__}")
    try:
        network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{file}: {' '.join(str(error).split())[:300]}") from None
