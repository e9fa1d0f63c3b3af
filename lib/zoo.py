"""Networks by name: where their weights come from, whether they are there, and what the network wants to be fed.

    python -m lib.zoo --scale sample               which networks, found or not, how to get them
    python -m lib.zoo fetch VGG-19 --scale paper   get and check one network's weights

A name is a key of `networks:` in scales/<scale>.yaml (`lib.settings.NetworkSpec`). Its `weights` is a tag of
torchvision or timm, a file (relative to the repository, or else to $COMPANION_ASSETS), or nothing for a small network,
whose file the pipeline writes to models/<scale>/NAME.safetensors. torchvision, timm and the hub's client take seconds
to import, so each is imported only where it is asked for.
"""

import argparse
import difflib
import os
import sys
from pathlib import Path

import torch
from tabulate import tabulate
from torch import nn

from lib.networks import resnet_denoise
from lib.networks import weights as files
from lib.networks.cda_generator import GENERATORS
from lib.networks.converted import mobilenetv2_same, resnet50_stride1
from lib.networks.normalised import Normalised
from lib.networks.onnx import OnnxYolox
from lib.networks.purifier import PURIFIERS
from lib.networks.resnet_v2 import ResNetV2
from lib.networks.segnet_basic import SegNetBasic
from lib.networks.taps import Tap
from lib.networks.vgg import TAPS, VGG16Conv33
from lib.settings import ROOT, NetworkSpec, Scale
from lib.settings import load as load_settings

# Families that the pipeline trains itself; their weights lie in models/<scale>/.
TRAINED = ("small", "segnet_basic", "small_detector", "purifier", "cda_generator")
CONVERTED = {"resnet50_stride1": resnet50_stride1, "mobilenetv2_same": mobilenetv2_same, "resnet_v2_slim": ResNetV2}


def device_name(device: str) -> str:
    """The GPU's name, or CPU: what records and tables of costs say."""
    return torch.cuda.get_device_name() if device == "cuda" else "CPU"


def load(name: str, settings: Scale, device: str | torch.device = "cpu") -> nn.Module:
    """The network called `name`, frozen, in eval mode, for images in [0,1].

    A classifier takes `[B,3,H,W]` and gives logits `[B,classes]`; a segmenter gives `[B,classes,H,W]`; a detector takes
    a list of `[3,H,W]` and gives a list of dicts with boxes, scores and labels, as torchvision's do; a purifier gives
    images `[B,3,H,W]`, not clamped; a generator gives images in [0,1], unbounded adversaries.

    Weights of torchvision and timm that are not there yet are downloaded by their own library. FileNotFoundError in one
    line says how to get weights that are missing; ValueError, what is wrong with a file.
    """
    spec = _spec(name, settings)
    path = _obtain(name, spec, settings)
    files.verify(path, spec.sha256)
    if spec.family == "yolox_onnx":
        network = OnnxYolox(path)
    elif _library(spec) == "timm":
        network = _timm(spec, pretrained=True, pretrained_cfg_overlay={"file": str(path)})
    else:
        network, state = _build(spec), files.read(path)
        if spec.family == "resnet_denoise":
            state = resnet_denoise.from_tensorpack(state)
        files.load(network, state, path.name)
    if spec.task == "classification":
        network = Normalised(network, spec.mean, spec.std, spec.resize, spec.background)
    return network.eval().requires_grad_(False).to(device)


def extractor(name: str, settings: Scale, tap: str | None = None, device: str | torch.device = "cpu") -> Tap:
    """The network called `name`, loaded and cut at `tap`; see `cut`."""
    _tap(name, settings, tap)
    return cut(load(name, settings, device), name, settings, tap)


def cut(network: nn.Module, name: str, settings: Scale, tap: str | None = None) -> Tap:
    """A loaded network cut at `tap` (default: the scale file's): a module name or, for VGG-16, one like `relu3_3`."""
    return Tap(network, layer(name, settings, _tap(name, settings, tap)))


