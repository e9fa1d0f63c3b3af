"""lib/training/detectors.py: ground truth, augmentation, learning, resuming, records, errors."""

import hashlib
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.ops import masks_to_boxes

from lib import settings, zoo
from lib.data.detection import from_world
from lib.data.scenes import draw
from lib.data.world import World
from lib.networks.detectors import DETECTORS
from lib.networks.small import resnet50, vgg16
from lib.rng import generator
from lib.settings import DetectorSpec
from lib.training import detectors, loop


def scenes(count: int, first: int = 0) -> World:
    """The first scenes of the embedded world, drawn anew."""
    drawn = [draw(0, "train", index, "natural") for index in range(first, first + count)]
    per_scene = [[scene.boxes for scene in drawn], [scene.objects for scene in drawn]]
    sheets = [np.stack([getattr(scene, name) for scene in drawn]) for name in ("image", "instances", "pixels")]
    labels, ids = np.array([scene.label for scene in drawn]), [f"train-{index}" for index in range(count)]
    return World(sheets[0], labels, ids, *per_scene, *sheets[1:])


def spec(detector: str = "retinanet", **changes) -> DetectorSpec:
    return DetectorSpec(**{"detector": detector, "backbone": "Classifier", "epochs": 2, "batch": 4} | changes)


@pytest.fixture(scope="module")
def data():
    return scenes(12)


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(3)
    return resnet50(12).state_dict()


def extents(masks: torch.Tensor) -> torch.Tensor:
    """Half-open boxes around masks."""
    return masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])


def test_boxes_are_the_extents_of_the_masks_also_in_a_mirror(data):
    for truth, objects in zip(detectors.ground_truth(data), data.objects, strict=True):
        assert torch.equal(truth["boxes"], extents(truth["masks"]))
        assert truth["labels"].tolist() == (objects + 1).tolist()
        reflection = detectors.mirrored(truth)
        assert torch.equal(reflection["boxes"], extents(reflection["masks"]))
        twice = detectors.mirrored(reflection)
        assert all(torch.equal(value, twice[name]) for name, value in truth.items())


def test_images_and_their_objects_are_mirrored_together(data, monkeypatch):
    monkeypatch.setattr(detectors, "photographed", lambda x, g, noise: x)
    truth = detectors.ground_truth(data)
    masks = torch.stack([objects["masks"].sum(0) for objects in truth]).byte()
    images = masks[:, None].expand(-1, 3, -1, -1)
    x, y = detectors.augmented(images, truth, generator("mirror"))
    turned = [not torch.equal(a, b) for a, b in zip((x * 255).round().byte(), images, strict=True)]
    assert 0 < sum(turned) < len(turned)
    for image, objects in zip(x, y, strict=True):
        assert torch.equal((image[0] * 255).round().byte(), objects["masks"].sum(0).byte())


def test_augmentation_depends_on_its_generator_alone(data):
    images = torch.from_numpy(data.images).permute(0, 3, 1, 2)
    truth = detectors.ground_truth(data)
    first, again, other = (detectors.augmented(images, truth, generator("a", k))[0] for k in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.min() >= 0 and first.max() <= 1 and first.shape == images.shape


@pytest.mark.parametrize("name", DETECTORS)
def test_a_stopped_run_ends_with_the_same_weights(name, data, backbone, tmp_path, interruptions):
    def train(file):
        torch.rand(1)  # the state of the global generator must not matter
        return detectors.fit(spec(name), data, 12, tmp_path / f"{file}.ckpt", backbone)

    whole = train("whole")[0].state_dict()
    interruptions.stop(4, lambda: train("stopped"))
    (resumed, _), steps = interruptions.steps(lambda: train("stopped"))
    assert steps == [4, 5]
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.items())


@pytest.mark.parametrize("changed", ["recipe", "data", "backbone", "code"])
def test_a_checkpoint_of_something_else_is_not_continued(changed, data, backbone, tmp_path, interruptions, monkeypatch):
    path = tmp_path / "x.ckpt"
    interruptions.stop(2, lambda: detectors.fit(spec(), data, 12, path, backbone))
    if changed == "code":
        monkeypatch.setattr(detectors, "CODE", "other code")
    recipe = spec(lr=1e-3) if changed == "recipe" else spec()
    known = scenes(12, first=12) if changed == "data" else data
    trunk = resnet50(12).state_dict() if changed == "backbone" else backbone
    assert interruptions.steps(lambda: detectors.fit(recipe, known, 12, path, trunk))[1][0] == 0


