"""lib/report/scores.py: every score against its definition, intervals against scipy and exact bounds, pairing."""

import numpy as np
import pytest
from scipy import stats

from lib.frames import join
from lib.report.scores import Estimate, combined, derived, estimate, point
from lib.tasks.confusion import scores as segmentation_scores
from lib.tasks.precision import Detections, evaluate_boxes
from tests.made import cell, found, one, pixels
from tests.tasks.test_average_precision import random_scenes


def percent(outcomes):
    return estimate("accuracy", cell({"top1": np.asarray(outcomes)}))


def change(after, before, score="accuracy", outcome="top1"):
    return combined(score, [(1.0, cell({outcome: after})), (-1.0, cell({outcome: before}))])


def test_the_interval_is_close_to_the_exact_binomial_one():
    found = percent(np.arange(200) < 130)
    exact = stats.binomtest(130, 200).proportion_ci(method="exact")
    assert found.value == 65.0 and found.n == 200
    assert (found.low, found.high) == pytest.approx((100 * exact.low, 100 * exact.high), abs=1.0)


@pytest.mark.parametrize("n", [12, 24, 60, 150])
@pytest.mark.parametrize("rate", [0.02, 0.1, 0.3, 0.5])
def test_the_interval_of_a_rate_covers_it_as_often_as_it_says(n, rate):
    """The whole distribution, so no simulation; rates close to an end are covered more often."""
    found = [percent(np.arange(n) < hits) for hits in range(n + 1)]
    inside = [one.low <= 100 * rate <= one.high for one in found]
    assert stats.binom.pmf(np.arange(n + 1), n, rate)[inside].sum() > 0.925


@pytest.mark.parametrize("n", [20, 60, 150])
@pytest.mark.parametrize(("gained", "lost"), [(0.1, 0.0), (0.1, 0.1), (0.4, 0.05), (0.9, 0.0)])
def test_the_interval_of_a_paired_difference_covers_it_as_often_as_it_says(n, gained, lost):
    counts = np.random.default_rng(0).multinomial(n, [gained, lost, 1 - gained - lost], 1000)
    tables, times = np.unique(counts, axis=0, return_counts=True)
    found = [change(np.repeat([1, 0, 0], table), np.repeat([0, 1, 0], table)) for table in tables]
    inside = [one.low <= 100 * (gained - lost) <= one.high for one in found]
    assert times[inside].sum() / 1000 > 0.93  # three standard deviations below 95 %


def test_the_interval_of_a_mean_without_bounds_is_students():
    values = np.random.default_rng(3).random(80)
    theirs = stats.ttest_1samp(values, 0).confidence_interval()
    ours = estimate("PSNR (dB)", cell({"psnr": values}))
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))


def test_none_of_a_few_images_is_not_certainty():
    assert percent(np.zeros(24)).high == pytest.approx(14.2, abs=0.1)
    assert percent(np.arange(24) < 1).high > percent(np.zeros(24)).high


@pytest.mark.parametrize("n", [1, 50, 200])
def test_where_all_images_agree_the_interval_is_the_exact_binomial_one(n):
    exact = stats.binomtest(n, n).proportion_ci(method="exact")
    assert percent(np.ones(n, bool))[:3] == pytest.approx((100.0, 100 * exact.low, 100.0))
    assert percent(np.zeros(n, bool))[:3] == pytest.approx((0.0, 0.0, 100 * (1 - exact.low)))


def test_no_change_in_any_image_is_not_certainty_that_there_is_none():
    same = change(np.ones(50), np.ones(50))
    assert same.value == 0 and same.low == -same.high and same.high == pytest.approx(7.1, abs=0.1)


def test_pairing_narrows_a_difference():
    rng = np.random.default_rng(1)
    before = rng.random(300) < 0.5
    after = before & (rng.random(300) < 0.9)
    paired, unpaired = change(after, before), change(after, rng.permutation(before))
    assert paired.value == pytest.approx(100 * (after.mean() - before.mean()))
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)


def test_no_images_is_an_error():
    with pytest.raises(ValueError, match="no images"):
        percent(np.array([]))
    with pytest.raises(ValueError, match="no images"):
        estimate("pixels", cell(pixels(3, 0)))


