"""lib/training/segmenter.py: the published recipe, resuming, a killed process, the record."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from lib import settings, zoo
from lib.data.segmentation import CAMVID_CLASSES, CAMVID_COLOURS, VOID, SegmentationSet, load_camvid
from lib.networks.segnet_basic import SegNetBasic
from lib.rng import generator
from lib.settings import Scenes, SegmenterSpec
from lib.tasks.segmentation import confusions, predict, scores
from lib.training import segmenter

WORLD = Scenes(name="world", labels="pixels")


def spec(**changes) -> SegmenterSpec:
    return SegmenterSpec(**{"data": WORLD, "maps": 4, "steps": 12, "batch": 4, "lr": 0.1} | changes)


@pytest.fixture(scope="module")
def halves() -> SegmentationSet:
    """Images whose upper part is bright and of class 0, the rest dark and of class 1; one void corner."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 60, (24, 3, 16, 16)), np.ones((24, 16, 16), np.uint8)
    for image, label, edge in zip(images, labels, rng.integers(4, 12, 24), strict=True):
        image[:, :edge] += 150
        label[:edge] = 0
    labels[:, 15, 15] = VOID
    ids = [f"h{number}" for number in range(24)]
    data = torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(labels)
    return SegmentationSet(*data, ids, ("above", "below"), ((255, 0, 0), (0, 0, 255)))


def test_it_learns(halves, tmp_path):
    network, _ = segmenter.fit(spec(steps=60, decay="cosine"), halves, tmp_path / "x.ckpt")
    said = predict(network, halves.images)
    assert scores(confusions(said, halves.labels.numpy(), 2).sum(0)).pixels > 95
    assert not network.training


def test_a_stopped_run_ends_with_the_same_weights(halves, tmp_path, interruptions):
    def train(name):
        return segmenter.fit(spec(augment="flip"), halves, tmp_path / f"{name}.ckpt")

    whole = train("whole")[0].state_dict()
    interruptions.stop(5, lambda: train("stopped"))
    (resumed, _), steps = interruptions.steps(lambda: train("stopped"))
    assert steps == list(range(5, 12))
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.items())


@pytest.mark.parametrize("changed", ["lr", "data"])
def test_a_checkpoint_of_another_recipe_or_data_is_not_continued(halves, tmp_path, interruptions, changed):
    interruptions.stop(5, lambda: segmenter.fit(spec(), halves, tmp_path / "x.ckpt"))
    inverted = SegmentationSet(255 - halves.images, halves.labels, halves.ids, halves.classes, halves.colours)
    other, data = (spec(lr=0.05), halves) if changed == "lr" else (spec(), inverted)
    assert interruptions.steps(lambda: segmenter.fit(other, data, tmp_path / "x.ckpt"))[1][0] == 0


def test_the_loss_is_divided_by_the_labelled_pixels():
    logits = torch.tensor([[[[2.0, 0.0, 1.0]], [[0.0, 1.0, 3.0]]]])
    labels = torch.tensor([[[0, 0, VOID]]], dtype=torch.uint8)
    weights = torch.tensor([3.0, 0.5])
    by_hand = 3 * (np.log(1 + np.exp(-2)) + np.log(1 + np.exp(1))) / 2
    assert segmenter.weighted_loss(logits, labels, weights).item() == pytest.approx(by_hand, rel=1e-6)


def test_biases_of_convolutions_learn_twice_as_fast_and_no_bias_decays():
    network = SegNetBasic(3, 4)
    kinds = segmenter.groups(network, 0.1)
    assert [(group["lr"], group["weight_decay"]) for group in kinds] == [(0.1, 5e-4), (0.1, 0.0), (0.2, 0.0)]
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
    network, _ = segmenter.fit(spec(steps=6, batch=batch), halves, tmp_path / "x.ckpt")
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
    assert segmenter.median_frequency(labels, 3) == pytest.approx([0.625 / 0.75, 0.625 / 0.5, 0.0])


