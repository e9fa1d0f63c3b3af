"""The families of networks: how an entry of a scale (`lib.settings.NetworkSpec`, here `spec`) becomes a network.

torchvision, timm and the hub's client take seconds to import, so they are only when a network needs them.
"""

import importlib.util
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lib import download as transfer
from lib.digests import content_sha256
from lib.networks.weights import from_tensorpack, load_state, read_state

# The paper's names of VGG-16's layers -> torchvision's: relu3_3 is features.15, pool3 comes right after it.
VGG16_RELUS = {1: (1, 3), 2: (6, 8), 3: (11, 13, 15), 4: (18, 20, 22), 5: (25, 27, 29)}
VGG16_TAPS = {f"relu{k}_{n}": f"features.{i}" for k, places in VGG16_RELUS.items() for n, i in enumerate(places, 1)}
VGG16_TAPS |= {f"pool{k}": f"features.{places[-1] + 1}" for k, places in VGG16_RELUS.items()}


class Family(NamedTuple):
    """build: spec -> the network, with random weights.  trained: by the pipeline.

    convert: the state dict of a published file -> the network's.  load: (spec, file) -> the network, for a file
    that is no state dict, or a library's.  file: (spec, download) -> the file of a library's weights tag, or None.
    """

    build: Callable[[Any], nn.Module] | None
    trained: bool = False
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict
    load: Callable[[Any, Path], nn.Module] | None = None
    file: Callable[[Any, bool], Path | None] | None = None


def imported(place: str) -> Any:
    """What "module.NAME" stands for in this package."""
    module, name = place.split(".")
    return getattr(importlib.import_module(f"lib.networks.{module}"), name)


def family(place: str, *sizes: str, **facts: Any) -> Family:
    """Networks of this package. place: "module.NAME" of an architecture, or of a dict of them by name.  sizes: the
    fields of a spec that it is called with."""

    def build(spec: Any) -> nn.Module:
        made = imported(place)
        if isinstance(made, dict):
            if spec.architecture not in made:
                known = ", ".join(made)
                raise ValueError(f"family {spec.family} has no architecture '{spec.architecture}', only {known}")
            made = made[spec.architecture]
        network = made(*(getattr(spec, size) for size in sizes))
        network.built_by = made  # what the structure does not show, such as a detector's thresholds (`lib.keys`)
        return network

    return Family(build, **facts)


def torchvision_network(spec: Any) -> nn.Module:
    """torchvision's network; COCO_V1 weights want an epsilon of 0 in batch normalisation, as its own loader sets."""
    import torchvision

    backbone = {"weights_backbone": None} if spec.task == "detection" else {}
    network = torchvision.models.get_model(spec.architecture, weights=None, num_classes=spec.classes, **backbone)
    for module in network.modules() if spec.weights == "COCO_V1" else ():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
    return network


def torchvision_file(spec: Any, download: bool) -> Path | None:
    """Where torch.hub keeps the file of a weights tag; ValueError in one line for an unknown tag."""
    import torchvision

    known = torchvision.models.get_model_weights(spec.architecture).__members__
    if spec.weights not in known:
        raise ValueError(f"torchvision's {spec.architecture} has no weights '{spec.weights}', only {', '.join(known)}")
    url = known[spec.weights].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if download:

        def check(file: Path) -> None:
            # torchvision's file names end in the first 8 digits of the file's SHA-256, e.g. vgg19-dcbb9e9d.pth.
            if not (found := content_sha256(file, path.suffix)).startswith(path.stem.rsplit("-", 1)[1]):
                raise ValueError(f"its SHA-256 is {found}")

        transfer.download(path.parent, url.rpartition("/")[0], {path.name: transfer.File(check)}, record=False)
    return path if path.is_file() else None


def timm_network(spec: Any, pretrained: Path | None = None, **options: object) -> nn.Module:
    """timm's network; its own loader renames the keys of a pretrained file where its architecture has moved on."""
    import timm

    if pretrained is None:
        return timm.create_model(spec.architecture, pretrained=False, num_classes=spec.classes, **options)
    name, overlay = f"{spec.architecture}.{spec.weights}", {"file": str(pretrained)}
    return timm.create_model(name, pretrained=True, num_classes=spec.classes, pretrained_cfg_overlay=overlay)