def layer(name: str, settings: Scale, tap: str) -> str:
    """The module name of a layer: VGG-16's `relu3_3` is `features.15`; any other name is a module name already."""
    spec = _spec(name, settings)
    is_vgg16 = spec.family == "vgg16_conv3_3" or (spec.family == "torchvision" and spec.architecture == "vgg16")
    return TAPS.get(tap, tap) if is_vgg16 else tap


def _tap(name: str, settings: Scale, tap: str | None) -> str:
    tap = tap or _spec(name, settings).tap
    if tap is None:
        raise ValueError(f"{name}: no tap given, and none in scales/{settings.name}.yaml")
    return tap


def status(settings: Scale) -> list[dict]:
    """One row per network of the scale: name, role, source, found (bool), how to get it. Downloads nothing."""
    return [
        {
            "name": name,
            "role": spec.role,
            "source": _source(name, spec, settings),
            "found": _find(name, spec, settings) is not None,
            "how to get it": _how(name, spec, settings),
        }
        for name, spec in settings.networks.items()
    ]


def fetch(name: str, settings: Scale) -> Path:
    """Get and check one network's weights; returns the file."""
    spec = _spec(name, settings)
    path = _obtain(name, spec, settings)
    files.verify(path, spec.sha256)
    return path


def _spec(name: str, settings: Scale) -> NetworkSpec:
    if name not in settings.networks:
        close = difflib.get_close_matches(name, settings.networks, n=1, cutoff=0.0)
        raise ValueError(f"no network '{name}' in scales/{settings.name}.yaml; did you mean '{''.join(close)}'?")
    return settings.networks[name]


def _build(spec: NetworkSpec) -> nn.Module:
    """The architecture, with random weights."""
    if spec.family == "torchvision":
        import torchvision

        if spec.task == "detection":
            return _torchvision_detector(spec)
        return torchvision.models.get_model(spec.architecture, weights=None, num_classes=spec.classes)
    if spec.family == "timm":
        return _timm(spec, pretrained=False)
    if spec.family == "small":
        from lib.networks.small import ARCHITECTURES

        return ARCHITECTURES[spec.architecture](spec.classes)
    if spec.family == "small_detector":
        from lib.networks.detectors import DETECTORS

        return DETECTORS[spec.architecture](spec.classes)
    if spec.family == "segnet_basic":
        return SegNetBasic(spec.classes, spec.maps)
    if spec.family == "purifier":
        return PURIFIERS[spec.architecture](spec.width, spec.blocks)
    if spec.family == "cda_generator":
        return GENERATORS[spec.architecture](spec.width, spec.blocks)
    if spec.family == "resnet_denoise":
        return resnet_denoise.ARCHITECTURES[spec.architecture](spec.classes)
    if spec.family == "vgg16_conv3_3":
        return VGG16Conv33()
    return CONVERTED[spec.family](spec.classes)


def _torchvision_detector(spec: NetworkSpec) -> nn.Module:
    """torchvision's detector; COCO_V1 weights want an epsilon of 0 in batch normalisation, as its own loader sets."""
    import torchvision

    bare = {"weights": None, "weights_backbone": None, "num_classes": spec.classes}
    network = torchvision.models.get_model(spec.architecture, **bare)
    if spec.weights == "COCO_V1":
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 0.0
    return network


def _timm(spec: NetworkSpec, pretrained: bool, **options) -> nn.Module:
    """timm's network; its own loader renames the keys of a pretrained file where its architecture has moved on."""
    import timm

    model = f"{spec.architecture}.{spec.weights}" if pretrained else spec.architecture
    return timm.create_model(model, pretrained=pretrained, num_classes=spec.classes, **options)


