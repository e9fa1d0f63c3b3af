"""Appendix E: from what the victims said to Tables 6 and 7, the trend over budgets, and what each transform changes.

`gather` keeps of each outcome what scoring needs, `score` turns that into one tidy frame of numbers; the tables and the
figure are views of it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from lib.experiment import NONE, Judged, Study, fidelity
from lib.report import published, tables
from lib.report.claims import verdict
from lib.report.intervals import Estimate, mean, of_sums
from lib.tasks import detection, segmentation
from lib.tasks.detection import Detections

CLEAN, SSP, NOISE = "none", "SSP", "Noise"
# The columns of Tables 6 and 7: as the paper's, and the budget of each.
COLUMNS = {"no attack": 0, "eps 8": 8, "eps 16": 16}


# 8-bit images `[3,H,W]`: all of a study's, or at least those that a figure shows, by their index.
Shown = Sequence[Tensor] | dict[int, Tensor]


class Scoring(NamedTuple):
    """How a task is scored.

    metrics: the first is the table's.  evidence: what is kept of one outcome.  estimate: evidence, metric -> value with
    interval.  change: evidence after, before, metric -> paired difference in points.
    """

    metrics: tuple[str, ...]
    evidence: Callable[[Study, Judged], object]
    estimate: Callable[[object, str], Estimate]
    change: Callable[[object, object, str], Estimate]


def _confusions(study: Study, judged: Judged) -> np.ndarray:
    return segmentation.confusions(judged.outcome, study.images.labels.numpy(), len(study.images.classes))


def _evaluation(study: Study, judged: Judged) -> detection.Evaluation:
    return detection.evaluate(study.images.truth, study.images.image_ids, judged.outcome)


def _pick(metric: str) -> Callable[[np.ndarray], float]:
    return lambda confusion: getattr(segmentation.scores(confusion), metric)


SEGMENTATION = Scoring(
    segmentation.Scores._fields,
    _confusions,
    lambda counts, metric: of_sums(_pick(metric), counts),
    lambda after, before, metric: of_sums(_pick(metric), after, before),
)
DETECTION = Scoring(
    ("mAP@0.5", "mAP@0.5:0.95"),
    _evaluation,
    lambda found, metric: Estimate(*detection.interval(found, metric.removeprefix("mAP@")), len(found.image_ids)),
    lambda after, before, metric: Estimate(
        *detection.difference(after, before, metric.removeprefix("mAP@")), len(after.image_ids)
    ),
)


class Gathered(NamedTuple):
    """A grid's outcomes with their evidence, in the same order, and how to score them."""

    judged: list[Judged]
    evidence: list[object]
    scoring: Scoring


def gather(study: Study, judged: Sequence[Judged], scoring: Scoring) -> Gathered:
    """Compare every outcome with the truth of the study's images."""
    return Gathered(list(judged), [scoring.evidence(study, one) for one in judged], scoring)


def score(gathered: Gathered) -> pd.DataFrame:
    """One row per cell of the grid and metric: victim, attack, eps, steps, defense, metric, value, low, high, n."""
    rows = []
    for one, evidence in zip(gathered.judged, gathered.evidence, strict=True):
        cell = {"victim": one.victim, "attack": one.cell.attack, "eps": one.cell.eps, "steps": one.cell.steps}
        for metric in gathered.scoring.metrics:
            found = gathered.scoring.estimate(evidence, metric)._asdict()
            rows.append(cell | {"defense": one.defense, "metric": metric} | found)
    return pd.DataFrame(rows)


def table(numbers: pd.DataFrame, name: str, victim: str, metric: str) -> pd.DataFrame:
    """Table 6 or 7: a row per transform, and per column ours with its interval beside the paper's, the best in bold.

    numbers: of `score`.  name: "table_06" or "table_07".
    """
    part = numbers[(numbers["victim"] == victim) & (numbers["metric"] == metric) & (numbers["attack"] != NOISE)]
    ours = {(row.defense, row.eps): Estimate(row.value, row.low, row.high, row.n) for row in part.itertuples()}
    rows = list(dict.fromkeys(part["defense"]))
    shown = pd.DataFrame({"method": ["no defense" if row == NONE else row for row in rows]})
    for column, eps in COLUMNS.items():
        title = column if eps == 0 else f"SSP, eps {eps}"
        cells = [ours[row, eps] for row in rows]
        paper = [published.value(name, row, column) for row in rows]
        shown[title] = _bold([cell.value for cell in cells], [str(cell) for cell in cells])
        shown[f"{title} (paper)"] = _bold(paper, ["-" if value is None else f"{value:.2f}" for value in paper])
    return shown.assign(n=part["n"].iloc[0])


def _bold(values: Sequence[float | None], texts: Sequence[str]) -> list[str]:
    """The texts, that of the largest value in bold; None is a row that the paper does not print."""
    best = max(value for value in values if value is not None)
    return [f"**{text}**" if value == best else text for value, text in zip(values, texts, strict=True)]