def test_the_trunk_begins_with_the_backbones_weights_and_seeds_decide_the_heads(backbone):
    first, again, other = (detectors.build(spec(seed=seed), 12, backbone).state_dict() for seed in (1, 1, 2))
    for name, value in backbone.items():
        if not name.startswith("head."):
            assert torch.equal(first[f"backbone.trunk.{name}"], value), name
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    head = "head.classification_head.cls_logits.weight"
    assert not torch.equal(first[head], other[head])


def test_masks_as_they_are_have_full_precision_and_shifted_ones_less(data):
    known, truth = from_world(data), detectors.ground_truth(data)
    perfect = [
        {"labels": t["labels"], "scores": torch.ones(len(t["labels"])), "masks": t["masks"][:, None].float()}
        for t in truth
    ]
    shifted = [found | {"masks": found["masks"].roll(8, 3)} for found in perfect]
    assert detectors.mask_precision(known, perfect) == pytest.approx(100)
    assert detectors.mask_precision(known, [*perfect[:6], *shifted[6:]]) < 80
    assert known.truth == from_world(data).truth  # left as it was


@pytest.fixture
def scale() -> settings.Scale:
    """The mini scale, with trainings of 80 steps."""
    by_heart = {"epochs": 80, "lr": 5e-3}
    short = {"RetinaNet": spec(**by_heart), "Mask-R-CNN": spec("mask_rcnn", **by_heart)}
    return settings.load("mini").model_copy(update={"detectors": short})


@pytest.mark.parametrize("name", ["RetinaNet", "Mask-R-CNN"])
def test_four_scenes_are_learnt_by_heart_and_the_record_is_true(name, scale, backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(detectors.world, "load", lambda root, split: scenes(4))
    monkeypatch.setattr(detectors, "photographed", lambda x, g, noise: x)
    monkeypatch.setattr(zoo, "ROOT", tmp_path)
    folder = tmp_path / "models" / "mini"
    folder.mkdir(parents=True)
    save_file(backbone, folder / "Classifier.safetensors")
    record = detectors.train(name, scale, tmp_path)
    assert record["images"] == 4 and record["map_50"] > 90
    assert ("mask_map_50" in record) == (name == "Mask-R-CNN") and record.get("mask_map_50", 100) > 90
    path = tmp_path / "results" / "mini" / "metrics" / "networks" / f"{name}.json"
    assert record == json.loads(path.read_text())
    weights = folder / f"{name}.safetensors"
    assert record["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert {file.name for file in folder.iterdir()} == {"Classifier.safetensors", weights.name}
    scores = detectors.evaluate(zoo.load(name, scale), from_world(scenes(4)))
    assert scores == pytest.approx({key: record[key] for key in scores})


@pytest.mark.parametrize("name", DETECTORS)
def test_twenty_steps_lower_the_loss(name, backbone, tmp_path, monkeypatch):
    losses, run = [], loop.run
    monkeypatch.setattr(
        loop, "run", lambda advance, *rest: run(lambda step: losses.append(advance(step)) or losses[-1], *rest)
    )
    detectors.fit(spec(name, epochs=20, lr=5e-3), scenes(4), 12, tmp_path / "x.ckpt", backbone)
    assert len(losses) == 20 and np.mean(losses[-4:]) < 0.75 * np.mean(losses[:4])


def test_errors_are_one_line_that_says_what_to_do(scale, tmp_path):
    with pytest.raises(ValueError, match=r"^no detector 'YOLO' in scales/mini.yaml, only RetinaNet, Mask-R-CNN$"):
        detectors.train("YOLO", scale, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"`python -m lib.training Classifier --scale mini`$"):
        detectors.train("RetinaNet", scale, tmp_path)
    with pytest.raises(ValueError, match=r"^backbone 'Classifier' has another architecture than the detectors' trunk$"):
        detectors.build(spec(), 12, vgg16(12).state_dict())