def test_a_mean_keeps_its_unit():
    values = np.random.default_rng(0).normal(33.0, 2.0, 400)
    found = estimate("PSNR (dB)", cell({"psnr": values}))
    assert found.value == pytest.approx(values.mean()) and found.n == 400
    # The normal approximation of the standard error.
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_several_seeds_are_averaged_by_image():
    seeds = join([cell((9, 10), seed=0), cell((7, 10), seed=1)])
    assert estimate("accuracy", seeds) == estimate("accuracy", cell({"top1": np.array([1.0] * 7 + [0.5] * 2 + [0])}))


def test_cells_that_differ_in_more_than_their_seeds_are_not_one():
    with pytest.raises(ValueError, match="2 cells where one is asked for; they differ in attack, eps"):
        estimate("accuracy", join([cell((1, 2), attack="A"), cell((1, 2), attack="B", eps=8.0)]))
    with pytest.raises(ValueError, match="no such cell"):
        estimate("accuracy", cell((1, 2)).where(attack="C"))


def test_seeds_of_what_has_no_outcome_per_image_are_one_line():
    several = join([cell(pixels(30), seed=seed) for seed in (0, 1)])
    with pytest.raises(ValueError, match="several seeds of confusion counts or of detections"):
        estimate("pixels", several)


@pytest.mark.parametrize("score", ["pixels", "mAP@0.5", "silhouette"])
def test_a_score_of_another_task_is_one_line(score):
    with pytest.raises(ValueError, match=r"these cells have no '.*': it is a score of another task"):
        estimate(score, cell((1, 2)))


def test_an_interval_stays_where_its_number_can_be():
    found = change([0] * 24, [1] * 24)
    assert found[:3] == (-100.0, -100.0, pytest.approx(-100 + 100 * (1 - 0.025 ** (1 / 24))))
    same = estimate("features (%)", cell({"features": np.zeros(30)}))
    assert same[:3] == (0.0, 0.0, 0.0)  # no rate, so no bound of one


def test_cells_over_other_images_are_not_compared():
    with pytest.raises(ValueError, match="do not share their images"):
        combined("accuracy", [(1.0, cell((1, 2))), (-1.0, cell((1, 3)))])


def test_a_weighted_sum_is_that_of_the_values_less_a_constant():
    parts = [(1.0, cell((80, 100))), (-0.5, cell((10, 100))), (-0.5, cell((100, 100)))]
    found = combined("accuracy", parts, 2.0)
    assert found.value == pytest.approx(80 - 5 - 50 - 2) and found.low < found.value < found.high
    assert combined("pixels", [(1.0, cell(pixels(30))), (-1.0, cell(pixels(10)))], -25.0).value == pytest.approx(75)


def test_a_score_of_sums_weighs_images_by_their_pixels():
    small, large = pixels(0, 1), 9 * pixels(40, 1)
    found = estimate("pixels", cell(np.concatenate([small, large])))
    assert found.value == 90


def test_an_interval_of_sums_is_that_of_a_mean_where_images_are_of_one_size():
    right = np.random.default_rng(0).integers(0, 41, 50)
    found = estimate("pixels", cell(np.concatenate([pixels(one, 1) for one in right])))
    theirs = stats.ttest_1samp(100 * right / 40, 0).confidence_interval()
    assert found[:3] == pytest.approx((2.5 * right.mean(), theirs.low, theirs.high), abs=1e-6)


def test_sums_that_all_change_alike_leave_room_for_images_of_another_kind():
    found = combined("pixels", [(1.0, cell(pixels(30))), (-1.0, cell(pixels(20)))])
    margin = 100 * (1 - 0.025 ** (1 / 12))
    assert found[:3] == pytest.approx((25, 25 - margin, 25 + margin))


def test_any_function_of_scores_has_an_interval():
    rng = np.random.default_rng(0)
    outcomes = [{"top1": rng.random(200) < rate} for rate in (0.6, 0.2, 0.9)]
    cells = [cell(one) for one in outcomes]
    found = derived("accuracy", cells, lambda x: 100 * (x[0] - x[1]) / (x[2] - x[1]))
    rates = [one["top1"].mean() for one in outcomes]
    assert found.value == pytest.approx(100 * (rates[0] - rates[1]) / (rates[2] - rates[1]))
    draws = rng.integers(0, 200, (4000, 200))
    a, b, c = (one["top1"][draws].mean(1) for one in outcomes)
    ends = np.percentile(100 * (a - b) / (c - b), [2.5, 97.5])  # the bootstrap, as an independent way
    assert (found.low, found.high) == pytest.approx(ends, abs=1.5)


