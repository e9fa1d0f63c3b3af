import numpy as np
import pytest
from scipy import stats

from lib.report.intervals import difference, percent


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