def _library(spec: NetworkSpec) -> str | None:
    """The library whose weights tag `spec.weights` is, or None for a file."""
    is_tag = spec.weights is not None and not spec.weights.endswith(files.SUFFIXES)
    return spec.family if is_tag and spec.family in ("torchvision", "timm") else None


def _file(name: str, spec: NetworkSpec, settings: Scale) -> str | None:
    """The weights file of a network that is not a library's, as written in the scale file."""
    return spec.weights or (f"models/{settings.name}/{name}.safetensors" if spec.family in TRAINED else None)


def _torchvision_weights(spec: NetworkSpec) -> tuple[str, Path]:
    """Address of a torchvision weights tag, and where torch.hub keeps the file."""
    import torchvision

    known = torchvision.models.get_model_weights(spec.architecture).__members__
    if spec.weights not in known:
        raise ValueError(f"torchvision's {spec.architecture} has no weights '{spec.weights}', only {', '.join(known)}")
    url = known[spec.weights].url
    return url, Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name


def _find(name: str, spec: NetworkSpec, settings: Scale) -> Path | None:
    """The weights file if it is on this machine."""
    library = _library(spec)
    if library == "torchvision":
        path = _torchvision_weights(spec)[1]
        return path if path.is_file() else None
    if library == "timm":
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(f"timm/{spec.architecture}.{spec.weights}", "model.safetensors")
        return Path(cached) if isinstance(cached, str) else None
    file = _file(name, spec, settings)
    roots = [ROOT, *map(Path, filter(None, [os.environ.get("COMPANION_ASSETS")]))]
    return next((root / file for root in roots if file and (root / file).is_file()), None)


def _obtain(name: str, spec: NetworkSpec, settings: Scale) -> Path:
    """The weights file, downloaded if it is a library's. FileNotFoundError in one line if that is not possible."""
    found = _find(name, spec, settings)
    if found:
        return found
    source = _source(name, spec, settings)
    if not _library(spec):
        raise FileNotFoundError(f"{name}: no weights ({source}); to get them: {_how(name, spec, settings)}")
    try:
        return _download(spec)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise FileNotFoundError(
            f"{name}: no weights ({source}), and the download failed ({reason}); to get them: "
            f"{_how(name, spec, settings)}"
        ) from None


def _download(spec: NetworkSpec) -> Path:
    if _library(spec) == "timm":
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(f"timm/{spec.architecture}.{spec.weights}", "model.safetensors"))
    url, path = _torchvision_weights(spec)
    path.parent.mkdir(parents=True, exist_ok=True)
    # torchvision's file names end in the first 8 digits of the file's SHA-256, e.g. vgg19-dcbb9e9d.pth.
    torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rsplit("-", 1)[1])
    return path


def _source(name: str, spec: NetworkSpec, settings: Scale) -> str:
    if _library(spec):
        return f"{spec.family} {spec.architecture}.{spec.weights}"
    return _file(name, spec, settings) or "no weights file named"


def _how(name: str, spec: NetworkSpec, settings: Scale) -> str:
    if spec.how:
        return spec.how
    if _library(spec):
        return f"python -m lib.zoo fetch {name} --scale {settings.name}"
    if spec.family in TRAINED:
        return "trained by the pipeline: dvc repro"
    return "set COMPANION_ASSETS to the folder that holds it"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lib.zoo", description=__doc__.splitlines()[0])
    parser.add_argument("--scale", help="mini, sample or paper; default: the scale that params.yaml names")
    commands = parser.add_subparsers(dest="command")
    fetching = commands.add_parser("fetch", help="get and check one network's weights")
    fetching.add_argument("name")
    fetching.add_argument("--scale", default=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        settings = load_settings(options.scale)
        if options.command == "fetch":
            print(f"{options.name}: {fetch(options.name, settings)}")
        else:
            rows = [row | {"found": "yes" if row["found"] else "no"} for row in status(settings)]
            print(tabulate(rows, headers="keys", maxcolwidths=[None, 36, 36, None, 48]))
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
