"""Means with 95 % bootstrap intervals over images, paired where two cells share their images."""

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