def timm_file(spec: Any, download: bool) -> Path | None:
    """Where the hub's client keeps the file of a weights tag."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    place = f"timm/{spec.architecture}.{spec.weights}", "model.safetensors"
    found = hf_hub_download(*place) if download else try_to_load_from_cache(*place)
    if not isinstance(found, str):
        return None
    # The hub names a file by its SHA-256, and its client keeps it under that name.
    kept = Path(found).resolve()
    if download and len(kept.name) == 64 and (is_now := content_sha256(kept, ".safetensors")) != kept.name:
        kept.unlink()
        raise ValueError(f"its SHA-256 is {is_now}, not {kept.name}")
    return Path(found)


def vgg16_conv3_3() -> nn.Sequential:
    """torchvision's VGG-16 up to relu3_3, with its key names: normalised images to features `[B,256,H//4,W//4]`.

    The cut is after the activation of conv3-3, where the released SSP code reads it (NRP/ssp.py, lines 50-51).
    """
    from torchvision.models.vgg import cfgs, make_layers

    return nn.Sequential(OrderedDict(features=make_layers(cfgs["D"][:9])))


def resnet50_stride1(classes: int = 1000) -> nn.Module:
    """torchvision's ResNet-50 with the stride of layer2-4's first blocks on conv1 instead of conv2, where the original
    Caffe model of He et al. (2016) has it. Same keys."""
    import torchvision

    network = torchvision.models.resnet50(weights=None, num_classes=classes)
    for layer in (network.layer2, network.layer3, network.layer4):
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    return network


def efficientnet_lite(spec: Any, weights: Path | None = None) -> nn.Module:
    """timm's `tf_efficientnet_lite0` to `lite2`; with the file of a package its tensors, which have the same order.

    Tan and Le (2019) without squeeze-and-excitation, ReLU6; images of 224, 240 and 260 pixels, "same" padding.
    """
    network = timm_network(spec)
    if weights:
        given = read_state(weights)
        own, others = ([key for key in state if "num_batches" not in key] for state in (network.state_dict(), given))
        if len(own) != len(others):
            raise ValueError(f"{weights.name}: {len(others)} tensors, but {spec.architecture} has {len(own)}")
        load_state(network, {key: given[other] for key, other in zip(own, others, strict=True)}, weights.name)
    return network


def package_file(spec: Any, download: bool) -> Path | None:
    """The weights file in an installed package, of which no code is run; FileNotFoundError to download one."""
    found = importlib.util.find_spec(spec.weights.replace("-", "_"))
    folders = found.submodule_search_locations if found else None
    path = next((path for folder in folders or () for path in sorted(Path(folder).rglob("*.pth"))), None)
    if path is None and download:
        raise FileNotFoundError(f"the package {spec.weights} is not installed")
    return path


FAMILIES = {
    "small": family("small.ARCHITECTURES", "classes", trained=True),
    "small_detector": family("detectors.DETECTORS", "classes", trained=True),
    "segnet_basic": family("segnet_basic.SegNetBasic", "classes", "maps", trained=True),
    "purifier": family("purifier.PURIFIERS", "width", "blocks", trained=True),
    "cda_generator": family("cda_generator.GENERATORS", "width", "blocks", trained=True),
    "resnet_denoise": family("resnet152.TENSORPACK", "classes", convert=from_tensorpack),
    "inception_v3_slim": family("inception_v3.inception_v3", "classes"),
    "resnet_v2_slim": family("resnet152.ResNetV2", "classes"),
    "vgg16_conv3_3": Family(lambda spec: vgg16_conv3_3()),
    "resnet50_stride1": Family(lambda spec: resnet50_stride1(spec.classes)),
    # With TensorFlow's padding, which depends on the input size.
    "mobilenetv2_same": Family(lambda spec: timm_network(spec, pad_type="same")),
    "yolox_onnx": Family(None, load=lambda spec, path: imported("onnx.OnnxYolox")(path)),
    "torchvision": Family(torchvision_network, file=torchvision_file),
    "efficientnet_lite": Family(efficientnet_lite, load=efficientnet_lite, file=package_file),
    "timm": Family(timm_network, load=timm_network, file=timm_file),
}
