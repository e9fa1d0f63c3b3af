"""lib/training/segmenter.py: the published recipe."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.data.segmentation import CAMVID_CLASSES, VOID, SegmentationSet, load_camvid
from lib.networks.segnet_basic import SegNetBasic
from lib.rng import generator
from lib.tasks.confusion import confusions, scores
from lib.tasks.predictions import segment
from lib.training import segmenter
from tests.training.conftest import fit, network_spec, spec_of
from tests.training.conftest import halves as drawn


def spec(**changes):
    return spec_of("segmenter", **changes)


def trained(recipe, data: SegmentationSet, folder: Path) -> SegNetBasic:
    begun = segmenter.training(recipe, network_spec("segnet_basic"), data.images, data.labels, data.classes)
    return fit((recipe, begun), folder)[0]


@pytest.fixture(scope="module")
def halves() -> SegmentationSet:
    return drawn()


def test_it_learns(halves, tmp_path):
    network = trained(spec(steps=60, decay="cosine"), halves, tmp_path)
    predicted = segment(network, halves.images)["labels"]
    assert scores(confusions(predicted, halves.labels.numpy(), 2).sum(0)).pixels > 95
    assert not network.training


def test_the_loss_is_divided_by_the_labelled_pixels():
    logits = torch.tensor([[[[2.0, 0.0, 1.0]], [[0.0, 1.0, 3.0]]]])
    labels = torch.tensor([[[0, 0, VOID]]], dtype=torch.uint8)
    weights = torch.tensor([3.0, 0.5])
    by_hand = 3 * (np.log(1 + np.exp(-2)) + np.log(1 + np.exp(1))) / 2
    assert segmenter.weighted_loss(logits, labels, weights).item() == pytest.approx(by_hand, rel=1e-6)


def test_biases_of_convolutions_learn_twice_as_fast_and_no_bias_decays():
    network = SegNetBasic(3, 4)
    kinds = segmenter.groups(network)
    assert [(group["factor"], group["weight_decay"]) for group in kinds] == [(1, 5e-4), (1, 0.0), (2, 0.0)]
    # 8 blocks and the classifier: 9 convolutions, 8 norms.
    assert [len(group["params"]) for group in kinds] == [9 + 8, 8, 9]
    grouped = [id(parameter) for group in kinds for parameter in group["params"]]
    assert sorted(grouped) == sorted(map(id, network.parameters()))


@pytest.mark.parametrize("batch, tolerance", [(24, 1e-3), (6, 0.15)])
def test_the_statistics_of_the_norms_are_those_of_the_training_set(halves, tmp_path, batch, tolerance):
    # Sorted by brightness, as neighbouring frames are alike: batches in this order would lack most of the variance.
    order = halves.images.float().mean((1, 2, 3)).argsort()
    steps = torch.arange(24)[:, None, None, None] * 4
    images = (halves.images[order].int() + steps).clamp(0, 255).to(torch.uint8)
    halves = SegmentationSet(images, halves.labels[order], halves.ids, halves.classes, halves.colours)
    network = trained(spec(steps=6, batch=batch), halves, tmp_path)
    seen = []
    network.encoders[0][0].register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.no_grad():
        network(halves.images.float() / 255)
    norm = network.encoders[0][1]
    assert torch.allclose(norm.running_mean, seen[0].mean((0, 2, 3)), atol=1e-4)
    assert torch.allclose(norm.running_var, seen[0].var((0, 2, 3), unbiased=True), rtol=tolerance)


def test_the_rate_is_constant_or_falls_along_a_cosine_in_every_cycle():
    assert {segmenter.decay(spec(steps=100), step) for step in range(100)} == {1.0}
    rates = [segmenter.decay(spec(steps=100, decay="cosine", cycles=2), step) for step in range(100)]
    assert rates[:50] == rates[50:] and rates[0] == 1
    assert rates[25] == pytest.approx(0.5) and rates[49] == pytest.approx(0.5 * (1 + np.cos(np.pi * 49 / 50)))


def test_images_and_labels_are_mirrored_together():
    x = torch.arange(2 * 3 * 16 * 16).reshape(2, 3, 16, 16).remainder(256).to(torch.uint8)
    y = x[:, 0] % 7
    for seed in range(8):
        changed, labels = segmenter.augmented(spec(augment="flip"), x, y, generator("mirror", seed))
        assert torch.equal((changed[:, 0] * 255).round().to(torch.uint8) % 7, labels)
    unchanged, same = segmenter.augmented(spec(), x, y, generator("mirror", 0))
    assert torch.equal(unchanged, x.float() / 255) and same is y


def test_median_frequency_by_hand():
    # Class 0: 6 of the 8 pixels of both images.  Class 1: 2 of the 4 of the second.  Class 2 is nowhere.
    labels = torch.tensor([[[0, 0], [0, 0]], [[0, 0], [1, 1]]], dtype=torch.uint8)
    assert segmenter.class_weights(labels, "abc") == pytest.approx([0.625 / 0.75, 0.625 / 0.5, 0.0])


ASSETS = Path(os.environ.get("COMPANION_ASSETS", "/nowhere")) / "camvid"


@pytest.mark.skipif(not ASSETS.is_dir(), reason="no assets")
def test_median_frequency_of_camvid_is_near_the_printed_weights():
    weights = segmenter.class_weights(load_camvid(ASSETS, "train").labels, "abcdefghijk")
    known = [0.2793, 0.2017, 4.7865, 0.1490, 1.0000, 0.4217, 3.8467, 1.9736, 0.7889, 6.3747, 8.8587]
    assert weights == pytest.approx(known, abs=1e-4)
    ratio = np.array(weights) / np.array(list(segmenter.CAMVID_WEIGHTS.values()))
    assert np.delete(ratio, CAMVID_CLASSES.index("sign symbol")).round(1).tolist() == pytest.approx(
        [1.1] * 10, abs=0.11
    )


def test_camvid_takes_the_printed_weights_and_other_classes_their_own(halves):
    assert tuple(segmenter.CAMVID_WEIGHTS) == CAMVID_CLASSES
    assert segmenter.class_weights(halves.labels, CAMVID_CLASSES) == list(segmenter.CAMVID_WEIGHTS.values())
    assert len(segmenter.class_weights(halves.labels, halves.classes)) == 2
