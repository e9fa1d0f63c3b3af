import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from lib.report import embedding

NAMES = ["zero", "one", "two", "three"]


def test_groups_collect_ranges_of_labels_with_both_ends():
    labels = np.array([0, 1, 2, 3, 1])
    points = embedding.pick(labels, NAMES, {"low": [(0, 1)], "ends": [(3, 3)]}, 9, 0)
    assert dict(zip(points["image"], points["class"], strict=True)) == {0: "low", 1: "low", 4: "low", 3: "ends"}


def test_without_groups_classes_are_drawn_and_called_by_name():
    labels = np.arange(40) % 4
    points = embedding.pick(labels, NAMES, None, 2, seed=0)
    assert len(points) == 20 and points["class"].nunique() == 2
    assert all(NAMES[labels[row["image"]]] == row["class"] for _, row in points.iterrows())


def test_separate_clusters_score_high_and_shuffled_ones_about_zero():
    rng = np.random.default_rng(0)
    classes = np.array(["a", "b", "c"]).repeat(20)
    vectors = rng.normal(size=(60, 2, 3)) + 20 * (np.arange(60) // 20)[:, None, None]
    apart = embedding.embed("s", vectors, classes, 0)
    mixed = embedding.embed("s", vectors, rng.permutation(classes), 0)
    assert apart["silhouette"].iloc[0] == pytest.approx(silhouette_score(vectors.reshape(60, 6), classes))
    assert apart["silhouette"].iloc[0] > 0.6
    assert abs(mixed["silhouette"].iloc[0]) < 0.15


def test_silhouettes_are_those_of_their_definition():
    rng = np.random.default_rng(0)
    classes = np.array(["a", "b", "c"]).repeat(15)
    vectors = rng.normal(size=(45, 2, 2)) + 2 * (np.arange(45) // 15)[:, None, None]
    expected = by_definition(vectors.reshape(45, -1), classes)
    assert embedding.silhouettes(vectors, classes) == pytest.approx(expected, rel=1e-6)


def by_definition(vectors, classes):
    """(b - a) / max(a, b): mean distance to the own class without itself, and to the nearest other class."""
    distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
    scores = []
    for k, own in enumerate(classes):
        a = distances[k, classes == own].sum() / ((classes == own).sum() - 1)
        b = min(distances[k, classes == other].mean() for other in set(classes) - {own})
        scores.append((b - a) / max(a, b))
    return np.array(scores)


def test_the_embedding_is_repeatable():
    vectors = np.random.default_rng(1).normal(size=(30, 5))
    classes = ["a", "b"] * 15
    first, second = (embedding.embed("s", vectors, classes, 3) for _ in range(2))
    assert first.equals(second) and first.columns[:2].tolist() == ["space", "class"]


def test_too_few_points_for_the_usual_perplexity_still_work():
    assert len(embedding.embed("s", np.random.default_rng(0).normal(size=(12, 4)), ["a", "b"] * 6, 0)) == 12


def test_one_class_has_no_silhouette():
    with pytest.raises(ValueError):
        embedding.embed("s", np.random.default_rng(0).normal(size=(20, 4)), ["a"] * 20, 0)


def test_the_controls_of_figure_3_can_contradict_it():
    """Features that separate the classes in two of their hundred dimensions, and do so as well as the logits."""
    rng, classes = np.random.default_rng(0), np.repeat(list("abc"), 20)
    apart = 60 * np.eye(3)[np.arange(60) // 20]
    logits, noise = {"logits": apart + rng.normal(size=(60, 3))}, rng.normal(size=(60, 97))
    features = {"features": np.hstack([apart + rng.normal(size=(60, 3)), 10 * noise]).reshape(60, 100, 1, 1)}
    found = embedding.silhouette_controls(logits, features, rng.normal(size=(60, 3)), classes, 0)
    mean = {name: {space: one["silhouette"].mean() for space, one in spaces.items()} for name, spaces in found.items()}
    assert mean["figure_03"]["logits"] > 0.9 and mean["figure_03"]["features"] < 0.3
    assert mean["figure_03 projected"]["features"] > mean["figure_03"]["features"] + 0.3  # here the dimension did it
    assert abs(mean["figure_03 untrained"]["logits"]) < 0.1
    assert abs(mean["figure_03 random labels"]["logits"]) < 0.1 and len(mean["figure_03 random labels"]) == 2


def test_a_projection_keeps_distances_where_it_keeps_every_dimension():
    vectors = np.random.default_rng(0).normal(size=(20, 3, 4))
    assert embedding.projected(vectors, 5).shape == (20, 5)
    flat, kept = vectors.reshape(20, -1), embedding.projected(vectors, 1000)
    assert np.allclose(np.linalg.norm(flat[0] - flat[1:], axis=1), np.linalg.norm(kept[0] - kept[1:], axis=1))