ASSETS = Path(os.environ.get("COMPANION_ASSETS", "/nowhere")) / "camvid"


@pytest.mark.skipif(not ASSETS.is_dir(), reason="no assets")
def test_median_frequency_of_camvid_is_near_the_printed_weights():
    weights = segmenter.median_frequency(load_camvid(ASSETS, "train").labels, 11)
    known = [0.2793, 0.2017, 4.7865, 0.1490, 1.0000, 0.4217, 3.8467, 1.9736, 0.7889, 6.3747, 8.8587]
    assert weights == pytest.approx(known, abs=1e-4)
    ratio = np.array(weights) / np.array(segmenter.CAMVID_WEIGHTS)
    assert np.delete(ratio, CAMVID_CLASSES.index("sign symbol")).round(1).tolist() == pytest.approx(
        [1.1] * 10, abs=0.11
    )


def test_camvid_takes_the_printed_weights_and_other_classes_their_own(halves):
    camvid = SegmentationSet(halves.images, halves.labels, halves.ids, CAMVID_CLASSES, CAMVID_COLOURS)
    assert segmenter.class_weights(camvid) == list(segmenter.CAMVID_WEIGHTS)
    assert len(segmenter.class_weights(halves)) == 2


@pytest.fixture
def project(tmp_path) -> Path:
    """The code, the embedded world and a scale that trains for seconds."""
    for name in ("lib", "data"):
        (tmp_path / name).symlink_to(settings.ROOT / name)
    (tmp_path / "scales").mkdir()
    scale = yaml.safe_load((settings.ROOT / "scales" / "mini.yaml").read_text())
    scale["segmenters"]["SegNet-Basic"] |= {"maps": 4, "steps": 40, "batch": 4}
    scale["networks"]["SegNet-Basic"]["maps"] = 4
    scale["segmenters"]["SegNet-Basic"]["data"]["count"] = 60
    (tmp_path / "scales" / "mini.yaml").write_text(yaml.safe_dump(scale))
    return tmp_path


def test_a_killed_process_goes_on_where_it_was(project, capsys):
    script = (
        "from pathlib import Path; from lib import settings; from lib.training import loop, segmenter;"
        "loop.CHECKPOINT_SECONDS = 0.0; root = Path.cwd();"
        "print(segmenter.train('SegNet-Basic', settings.load('mini', root), root))"
    )
    command = [sys.executable, "-c", script]
    environment = os.environ | {"PYTHONPATH": str(settings.ROOT)}
    file = project / "models" / "mini" / "SegNet-Basic.safetensors"
    process = subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not file.with_suffix(".ckpt").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not file.exists()
    scale = settings.load("mini", project)
    segmenter.train("SegNet-Basic", scale, project)
    first = int(capsys.readouterr().err.split("/40")[0].split("|")[-1].strip())
    assert first > 0, "the second run began again"
    killed = load_file(file)
    file.unlink()
    segmenter.train("SegNet-Basic", scale, project)
    assert all(torch.equal(value, killed[name]) for name, value in load_file(file).items())
    record = json.loads((project / "results" / "mini" / "metrics" / "networks" / "SegNet-Basic.json").read_text())
    assert record["images"] == 60 and 0 <= record["pixels"] <= 100


def test_the_zoo_loads_what_was_trained(project, monkeypatch):
    monkeypatch.setattr(zoo, "ROOT", project)
    scale = settings.load("mini", project)
    record = segmenter.train("SegNet-Basic", scale, project)
    network = zoo.load("SegNet-Basic", scale)
    data = segmenter.labelled(scale.segmenters["SegNet-Basic"].data)
    said = predict(network, data.images)
    assert scores(confusions(said, data.labels.numpy(), 15).sum(0)).pixels == pytest.approx(record["pixels"])


def test_an_unknown_name_is_an_error_of_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"no segmenter 'SegNet' in scales/mini.yaml, only SegNet-Basic"):
        segmenter.train("SegNet", settings.load("mini"), tmp_path)
