"""How often the 95 % intervals of lib/report/scores.py hold the truth, simulated: the tables of docs/method.md.

    .venv/bin/python benchmarks/coverage.py            about two minutes; prints the tables
    .venv/bin/python benchmarks/coverage.py write      and puts them into docs/method.md

A population of many images is made up, whose score is the truth; then images are drawn from it again and again.
Detections: objects that are easier or harder to find, images that are easier or harder, false alarms, scores that say
little more than that; the two detectors see the same objects. Rates: exact, or drawn pairs. Segmentation: images with
few of eleven classes, in shares that vary. Beside them the percentile bootstrap, which was used before.
"""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy import stats
from tabulate import tabulate

from lib.report.scores import SCORES, Estimate, interval, over_cells
from lib.tasks.confusion import scores as segmentation
from lib.tasks.precision import Evaluation, Matches

PAGE = Path(__file__).parents[1] / "docs" / "method.md"
POPULATION, TIMES, RESAMPLES, PAIRS = 20_000, 300, 400, 20_000
# Two detectors, as clean and attacked: how easily objects are found, how high they score, false alarms per image.
DETECTORS = {
    "strong attack": ((2.5, 1.5, 1.0), (-1.0, 0.3, 1.0)),
    "weak attack": ((2.0, 1.0, 1.0), (1.2, 0.7, 1.0)),
    "weak detector": ((-0.5, 0.3, 1.0), (-1.5, 0.0, 1.0)),
    "collapse": ((3.5, 2.5, 0.3), (-4.0, -0.5, 1.0)),
    "both close to 100": ((4.5, 3.5, 0.1), (4.2, 3.5, 0.15)),
}


class Pool:
    """Images with objects, and what detectors find in them: rates of false alarms, ease and scores as in DETECTORS."""

    def __init__(self, classes: int, rng: np.random.Generator, detectors: Sequence[tuple[float, float, float]]):
        share = 1 / np.arange(1, classes + 1) ** (classes > 12)  # many classes: some are rare, as in COCO
        share, hard = share / share.sum(), rng.normal(0, 1, POPULATION)
        image = np.repeat(np.arange(POPULATION), 1 + rng.poisson(2, POPULATION))
        label, ease = rng.choice(classes, len(image), p=share), rng.normal(0, 1, len(image))
        self.objects, self.found = np.zeros((classes, POPULATION), int), []
        np.add.at(self.objects, (label, image), 1)
        for easy, score, alarms in detectors:
            hit = rng.random(len(image)) < 1 / (1 + np.exp(0.8 * hard[image] - 0.8 * ease - easy))
            scores = score + 0.7 * ease - 0.5 * hard[image] + rng.normal(0, 1, len(image))
            false = np.repeat(np.arange(POPULATION), rng.poisson(alarms * np.exp(0.3 * hard)))
            parts = [(image[hit], label[hit], scores[hit], np.ones(hit.sum(), bool))]
            parts += [
                (
                    false,
                    rng.choice(classes, len(false), p=share),
                    rng.normal(-0.5, 1, len(false)),
                    np.zeros(len(false), bool),
                )
            ]
            merged = [np.concatenate(column) for column in zip(*parts, strict=True)]
            order = np.argsort(-merged[2], kind="stable")
            self.found.append([column[order] for column in merged])

    def evaluations(self, images: np.ndarray) -> list[Evaluation]:
        """Of each detector on some of the images."""
        place = np.full(POPULATION, -1)
        place[images] = np.arange(len(images))
        made = []
        for image, label, _, hit in self.found:
            kept = place[image] >= 0
            image, label, hit = place[image[kept]], label[kept], hit[kept]
            classes = [(label == one, self.objects[one, images]) for one in range(len(self.objects))]
            matches = [
                Matches(image[here], np.tile(hit[here], (10, 1)), np.ones((10, here.sum()), bool), objects)
                for here, objects in classes
                if here.any() or objects.any()
            ]
            made.append(Evaluation(tuple(range(len(images))), tuple(matches)))
        return made


def held(found: Sequence[Estimate], truth: float) -> float:
    """The share of intervals that hold the truth, in percent."""
    return 100 * float(np.mean([one.low <= truth <= one.high for one in found]))


def width(found: Sequence[Estimate]) -> float:
    return float(np.mean([one.high - one.low for one in found])) / 2


def percentiles(values: np.ndarray) -> Estimate:
    """The interval of the percentile bootstrap."""
    return Estimate(0.0, *np.nanpercentile(values, [2.5, 97.5]), len(values))


