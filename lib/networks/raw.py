"""Networks that are made from files of somebody else's, at addresses where anybody can have them.

RAW says of each weights file from which files, there, it is made; `assemble` makes it. A file of the sample scale is
the state dict of torchvision's or timm's module, with tensors equal, bit for bit, to those whose SHA-256 the scale file
holds; its raw files lie in public repositories at fixed commits. Those of the paper scale are the released ones.
"""

import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy
from torch import nn

from lib.networks import slim
from lib.networks.weights import dilled_state

Pair = tuple[np.ndarray, np.ndarray]  # weight and bias of a layer
LAYER_PARTS = ("weight", "bias")


class Raw(NamedTuple):
    """What a network's file is made of.

    url: of the folder with the raw files.  megabytes: of them, about.  files: the name of the one, or what gives their
    names from those of the network's layers.  read: of the network and the files, its state dict; None for a file that
    is taken as it is.  git: the object id of a file that a commit holds, where its SHA-256 is not known.
    """

    url: str
    megabytes: float
    files: str | Callable[[list[str]], list[str]]
    read: Callable[[nn.Module, list[Path]], dict[str, np.ndarray]] | None = None
    git: str = ""


def where(raw: Raw) -> str:
    """The place of the raw files, in short."""
    github = r"https://raw\.githubusercontent\.com/([^/]+/[^/]+)/(.{10}).*"
    return re.sub(github, r"github.com/\1 at \2", raw.url).removeprefix("https://")


def file_names(raw: Raw, build: Callable[[], nn.Module]) -> list[str]:
    """The names of the raw files. build: makes the network, with random weights."""
    if isinstance(raw.files, str):
        return [raw.files]
    modules = build().named_modules()
    return raw.files([name for name, module in modules if isinstance(module, nn.Conv2d | nn.Linear)])


def assemble(raw: Raw, build: Callable[[], nn.Module], paths: list[Path], target: Path) -> None:
    """Make the file `target` from the raw files. ValueError in one line for files of another network."""
    if raw.read is None:
        shutil.copyfile(paths[0], target)
        return
    try:
        state = raw.read(build(), paths)
    except (ValueError, StopIteration) as error:
        raise ValueError(f"{paths[0].parent}: not the files of {target.name} ({error or 'too few'})") from None
    state = {name: np.asarray(state[name], order="C") for name in sorted(state)}
    if target.suffix == ".npz":
        np.savez_compressed(target, **state)
    else:
        safetensors.numpy.save_file(state, target)


def layered(read: Callable[[list[Path]], Iterable[Pair]], dtype: type = np.float32) -> Callable:
    """What reads the state dict of a network whose files `read` turns into weights and biases, layer by layer."""
    return lambda network, paths: {
        name: value.astype(dtype) for name, value in layered_state(network, iter(read(paths))).items()
    }


def layered_state(network: nn.Module, pairs: Iterator[Pair]) -> dict[str, np.ndarray]:
    """The state dict of a network with these weights and biases, layer by layer.

    Where a BatchNorm follows a layer it was folded into it, and now only adds the bias. A last layer with one output
    more than the network has a class for the background first, which is left out.
    """
    state = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight, bias = next(pairs)
            outputs = len(module.weight)
            state[f"{name}.weight"] = weight[-outputs:].reshape(tuple(module.weight.shape))
            if module.bias is not None:
                state[f"{name}.bias"] = bias[-outputs:].reshape(outputs)
        elif isinstance(module, nn.BatchNorm2d):
            ones = np.ones(module.num_features, np.float32)
            state |= {f"{name}.weight": ones, f"{name}.bias": bias.reshape(ones.shape)}
            state |= {f"{name}.running_mean": 0 * ones, f"{name}.running_var": np.float32(1 - module.eps) * ones}
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


