"""Networks of the sample scale from raw files in public repositories, at fixed commits.

RAW says of each file in weights/ from which files there it is made; `convert` makes it. An .npz file is the state dict
of torchvision's or timm's module, with tensors equal, bit for bit, to those whose SHA-256 the scale file holds.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import nn

from lib.networks import families

Arrays = dict[str, np.ndarray]
Pair = tuple[np.ndarray, np.ndarray]  # weight and bias of a layer


class Raw(NamedTuple):
    """What a network's file is made of.

    repository: owner/name on GitHub.  megabytes: of the raw files.  folder: in it.  build: the module, with random
    weights; None for a file that is taken as it is.  files: of the names of the module's layers, the files of each.
    read: of a layer's files, or of the one file that holds all, the weights and biases in the order of the layers.
    dtype: how they are kept.
    """

    repository: str
    commit: str
    megabytes: float
    folder: str
    files: Callable[[list[str]], list[str]]
    build: Callable[[], nn.Module] | None = None
    read: Callable[[list[Path]], Iterable[Pair]] | None = None
    dtype: type = np.float32


def layers(network: nn.Module) -> list[str]:
    """The names of the convolutions and linear layers, in their order."""
    return [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def needed(raw: Raw) -> list[str]:
    """The names of the raw files."""
    return raw.files(layers(raw.build()) if raw.build else [])


def convert(raw: Raw, folder: Path, target: Path) -> None:
    """Make the file `target` from a folder with the raw files. ValueError in one line for files of another network."""
    paths = [folder / name for name in needed(raw)]
    if raw.build is None:
        shutil.copyfile(paths[0], target)
        return
    try:
        state = state_dict(raw.build(), iter(raw.read(paths)))
    except (ValueError, StopIteration) as error:
        raise ValueError(f"{folder}: not the files of {target.name} ({error or 'too few'})") from None
    np.savez_compressed(target, **{name: state[name].astype(raw.dtype) for name in sorted(state)})


def state_dict(network: nn.Module, pairs: Iterator[Pair]) -> Arrays:
    """The state dict of a network with these weights and biases, layer by layer.

    Where a BatchNorm follows a layer it was folded into it, and now only adds the bias. A last layer with one output
    more than the network has a class for the background first, which is left out.
    """
    state: Arrays = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight, bias = next(pairs)
            outputs = len(module.weight)
            state[f"{name}.weight"] = weight[-outputs:].reshape(tuple(module.weight.shape))
            if module.bias is not None:
                state[f"{name}.bias"] = bias[-outputs:].reshape(outputs)
        elif isinstance(module, nn.BatchNorm2d):
            one = np.ones(module.num_features, np.float32)
            state |= {f"{name}.weight": one, f"{name}.bias": bias.reshape(one.shape)}
            state |= {f"{name}.running_mean": 0 * one, f"{name}.running_var": np.float32(1 - module.eps) * one}
    return state


def numpy_files(paths: list[Path]) -> Iterator[Pair]:
    """A .npy file for each weight and bias, in turns."""
    for weight, bias in zip(paths[::2], paths[1::2], strict=True):
        yield np.load(weight, allow_pickle=False), np.load(bias, allow_pickle=False)


def plain_floats(paths: list[Path]) -> Iterator[Pair]:
    """Little-endian float32 without a head, 3x3 convolutions as [out, in, width, height]."""
    for weight, bias in zip(paths[::2], paths[1::2], strict=True):
        biases = np.fromfile(bias, "<f4")
        yield np.fromfile(weight, "<f4").reshape(len(biases), -1, 3, 3).swapaxes(2, 3), biases


def tflite_file(paths: list[Path]) -> Iterator[Pair]:
    """The convolutions of an 8-bit TensorFlow Lite file, as the real numbers that its integers stand for."""
    import tflite

    model = tflite.Model.GetRootAs(paths[0].read_bytes(), 0)
    graph = model.Subgraphs(0)
    axes = {tflite.BuiltinOperator.CONV_2D: (0, 3, 1, 2), tflite.BuiltinOperator.DEPTHWISE_CONV_2D: (3, 0, 1, 2)}
    types = {tflite.TensorType.UINT8: np.uint8, tflite.TensorType.INT32: np.int32}

    def real(index: int) -> np.ndarray:
        tensor = graph.Tensors(index)
        stored = np.frombuffer(model.Buffers(tensor.Buffer()).DataAsNumpy().tobytes(), types[tensor.Type()])
        zero, scale = tensor.Quantization().ZeroPointAsNumpy()[0], tensor.Quantization().ScaleAsNumpy()[0]
        return ((stored.reshape(tensor.ShapeAsNumpy()).astype(np.float64) - zero) * scale).astype(np.float32)

    for operator in map(graph.Operators, range(graph.OperatorsLength())):
        code = model.OperatorCodes(operator.OpcodeIndex())
        order = axes.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()))
        if order:
            _, weight, bias = operator.InputsAsNumpy()
            yield real(weight).transpose(order), real(bias)


def squeezenet1_1() -> nn.Module:
    """torchvision's SqueezeNet 1.1."""
    import torchvision

    return torchvision.models.squeezenet1_1(weights=None)


def _squeezenet_files(names: list[str]) -> list[str]:
    return [f"squeezenet0_conv{k}_{part}.npy" for k in range(len(names)) for part in ("weight", "bias")]


def _resnet_files(names: list[str]) -> list[str]:
    return [f"1.{name}.{part}.npy" for name in names for part in ("weight", "bias")]


def _vgg_files(names: list[str]) -> list[str]:
    return [f"Conv{place}_{part}" for place in VGG_PLACES for part in ("Filters", "Biases")]


VGG_PLACES = ("1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_3")
RAW = {
    "squeezenet1_1.npz": Raw(
        "miaobin/test-data", "1b11055b7f3196ffe9a97051e7f4d10c74a44914", 5,
        "models/squeezenet1.1_nchw/weights", _squeezenet_files, squeezenet1_1, numpy_files,
    ),
    "mobilenetv2_100_tf.npz": Raw(
        "google-coral/test_data", "104342d2d3480b3e66203073dac24f4e2dbb4c41", 3.6,
        "", lambda names: ["mobilenet_v2_1.0_224_quant.tflite"], families.mobilenetv2_same, tflite_file,
    ),
    # Pruned to 18 % of its weights, in 8 bits: float16 holds them exactly.
    "resnet50_pruned_q8.npz": Raw(
        "lxd-cumt/ABM-SpConv", "8149a22655146ce3f996586a81985cef58d7fcad", 102,
        "data/neon_resnet50_float", _resnet_files, families.resnet50_stride1, numpy_files, np.float16,
    ),
    "vgg16_conv3_3_oxford.npz": Raw(
        "ColorfulSoft/StyleTransfer-Colorization-SuperResolution", "5f1cb0115c004d96edcf8681f7118652ccf02612", 7,
        "Style Transfer/2015. A Neural Algorithm of Artistic Style/Implementation/VGG-16",
        _vgg_files, families.vgg16_conv3_3, plain_floats,
    ),
    "yolox_nano.onnx": Raw(
        "Bigisland1729/object-detection-models", "7f3f2fa34b351e3d2af150893458106ad3f3a84f", 3.7,
        "", lambda names: ["yolox_nano.onnx"],
    ),
}  # fmt: skip
