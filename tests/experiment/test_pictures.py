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


def test_segmented_pictures_show_the_same_images_before_and_after(tmp_path):
    images, labels = noise(6), torch.zeros(6, 48, 48, dtype=torch.uint8)
    ids = [f"i{k}" for k in range(6)]
    data = SegmentationSet(images, labels, ids, ("a", "b", "c"), ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
    study = study_of(data, tmp_path, **{"SegNet-Basic": Pixelwise()})
    attacked = Adversaries("SSP", "S", 16, 5, noise(6, 1))
    drawn = pictures.segmented(study, {"clean": clean(study), "adversary": attacked}, "SegNet-Basic", 3)
    chosen = [0, 2, 4]
    for name, predicted, of in (("images", "before", images), ("adversaries", "after", attacked.images)):
        assert np.array_equal(drawn[name], of[chosen].permute(0, 2, 3, 1).numpy())
        assert np.array_equal(drawn[predicted], of[chosen].argmax(1).numpy())  # the brightest channel
    assert drawn["classes"].tolist() == ["a", "b", "c"] and drawn["colours"].shape == (3, 3)


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
    truth = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
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
    assert set(drawn) == {"threshold"} | {
        f"{what}_{row}_{kind}" for what in ("image", "boxes", "scores", "names") for row in (0, 1) for kind in kinds
    }