def test_the_batched_scores_of_segmentation_are_those_of_each_sum():
    counts = np.random.default_rng(0).integers(0, 50, (20, 6, 5))
    counts[:, 2] = counts[:, :, 2] = 0  # a class that is nowhere
    together = segmentation_scores(counts)
    for place, confusion in enumerate(counts):
        known = confusion[:-1].astype(float)
        right, there = np.diag(known), np.array([0, 1, 3, 4])
        union = known.sum(0) + known.sum(1) - right
        expected = [right.sum() / known.sum(), right.sum() / confusion.sum()]
        expected += [(right[there] / known.sum(1)[there]).mean(), (right[there] / union[there]).mean()]
        assert [getattr(together, name)[place] for name in together._fields] == pytest.approx(100 * np.array(expected))


@pytest.fixture(scope="module")
def better_and_worse():
    """The same 40 scenes, evaluated with all detections and with only the better half of them."""
    truth, images, detected = random_scenes(seed=5, count=40)
    fewer = [Detections(*(field[: len(field) // 2] for field in one)) for one in detected]
    return cell(evaluate_boxes(truth, images, detected)), cell(evaluate_boxes(truth, images, fewer))


def test_an_interval_of_precision_is_somewhat_wider_than_the_bootstraps_spread(better_and_worse):
    better, worse = better_and_worse
    found = combined("mAP@0.5", [(1.0, better), (-1.0, worse)])
    counts = np.random.default_rng(7).multinomial(40, np.full(40, 1 / 40), 400)
    sampled = [one.parts[0].resampled(counts) for one in better_and_worse]
    spread = (sampled[0] - sampled[1]).std()
    assert 1.0 < (found.high - found.low) / (2 * 1.96 * spread) < 1.35 and found.n == 40


def test_precision_close_to_an_end_is_given_at_least_the_exact_bound(better_and_worse):
    score, (better, worse) = "mAP@0.5:0.95", better_and_worse
    assert estimate(score, better).value == point(score, better) == better.parts[0].ap("0.5:0.95")
    found = combined(score, [(1.0, better), (-1.0, worse)])
    assert point(score, worse) < 10 and (found.high - found.low) / 2 == pytest.approx(100 * (1 - 0.025 ** (1 / 40)))


def test_a_difference_of_precision_is_paired(better_and_worse):
    better, worse = better_and_worse
    same = combined("mAP@0.5", [(1.0, better), (-1.0, better)])
    assert same.value == 0 and same.high == -same.low == pytest.approx(8.8, abs=0.1)  # the exact bound of 40 images
    value, low, high, _ = combined("mAP@0.5", [(1.0, better), (-1.0, worse)])
    assert value == point("mAP@0.5", better) - point("mAP@0.5", worse) and low < value < high
    turned = combined("mAP@0.5", [(1.0, worse), (-1.0, better)])
    assert turned[:3] == pytest.approx((-value, -high, -low))
    unpaired = np.subtract(estimate("mAP@0.5", better)[1:3], estimate("mAP@0.5", worse)[2:0:-1])
    assert high - low < unpaired[1] - unpaired[0]


def test_precision_of_nothing_found_is_0_with_the_exact_bound_of_so_many_images():
    assert estimate("mAP@0.5", cell(found(0)))[:3] == pytest.approx((0, 0, 100 * (1 - 0.025 ** (1 / 8))))
    truth = {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": 1}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}],
    }
    once = evaluate_boxes(truth, [1, 2], [one(True), one(False)])
    assert np.isnan(once.resampled(np.array([[0, 2]]))).all()  # without the one image that has an object
    assert estimate("mAP@0.5", cell(once))[:3] == pytest.approx((100, 100 * 0.025**0.5, 100))


def test_an_estimate_reads_as_value_and_interval():
    assert str(Estimate(50.0, 40.04, 60.0, 9)) == "50.0 [40.0, 60.0]"