def budgets(numbers: pd.DataFrame, task: str, metric: str) -> pd.DataFrame:
    """What the trend shows: the value at each budget, per victim and line.

    A line per transform, one without any, and one under random noise; the clean images begin every line.
    """
    part = numbers[numbers["metric"] == metric]
    behind = part[part["attack"] != NOISE].assign(line=lambda rows: rows["defense"].replace(NONE, "no defense"))
    noise = part[(part["attack"] == NOISE) | ((part["attack"] == CLEAN) & (part["defense"] == NONE))]
    both = pd.concat([behind, noise.assign(line="random sign noise")])
    columns = ["task", "victim", "metric", "line", "eps", "value", "low", "high", "n"]
    order = ["no defense", *dict.fromkeys(part["defense"]), "random sign noise"]
    place = both["line"].map({line: number for number, line in enumerate(order)})
    return both.assign(task=task, place=place).sort_values(["victim", "place", "eps"], ignore_index=True)[columns]


def details(numbers: pd.DataFrame, metrics: dict[str, str]) -> pd.DataFrame:
    """Every score of every victim without a defense: a row per victim and attack, a column per metric.

    metrics: name -> heading.
    """
    part = numbers[numbers["defense"] == NONE]
    rows = []
    for (victim, attack, eps), cell in part.groupby(["victim", "attack", "eps"], sort=False):
        scores = cell.set_index("metric")[["value", "low", "high", "n"]]
        shown = {heading: Estimate(*scores.loc[metric]) for metric, heading in metrics.items()}
        rows.append({"victim": victim, "attack": attack, "eps": int(eps), **shown, "n": cell["n"].iloc[0]})
    return pd.DataFrame(rows)


def effects(gathered: Gathered, victim: str, name: str) -> pd.DataFrame:
    """What each transform changes against no defense, in points, on clean images and under SSP of 8 and 16.

    Beside it what the paper's table `name` prints, and whether ours has the same sign in all three columns.
    """
    found, scoring = evidences(gathered, victim), gathered.scoring
    rows = []
    for defense in dict.fromkeys(defense for defense, _ in found if defense != NONE):
        row, verdicts = {"transform": defense}, set()
        for column, eps in COLUMNS.items():
            ours = scoring.change(found[defense, eps], found[NONE, eps], scoring.metrics[0])
            paper = _printed_change(name, defense, column)
            row |= {column: ours, f"{column} (paper)": "-" if paper is None else f"{paper:+.2f}"}
            verdicts |= {verdict(ours, "rises" if paper > 0 else "falls")} if paper is not None else set()
        rows.append(row | {"n": ours.n, "signs as printed": _all(verdicts) if verdicts else "-"})
    return pd.DataFrame(rows)


def _printed_change(name: str, defense: str, column: str) -> float | None:
    """The transform's cell less that of no defense, as printed; None where the paper does not print the transform."""
    behind = published.value(name, defense, column)
    return None if behind is None else behind - published.value(name, NONE, column)


def collapse(gathered: Gathered, victim: str, name: str) -> pd.DataFrame:
    """What SSP takes from the undefended victim, in points, beside the paper; and what it takes beyond random noise."""
    scoring = gathered.scoring
    under_ssp, under_noise = evidences(gathered, victim), evidences(gathered, victim, NOISE)
    rows = []
    for column, eps in list(COLUMNS.items())[1:]:
        taken, beyond = (
            scoring.change(under_ssp[NONE, eps], other, scoring.metrics[0])
            for other in (under_ssp[NONE, 0], under_noise[NONE, eps])
        )
        paper = published.value(name, NONE, column) - published.value(name, NONE, "no attack")
        both = _all({verdict(taken, "falls"), verdict(beyond, "falls")})
        row = {"SSP, eps": eps, "against clean": taken, "paper": f"{paper:+.2f}", "against noise": beyond}
        rows.append(row | {"n": taken.n, "takes more than noise": both})
    return pd.DataFrame(rows)


def runs(studies: dict[str, tuple[Study, int]]) -> pd.DataFrame:
    """What was attacked, for each name: data set, images, sizes in pixels (height x width), steps of SSP.

    studies: name -> study and number of steps.
    """
    rows = []
    for name, (study, steps) in studies.items():
        sizes = sorted({tuple(image.shape[1:]) for image in study.images.images})
        texts = [f"{height}x{width}" for height, width in sizes]
        shown = texts[0] if len(texts) == 1 else f"{len(texts)} sizes, {texts[0]} to {texts[-1]}"
        rows.append({"task": name, "images": len(study.images), "pixels": shown, "SSP steps": steps})
    return pd.DataFrame(rows)


def evidences(gathered: Gathered, victim: str, attack: str = SSP) -> dict[tuple[str, float], object]:
    """The evidence of the cells of Tables 6 and 7 (or of another attack's) by defense and budget, clean images at 0."""
    return {
        (one.defense, one.cell.eps): evidence
        for one, evidence in zip(gathered.judged, gathered.evidence, strict=True)
        if one.victim == victim and one.cell.attack in (CLEAN, attack) and one.cell.eps in COLUMNS.values()
    }