VGG_PLACES = ("1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_3")
GITHUB = "https://raw.githubusercontent.com"
SLIM = "https://storage.googleapis.com/download.tensorflow.org/models"
FEATURE_DENOISING = "https://github.com/facebookresearch/ImageNet-Adversarial-Training/releases/download"
NRP_FORK = f"{GITHUB}/mshane911/NRP/50942754463ab782bfeb0143c818fefdd0f2db9a/pretrained_purifiers"
RAW = {
    "squeezenet1_1.npz": Raw(
        f"{GITHUB}/miaobin/test-data/1b11055b7f3196ffe9a97051e7f4d10c74a44914/models/squeezenet1.1_nchw/weights", 5,
        lambda names: [f"squeezenet0_conv{k}_{part}.npy" for k in range(len(names)) for part in LAYER_PARTS],
        layered(numpy_files),
    ),
    "mobilenetv2_100_tf.npz": Raw(
        f"{GITHUB}/google-coral/test_data/104342d2d3480b3e66203073dac24f4e2dbb4c41", 3.6,
        "mobilenet_v2_1.0_224_quant.tflite", layered(tflite_file),
    ),
    # Pruned to 18 % of its weights, in 8 bits: float16 holds them exactly.
    "resnet50_pruned_q8.npz": Raw(
        f"{GITHUB}/lxd-cumt/ABM-SpConv/8149a22655146ce3f996586a81985cef58d7fcad/data/neon_resnet50_float", 102,
        lambda names: [f"1.{name}.{part}.npy" for name in names for part in LAYER_PARTS],
        layered(numpy_files, np.float16),
    ),
    "vgg16_conv3_3_oxford.npz": Raw(
        f"{GITHUB}/ColorfulSoft/StyleTransfer-Colorization-SuperResolution/5f1cb0115c004d96edcf8681f7118652ccf02612"
        "/Style%20Transfer/2015.%20A%20Neural%20Algorithm%20of%20Artistic%20Style/Implementation/VGG-16", 7,
        lambda _: [f"Conv{place}_{part}" for place in VGG_PLACES for part in ("Filters", "Biases")],
        layered(plain_floats),
    ),
    "yolox_nano.onnx": Raw(
        f"{GITHUB}/Bigisland1729/object-detection-models/7f3f2fa34b351e3d2af150893458106ad3f3a84f", 3.7,
        "yolox_nano.onnx",
    ),
    # Of the paper scale. Megabytes are those of the tensors where nobody here has seen the file.
    "resnet_v2_152.safetensors": Raw(
        SLIM, 241, "resnet_v2_152_2017_04_14.tar.gz",
        lambda network, paths: slim.resnet_v2_state(network, slim.variables(paths[0])),
    ),
    "ens3_adv_inception_v3.safetensors": Raw(
        SLIM, 109, "ens3_adv_inception_v3_2017_08_18.tar.gz",
        lambda network, paths: slim.inception_v3_state(network, slim.variables(paths[0])),
    ),
    "R152-Denoise.npz": Raw(f"{FEATURE_DENOISING}/v0.1", 286, "R152-Denoise.npz"),
    "R152.npz": Raw(f"{FEATURE_DENOISING}/v0", 241, "R152.npz"),
    "RestrictedImageNet.safetensors": Raw(
        "https://andrewilyas.com", 94, "RestrictedImageNet.pt",
        lambda _, paths: {key: value.numpy() for key, value in dilled_state(paths[0]).items()},
    ),
    # A public fork of Muzammal-Naseer/NRP; their own place is a Google Drive.
    "NRP.pth": Raw(NRP_FORK, 66, "NRP.pth", git="87267e78c76694b2a5645e3cc3e8d6512ed53849"),
    "NRP_resG.pth": Raw(NRP_FORK, 6.8, "NRP_resG.pth", git="36209f287000aedf1368fcf12c8db9ac0148b8bf"),
    "netG_-1_img_incv3_imagenet_0_rl.pth": Raw(
        "https://github.com/spencerwooo/torchattack/releases/download/v1.0-weights", 31, "cda_incv3_imagenet_0_rl.pth"
    ),
}  # fmt: skip
