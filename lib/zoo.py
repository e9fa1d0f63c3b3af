"""Networks by name: where their weights come from, whether they are there, and what the network wants to be fed.

    companion zoo --scale sample         which networks, found or not, how to get them
    companion fetch VGG-19 --scale paper get and check one network's weights (lib.fetch)

A name is a key of `networks:` in scales/<scale>.yaml (`lib.settings.NetworkSpec`). Its `family` is one of
lib.networks.families, or a user's own file (docs/own_victim.md). Its `weights` is a library's tag, a file (relative to
the repository or $COMPANION_ASSETS), `untrained` for random ones, or nothing for models/SCALE/NAME.safetensors.
"""

import functools
import os
import shlex
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from lib import own
from lib.digests import FirstSeen, content_sha256
from lib.networks import weights as files
from lib.networks.families import FAMILIES, VGG16_TAPS, Family
from lib.networks.frozen import folded, is_folded
from lib.networks.raw import RAW, where
from lib.networks.wrappers import Normalised, Tap, inner_modules
from lib.rng import key
from lib.settings import ROOT, Missing, NetworkSpec, Scale, choices, params
from lib.settings.networks import UNTRAINED

# Of a network's entry, what a custom network is not made from, or what its weights show.
DESCRIPTIVE = {"role", "note", "how", "licence", "megabytes", "top1", "weights", "sha256"}


