import numpy as np
import pytest
from scipy import stats

from lib.report.intervals import difference, mean, of_sums, percent


def test_the_interval_is_close_to_the_exact_binomial_one():
    outcomes = np.arange(200) < 130
    estimate = percent(outcomes)
    exact = stats.binomtest(130, 200).proportion_ci(method="exact")
    assert estimate.value == 65.0 and estimate.n == 200
    assert estimate.low == pytest.approx(100 * exact.low, abs=1.5)
    assert estimate.high == pytest.approx(100 * exact.high, abs=1.5)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    estimates = [percent(rng.random(200) < 0.3) for _ in range(200)]
    covered = np.mean([e.low <= 30 <= e.high for e in estimates])
    # 95 % nominal; three standard deviations of a share in 200 trials are 4.6 points.
    assert 0.90 <= covered <= 0.996


@pytest.mark.parametrize("n", [1, 50, 200])
def test_where_all_images_agree_the_interval_is_the_exact_binomial_one(n):
    exact = stats.binomtest(n, n).proportion_ci(method="exact")
    assert percent(np.ones(n, bool))[:3] == pytest.approx((100.0, 100 * exact.low, 100.0))
    assert percent(np.zeros(n, bool))[:3] == pytest.approx((0.0, 0.0, 100 * (1 - exact.low)))


def test_no_change_in_any_image_is_not_certainty_that_there_is_none():
    change = difference(np.ones(50), np.ones(50))
    assert change.value == 0 and change.low == -change.high and change.high == pytest.approx(7.1, abs=0.1)


def test_pairing_narrows_a_difference():
    rng = np.random.default_rng(1)
    before = rng.random(300) < 0.5
    after = before & (rng.random(300) < 0.9)
    paired, unpaired = difference(after, before), difference(after, rng.permutation(before))
    assert paired.value == pytest.approx(100 * (after.mean() - before.mean()))
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)


def test_no_images_is_an_error():
    with pytest.raises(ValueError, match="no images"):
        percent(np.array([]))


def test_a_mean_keeps_its_unit():
    values = np.random.default_rng(0).normal(33.0, 2.0, 400)
    estimate = mean(values)
    assert estimate.value == pytest.approx(values.mean()) and estimate.n == 400
    # The normal approximation of the standard error.
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def share(total: np.ndarray) -> float:
    return 100 * total[0] / total[1]


def test_of_sums_is_the_statistic_of_the_sum_and_resamples_images():
    rng = np.random.default_rng(0)
    right = rng.integers(0, 100, 50)
    parts = np.stack([right, np.full(50, 100)], 1)
    estimate = of_sums(share, parts)
    assert estimate.value == pytest.approx(right.mean()) and estimate.n == 50
    # With equally many pixels in every image it is the bootstrap of a mean.
    assert (estimate.low, estimate.high) == pytest.approx(percent(right / 100)[1:3], abs=1.0)


def test_large_images_weigh_more():
    assert of_sums(share, np.array([[0, 10], [90, 90]])).value == 90


def test_paired_sums_have_no_width_where_every_image_changes_alike():
    parts = np.stack([np.arange(10, 40), np.full(30, 100)], 1)
    less = parts - [[7, 0]]
    assert of_sums(share, parts, less)[:3] == pytest.approx((7, 7, 7))
    assert of_sums(share, less, parts).value == pytest.approx(-7)
