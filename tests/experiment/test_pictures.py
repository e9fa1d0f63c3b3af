"""lib/experiment/pictures.py: what the figures show is what the victims were shown and predicted."""

import numpy as np
import pytest
import torch
from torch import nn

from lib import settings
from lib.data.detection import DetectionSet
from lib.data.images import ImageSet
from lib.data.segmentation import SegmentationSet
from lib.experiment import Adversaries, Study, clean, pictures, predictions
from lib.store import Store
from tests.doubles import Corner, Pixelwise
from tests.experiment.test_study import small


def study_of(data, folder, **networks):
    return Study(settings.params(), settings.load("mini"), data, Store(folder), "cpu", networks)


def black():
    """A purifier that makes everything black."""
    purifier = nn.Conv2d(3, 3, 1)
    nn.init.zeros_(purifier.weight)
    nn.init.zeros_(purifier.bias)
    return purifier


def noise(count, seed=0):
    return torch.randint(0, 256, (count, 3, 48, 48), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_images_are_spread_evenly():
    assert pictures.evenly(10, 3) == [0, 3, 6]


def test_classified_pictures_are_the_images_and_what_the_victim_predicts(tmp_path):
    data = ImageSet(noise(5), torch.arange(5), [f"i{k}" for k in range(5)])
    networks = {"Inc-v3": small("inception_v3", 1), "NRP": black()}
    study = study_of(data, tmp_path, **networks)
    darker = Adversaries("SSP", "VGG-16", 16, 100, (data.images.int() - 5).clamp(0).to(torch.uint8))
    drawn = pictures.purified(study, {"SSP": darker}, "Inc-v3", "NRP", 3, settings.load("mini").data)
    assert drawn["adversary"].shape == drawn["purified"].shape == (1, 3, 48, 48, 3)
    assert (drawn["purified"] == 0).all() and drawn["groups"].tolist() == ["SSP"]
    rows = [next(k for k in range(5) if (darker.images[k].permute(1, 2, 0).numpy() == image).all())
            for image in drawn["adversary"][0]]  # fmt: skip
    assert len(set(rows)) == 3
    assert (drawn["clean"] == data.images[rows].permute(0, 2, 3, 1).numpy()).all()
    with torch.no_grad():
        predicted = networks["Inc-v3"](darker.images[rows].float() / 255).softmax(1)
        dark = networks["Inc-v3"](torch.zeros(1, 3, 48, 48)).softmax(1)
    assert drawn["before_score"][0] == pytest.approx(predicted.max(1).values.numpy(), rel=1e-4)
    assert drawn["after_score"][0] == pytest.approx(np.full(3, dark.max().item()), rel=1e-4)
    assert drawn["right_before"][0].tolist() == (predicted.argmax(1).numpy() == rows).tolist()


def test_the_pictures_are_of_images_that_are_known_and_then_lost_and_nothing_is_purified_without_a_purifier(tmp_path):
    data = ImageSet(noise(40), torch.zeros(40, dtype=torch.int64), [f"i{k}" for k in range(40)])
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 48 * 48, 3)).requires_grad_(False)
    network[1].bias -= network[1].weight.sum(1) / 2  # of grey; the noise decides
    study = study_of(data, tmp_path, **{"Inc-v3": network})
    attacked = Adversaries("SSP", "VGG-16", 16, 100, noise(40, 1))
    with torch.no_grad():
        before, after = (network(images.float() / 255).argmax(1) for images in (data.images, attacked.images))
    data.labels[:] = before.mode().values  # the class that the network says most often
    known, lost = before == data.labels, (before == data.labels) & (after != data.labels)
    assert 0 < lost.sum() < known.sum() < 40
    drawn = pictures.purified(study, {"SSP": attacked}, "Inc-v3", "none", 40, settings.load("mini").data)
    order = [*lost.nonzero()[:, 0], *(known & ~lost).nonzero()[:, 0], *(~known).nonzero()[:, 0]]
    assert np.array_equal(drawn["clean"], data.images[order].permute(0, 2, 3, 1).numpy())
    assert not drawn["right_before"][0, : lost.sum()].any()
    assert "purified" not in drawn and "after" not in drawn


