"""lib/training/detectors.py: ground truth, augmentation, learning."""

import pytest
import torch
from torchvision.ops import masks_to_boxes

from lib.data.detection import coco_format
from lib.networks.detectors import DETECTORS
from lib.networks.small import ARCHITECTURES
from lib.rng import generator
from lib.training import detectors, runner
from tests.training.conftest import fit, network_spec, scenes, spec_of, truth


def training(recipe, world, backbone, name="retinanet"):
    return detectors.training(recipe, network_spec(name, classes=12), world.images, truth(world), backbone)


@pytest.fixture(scope="module")
def data():
    return scenes(12)


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(3)
    return ARCHITECTURES["resnet50"](12).state_dict()


def extents(masks: torch.Tensor) -> torch.Tensor:
    """Half-open boxes around masks."""
    return masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])


def test_boxes_are_the_extents_of_the_masks_also_in_a_mirror(data):
    for known, objects in zip(truth(data), data.objects, strict=True):
        assert torch.equal(known["boxes"], extents(known["masks"]))
        assert known["labels"].tolist() == (objects + 1).tolist()
        reflection = detectors.mirrored_truth(known)
        assert torch.equal(reflection["boxes"], extents(reflection["masks"]))
        twice = detectors.mirrored_truth(reflection)
        assert all(torch.equal(value, twice[name]) for name, value in known.items())


def test_images_and_their_objects_are_mirrored_together(data, monkeypatch):
    monkeypatch.setattr(detectors, "photographed", lambda x, g: x)
    masks = torch.stack([objects["masks"].sum(0) for objects in truth(data)]).byte()
    images = masks[:, None].expand(-1, 3, -1, -1)
    x, y = detectors.augmented(images, truth(data), generator("mirror"))
    turned = [not torch.equal(a, b) for a, b in zip((x * 255).round().byte(), images, strict=True)]
    assert 0 < sum(turned) < len(turned)
    for image, objects in zip(x, y, strict=True):
        assert torch.equal((image[0] * 255).round().byte(), objects["masks"].sum(0).byte())


def test_augmentation_depends_on_its_generator_alone(data):
    images = data.images
    first, again, other = (detectors.augmented(images, truth(data), generator("a", k))[0] for k in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.min() >= 0 and first.max() <= 1 and first.shape == images.shape


def test_the_trunk_begins_with_the_backbones_weights_and_seeds_decide_the_heads(data, backbone):
    begun = (training(spec_of("detector", seed=seed), data, backbone) for seed in (1, 1, 2))
    first, again, other = (each.network.state_dict() for each in begun)
    for name, value in backbone.items():
        if not name.startswith("head."):
            assert torch.equal(first[f"backbone.trunk.{name}"], value), name
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    head = "head.classification_head.cls_logits.weight"
    assert not torch.equal(first[head], other[head])


@pytest.mark.parametrize("name", DETECTORS)
def test_four_scenes_are_learnt_by_heart(name, backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(detectors, "photographed", lambda x, g: x)
    recipe, world = spec_of("detector", epochs=80, lr=5e-3, checkpoint_minutes=9), scenes(4)
    detector, curves, _ = fit((recipe, training(recipe, world, backbone, name)), tmp_path)
    scores = runner.average_precisions(detector, coco_format(world))
    assert scores["images"] == 4 and scores["map_50"] > 90
    assert ("mask_map_50" in scores) == (name == "mask_rcnn") and scores.get("mask_map_50", 100) > 90
    losses = curves["loss"]
    assert len(losses) == 80 and losses[16:20].mean() < 0.75 * losses[:4].mean()


def test_a_backbone_of_another_architecture_is_refused_in_one_line(data):
    with pytest.raises(ValueError, match=r"^backbone 'Classifier' has another architecture than the detectors' trunk$"):
        training(spec_of("detector"), data, ARCHITECTURES["vgg16"](12).state_dict())
