"""Seconds per image: what is measured."""

from types import SimpleNamespace

import pytest
import torch

from lib import settings
from lib.attacks import shards
from lib.data.images import ImageSet
from lib.experiment import Study, adversaries, cells, seconds_per_image
from lib.networks.cda_generator import CDAGenerator
from lib.store import Store
from tests.conftest import tiny_network


@pytest.fixture
def study(tmp_path):
    """Seven random images in shards of three, an untrained classifier and generator, an empty store."""
    scale = settings.load("mini").model_copy(update={"batch": 3}, deep=True)
    images = torch.randint(0, 256, (7, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    data = ImageSet(images, torch.arange(7), [f"i{k}" for k in range(7)])
    torch.manual_seed(0)
    networks = {"VGG-16": tiny_network(0, 12), "CDA-ImageNet": CDAGenerator(4, 1).eval().requires_grad_(False)}
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
    monkeypatch.setattr(cells, "time", SimpleNamespace(perf_counter=lambda: next(shows)))
    assert seconds_per_image(study, "I-FGSM", "VGG-16", 4, steps=1) == 1.0
    assert next(shows, None) is None


def test_the_first_images_are_attacked_twice(study, batches):
    assert seconds_per_image(study, "I-FGSM", "VGG-16", 4, steps=1) > 0
    assert batches == [3, 1] * 2


def test_no_stored_adversary_is_taken_for_an_attack_and_none_is_stored(study, batches):
    adversaries(study, "CDA", "CDA-ImageNet")
    made, stored = len(batches), len(entries(study))
    for _ in range(2):
        seconds_per_image(study, "CDA", "CDA-ImageNet", 7)
    assert batches[made:] == [3, 3, 1] * 4 and len(entries(study)) == stored