def test_segmented_pictures_show_the_same_images_before_and_after(tmp_path):
    images, labels = noise(6), torch.zeros(6, 48, 48, dtype=torch.uint8)
    labels[:, :, 24:] = 255  # void
    ids = [f"i{k}" for k in range(6)]
    data = SegmentationSet(images, labels, ids, ("a", "b", "c"), ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
    study = study_of(data, tmp_path, **{"SegNet-Basic": Pixelwise()})
    attacked = Adversaries("SSP", "S", 16, 5, noise(6, 1))
    drawn = pictures.segmented(study, {"clean": clean(study), "adversary": attacked}, "SegNet-Basic", 3)
    chosen = [0, 2, 4]
    for kind, of in (("clean", images), ("adversary", attacked.images)):
        assert np.array_equal(drawn[f"image_{kind}"], of[chosen].permute(0, 2, 3, 1).numpy())
        predicted = of[chosen].argmax(1).numpy()  # the brightest channel
        assert np.array_equal(drawn[f"predicted_{kind}"], predicted)
        assert drawn[f"right_{kind}"] == pytest.approx((predicted[:, :, :24] == 0).mean((1, 2)))
    assert drawn["classes"].tolist() == ["a", "b", "c", "void"] and drawn["colours"][-1].tolist() == [0, 0, 0]
    assert np.array_equal(drawn["truth"], np.where(labels[chosen] == 255, 3, labels[chosen]))


class Watching(Corner):
    """A detector that remembers what it was shown."""

    def __init__(self):
        super().__init__()
        self.shown = []

    def forward(self, images):
        self.shown += [(image * 255).round().byte().permute(1, 2, 0).numpy() for image in images]
        return super().forward(images)


def test_detected_pictures_are_what_the_detector_saw_and_was_sure_of(tmp_path):
    """Six images of two sizes, and a purifier that turns RGB into BGR."""
    generator = torch.Generator().manual_seed(0)
    sides = [(16, 16), (13, 22)] * 3
    images, others = (
        [torch.randint(0, 256, (3, *side), generator=generator, dtype=torch.uint8) for side in sides] for _ in range(2)
    )
    objects = [
        {"image_id": 0, "category_id": 1, "bbox": [1, 2, 5, 6], "iscrowd": 0},
        {"image_id": 0, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1},
    ]
    truth = {"images": [], "annotations": objects, "categories": [{"id": 1, "name": "thing"}]}
    purifier = nn.Conv2d(3, 3, 1, bias=False).requires_grad_(False)
    purifier.weight.data = torch.eye(3).flip(0)[:, :, None, None]
    data = DetectionSet(images, [f"p{k}" for k in range(6)], list(range(6)), truth)
    study = study_of(data, tmp_path, NRP=purifier, **{"Mask-R-CNN": Watching()})
    attacked = Adversaries("CDA", "G", 16, 1, others)
    kinds = {"clean": (clean(study), "none"), "adversary": (attacked, "none"), "purified": (attacked, "NRP")}
    seen = {}
    for kind, (cell, defense) in kinds.items():
        study.networks["Mask-R-CNN"].shown.clear()
        predictions(study, "Mask-R-CNN", cell.images, defense)
        seen[kind] = list(study.networks["Mask-R-CNN"].shown)
    drawn = pictures.detected(study, kinds, "Mask-R-CNN", 2, 0.5)
    for row, index in enumerate((0, 3)):
        for kind in kinds:
            picture = drawn[f"image_{row}_{kind}"]
            assert any(np.array_equal(picture, other) for other in seen[kind]), (row, kind)
            score = picture[0, 0, 0] / 255
            assert drawn[f"scores_{row}_{kind}"] == pytest.approx([score] if score >= 0.5 else [])
            assert drawn[f"names_{row}_{kind}"].tolist() == ["thing"] * int(score >= 0.5)
        assert np.array_equal(drawn[f"image_{row}_clean"], images[index].permute(1, 2, 0).numpy())
        assert np.array_equal(drawn[f"image_{row}_adversary"], others[index].permute(1, 2, 0).numpy())
        assert np.array_equal(drawn[f"image_{row}_purified"], drawn[f"image_{row}_adversary"][:, :, ::-1])
    assert drawn["boxes_0_truth"].tolist() == [[1, 2, 6, 8]] and drawn["names_0_truth"].tolist() == ["thing"]
    assert drawn["boxes_1_truth"].shape == (0, 4) and not len(drawn["names_1_truth"])
    assert set(drawn) == {"threshold", "classes", "colours"} | {
        f"{what}_{row}_{kind}"
        for what in ("image", "boxes", "scores", "names", "found")
        for row in (0, 1)
        for kind in kinds
    } | {f"{what}_{row}_truth" for what in ("boxes", "names") for row in (0, 1)}


SQUARE, BESIDE, FAR = [0, 0, 10, 10], [0, 0, 10, 12], [50, 50, 60, 60]


@pytest.mark.parametrize(
    "boxes, labels, found",
    [
        ([], [], 0),
        ([SQUARE], [1], 1),
        ([SQUARE], [2], 0),  # another class
        ([[0, 0, 10, 5]], [1], 1),  # an IoU of exactly a half
        ([[0, 0, 10, 4]], [1], 0),
        ([SQUARE, SQUARE], [1, 1], 2),  # each fits both
        ([SQUARE, FAR], [1, 2], 2),
        ([BESIDE, BESIDE, BESIDE], [1, 1, 1], 2),  # not more than there are
    ],
)
def test_an_object_is_found_once_by_a_box_of_its_class(boxes, labels, found):
    """Of two objects of class 1, one of them a fifth higher, and one of class 2."""
    given = np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64)
    true = np.array([SQUARE, BESIDE, FAR], np.float32), np.array([1, 1, 2])
    if boxes == [[0, 0, 10, 5]]:
        true = true[0][[0, 2]], true[1][[0, 2]]
    assert pictures.objects_found(*given, *true) == found
