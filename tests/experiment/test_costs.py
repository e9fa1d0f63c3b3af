"""Seconds per image: what is measured, and that it is measured once."""

from types import SimpleNamespace

import pytest
import torch

from lib import settings
from lib.attacks import shards
from lib.data.images import ImageSet
from lib.experiment import Study, adversaries, seconds_per_image
from lib.networks.cda_generator import Generator
from lib.store import Store
from tests.conftest import tiny_network


@pytest.fixture
def study(tmp_path):
    """Seven random images in shards of three, an untrained classifier and generator, an empty store."""
    scale = settings.load("mini").model_copy(update={"batch": 3}, deep=True)
    images = torch.randint(0, 256, (7, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    data = ImageSet(images, torch.arange(7), [f"i{k}" for k in range(7)])
    torch.manual_seed(0)
    networks = {"VGG-16": tiny_network(0, 12), "CDA-ImageNet": Generator(4, 1).eval().requires_grad_(False)}
    return Study(settings.params(), scale, data, Store(tmp_path), "cpu", networks)


@pytest.fixture
def batches(monkeypatch):
    """The batches that were attacked, by their sizes."""
    batches, begin = [], shards.unit_images

    def counted(images, device):
        batches.append(len(images))
        return begin(images, device)

    monkeypatch.setattr(shards, "unit_images", counted)
    return batches


def entries(study):
    return list(study.store.root.rglob("*.bin"))


def test_the_faster_of_two_runs_counts_and_only_what_the_attack_takes(study, monkeypatch):
    # What the clock shows before and after each run: 7 and 4 seconds for four images.
    shows = iter([1, 8, 20, 24])
    monkeypatch.setattr(shards, "time", SimpleNamespace(perf_counter=lambda: next(shows)))
    assert seconds_per_image(study, "I-FGSM", "VGG-16", 4, steps=1) == 1.0
    assert next(shows, None) is None


def test_the_first_images_are_attacked_twice_and_never_again(study, batches):
    first = seconds_per_image(study, "I-FGSM", "VGG-16", 4, steps=1)
    assert batches == [3, 1] * shards.RUNS and first > 0
    assert seconds_per_image(study, "I-FGSM", "VGG-16", 4, steps=1) == first
    again = Study(study.params, study.scale, study.images, Store(study.store.root), "cpu", study.networks)
    assert seconds_per_image(again, "I-FGSM", "VGG-16", 4, steps=1) == first
    assert len(batches) == 2 * shards.RUNS


def test_the_time_alone_is_stored_and_no_stored_adversary_is_taken_for_an_attack(study, batches):
    adversaries(study, "CDA", "CDA-ImageNet")
    made, stored = len(batches), len(entries(study))
    seconds_per_image(study, "CDA", "CDA-ImageNet", 7)
    assert batches[made:] == [3, 3, 1] * shards.RUNS and len(entries(study)) == stored + 1


@pytest.mark.parametrize(
    "change",
    [
        lambda study: {"steps": 2},
        lambda study: {"count": 2},
        lambda study: setattr(study, "params", settings.params().with_attacks(i_fgsm={"step": 2})),
        lambda study: study.networks["VGG-16"][0].weight.data.add_(0.1),
        lambda study: study.images.images.add_(1),
        lambda study: setattr(study, "scale", study.scale.model_copy(update={"precision": "bf16"})),
        lambda study: setattr(study, "batch", 2),
    ],
    ids=["steps", "count", "parameters", "weights", "images", "precision", "batch"],
)
def test_what_a_time_depends_on_is_measured_anew(study, batches, change):
    asked = {"steps": 1, "count": 3}
    seconds_per_image(study, "I-FGSM", "VGG-16", **asked)
    changed = change(study)
    asked |= changed if isinstance(changed, dict) else {}
    seconds_per_image(study, "I-FGSM", "VGG-16", **asked)
    assert len(batches) >= 2 * shards.RUNS and len(entries(study)) == 2
