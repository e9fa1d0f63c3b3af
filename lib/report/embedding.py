"""Figure 3: t-SNE of logits and features, and the silhouette score that says how far the classes lie apart."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_samples


def pick(labels: np.ndarray, names: Sequence[str], groups: dict | None, classes: int, seed: int) -> pd.DataFrame:
    """Which images to show: columns image (its index) and class.

    names: of the classes, by label.  groups: name -> ranges of labels (both ends included), each one class; without
    it, `classes` labels drawn at random.
    """
    if groups is None:
        drawn = np.random.default_rng(seed).choice(np.unique(labels), classes, replace=False)
        groups = {names[label]: [(label, label)] for label in sorted(drawn)}
    rows = [
        {"image": index, "class": name}
        for name, ranges in groups.items()
        for index, label in enumerate(labels)
        if any(first <= label <= last for first, last in ranges)
    ]
    return pd.DataFrame(rows)


def _flattened(vectors: np.ndarray) -> np.ndarray:
    return vectors.reshape(len(vectors), -1).astype(np.float64)


def embed(space: str, vectors: np.ndarray, classes: Sequence[str], seed: int) -> pd.DataFrame:
    """The t-SNE of `vectors` `[n,...]` (flattened): columns space, class, x, y, silhouette.

    Perplexity 30, or a quarter of n where that is less; started from the principal components. silhouette is the mean
    over the vectors, not their drawing; -1 to 1, about 0 where classes overlap.
    """
    tsne = TSNE(perplexity=min(30, len(vectors) // 4), init="pca", random_state=seed)
    x, y = tsne.fit_transform(_flattened(vectors)).T
    score = float(silhouettes(vectors, classes).mean())
    return pd.DataFrame({"space": space, "class": list(classes), "x": x, "y": y, "silhouette": score})


def silhouettes(vectors: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """One silhouette per image `[n]`, -1 to 1, of `vectors` `[n,...]` (flattened)."""
    return silhouette_samples(_flattened(vectors), classes)


def projected(vectors: np.ndarray, dimensions: int) -> np.ndarray:
    """The first principal components of `vectors` `[n,...]`, `[n,dimensions]`; at most n - 1, which keep every
    distance."""
    flat = _flattened(vectors)
    return PCA(min(dimensions, len(flat) - 1, flat.shape[1]), svd_solver="full").fit_transform(flat)


def silhouette_controls(
    logits: dict[str, np.ndarray],
    features: dict[str, np.ndarray],
    untrained: np.ndarray,
    classes: Sequence[str],
    seed: int,
) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """The silhouettes of the logits (one entry) and the features of one network, and of three controls that could
    contradict Figure 3: experiment -> space -> outcomes.

    projected: features with as many dimensions as there are logits.  untrained: the logits of the same network with
    weights as initialised.  random labels: the classes shuffled among the images.
    """
    (name, vectors), spaces = next(iter(logits.items())), logits | features
    shuffled = np.random.default_rng(seed).permutation(np.asarray(classes))
    few = {space: projected(found, vectors.shape[1]) for space, found in features.items()}
    experiments = {
        "figure_03": (spaces, classes),
        "figure_03 projected": (logits | few, classes),
        "figure_03 untrained": ({name: untrained}, classes),
        "figure_03 random labels": (spaces, shuffled),
    }
    return {
        experiment: {space: {"silhouette": silhouettes(found, of)} for space, found in chosen.items()}
        for experiment, (chosen, of) in experiments.items()
    }
