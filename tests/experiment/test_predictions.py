"""lib/experiment/evaluation.py: predictions in three tasks, with defenses, through the store."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from lib import keys, settings
from lib.data.detection import DetectionSet
from lib.data.images import ImageSet
from lib.data.segmentation import SegmentationSet
from lib.defenses.transforms import jpeg, median
from lib.experiment import Study, adversaries, clean, evaluate, predictions
from lib.store import Store
from lib.units import unit_images
from tests.doubles import Corner, Pixelwise
from tests.experiment.test_study import fidelity, small

DEFENSES = {"JPEG 20": {"kind": "jpeg", "quality": 20}, "MF 3": {"kind": "median", "window": 3}}


@pytest.fixture
def study(tmp_path):
    """Seven random images, a network per task, an empty store."""
    scale = settings.load("mini").model_copy(update={"batch": 3}, deep=True)
    images = torch.randint(0, 256, (7, 3, 48, 48), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    data = ImageSet(images, torch.arange(7), [f"i{k}" for k in range(7)])
    networks = {
        "VGG-16": small("vgg16", 0),
        "Inc-v3": small("inception_v3", 1),
        "SegNet-Basic": Pixelwise(),
        "RetinaNet": Corner(),
    }
    params = settings.params().model_copy(update={"defenses": DEFENSES})
    return Study(params, scale, data, Store(tmp_path), "cpu", networks)


def with_images(study, data):
    return Study(study.params, study.scale, data, study.store, "cpu", study.networks)


def entries(study):
    return sorted(study.store.root.rglob("*.bin"))


def test_the_frame_agrees_with_counting_by_hand(study):
    (cell,) = adversaries(study, "FGSM", "VGG-16")
    rows = evaluate(study, [clean(study), cell], ["Inc-v3"]).rows
    with torch.no_grad():
        before, after = (study.networks["Inc-v3"](unit_images(i)) for i in (study.images.images, cell.images))
    attacked = rows[rows["attack"] == "FGSM"]
    assert attacked["image"].tolist() == study.images.ids and len(rows) == 14
    assert attacked["top1"].tolist() == (after.argmax(1) == study.images.labels).tolist()
    assert attacked["fooled"].tolist() == (after.argmax(1) != before.argmax(1)).tolist()
    five = [
        label in row for label, row in zip(study.images.labels.tolist(), after.topk(5).indices.tolist(), strict=True)
    ]
    assert attacked["top5"].tolist() == five
    assert not rows[rows["attack"] == "none"]["fooled"].any()


def test_confidence_is_the_softmax_probability(study):
    prediction = predictions(study, "Inc-v3", study.images.images)
    with torch.no_grad():
        logits = study.networks["Inc-v3"](unit_images(study.images.images)).double().numpy()
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert np.allclose(prediction.confidence[:, 0], probability.max(1), atol=1e-5)


def test_a_segmenter_predicts_a_class_per_pixel_with_a_defense(study):
    images = study.images.images
    labels = torch.zeros(7, 48, 48, dtype=torch.uint8)
    streets = with_images(study, SegmentationSet(images, labels, study.images.ids, ("a", "b", "c"), ((0, 0, 0),) * 3))
    bare, defended = (predictions(streets, "SegNet-Basic", images, name) for name in ("none", "MF 3"))
    assert np.array_equal(bare, images.float().argmax(1).numpy())
    assert np.array_equal(defended, median(unit_images(images)).argmax(1).numpy())


def test_a_detector_takes_images_of_several_sizes_with_a_defense(study):
    images = [study.images.images[0], study.images.images[1, :, :40]]
    objects = with_images(study, DetectionSet(images, ["a", "b"], [1, 2], {}))
    bare, defended = (predictions(objects, "RetinaNet", images, name) for name in ("none", "JPEG 20"))
    assert [found.boxes.tolist() for found in bare] == [[[0, 0, 48, 48]], [[0, 0, 48, 40]]]
    first = [jpeg(unit_images(image[None]), quality=20)[0, 0, 0, 0].item() for image in images]
    assert [found.scores[0] for found in defended] == pytest.approx(first)


def test_a_classifier_predicts_with_a_defense(study):
    defended = predictions(study, "Inc-v3", study.images.images, "JPEG 20")
    with torch.no_grad():
        logits = study.networks["Inc-v3"](jpeg(unit_images(study.images.images), quality=20))
    assert defended.classes[:, 0].tolist() == logits.argmax(1).tolist()


def test_nothing_is_predicted_twice_and_what_matters_is_in_the_key(study, monkeypatch):
    cells = [clean(study), *adversaries(study, "Noise")]
    before = len(entries(study))
    evaluate(study, cells, ["Inc-v3"], ["none", "JPEG 20"])
    shards = len(study.shards())
    assert len(entries(study)) - before == 4 * shards
    evaluate(study, cells, ["Inc-v3"], ["none", "JPEG 20"])
    assert len(entries(study)) - before == 4 * shards
    study.params = settings.params().model_copy(update={"defenses": {"JPEG 20": {"kind": "jpeg", "quality": 21}}})
    evaluate(study, cells, ["Inc-v3"], ["none", "JPEG 20"])
    assert len(entries(study)) - before == 6 * shards
    real = keys.source
    edited = lambda path: real(path) + (b"# edited" if path.name == "transforms.py" else b"")  # noqa: E731
    monkeypatch.setattr(keys, "source", edited)
    evaluate(study, cells, ["Inc-v3"], ["none", "JPEG 20"])
    assert len(entries(study)) - before == 8 * shards


def test_an_unknown_defense_is_named_in_one_line(study):
    with pytest.raises(
        ValueError, match=r"no defense 'JPEG 21'; did you mean 'JPEG 20'\? There are: none, JPEG 20, MF 3"
    ):
        predictions(study, "Inc-v3", study.images.images, "JPEG 21")


def test_fidelity_is_the_psnr_of_each_image(study):
    x = unit_images(study.images.images)
    defended = jpeg(x, quality=20)
    known = [peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1) for a, b in zip(x, defended, strict=True)]
    assert fidelity(study, study.images.images, "JPEG 20")["psnr"] == pytest.approx(known, rel=1e-5)
