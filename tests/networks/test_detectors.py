"""lib/networks/detectors.py: torchvision's classes, images at their own size, anchors that fit, what comes out."""

import pytest
import torch
from torch import nn
from torchvision.models.detection import MaskRCNN, RetinaNet
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from lib.data import world
from lib.networks.detectors import CHANNELS, DETECTORS, INPUT_SIDE
from lib.networks.small import ARCHITECTURES, MEAN, STD

KINDS = {"retinanet": RetinaNet, "mask_rcnn": MaskRCNN}


@pytest.fixture(params=DETECTORS)
def named(request):
    torch.manual_seed(0)
    return request.param, DETECTORS[request.param](12).eval()


@pytest.fixture
def images():
    return list(torch.rand(3, 3, INPUT_SIDE, INPUT_SIDE, generator=torch.Generator().manual_seed(1)))


def results(name: str, detector: nn.Module, images: list) -> list[dict]:
    """What an untrained detector finds, however unsure it is."""
    (detector if name == "retinanet" else detector.roi_heads).score_thresh = 0.0
    with torch.no_grad():
        return detector(images)


def test_they_are_torchvisions_own(named):
    name, detector = named
    assert type(detector) is KINDS[name]


def test_images_come_through_at_their_own_size(named, images):
    _, detector = named
    seen = []
    detector.backbone.register_forward_hook(lambda _, inputs, outputs: seen.append((inputs[0], outputs)))
    detector(images)
    entered, levels = seen[0]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    assert torch.equal(entered, (torch.stack(images) - mean) / std)
    assert [tuple(level.shape) for level in levels.values()] == [(3, CHANNELS, 12, 12), (3, CHANNELS, 6, 6)]


def test_boxes_lie_within_the_image_and_are_at_most_100(named, images):
    for found in results(*named, images):
        boxes = found["boxes"]
        assert 0 < len(boxes) <= 100 and len(found["scores"]) == len(found["labels"]) == len(boxes)
        assert boxes.min() >= 0 and boxes.max() <= INPUT_SIDE
        assert found["scores"].min() >= 0 and found["scores"].max() <= 1 and found["labels"].max() <= 12


def test_mask_rcnn_gives_a_mask_of_the_images_size_per_box(images):
    torch.manual_seed(0)
    for found in results("mask_rcnn", DETECTORS["mask_rcnn"](12).eval(), images):
        assert found["masks"].shape == (len(found["boxes"]), 1, INPUT_SIDE, INPUT_SIDE)
        assert found["masks"].min() >= 0 and found["masks"].max() <= 1
        assert found["labels"].min() >= 1


def test_an_image_is_evaluated_alone(named, images):
    name, detector = named
    together, alone = results(name, detector, images)[0], results(name, detector, images[:1])[0]
    assert torch.allclose(together["scores"], alone["scores"], atol=1e-5)


def test_an_unsure_network_finds_nothing(images):
    torch.manual_seed(0)
    assert [len(found["boxes"]) for found in DETECTORS["retinanet"](12).eval()(images)] == [0, 0, 0]


@pytest.mark.parametrize("name", DETECTORS)
def test_the_trunk_is_the_classifiers(name):
    classifier = ARCHITECTURES["resnet50"](12).state_dict()
    kept = {name: value for name, value in classifier.items() if not name.startswith("head.")}
    DETECTORS[name](12).backbone.trunk.load_state_dict(kept)
    assert len(kept) == len(classifier) - 2


@pytest.mark.parametrize("name", DETECTORS)
def test_every_parameter_takes_part(name, images):
    torch.manual_seed(0)
    masks = torch.zeros(1, INPUT_SIDE, INPUT_SIDE, dtype=torch.uint8)
    masks[:, 10:22, 8:20] = 1
    truth = {"boxes": torch.tensor([[8.0, 10, 20, 22]]), "labels": torch.tensor([3]), "masks": masks}
    detector = DETECTORS[name](12).train()
    sum(detector(images, [truth] * 3).values()).backward()
    assert all(p.grad is not None for p in detector.parameters())


@pytest.mark.parametrize("name", DETECTORS)
def test_every_object_has_an_anchor_that_overlaps_it(name):
    detector = DETECTORS[name](12)
    generate = detector.anchor_generator if name == "retinanet" else detector.rpn.anchor_generator
    levels = [torch.zeros(1, CHANNELS, side, side) for side in (12, 6)]
    anchors = generate(ImageList(torch.zeros(1, 3, INPUT_SIDE, INPUT_SIDE), [(INPUT_SIDE, INPUT_SIDE)]), levels)[0]
    boxes = torch.cat([torch.from_numpy(found) for found in world.load_scenes("train", count=40).boxes]).float()
    best = box_iou(boxes, anchors).amax(1)
    assert best.min() > 0.35 and (best > 0.5).float().mean() > 0.9
