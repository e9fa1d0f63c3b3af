"""What needs the real images and weights: skipped without COMPANION_ASSETS."""

import dataclasses
import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lib import settings, zoo
from lib.data.fetch import state
from lib.data.images import load_imagenet_val, load_neurips2017
from lib.data.sets import load_set
from lib.experiment import adversaries, clean, evaluate, open_study
from lib.fetch import data_sets
from lib.networks import weights
from lib.settings import load as load_settings
from lib.store import Store
from lib.tasks import confusion
from lib.tasks.predictions import segment

pytestmark = pytest.mark.skipif(not os.environ.get("COMPANION_ASSETS"), reason="no assets")

COUNT = 24


@functools.cache
def sample():
    return load_settings("sample")


def assets():
    return Path(os.environ["COMPANION_ASSETS"])


@pytest.fixture(scope="module")
def neurips():
    return load_neurips2017(assets() / "neurips2017", side=224, count=COUNT)


def logits(name, data, count):
    """The network's logits for the first `count` images."""
    with torch.inference_mode():
        return zoo.load(name, sample())(data.images[:count] / 255)


def correct(name, data, count):
    """How many of the first `count` images the network classifies correctly."""
    return (logits(name, data, count).argmax(1) == data.labels[:count]).sum().item()


@pytest.mark.parametrize(
    ("name", "count", "right"), [("SqueezeNet-1.1", 24, 19), ("MobileNetV2", 12, 11), ("ResNet-50", 12, 11)]
)
def test_real_networks_recognise_real_photographs(neurips, name, count, right):
    """The first 24 images give SqueezeNet 1.1 79 %; all 350, 61.7 % (MobileNetV2 85.7 %, ResNet-50 86.3 %)."""
    assert abs(correct(name, neurips, count) - right) <= 1


@pytest.mark.parametrize(("name", "loss"), [("MobileNetV2", 0.234), ("ResNet-50", 0.182)])
def test_converted_weights_run_in_the_architecture_they_were_trained_in(neurips, name, loss):
    """The library's own stride (ResNet-50) or padding (MobileNetV2) gives 0.613 and 0.440 on these 12 images."""
    assert F.cross_entropy(logits(name, neurips, 12), neurips.labels[:12]).item() == pytest.approx(loss, abs=0.05)


@pytest.mark.parametrize(("number", "side", "percent"), [(0, 224, 88.7), (1, 240, 91.3), (2, 260, 91.3)])
def test_efficientnet_lite_recognises_photographs_at_the_size_it_was_trained_for(number, side, percent):
    """As measured on these 150 images, with Pillow's bicubic filter instead of its bilinear one."""
    data = load_neurips2017(assets() / "neurips2017", side=side, count=150)
    network = zoo.load(f"EfficientNet-Lite{number}", sample())
    with torch.inference_mode():
        found = torch.cat([network(images / 255).argmax(1) for images in data.images.split(25)])
    assert (found == data.labels).float().mean().item() * 100 == pytest.approx(percent, abs=2)


def test_the_lists_of_the_sample_scale_name_the_first_images_of_the_assets_and_their_pixels():
    """The committed results are about these; each list has them in the order of its set."""
    for source in (sample().data, sample().a.tsne_data, sample().e.segmentation.data, sample().e.detection.data):
        with_list, without = (load_set(each, count=4) for each in (source, source.model_copy(update={"ids": None})))
        assert with_list.ids == without.ids or source.name == "camvid"
        assert set(with_list.ids) <= set(load_set(source.model_copy(update={"ids": None})).ids)
    for name, ids in data_sets(sample()).items():
        assert state(name, dict(list(ids.items())[:20]), check=True) == "yes"


def test_labels_of_the_two_sets_mean_the_same_classes():
    data = load_imagenet_val(assets() / "imagenet_val", side=224, count=COUNT)
    assert correct("SqueezeNet-1.1", data, COUNT) >= 8


def test_neurips_set_has_the_size_and_range_of_its_description():
    data = load_neurips2017(assets() / "neurips2017", side=8)
    assert len(data) == len(set(data.ids)) == 350
    assert 0 <= data.labels.min() and data.labels.max() <= 999


def test_vgg16_features_of_photographs_have_their_known_scale(neurips):
    with torch.inference_mode():
        features = zoo.extractor("VGG-16", sample())(neurips.images[:4] / 255)
    assert features.shape == (4, 256, 56, 56)
    assert features.mean().item() == pytest.approx(177, rel=0.2)
    assert features.std().item() == pytest.approx(441, rel=0.2)
    assert (features.amax((0, 2, 3)) > 0).all()


@pytest.mark.parametrize("family", ["vgg16_conv3_3", "resnet50_stride1", "mobilenetv2_same"])
def test_every_key_of_a_file_reaches_the_network(family):
    (spec,) = (spec for spec in sample().networks.values() if spec.family == family)
    network, file = zoo.family_of(spec).build(spec), Path(spec.weights).name
    weights.load_state(network, weights.read_state(assets() / "weights" / file), file)
    with np.load(assets() / "weights" / file) as arrays:
        state = network.state_dict()
        assert all(np.array_equal(state[key].numpy(), arrays[key].astype(np.float32)) for key in arrays.files)


def test_every_network_of_the_sample_scale_is_found():
    assert all(row["found"] for row in zoo.status(sample()))


def test_the_sample_scale_runs_end_to_end_and_ssp_takes_more_than_noise(tmp_path):
    """A smoke version of Appendix F at the sample scale: 8 images, 10 steps of SSP from the real VGG-16."""
    study = dataclasses.replace(open_study("sample", 8), store=Store(tmp_path))
    cells = [clean(study), *adversaries(study, "Noise"), *adversaries(study, "SSP", "VGG-16", steps=10)]
    rows = evaluate(study, cells, ["SqueezeNet-1.1"]).rows
    accuracy = rows.groupby("attack")["top1"].mean()
    assert accuracy["SSP"] <= accuracy["Noise"] - 0.25
    moved = (cells[2].images.int() - cells[0].images.int()).abs()
    assert moved.max() == 16 and len(rows) == 24


def test_our_segnet_basic_segments_camvid_as_its_record_says():
    record = json.loads((settings.ROOT / "results/sample/train/networks/SegNet-Basic.json").read_text())
    data = load_set(sample().segmenters["SegNet-Basic"].data, "test", 24)
    said = segment(zoo.load("SegNet-Basic", sample()), data.images)["labels"]
    found = confusion.scores(confusion.confusions(said, data.labels.numpy(), 11).sum(0))
    # 24 of the 233 images, spread over the list: within a few points of all.
    assert found.pixels == pytest.approx(record["pixels"], abs=5)


def test_ssp_on_whole_coco_photographs_moves_their_features_more_than_noise(tmp_path):
    study = open_study("sample", source=sample().e.detection.data.model_copy(update={"count": 2}))
    study.store = Store(tmp_path)
    (cell,) = adversaries(study, "SSP", "VGG-16", eps=16, steps=2)
    (noise,) = adversaries(study, "Noise", eps=16)
    features = zoo.extractor("VGG-16", sample())
    for original, attacked, noisy in zip(study.images.images, cell.images, noise.images, strict=True):
        assert attacked.shape == original.shape and (attacked.int() - original.int()).abs().max() <= 16
        with torch.no_grad():
            clean_maps, far, near = (features(image[None] / 255) for image in (original, attacked, noisy))
        assert (far - clean_maps).square().mean() > 1.2 * (near - clean_maps).square().mean()
    (found,) = evaluate(study, [clean(study)], "YOLOX-nano").parts
    assert found.ap() > 20
