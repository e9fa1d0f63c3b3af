"""Networks of torchvision and timm, and their variants for weights that were converted from another framework.

Both libraries and the hub's client take seconds to import, so they are only when a network of theirs is asked for.
"""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib import download as transfer
from lib.digests import content_sha256
from lib.networks.families import FAMILIES, Family, family
from lib.networks.weights import load_state, read_state


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

        transfer.download(
            path.parent, url.rpartition("/")[0], {path.name: transfer.File(path.name, check)}, record=False
        )
    return path if path.is_file() else None


def timm_network(spec: Any, pretrained: Path | None = None) -> nn.Module:
    """timm's network; its own loader renames the keys of a pretrained file where its architecture has moved on."""
    import timm

    if pretrained is None:
        return timm.create_model(spec.architecture, pretrained=False, num_classes=spec.classes)
    name, overlay = f"{spec.architecture}.{spec.weights}", {"file": str(pretrained)}
    return timm.create_model(name, pretrained=True, num_classes=spec.classes, pretrained_cfg_overlay=overlay)


def timm_file(spec: Any, download: bool) -> Path | None:
    """Where the hub's client keeps the file of a weights tag."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    place = f"timm/{spec.architecture}.{spec.weights}", "model.safetensors"
    found = hf_hub_download(*place) if download else try_to_load_from_cache(*place)
    return Path(found) if isinstance(found, str) else None


def efficientnet_lite(spec: Any, weights: Path | None = None) -> nn.Module:
    """timm's `tf_efficientnet_lite0` to `lite2`; with the file of a package its tensors, which have the same order.

    Tan and Le (2019) without squeeze-and-excitation, ReLU6; images of 224, 240 and 260 pixels, "same" padding.
    """
    network = timm_network(spec)
    if weights:
        own = [key for key in network.state_dict() if not key.endswith("num_batches_tracked")]
        given = [(key, value) for key, value in read_state(weights).items() if not key.endswith("num_batches_tracked")]
        if len(own) != len(given):
            raise ValueError(f"{weights.name}: {len(given)} tensors, but {spec.architecture} has {len(own)}")
        load_state(network, dict(zip(own, (value for _, value in given), strict=True)), weights.name)
    return network


def package_file(spec: Any, download: bool) -> Path | None:
    """The weights file in an installed package, of which no code is run; FileNotFoundError to download one."""
    found = importlib.util.find_spec(spec.weights.replace("-", "_"))
    folders = found.submodule_search_locations if found else None
    path = next((path for folder in folders or () for path in sorted(Path(folder).rglob("*.pth"))), None)
    if path is None and download:
        raise FileNotFoundError(f"the package {spec.weights} is not installed")
    return path


FAMILIES["efficientnet_lite"] = Family(efficientnet_lite, load=efficientnet_lite, file=package_file)
FAMILIES["torchvision"] = Family(torchvision_network, file=torchvision_file)
FAMILIES["timm"] = Family(timm_network, load=timm_network, file=timm_file)


@family("resnet50_stride1", "classes")
def resnet50_stride1(classes: int = 1000) -> nn.Module:
    """torchvision's ResNet-50 with the stride of layer2-4's first blocks on conv1 instead of conv2.

    This is where the original Caffe model of He et al. (2016) has it; torchvision's own is called "V1.5". Same keys.
    """
    import torchvision

    network = torchvision.models.resnet50(weights=None, num_classes=classes)
    for layer in (network.layer2, network.layer3, network.layer4):
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    return network


@family("mobilenetv2_same", "classes")
def mobilenetv2_same(classes: int = 1000) -> nn.Module:
    """timm's `mobilenetv2_100` with TensorFlow's "same" padding, which depends on the input size. Same keys.

    Sandler et al. (2018).
    """
    import timm

    return timm.create_model("mobilenetv2_100", pretrained=False, num_classes=classes, pad_type="same")


@family("small_detector", "architecture", "classes", trained=True)
def small_detector(architecture: str, classes: int) -> nn.Module:
    """A detector of torchvision's parts (`lib.networks.detectors`)."""
    from lib.networks.detectors import DETECTORS

    if architecture not in DETECTORS:
        raise ValueError(f"family small_detector has no architecture '{architecture}', only {', '.join(DETECTORS)}")
    return DETECTORS[architecture](classes)
