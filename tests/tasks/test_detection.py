import numpy as np
import pytest
import torch

from lib.store import Store, read_entry
from lib.tasks.precision import Detections
from lib.tasks.predictions import detect, detections_from, packed


def predict(*arguments, **options):
    """The detections of every image."""
    return detections_from(detect(*arguments, **options))


def whole_image(images):
    """A detector that finds each image as a whole, and scores it by its brightness, twice."""
    return [
        {
            "boxes": torch.tensor([[0.0, 0, 1, 1], [0, 0, image.shape[2], image.shape[1]]]),
            "scores": torch.stack([image.mean() / 2, image.mean()]),
            "labels": torch.tensor([1, 2]),
        }
        for image in images
    ]


def pictures():
    return [torch.full((3, 20 + k, 30 - k), 51 * k, dtype=torch.uint8) for k in range(1, 6)]


def test_every_image_is_seen_at_its_own_size_in_0_to_1_and_the_best_comes_first():
    found = predict(whole_image, pictures(), batch=2)
    assert len(found) == 5
    for k, one in enumerate(found, 1):
        assert one.boxes.tolist() == [[0, 0, 30 - k, 20 + k], [0, 0, 1, 1]]
        assert one.scores.tolist() == pytest.approx([k / 5, k / 10])
        assert one.labels.tolist() == [2, 1]
        assert (one.boxes.dtype, one.scores.dtype, one.labels.dtype) == (np.float32, np.float32, np.int64)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_the_batch_size_changes_nothing(batch):
    for one, other in zip(predict(whole_image, pictures(), batch=batch), predict(whole_image, pictures()), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_defense_sees_one_image_at_a_time():
    def darker(x):
        assert x.shape[:2] == (1, 3) and 0 <= x.min() and x.max() <= 1
        return x / 2

    found = predict(whole_image, pictures(), defense=darker)
    assert [one.scores[0] for one in found] == pytest.approx([k / 10 for k in range(1, 6)])


def test_only_the_best_100_are_kept():
    def eager(images):
        return [{"boxes": torch.rand(300, 4), "scores": torch.linspace(0, 1, 300), "labels": torch.arange(300)}]

    (found,) = predict(eager, pictures()[:1])
    assert found.labels.tolist() == list(range(299, 199, -1))


def test_no_gradients_are_kept():
    weight = torch.ones(1, requires_grad=True)

    def grown(images):
        results = whole_image([image * weight for image in images])
        assert not results[0]["scores"].requires_grad
        return results

    predict(grown, pictures()[:1])


def test_no_detections_and_no_images():
    def blind(images):
        return [{"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0).long()} for _ in images]

    assert [one.boxes.shape for one in predict(blind, pictures())] == [(0, 4)] * 5
    assert predict(blind, []) == []


def random_detections(count):
    rng = np.random.default_rng(count)
    return Detections(rng.random((count, 4), np.float32), rng.random(count, np.float32), rng.integers(1, 91, count))


@pytest.mark.parametrize("counts", [[0], [3], [0, 5, 0, 100, 1, 0]])
def test_detections_survive_the_store(tmp_path, counts):
    found = [random_detections(count) for count in counts]
    arrays = packed(found)
    Store(tmp_path).write({}, "", arrays)
    (entry,) = tmp_path.rglob("*.bin")
    back = detections_from(read_entry(entry))
    assert arrays.keys() == {"boxes", "scores", "labels", "counts"}
    assert len(back) == len(found)
    for one, other in zip(found, back, strict=True):
        assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(one, other, strict=True))


def test_no_image_at_all_survives_packing():
    assert detections_from(packed([])) == []
