"""Means with 95 % bootstrap intervals over images, paired where two cells share their images."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000


class Estimate(NamedTuple):
    """A mean in percent, its 95 % interval, and the number of images."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}]"


def percent(outcomes: np.ndarray) -> Estimate:
    """The share of true outcomes in percent. outcomes: one bool (or number) per image `[n]`."""
    outcomes = np.asarray(outcomes, dtype=float)
    low, high = bootstrap(outcomes)
    return Estimate(100 * outcomes.mean(), 100 * max(low, 0.0), 100 * min(high, 1.0), len(outcomes))


def difference(after: np.ndarray, before: np.ndarray) -> Estimate:
    """Mean of after - before in percentage points, both `[n]` over the same images in the same order."""
    change = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    low, high = bootstrap(change)
    return Estimate(100 * change.mean(), 100 * low, 100 * high, len(change))


def mean(values: np.ndarray) -> Estimate:
    """The mean of one number per image `[n]`, in their own unit."""
    values = np.asarray(values, dtype=float)
    return Estimate(float(values.mean()), *bootstrap(values), len(values))


def of_sums(statistic: Callable[[np.ndarray], float], parts: np.ndarray, less: np.ndarray | None = None) -> Estimate:
    """A statistic of what all images add up to, with its bootstrap interval over images.

    parts: one array per image `[n,...]`, such as confusion matrices.  statistic: their sum -> percent.  less: other
    parts of the same images, whose statistic is taken off; then the result is a paired difference in points.

    Where all images change alike the interval has no width: it says nothing of images of another kind.
    """
    if not len(parts):
        raise ValueError("no images: a sum over nothing has no value")
    both = [parts] if less is None else [parts, less]
    counts = np.random.default_rng(0).multinomial(len(parts), np.full(len(parts), 1 / len(parts)), RESAMPLES)
    values = np.zeros(RESAMPLES + 1)
    for sign, part in zip((1, -1), both, strict=False):
        flat = part.reshape(len(part), -1).astype(float)
        sums = np.vstack([flat.sum(0), counts @ flat]).reshape(-1, *part.shape[1:])
        values += sign * np.array([statistic(one) for one in sums])
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return Estimate(float(values[0]), float(low), float(high), len(parts))


def bootstrap(outcomes: np.ndarray) -> tuple[float, float]:
    """The percentile bootstrap's 95 % interval of the mean, from a fixed seed.

    Where all images agree the bootstrap has no width. Then the exact binomial bound stands in: with 95 % confidence at
    most 1 - 0.025^(1/n) of all images differ from them.
    """
    if not len(outcomes):
        raise ValueError("no images: a mean over nothing has no value")
    if np.ptp(outcomes) == 0:
        margin = 1 - 0.025 ** (1 / len(outcomes))
        return float(outcomes[0]) - margin, float(outcomes[0]) + margin
    from scipy import stats  # two seconds that redrawing a figure need not wait for

    interval = stats.bootstrap(
        (outcomes,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return float(interval.low), float(interval.high)
