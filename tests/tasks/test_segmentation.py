"""lib/tasks/confusion.py against a confusion matrix worked out by hand, and scikit-learn; predictions of pixels."""

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, jaccard_score
from torch import nn

from lib.tasks.confusion import confusions, scores
from lib.tasks.predictions import segment

VOID = 255
# One image of 2x4 pixels and two classes; one pixel is void.
TRUTH = np.array([[[0, 0, 0, 1], [1, 1, 1, VOID]]], np.uint8)
PREDICTED = np.array([[[0, 0, 1, 1], [1, 0, 1, 1]]], np.uint8)


def test_the_confusion_matrix_by_hand():
    # True 0: two right, one called 1.  True 1: one called 0, three right.  Void: called 1.
    assert confusions(PREDICTED, TRUTH, 2).tolist() == [[[2, 1], [1, 3], [0, 1]]]


def test_the_scores_by_hand():
    found = scores(confusions(PREDICTED, TRUTH, 2).sum(0))
    assert found.pixels == pytest.approx(100 * 5 / 7)
    assert found.pixels_void_wrong == pytest.approx(100 * 5 / 8)
    assert found.classes == pytest.approx(100 * (2 / 3 + 3 / 4) / 2)
    assert found.iou == pytest.approx(100 * (2 / 4 + 3 / 5) / 2)


def test_the_scores_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 5, (3, 20, 30)), rng.integers(0, 5, (3, 20, 30))
    truth[rng.random(truth.shape) < 0.1] = VOID
    known = truth != VOID
    found = scores(confusions(predicted, truth, 5).sum(0))
    assert found.pixels == pytest.approx(100 * (truth == predicted)[known].mean())
    assert found.pixels_void_wrong == pytest.approx(100 * (truth == predicted).mean())
    assert found.classes == pytest.approx(100 * balanced_accuracy_score(truth[known], predicted[known]))
    assert found.iou == pytest.approx(100 * jaccard_score(truth[known], predicted[known], average="macro"))
    assert np.array_equal(confusions(predicted, truth, 5).sum(0)[:5], confusion_matrix(truth[known], predicted[known]))


def test_a_class_that_is_nowhere_does_not_count():
    truth, predicted = np.zeros((1, 2, 2), int), np.array([[[0, 0], [0, 1]]])
    found = scores(confusions(predicted, truth, 3).sum(0))
    assert found.classes == pytest.approx(75)  # class 0 alone is there to be found
    assert found.iou == pytest.approx(100 * (3 / 4 + 0) / 2)  # class 1 was predicted, class 2 neither


def test_images_are_counted_apart():
    each = confusions(np.concatenate([PREDICTED, 1 - PREDICTED]), np.concatenate([TRUTH, TRUTH]), 2)
    assert each.shape == (2, 3, 2) and each[0].tolist() == [[2, 1], [1, 3], [0, 1]]
    assert each.sum((1, 2)).tolist() == [8, 8]


def test_different_sizes_are_an_error():
    with pytest.raises(ValueError, match="differ in shape"):
        confusions(PREDICTED, TRUTH[:, :1], 2)


class Brightest(nn.Module):
    """Predicts the brightest channel of every pixel."""

    def forward(self, x):
        return x


def test_predictions_are_the_most_likely_class_whatever_the_batch():
    images = torch.randint(0, 256, (5, 3, 6, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[:, 0] = 0  # channels differ, so that no two are equally bright
    images[:, 1] = images[:, 1] // 2 * 2
    images[:, 2] = images[:, 2] // 2 * 2 + 1
    predicted = segment(Brightest(), images, batch=2)["labels"]
    assert predicted.dtype == np.uint8 and np.array_equal(predicted, images.numpy().argmax(1))
    assert np.array_equal(predicted, segment(Brightest(), images, batch=5)["labels"])


def test_a_defense_changes_what_the_victim_predicts():
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    images[:, 2] = 200
    assert (segment(Brightest(), images)["labels"] == 2).all()
    assert (segment(Brightest(), images, lambda x: x.flip(1))["labels"] == 0).all()
