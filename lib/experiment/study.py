"""A study: images, networks, parameters and a store, which all cells of an experiment share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lib import settings, store, zoo
from lib.attacks.registry import attacks
from lib.data.detection import DetectionSet
from lib.data.images import ImageSet
from lib.data.segmentation import SegmentationSet
from lib.data.sets import class_names, load_set
from lib.defenses import Defense, defense
from lib.engine import engine_of, one_thread
from lib.memory import halved
from lib.networks import weights
from lib.settings import Data, Params, Scale, Scenes
from lib.settings.base import choices
from lib.store import Arrays, Call, Store
from lib.units import OF_DEFENSES, in_unit, unit_images

NONE = "none"  # no defense
# Options of a defense that name its network: one of the scale's, the same with its first random weights, or a file.
NETWORKS = {"network", "untrained", "weights"}

Images = Tensor | Sequence[Tensor]


def here() -> Store:
    """The store of this checkout (`lib.store.folder`), with the workers that params.yaml asks for."""
    asked = settings.params()
    return Store(store.folder(settings.ROOT), engine_of(asked.engine_here(), zoo.device_here(), asked.cores()))


def label_of(defense: str | Defense) -> str:
    """What tables call a defense: its name in params.yaml, or that of the function."""
    return defense if isinstance(defense, str) else defense.__name__


@dataclass
class Study:
    """What the cells of an experiment share.  params: params.yaml with the scale's changes.  batch: images per step and
    per stored shard (default: the scale's)."""

    params: Params
    scale: Scale
    images: ImageSet | SegmentationSet | DetectionSet
    store: Store = field(default_factory=here)
    device: str = field(default_factory=zoo.device_here)
    networks: dict[str, nn.Module] = field(default_factory=dict)
    batch: int = 0

    def __post_init__(self):
        self.batch = self.batch or self.scale.batch

    def network(self, name: str) -> nn.Module:
        """A network of the scale, loaded once, on the study's device."""
        if name not in self.networks:
            self.networks[name] = zoo.load(name, self.scale, self.device, fast=True)
        return self.networks[name]

    def defense(self, name: str | Defense, **changed: object) -> Defense | None:
        """The defense called `name` in params.yaml, ready to call; None for "none". A function, such as one of a
        notebook's cell, is taken as it is (`lib.defenses.own`).

        changed: options that differ from params.yaml's. One of NETWORKS in an entry names its network. ValueError for a
        name or an option that is not there.
        """
        if name == NONE:
            return None
        if callable(name):
            return defense(name, **in_unit(changed, OF_DEFENSES))
        if name not in self.params.defenses:
            raise ValueError(f"no defense '{name}'; {choices(name, [NONE, *self.params.defenses])}")
        options = in_unit(self.params.defenses[name] | changed, OF_DEFENSES)
        for kind in sorted(NETWORKS & options.keys()):
            options |= {"network": self.part(kind, options.pop(kind))}
        return defense(**options)

    def calls(
        self, function: Callable[..., Arrays], of_shard: Callable[[slice], tuple], cell: str, **how: object
    ) -> list[Call]:
        """A stored computation for each of `shards`.  of_shard: its arguments there."""
        return [Call(function, of_shard(part), cell, how) for part in self.shards()]

    def cached_all(self, groups: Sequence[Sequence[Call]], words: str) -> Iterator[list[Arrays]]:
        """`Store.cached_all` on the study's device."""
        return self.store.cached_all(groups, self.device, words)

    def cached(self, calls: Sequence[Call], words: str = "") -> Arrays:
        """What calls give, such as one per shard: the arrays of all, one after the other."""
        return joined([arrays for (arrays,) in self.cached_all([[call] for call in calls], words)])

    def part(self, kind: str, name: str) -> nn.Module:
        """The network in a defense, as one of NETWORKS names it, loaded once. ValueError for a file that holds none."""
        if kind == "network":
            return self.network(name)
        key = f"{kind} {name}"
        if key not in self.networks and kind == "untrained":
            self.networks[key] = zoo.load(name, self.scale, self.device, seed=self.params.seed)
        elif key not in self.networks:
            self.networks[key] = weights.read_purifier(Path(name)).to(self.device)
        return self.networks[key]

    def first(self, count: int) -> "Study":
        """The study of the first images alone."""
        return replace(self, images=self.images.slice(0, count))

    def shards(self) -> list[slice]:
        """The images in parts that are evaluated and stored by themselves."""
        return [slice(first, first + self.batch) for first in range(0, len(self.images), self.batch)]


def joined(shards: Sequence[Arrays]) -> Arrays:
    """The arrays of all shards, one after the other."""
    return {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}


def load_images(
    scale: Scale, source: Data | Scenes, split: str, count: int | None, _: int
) -> ImageSet | SegmentationSet | DetectionSet:
    """The images of `open_study`. ValueError for a user's folder whose classes no classifier of the scale has."""
    images = load_set(source, split, count)
    if isinstance(source, Data) and "/" in source.name:
        known = {spec.classes for spec in scale.networks.values() if spec.task == "classification"}
        if (classes := len(class_names(source))) not in known:
            theirs = f"the classifiers of scales/{scale.name}.yaml {', '.join(map(str, sorted(known)))}"
            raise ValueError(f"{source.name} has {classes} classes, {theirs}: docs/own_data.md and own_victim.md")
    return images


def open_study(
    scale: str | None = None,
    count: int | None = None,
    source: Data | Scenes | None = None,
    split: str | None = None,
    defenses: Mapping[str, dict] | None = None,
    batch: int | None = None,
    precision: str | None = None,
    *,
    load: Callable = load_images,
    study: Callable[..., Study] = Study,
) -> Study:
    """The study of a scale (default: the one that params.yaml names), on the GPU where there is one.

    count: how many of its images.  source: another image set than the scale's; `Scenes` have labelled pixels or boxes.
    split: another part of it than the scale's.  defenses: further ones, as params.yaml has them.  batch: images per
    shard, if not the scale's.  precision: of surrogates, if not the scale's.  load, study: of `lib.plan`, which counts.
    ValueError or FileNotFoundError for a custom attack, a defense or a network that cannot be made, and for a folder of
    images whose classes no classifier of the scale has.
    """
    chosen = settings.load(scale)
    chosen = chosen.model_copy(update={"precision": precision or chosen.precision})
    params = settings.params_at(chosen)
    params = params.model_copy(update={"defenses": params.defenses | dict(defenses or {})})
    # A mistake in the user's own line or file is found here, not after the hours before its turn.
    zoo.check_families(chosen)
    attacks(params.own_attacks)
    for spec in params.defenses.values():
        defense(**{"network" if name in NETWORKS else name: value for name, value in spec.items()})
    source = source or chosen.data
    batch = batch or getattr(source, "batch", None) or chosen.batch
    images = load(chosen, source, split or chosen.split, count, batch)
    return study(params, chosen, images, batch=batch)


def outputs(study: Study, name: str, images: Sequence[int], *, features: bool, trained: bool = True) -> np.ndarray:
    """A network's logits, or its features at the tap that the scale names, `[n,...]` float32, on the study's images of
    these indices.  trained: false for its weights as initialised."""
    seed = study.params.seed
    network = study.network(name) if trained else zoo.load(name, study.scale, study.device, seed=seed)
    module = zoo.cut(network, name, study.scale) if features else network

    def computed(places: Sequence[int]) -> Tensor:
        return module(unit_images(study.images.images[list(places)], study.device)).float().cpu()

    with torch.no_grad(), one_thread(study.device):
        return torch.cat(halved(computed, images, study.batch, module) or [computed([])]).numpy()
