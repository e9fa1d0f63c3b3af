"""lib/experiment/evaluation.py: every adversary x defense x victim x seed in its cell, for all three tasks."""

import numpy as np
import pytest
import torch

from lib.data.detection import DetectionSet
from lib.data.segmentation import SegmentationSet
from lib.experiment import Adversaries, adversaries, clean, evaluate, measured, nearness, predictions
from lib.tasks.confusion import confusions
from lib.tasks.precision import evaluate_boxes
from tests.experiment.test_predictions import study, with_images  # noqa: F401
from tests.experiment.test_study import fidelity


def test_classification_has_the_outcomes_of_every_cell_and_image(study):  # noqa: F811
    cells = [clean(study), *adversaries(study, "FGSM", "VGG-16")]
    made = evaluate(study, cells, ["Inc-v3", "VGG-16"], ["none", "JPEG 20"], experiment="one")
    asked = [(v, d, a) for v in ("Inc-v3", "VGG-16") for d in ("none", "JPEG 20") for a in ("none", "FGSM")]
    assert list(made.cells[["victim", "defense", "attack"]].itertuples(index=False, name=None)) == asked
    for (victim, defense, attack), part in zip(asked, made.parts, strict=True):
        images = {"none": study.images.images, "FGSM": cells[1].images}[attack]
        predicted = predictions(study, victim, images, defense).classes
        bare = predictions(study, victim, study.images.images).classes[:, 0]
        assert part["top1"].tolist() == (predicted[:, 0] == study.images.labels.numpy()).tolist()
        assert part["fooled"].tolist() == (predicted[:, 0] != bare).tolist()
    assert set(made.cells["experiment"]) == {"one"} and set(made.cells["task"]) == {"classification"}
    assert set(made.cells["knowledge"]) == {"unaware"}


def test_a_label_may_replace_a_column(study):  # noqa: F811
    made = evaluate(study, [clean(study)], "Inc-v3", knowledge="white-box", method="Original")
    assert made.cells[["knowledge", "method"]].values.tolist() == [["white-box", "Original"]]


def test_every_seed_of_a_random_defense_is_a_cell(study, monkeypatch):  # noqa: F811
    asked = []
    monkeypatch.setattr(study, "defense", lambda name, **changed: asked.append((name, changed)))
    made = evaluate(study, [clean(study)], "Inc-v3", ["MF 3"], seeds=3)
    assert made.cells["seed"].tolist() == [0, 1, 2]
    assert asked[1:] == [("MF 3", {"seed": seed}) for seed in range(3)]


def test_segmentation_has_confusions_and_detection_matches(study):  # noqa: F811
    images = study.images.images
    labels = torch.randint(0, 4, (7, 48, 48), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    streets = with_images(study, SegmentationSet(images, labels, study.images.ids, ("a", "b", "c"), ((0, 0, 0),) * 3))
    (part,) = evaluate(streets, [clean(streets)], "SegNet-Basic").parts
    predicted = (images.float() / 255).argmax(1).to(torch.uint8).numpy()
    assert np.array_equal(part, confusions(predicted, labels.numpy(), 3))
    truth = {
        "images": [{"id": k} for k in range(7)],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": k + 1, "image_id": k, "category_id": 1, "bbox": [0, 0, 48, 48], "area": 2304, "iscrowd": 0}
            for k in range(7)
        ],
    }
    objects = with_images(study, DetectionSet(list(images), study.images.ids, list(range(7)), truth))
    made = evaluate(objects, [clean(objects)], "RetinaNet")
    expected = evaluate_boxes(truth, range(7), predictions(objects, "RetinaNet", objects.images.images))
    assert made.parts[0].ap() == expected.ap() == pytest.approx(100)
    assert made.images == [tuple(study.images.ids)] and made.cells["task"].tolist() == ["detection"]


def test_the_scores_of_boxes_are_computed_once(study, monkeypatch):  # noqa: F811
    annotations = [
        {"id": k + 1, "image_id": k, "category_id": 1, "bbox": [0, 0, 48 - 3 * k, 48], "area": 99, "iscrowd": 0,
         "segmentation": {"size": [48, 48], "counts": "none of this is needed for boxes"}}
        for k in range(7)
    ]  # fmt: skip
    truth = {"images": [{"id": k} for k in range(7)], "categories": [{"id": 1}], "annotations": annotations}
    objects = with_images(study, DetectionSet(list(study.images.images), study.images.ids, list(range(7)), truth))
    noise = adversaries(objects, "Noise")
    first = evaluate(objects, [clean(objects), *noise], "RetinaNet")
    for part, images in zip(first.parts, (objects.images.images, noise[0].images), strict=True):
        expected = evaluate_boxes(truth, range(7), predictions(objects, "RetinaNet", images))
        assert [part.ap(iou) for iou in ("0.5", "0.5:0.95")] == [expected.ap(iou) for iou in ("0.5", "0.5:0.95")]
        drawn = np.random.default_rng(0).multinomial(7, [1 / 7] * 7, 20)
        assert np.array_equal(part.resampled(drawn), expected.resampled(drawn), equal_nan=True)
    monkeypatch.setattr("lib.tasks.precision._evaluated", lambda *arguments: pytest.fail("scored again"))
    again = evaluate(objects, [clean(objects), *noise], "RetinaNet")
    assert [part.ap() for part in again.parts] == [part.ap() for part in first.parts]
    monkeypatch.undo()
    # Another truth is another score.
    objects.images.truth["annotations"][0]["bbox"] = [30, 30, 9, 9]
    moved = with_images(study, DetectionSet(list(study.images.images), study.images.ids, list(range(7)), truth))
    assert evaluate(moved, [clean(moved)], "RetinaNet").parts[0].ap() < first.parts[0].ap()


def test_nearness_is_the_fidelity_of_every_cell(study):  # noqa: F811
    lighter = Adversaries("SSP", "VGG-16", 16, 100, (study.images.images.int() + 3).clamp(0, 255).to(torch.uint8))
    made = nearness(study, [clean(study), lighter], ["none", "MF 3"], "VGG-16", experiment="quality")
    assert made.cells[["attack", "defense"]].values.tolist() == [
        ["none", "none"], ["none", "MF 3"], ["SSP", "none"], ["SSP", "MF 3"]]  # fmt: skip
    expected = fidelity(study, lighter.images, "MF 3", "VGG-16")
    assert all(np.array_equal(made.parts[3][name], expected[name]) for name in ("psnr", "features"))
    assert np.isinf(made.parts[0]["psnr"]).all()


def test_other_numbers_per_image_stand_under_a_label():
    made = measured(["a", "b"], {"x": {"silhouette": np.array([0.1, 0.2])}}, "source", experiment="figure_03")
    assert made.cells[["experiment", "source"]].values.tolist() == [["figure_03", "x"]]
    assert made.images == [("a", "b")] and made.parts[0]["silhouette"].tolist() == [0.1, 0.2]