def _all(verdicts: set[str]) -> str:
    """Several parts of one claim: all must hold, and one that fails fails the claim."""
    for outcome in ("not reproduced", "inconclusive"):
        if outcome in verdicts:
            return outcome
    return "reproduced"


def strongest(gathered: Gathered, victim: str, family: str) -> pd.DataFrame:
    """Is the best transform of a family ("TVM") better under SSP than the best of the others? In points, paired.

    Source: supplement, line 110 (detection): "TVM is relatively more effective compared to other transforms". Which is
    the best of each side is chosen on the same images. Only what the paper's Table 7 compares is compared.
    """
    found, scoring = evidences(gathered, victim), gathered.scoring
    rows = []
    for eps in (eps for eps in COLUMNS.values() if eps):
        values = {
            defense: scoring.estimate(found[defense, eps], scoring.metrics[0]).value
            for defense, budget in found
            if budget == eps and defense != NONE and defense in published.TABLES["table_07"]["rows"]
        }
        inside, outside = (
            max((name for name in values if name.startswith(family) is wanted), key=values.__getitem__)
            for wanted in (True, False)
        )
        gain = scoring.change(found[inside, eps], found[outside, eps], scoring.metrics[0])
        claim = f"{inside} keeps more than {outside}"
        rows.append({"claim": claim, "SSP, eps": eps, "gain": gain, "n": gain.n, "verdict": verdict(gain, "rises")})
    return pd.DataFrame(rows)


def distortions(study: Study, transforms: Sequence[str], images: str) -> pd.DataFrame:
    """How much each transform alone changes the clean images: the mean peak signal-to-noise ratio in dB."""
    found = {name: mean(fidelity(study, study.images.images, name)["psnr"]) for name in transforms}
    return pd.DataFrame(
        [{"images": images, "transform": name, "PSNR (dB)": psnr, "n": psnr.n} for name, psnr in found.items()]
    )


def evenly(count: int, shown: int) -> list[int]:
    """The indices of `shown` images, spread evenly over `count`."""
    return [index * count // shown for index in range(shown)]


def _outcomes(judged: Sequence[Judged], victim: str, eps: float) -> tuple[Judged, Judged]:
    """What the victim says without a defense: of the clean images, and under SSP of `eps`."""
    bare = [one for one in judged if one.victim == victim and one.defense == NONE]
    return tuple(
        next(one for one in bare if (one.cell.attack, one.cell.eps) == key) for key in ((CLEAN, 0), (SSP, eps))
    )


def segmentation_pictures(study: Study, judged: Sequence[Judged], victim: str, shown: int) -> dict[str, np.ndarray]:
    """What Figure 4 shows: images, predictions, adversaries (budget 16), their predictions, the classes' colours."""
    before, after = _outcomes(judged, victim, 16)
    chosen = evenly(len(study.images), shown)
    return {
        "images": before.cell.images[chosen].permute(0, 2, 3, 1).numpy(),
        "before": before.outcome[chosen],
        "adversaries": after.cell.images[chosen].permute(0, 2, 3, 1).numpy(),
        "after": after.outcome[chosen],
        "classes": np.array(study.images.classes),
        "colours": np.array(study.images.colours, np.uint8),
    }


def detection_pictures(
    study: Study, judged: Sequence[Judged], victim: str, shown: int, threshold: float
) -> dict[str, np.ndarray]:
    """What Figure 5 shows: images and adversaries (budget 16), and the detections of at least `threshold` in each."""
    outcomes = zip(("clean", "adversary"), _outcomes(judged, victim, 16), strict=True)
    kinds = {kind: (one.cell.images, one.outcome) for kind, one in outcomes}
    return detected_pictures(study, kinds, shown, threshold)


def detected_pictures(
    study: Study, kinds: dict[str, tuple[Shown, list[Detections]]], shown: int, threshold: float
) -> dict[str, np.ndarray]:
    """Images spread evenly over the study's, of several kinds, with the detections of at least `threshold` in each.

    kinds: name -> images and what was detected in all of the study's.
    """
    names = {category["id"]: category["name"] for category in study.images.truth["categories"]}
    pictures: dict[str, np.ndarray] = {"threshold": np.array(threshold)}
    for row, index in enumerate(evenly(len(study.images), shown)):
        for kind, (images, outcome) in kinds.items():
            found = outcome[index]
            sure = found.scores >= threshold
            pictures |= {
                f"image_{row}_{kind}": images[index].permute(1, 2, 0).numpy(),
                f"boxes_{row}_{kind}": found.boxes[sure],
                f"scores_{row}_{kind}": found.scores[sure],
                f"names_{row}_{kind}": np.array([names[label] for label in found.labels[sure]], dtype="U32"),
            }
    return pictures


def nested(numbers: pd.DataFrame, victim: str, metric: str) -> dict[str, dict[str, float]]:
    """Tables 6 and 7 as {transform: {budget: value}}, for `dvc metrics`."""
    part = numbers[(numbers["victim"] == victim) & (numbers["metric"] == metric) & (numbers["attack"] != NOISE)]
    return tables.nested(part, "defense", "eps")
