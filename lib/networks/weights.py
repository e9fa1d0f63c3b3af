"""Weight files: read without running code from them, checked against a SHA-256, loaded strictly."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from lib.digests import content_sha256

FORMATS = (".safetensors", ".npz", ".pth", ".pt", ".ckpt")


def verify(path: Path, sha256: str | None) -> None:
    """ValueError in one line if the file, or the tensors of an .npz, have another SHA-256; None checks nothing."""
    found = content_sha256(path) if sha256 else None
    if found != sha256:
        name = f"{path.name}{': of its tensors the' if path.suffix == '.npz' else ':'}"
        raise ValueError(f"{name} SHA-256 is {found}, expected {sha256}; delete {path} and get the file again")


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


def load_state(network: nn.Module, state: dict[str, Tensor], file: str) -> None:
    """Copy `state` into `network`, every key; half precision is widened to the network's own type.

    ValueError in one line, naming file and key, for a missing, unexpected or mis-shaped key. BatchNorm's
    `num_batches_tracked` counts training steps and is not asked for.
    """
    own = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    given = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    for problem, keys in (("missing", own.keys() - given.keys()), ("unexpected", given.keys() - own.keys())):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise ValueError(f"{file}: {problem} key '{min(keys)}'{more} for {type(network).__name__}")
    for key, value in given.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{file}: key '{key}' holds a {type(value).__name__}, not a tensor")
        if value.shape != own[key].shape:
            raise ValueError(f"{file}: key '{key}' has shape {list(value.shape)}, expected {list(own[key].shape)}")
    network.load_state_dict(given, strict=False)
