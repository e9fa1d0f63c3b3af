"""Small trainings of every kind, and stopping a training in the middle to see where it goes on."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from lib.data.segmentation import VOID, SegmentationSet
from lib.data.unlabelled import unlabelled
from lib.data.world import World, load_scenes
from lib.networks.small import ARCHITECTURES, MEAN, STD
from lib.networks.wrappers import Normalised
from lib.settings.networks import (
    DetectorSpec,
    GeneratorSpec,
    NetworkSpec,
    PurifierSpec,
    Scenes,
    SegmenterSpec,
    StandIn,
)
from lib.store import Store
from lib.training import classifiers, detectors, generator, loop, purifier, runner, segmenter
from tests.conftest import tiny_network

SIDE = 32
RECIPES = ("natural", "fgsm", "pgd", "ensemble", "scatter")
KINDS = (*RECIPES, "segmenter", "retinanet", "mask_rcnn", "purifier", "cda_generator", "cda_generator_inception")
STAND_INS = ("inception_resnet_v2", "inception_v3")
WORLD = Scenes(name="world", labels="pixels")
FIELDS = {
    "stand_in": {"epochs": 2, "batch": 16, "lr": 4e-3} | {"eps": 16, "step": 8, "steps": 2},
    "segmenter": {"data": WORLD, "steps": 12, "batch": 4, "lr": 0.1},
    "detector": {"backbone": "Classifier", "epochs": 2, "batch": 4},
    "purifier": {"images": "world", "extractor": "VGG-16", "crop": SIDE, "batch": 4, "steps": 7, "lr": 4e-3}
    | {"pixel": 1.0, "step": 10, "ssp_steps": 2, "ssp_start": "perturbed", "critic_width": 2, "init": "identity"},
    "generator": {"images": "world", "classifier": "VGG-16", "resize": None, "side": SIDE, "crops": "random"}
    | {"batch": 4, "steps": 6, "lr": 4e-3},
}
SPECS = {
    "stand_in": StandIn,
    "segmenter": SegmenterSpec,
    "detector": DetectorSpec,
    "purifier": PurifierSpec,
    "generator": GeneratorSpec,
}


def spec_of(kind: str, **changes):
    """A recipe of seconds, whose every step has its checkpoint."""
    return SPECS[kind](**FIELDS[kind] | {"checkpoint_minutes": 0} | changes)


def network_spec(architecture: str, **changes) -> NetworkSpec:
    tasks = {"nrp": ("purification", "purifier"), "cda": ("generation", "cda_generator")}
    task, family = tasks.get(architecture[:3], ("classification", "small"))
    fields = {"role": "x", "task": task, "family": family, "architecture": architecture, "blocks": 1, "maps": 4}
    return NetworkSpec(**fields | {"width": 8 if family == "purifier" else 4} | changes)


def stand_in(architecture: str) -> Normalised:
    """With fresh weights, for the two classes of `tiny_world`."""
    return Normalised(ARCHITECTURES[architecture](2), MEAN, STD)


def tiny_world(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels of two classes: bright above, or bright below; with coarse noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = rng.integers(60, 120, (count, 3, 48, 48))
    for image, label in zip(images, labels, strict=True):
        image[:, 24 * label : 24 * label + 24] += 70
    return torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(labels)


def halves(count: int = 24, seed: int = 0) -> SegmentationSet:
    """Images whose upper part is bright and of class 0, the rest dark and of class 1; one void corner."""
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 60, (count, 3, 16, 16)), np.ones((count, 16, 16), np.uint8)
    for image, label, edge in zip(images, labels, rng.integers(4, 12, count), strict=True):
        image[:, :edge] += 150
        label[:edge] = 0
    labels[:, 15, 15] = VOID
    data = torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(labels)
    return SegmentationSet(*data, [f"h{k}" for k in range(count)], ("above", "below"), ((255, 0, 0), (0, 0, 255)))


@functools.cache
def scenes(count: int, first: int = 0) -> World:
    """Scenes of the embedded data set."""
    return World(*(part[first:] for part in load_scenes("train", count=first + count)))


def truth(world: World) -> list[dict]:
    return detectors.ground_truth(world.boxes, world.objects, world.instances)


def conv3(seed=0, factor=1.0) -> nn.Module:
    """A small random extractor; its features are `factor` times as large."""
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU())
    layers[2].weight.data *= factor
    layers[2].bias.data *= factor
    return layers.eval().requires_grad_(False)


@functools.cache
def photographs(count: int = 9) -> list[torch.Tensor]:
    """Scenes of the world as images without labels."""
    return unlabelled("world")[:count]


def begin(kind: str, other: str = "", device: str = "cpu", **changes):
    """The recipe and the training of a kind, one of KINDS; other: "data", "weights" (that it learns from) or
    "network" (that it trains) are not the usual ones then."""
    data, weights, network = (int(other == part) for part in ("data", "weights", "network"))
    if kind in RECIPES:
        torch.manual_seed(1 + weights)
        sources = [stand_in("inception_v3").eval().to(device)] if kind == "ensemble" else []
        spec, built = spec_of("stand_in", recipe=kind, **changes), network_spec(STAND_INS[network], classes=2)
        return spec, classifiers.training(spec, built, *tiny_world(96, data), sources, device)
    if kind == "segmenter":
        spec, known = spec_of("segmenter", **{"augment": "flip"} | changes), halves(seed=data)
        built = network_spec("segnet_basic", maps=4 - network)
        return spec, segmenter.training(spec, built, known.images, known.labels, known.classes, device)
    if kind in ("retinanet", "mask_rcnn"):
        spec, world = spec_of("detector", **changes), scenes(12, 12 * data)
        torch.manual_seed(3 + weights)
        backbone = ARCHITECTURES["resnet50"](12).state_dict()
        built = network_spec(kind, classes=12 + network)
        return spec, detectors.training(spec, built, world.images, truth(world), backbone, device)
    images = [*photographs()[:-1], photographs()[-1].flip(-1)] if data else photographs()
    if kind == "purifier":
        spec = spec_of("purifier", **{"budgets": "uniform", "init": "random", "steps": 6} | changes)
        extractor = conv3(weights).to(device)
        return spec, purifier.training(spec, network_spec("nrp_resg", width=8 - network), images, extractor)
    classifier = tiny_network(weights).requires_grad_(False).to(device)
    spec = spec_of("generator", **changes)
    return spec, generator.training(spec, network_spec(kind, width=4 - network), images, classifier)


def fit(begun: tuple, folder: Path, name: str = "x") -> tuple[nn.Module, pd.DataFrame, float]:
    """Run a training with its checkpoint and sheets in `folder`: the network, the losses, the seconds."""
    spec, training = begun
    places = (folder / f"{name}.ckpt", folder / name)
    return training.network, *runner.cached_training(
        Nothing(folder), name, spec, training, runner.record_of(spec, training, "cpu"), *places
    )


class Nothing(Store):
    """Keeps nothing: every training is made."""

    def entry(self, made_from, compute, cell=""):
        return compute()


def equal(first: nn.Module, other: nn.Module) -> bool:
    """Whether two networks have the same weights and buffers."""
    return all(torch.equal(value, other.state_dict()[name]) for name, value in first.state_dict().items())


class Interruptions:
    """Runs trainings that a key press ends at a given step, and says which steps a training made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.monkeypatch = monkeypatch
        self.run = loop.run_steps

    def _watched(self, before_step: Callable[[int], None]) -> None:
        def run(training, *rest):
            def watched(step):
                before_step(step)
                return training.advance(step)

            return self.run(training._replace(advance=watched), *rest)

        self.monkeypatch.setattr(loop, "run_steps", run)

    def stop(self, at: int, train: Callable) -> None:
        """Run `train` and end it before step `at`."""

        def press(step):
            if step == at:
                raise KeyboardInterrupt

        self._watched(press)
        with pytest.raises(KeyboardInterrupt):
            train()

    def steps(self, train: Callable) -> tuple[object, list[int]]:
        """What `train` gives, and the steps that it made."""
        made: list[int] = []
        self._watched(made.append)
        return train(), made

    def first(self, train: Callable) -> int:
        """The step with which `train` begins; no step is made."""
        made: list[int] = []

        def press(step):
            made.append(step)
            raise KeyboardInterrupt

        self._watched(press)
        with pytest.raises(KeyboardInterrupt):
            train()
        return made[0]


@pytest.fixture
def interruptions(monkeypatch) -> Interruptions:
    return Interruptions(monkeypatch)