def detection(rng: np.random.Generator) -> list[tuple]:
    rows, score = [], SCORES["mAP@0.5"]
    for classes, cases in ((12, DETECTORS), (40, ("strong attack", "weak attack", "collapse"))):
        for name in cases:
            pool = Pool(classes, rng, DETECTORS[name])
            truth = [one.ap() for one in pool.evaluations(np.arange(POPULATION))]
            for n in (20, 30, 100):
                draws, ours, theirs, single = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES), [], [], []
                for _ in range(TIMES):
                    two = pool.evaluations(rng.choice(POPULATION, n, replace=False))
                    ours.append(over_cells(score, two, lambda x: x[0] - x[1]))
                    theirs.append(percentiles(two[0].resampled(draws) - two[1].resampled(draws)))
                    single.append([over_cells(score, [one], lambda x: x[0]) for one in two])
                covered = [held(ours, truth[0] - truth[1]), held(theirs, truth[0] - truth[1])]
                each = [held(one, t) for one, t in zip(zip(*single, strict=True), truth, strict=True)]
                scores = " and ".join(f"{one:.0f}" for one in truth)
                rows.append(
                    (
                        f"{name}, {classes} classes",
                        scores,
                        n,
                        *covered,
                        width(ours),
                        " and ".join(f"{one:.0f}" for one in each),
                    )
                )
    return rows


def rates(rng: np.random.Generator) -> list[tuple]:
    rows = []
    for n in (20, 24, 60, 150):
        hits = np.arange(n + 1)
        found = [_rate(np.arange(n) < k, (0, 100)) for k in hits]
        for rate in (0.01, 0.05, 0.2, 0.5):
            inside = [one.low <= 100 * rate <= one.high for one in found]
            rows.append((f"rate of {100 * rate:g} %", n, 100 * stats.binom.pmf(hits, n, rate)[inside].sum()))
        for gained, lost in ((0.02, 0.02), (0.1, 0.0), (0.3, 0.1), (0.9, 0.0)):
            counts = rng.multinomial(n, [gained, lost, 1 - gained - lost], PAIRS)
            tables, times = np.unique(counts, axis=0, return_counts=True)
            found_pairs = [_rate(np.repeat([1, -1, 0], table), (-100, 100)) for table in tables]
            inside = [one.low <= 100 * (gained - lost) <= one.high for one in found_pairs]
            rows.append(
                (f"paired: {100 * gained:g} % gained, {100 * lost:g} % lost", n, 100 * times[inside].sum() / PAIRS)
            )
    return rows


def _rate(outcomes: np.ndarray, ends: tuple[int, int]) -> Estimate:
    values = 100 * outcomes.astype(float)
    return interval(values.mean(), (values.sum() - values) / (len(values) - 1), ends)


def sums(rng: np.random.Generator) -> list[tuple]:
    classes = 11
    shares = rng.gamma(0.4, 1, (POPULATION, classes)) * (1 / np.arange(1, classes + 1))
    pixels = np.floor(2000 * shares / shares.sum(1, keepdims=True)).astype(int)
    hard, noise = rng.normal(0, 1, (POPULATION, 1)), rng.normal(0, 1, (POPULATION, classes))
    three = []
    for ease in (2.0, -0.3, 0.8):  # clean, attacked, defended
        right = rng.binomial(pixels, 1 / (1 + np.exp(hard + 0.7 * noise - ease)))
        counts = np.zeros((POPULATION, classes + 1, classes), int)
        counts[:, range(classes), range(classes)] = right
        counts[:, range(classes), (np.arange(classes) + 1) % classes] += pixels - right
        three.append(counts)
    wanted: dict[str, tuple[str, Callable]] = {
        "pixel accuracy": ("pixels", lambda x: x[0]),
        "pixel accuracy, difference": ("pixels", lambda x: x[0] - x[1]),
        "pixel accuracy, share recovered": ("pixels", lambda x: 100 * (x[2] - x[1]) / (x[0] - x[1])),
        "mean IoU": ("iou", lambda x: x[0]),
        "mean IoU, difference": ("iou", lambda x: x[0] - x[1]),
    }
    rows = []
    for name, (score, function) in wanted.items():
        truth = function(np.array([getattr(segmentation(one.sum(0)), score) for one in three]))
        for n in (20, 40, 100):
            samples = [rng.choice(POPULATION, n, replace=False) for _ in range(TIMES)]
            found = [over_cells(SCORES[score], [one[sample] for one in three], function) for sample in samples]
            rows.append((name, n, held(found, truth), width(found)))
    return rows


def report() -> str:
    rng = np.random.default_rng(0)
    heads = [
        "mAP@0.5 of two detectors",
        "truths",
        "n",
        "difference (%)",
        "by the bootstrap (%)",
        "half-width",
        "each alone (%)",
    ]
    parts = [tabulate(detection(rng), heads, "pipe", floatfmt=".0f")]
    parts.append(tabulate(rates(rng), ["rate", "n", "holds the truth (%)"], "pipe", floatfmt=".1f"))
    parts.append(
        tabulate(sums(rng), ["segmentation", "n", "holds the truth (%)", "half-width"], "pipe", floatfmt=".0f")
    )
    return "\n\n".join(parts)


if __name__ == "__main__":
    text = report()
    print(text)
    if "write" in sys.argv[1:]:
        page = PAGE.read_text()
        PAGE.write_text(
            re.sub(
                r"(<!-- coverage -->\n).*?(<!-- end -->)", lambda at: f"{at[1]}{text}\n{at[2]}", page, flags=re.DOTALL
            )
        )