def device_name(device: str) -> str:
    """The GPU's name, or CPU: what records and tables of costs say."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device.upper()


def device_here(asked: str | None = None) -> str:
    """The device that params.yaml names (or `asked`); "auto" is the GPU where there is one. ValueError in one line for
    one that this machine lacks."""
    asked = asked or params().device
    here = ["cpu", *(["mps"] if torch.backends.mps.is_available() else [])]
    if torch.cuda.is_available():
        here += ["cuda", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
    if asked == "auto":
        return "cuda" if "cuda" in here else "cpu"
    if asked not in here:
        raise ValueError(f"device {asked} is not here; params.yaml can name {', '.join(['auto', *here])}")
    return asked


def load(
    name: str, settings: Scale, device: str | torch.device = "cpu", *, fast: bool = False, seed: int | None = None
) -> nn.Module:
    """The network called `name`, frozen, in eval mode, for images in [0,1].

    fast: with each BatchNorm folded into its convolution and channels last in memory, which changes rounding alone; the
    layers that the scale taps keep their own output, and a network of own/ is as its file makes it.  seed: of random
    weights, in place of the entry's.

    A classifier takes `[B,3,H,W]` and gives logits `[B,classes]`; a segmenter gives `[B,classes,H,W]`; a detector takes
    a list of `[3,H,W]` and gives a list of dicts with boxes, scores and labels, as torchvision's do, but no masks; a
    purifier gives images `[B,3,H,W]`, not clamped; a generator gives images in [0,1], unbounded adversaries.

    Weights with a library's tag are downloaded if they are not here. FileNotFoundError in one line says how to get
    others; ValueError, what is wrong with an entry or a file.
    """
    spec = _spec(name, settings)
    if seed is None and spec.weights == UNTRAINED:
        seed = key(UNTRAINED, name)
    try:
        network = with_weights(spec, weights_file(name, settings)) if seed is None else _initialised(name, spec, seed)
    except ValueError as error:
        if "cannot be read" not in str(error):
            raise
        source, path, how = weights_of(name, settings)
        raise ValueError(f"{error}; to get {path or source} again: {how}") from None
    if getattr(network, "roi_heads", None) and network.roi_heads.has_mask():
        # Boxes alone are evaluated; the masks of 100 objects at an image's own size take more memory than the network.
        network.roi_heads.mask_roi_pool = network.roi_heads.mask_head = network.roi_heads.mask_predictor = None
    if spec.task == "classification":
        given = spec.model_dump(include={"mean", "std", "resize", "background"}, exclude_none=True)
        network = Normalised(network, **given)
    network = network.eval().requires_grad_(False)
    if not fast:
        return network.to(device)
    if not spec.family.endswith(".py"):  # on the CPU, in float64, which not every device has
        taps = {layer(name, settings, tap) for tap in (spec.tap, *spec.activations) if tap}
        folded(network, [module for path, module in inner_modules(network).items() if path in taps])
    return network.to(device, memory_format=torch.channels_last)


def _initialised(name: str, spec: NetworkSpec, seed: int) -> nn.Module:
    """A network with random weights, before a `Normalised`. A classifier's batch normalisation takes the statistics of
    noise: with its initial ones the signal of a deep network overflows. ValueError for a family that only loads."""
    if not (build := family_of(spec).build):
        raise ValueError(f"{name}: networks of family {spec.family} come with their weights, so none is untrained")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(spec)
        if spec.task == "classification":
            update_bn([torch.randn(2, 3, 96, 96)], network)
    return network


def with_weights(spec: NetworkSpec, path: Path) -> nn.Module:
    """The network of an entry with the weights in a file; ValueError in one line if they are not its."""
    family = family_of(spec)
    if family.load and (tagged(spec) or not family.build):
        return family.load(spec, path)
    return files.load_state(family.build(spec), family.convert(files.read_state(path)), path.name)


def family_of(spec: NetworkSpec) -> Family:
    """How networks like this one are made. ValueError or FileNotFoundError in one line for a family that is neither
    registered nor a file of own/ with a function `network(spec)`."""
    if spec.family in FAMILIES:
        return FAMILIES[spec.family]
    if not spec.family.endswith(".py"):
        known = choices(spec.family, sorted(FAMILIES))
        raise ValueError(f"no family '{spec.family}'; {known}, and own/NAME.py for your own")
    function = own.function_in(spec.family, "network")
    own.check_options(f"the network {spec.family}", function, ["spec"], [])

    def build_own(spec: NetworkSpec) -> nn.Module:
        network = function(spec)
        if not isinstance(network, nn.Module):
            kind = type(network).__name__
            raise ValueError(f"{spec.family}: network(spec) must return a torch.nn.Module, got {kind}")
        # Its weights and structure show neither an edit of the file nor what it made of the entry; the key has both.
        network.built_by = functools.partial(function, spec.model_dump(mode="json", exclude=DESCRIPTIVE))
        return network

    return Family(build_own)


def check_families(settings: Scale) -> None:
    """One line of ValueError or FileNotFoundError for the first entry whose family cannot be made; builds nothing."""
    for name, spec in settings.networks.items():
        try:
            family_of(spec)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"networks.{name}: {error}") from None


def extractor(name: str, settings: Scale, tap: str | None = None, device: str | torch.device = "cpu") -> Tap:
    """The network called `name`, loaded and cut at `tap`; see `cut`."""
    return cut(load(name, settings, device), name, settings, tap)


def cut(network: nn.Module, name: str, settings: Scale, tap: str | None = None) -> Tap:
    """A loaded network cut at `tap` (default: the scale file's): a module name or, for VGG-16, one like `relu3_3`."""
    tap = tap or _spec(name, settings).tap
    if tap is None:
        raise ValueError(f"{name}: no tap given, and none in scales/{settings.name}.yaml")
    path = layer(name, settings, tap)
    if is_folded(inner_modules(network).get(path)):  # its own output is gone
        network = load(name, settings, next(network.parameters()).device)
    return Tap(network, path)


def layer(name: str, settings: Scale, tap: str) -> str:
    """The module name of a layer: VGG-16's `relu3_3` is `features.15`; any other name is a module name already."""
    spec = _spec(name, settings)
    is_vgg16 = spec.family == "vgg16_conv3_3" or (spec.family, spec.architecture) == ("torchvision", "vgg16")
    return VGG16_TAPS.get(tap, tap) if is_vgg16 else tap


def status(settings: Scale) -> list[dict]:
    """One row per network of the scale: name, role, licence, MB, source, found (bool), how to get it."""
    rows = []
    for name, spec in settings.networks.items():
        source, path, how = weights_of(name, settings)
        found = path is not None or source == UNTRAINED
        megabytes = round(path.stat().st_size / 1e6, 1) if path else spec.megabytes
        licence = spec.licence or ("MIT" if family_of(spec).trained else "not stated")
        if made := RAW.get(Path(source).name):
            source = where(made)
        facts = {"licence": licence, "MB": megabytes, "source": source, "found": found}
        rows.append({"name": name, "role": spec.role} | facts | {"how to get it": how})
    return rows


def weights_file(name: str, settings: Scale) -> Path:
    """One network's weights file, downloaded if it is a library's, and checked. Errors as of `load`."""
    spec, (source, path, how) = _spec(name, settings), weights_of(name, settings)
    if path is None and not tagged(spec):
        raise Missing(f"{name}: no weights ({source}); to get them: {how}{_others(source, settings)}")
    try:
        path = path or family_of(spec).file(spec, True)
    except (OSError, RuntimeError, ValueError) as error:
        failed = f"the download failed ({' '.join(str(error).split())[:240]})"
        raise Missing(f"{name}: no weights ({source}), and {failed}; to get them: {how}") from None
    files.check_sha256(path, spec.sha256)
    seen = FirstSeen(ROOT)
    if not spec.sha256 and source in seen.known:
        seen.check(source, content_sha256(path))
    return path


def _others(source: str, settings: Scale) -> str:
    """The files in a weights file's folder that no network of the scale asks for: one of them may be it."""
    target, asked = ROOT / source, {Path(spec.weights or "").name for spec in settings.networks.values()}
    found = sorted(path.name for path in target.parent.glob(f"*{target.suffix}") if path.name not in asked)
    return f" (or is it one of these, in {target.parent}: {', '.join(found)}?)" if found else ""


def weights_of(name: str, settings: Scale) -> tuple[str, Path | None, str]:
    """One network's weights: a library's tag or a file, where that lies on this machine, and how to get it."""
    spec = _spec(name, settings)
    family, how = family_of(spec), f"companion fetch {shlex.quote(name)} --scale {settings.name}"
    if spec.weights == UNTRAINED:
        return UNTRAINED, None, "nothing: random weights, for a dry run"
    if tagged(spec):
        return f"{spec.family} {spec.architecture}.{spec.weights}", family.file(spec, False), spec.how or how
    source = spec.weights or f"models/{settings.name}/{name}.safetensors"
    places = [Path(root) / source for root in (ROOT, os.environ.get("COMPANION_ASSETS")) if root]
    if Path(source).name not in RAW:
        trained = "trained by the pipeline: dvc repro"
        how = trained if family.trained else "set COMPANION_ASSETS to the folder that holds it"
    return source, next((place for place in places if place.is_file()), None), spec.how or how


def _spec(name: str, settings: Scale) -> NetworkSpec:
    if name not in settings.networks:
        raise ValueError(f"no network '{name}' in scales/{settings.name}.yaml; {choices(name, settings.networks)}")
    return settings.networks[name]


def tagged(spec: NetworkSpec) -> bool:
    """Whether `weights` is a library's tag and not a file."""
    named = spec.weights and spec.weights != UNTRAINED and not spec.weights.endswith(files.FORMATS)
    return bool(named) and family_of(spec).file is not None
