"""lib/report/scores.py: every score against its definition, intervals against scipy and exact bounds, pairing."""

import numpy as np
import pytest
from scipy import stats

from lib.frames import join
from lib.report.scores import RESAMPLES, Estimate, combined, estimate, of_sums, point
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
    assert (found.low, found.high) == pytest.approx((100 * exact.low, 100 * exact.high), abs=1.5)


def test_the_interval_is_the_percentile_bootstrap():
    values = np.random.default_rng(3).random(80)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=50_000, method="percentile", rng=1).confidence_interval
    ours = estimate("PSNR (dB)", cell({"psnr": values}))
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.006)  # 2,000 resamples, not 50,000
    assert RESAMPLES == 2000


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


def test_cells_over_other_images_are_not_compared():
    with pytest.raises(ValueError, match="do not share their images"):
        combined("accuracy", [(1.0, cell((1, 2))), (-1.0, cell((1, 3)))])


def test_a_weighted_sum_is_that_of_the_values_less_a_constant():
    parts = [(1.0, cell((80, 100))), (-0.5, cell((10, 100))), (-0.5, cell((100, 100)))]
    found = combined("accuracy", parts, 2.0)
    assert found.value == pytest.approx(80 - 5 - 50 - 2) and found.low < found.value < found.high
    assert combined("pixels", [(1.0, cell(pixels(30))), (-1.0, cell(pixels(10)))], -25.0).value == pytest.approx(75)


def share(total: np.ndarray) -> np.ndarray:
    return 100 * total[..., 0] / total[..., 1]


def test_of_sums_is_the_statistic_of_the_sum_and_resamples_images():
    right = np.random.default_rng(0).integers(0, 100, 50)
    found = of_sums(share, [1.0], [np.stack([right, np.full(50, 100)], 1)])
    assert found.value == pytest.approx(right.mean()) and found.n == 50
    # With equally many pixels in every image it is the bootstrap of a mean.
    assert (found.low, found.high) == pytest.approx(percent(right / 100)[1:3], abs=1.0)


def test_large_images_weigh_more():
    assert of_sums(share, [1.0], [np.array([[0, 10], [90, 90]])]).value == 90


def test_paired_sums_have_no_width_where_every_image_changes_alike():
    parts = np.stack([np.arange(10, 40), np.full(30, 100)], 1)
    less = parts - [[7, 0]]
    assert of_sums(share, [1.0, -1.0], [parts, less])[:3] == pytest.approx((7, 7, 7))
    assert of_sums(share, [1.0, -1.0], [less, parts]).value == pytest.approx(-7)


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


@pytest.mark.parametrize("score", ["mAP@0.5", "mAP@0.5:0.95"])
def test_an_interval_of_precision_reflects_95_percent_of_the_samples_about_the_value(better_and_worse, score):
    better, _ = better_and_worse
    found = estimate(score, better)
    assert found.value == point(score, better) == better.parts[0].ap(score.removeprefix("mAP@")) and found.n == 40
    counts = np.random.default_rng(7).multinomial(40, np.full(40, 1 / 40), 400)
    sampled = better.parts[0].resampled(counts, score.removeprefix("mAP@"))
    assert np.mean(sampled) > found.value  # the lean of a bootstrap of average precision
    inside = [found.low <= 2 * found.value - ap <= found.high for ap in sampled]
    assert 0.9 <= np.mean(inside) <= 0.99


def test_a_difference_of_precision_is_paired(better_and_worse):
    better, worse = better_and_worse
    assert combined("mAP@0.5", [(1.0, better), (-1.0, better)])[:3] == (0, 0, 0)
    value, low, high, _ = combined("mAP@0.5", [(1.0, better), (-1.0, worse)])
    assert value == point("mAP@0.5", better) - point("mAP@0.5", worse) and low < value < high
    turned = combined("mAP@0.5", [(1.0, worse), (-1.0, better)])
    assert turned[:3] == pytest.approx((-value, -high, -low))
    unpaired = np.subtract(estimate("mAP@0.5", better)[1:3], estimate("mAP@0.5", worse)[2:0:-1])
    assert high - low < unpaired[1] - unpaired[0]


def test_precision_of_nothing_found_is_0_and_a_sample_without_objects_is_left_out():
    assert estimate("mAP@0.5", cell(found(0)))[:3] == (0, 0, 0)
    truth = {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": 1}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}],
    }
    once = evaluate_boxes(truth, [1, 2], [one(True), one(False)])
    assert np.isnan(once.resampled(np.array([[0, 2]]))).all()
    assert estimate("mAP@0.5", cell(once))[:3] == pytest.approx((100, 100, 100))


def test_an_estimate_reads_as_value_and_interval():
    assert str(Estimate(50.0, 40.04, 60.0, 9)) == "50.0 [40.0, 60.0]"
