"""TF-Slim's released checkpoints of ResNet-v2-152 and of Inception-v3, as state dicts of the modules here.

TensorFlow itself reads a checkpoint, in an environment of its own that uv makes (`variables`). Then each tensor of the
module takes the variable of its name (names as in tensorflow/models, research/slim/nets).
"""

import gzip
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import nn

# The small wheel is for Linux and Windows on x86 alone.
SMALL_WHEEL = sys.platform != "darwin" and platform.machine() in ("x86_64", "AMD64")
TENSORFLOW = f"tensorflow{'-cpu' if SMALL_WHEEL else ''}==2.21.0"
READER = Path(__file__).parents[2] / "tools" / "checkpoint_to_npz.py"

Variables = dict[str, np.ndarray]  # of a checkpoint, or as a state dict
LAYER = {"weight": "weights", "bias": "biases"}
NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
# What a checkpoint holds beside the network: the state of the training, and the head that only it uses.
BESIDE = re.compile(r"global_step|.*/AuxLogits/.*|.*/(Momentum|RMSProp(_1)?|ExponentialMovingAverage)")


def run_tensorflow(*arguments: str | Path) -> None:
    """Run a Python script, the first argument, where TensorFlow is; OSError in one line."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if not (uv := shutil.which("uv", path=places)):
        raise FileNotFoundError("TensorFlow reads this file, and uv runs it: pip install uv")
    command = [uv, "run", "--no-project", "--isolated", "--python", sys.executable, "--with", TENSORFLOW]
    command += ["python", *map(str, arguments)]
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "PYTHONPATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | quiet, check=False)
    if done.returncode:
        raise OSError(f"uv could not run {TENSORFLOW}: {' '.join(done.stderr.split())[-300:]}")


def variables(archive: Path) -> Variables:
    """The variables of the one checkpoint in a .tar.gz, of TensorFlow's old or new format, by name.

    ValueError in one line for an archive that is damaged or has none, OSError where TensorFlow cannot be had.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
        except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{archive.name}: cannot be unpacked ({error})") from None
        found = {re.sub(r"\.ckpt.*", ".ckpt", str(path)) for path in Path(folder).rglob("*.ckpt*")}
        if len(found) != 1:
            raise ValueError(f"{archive.name}: holds {len(found)} TensorFlow checkpoints (.ckpt), not one")
        out = Path(folder) / "variables.npz"
        run_tensorflow(READER, *found, out)
        with np.load(out, allow_pickle=False) as arrays:
            return dict(arrays)


def state_of_variables(network: nn.Module, given: Variables, scopes: Mapping[str, str]) -> Variables:
    """The variables as a state dict. scopes: of the network's layers and norms, the names before their variables'.

    ValueError in one line for a variable that is missing, and for one that is left over.
    """
    left, state = {name: value for name, value in given.items() if not BESIDE.fullmatch(name)}, {}
    for layer, scope in scopes.items():
        module = network.get_submodule(layer)
        for key, name in (NORM if isinstance(module, nn.BatchNorm2d) else LAYER).items():
            if getattr(module, key) is None:
                continue
            if (value := left.pop(f"{scope}/{name}", None)) is None:
                raise ValueError(f"no variable '{scope}/{name}'")
            if value.ndim == 4:
                value = value.transpose(3, 2, 0, 1)
                value = value[:, :, 0, 0] if isinstance(module, nn.Linear) else value
            state[f"{layer}.{key}"] = value
    if left:
        raise ValueError(f"variable '{min(left)}' and {len(left) - 1} more belong to no layer")
    return state


def resnet_v2_state(network: nn.Module, given: Variables) -> Variables:
    """Of `lib.networks.resnet152.ResNetV2`, whose docstring has the names."""

    def scope(layer: str) -> str:
        unit = re.sub(r"\.(\d+)\.", lambda found: f"/unit_{int(found[1]) + 1}/bottleneck_v2/", layer)
        return "resnet_v2_152/" + re.sub(r"bn(\d)$", r"conv\1/BatchNorm", unit.replace("root", "conv1"))

    kinds = nn.Conv2d | nn.Linear | nn.BatchNorm2d
    layers = [layer for layer, module in network.named_modules() if isinstance(module, kinds)]
    return state_of_variables(network, given, {layer: scope(layer) for layer in layers})


def inception_v3_state(network: nn.Module, given: Variables) -> Variables:
    """Of `lib.networks.inception_v3`: its convolutions have the order of TF-Slim's names; its norms have no gamma."""
    norms = sorted(name.removesuffix("/beta") for name in given if name.endswith("/BatchNorm/beta"))
    norms = [norm for norm in norms if not BESIDE.fullmatch(norm)]
    layers = [layer for layer, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    if len(norms) != len(layers):
        raise ValueError(f"{len(norms)} convolutions with a norm, not {len(layers)}")
    scopes = dict(zip(layers, norms, strict=True))
    scopes |= {layer.replace(".bn", ".conv"): norm.removesuffix("/BatchNorm") for layer, norm in scopes.items()}
    scopes["fc"] = "InceptionV3/Logits/Conv2d_1c_1x1"
    ones = {f"{norm}/gamma": np.ones_like(given[f"{norm}/beta"]) for norm in norms}
    return state_of_variables(network, ones | given, scopes)
