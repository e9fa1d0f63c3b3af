"""From the cells of an experiment to its frame: victims evaluate adversaries behind defenses."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.experiment.cells import Adversaries
from lib.experiment.judging import Outcome, fidelity, grid, judge
from lib.experiment.study import NONE, Study
from lib.frames import KEYS, Contributions, Frame
from lib.tasks.confusion import confusions
from lib.tasks.precision import evaluate_boxes
from lib.tasks.predictions import Prediction, top_k


def evaluate(
    study: Study,
    cells: Sequence[Adversaries],
    victims: str | Sequence[str],
    defenses: Sequence[str] = (NONE,),
    *,
    seeds: int | None = None,
    **labels: object,
) -> Frame:
    """The frame of every adversary x defense x victim (x seed of a random defense).

    Classification: top1, top5 (is the label the first class, among the first five) and fooled (the first class differs
    from the victim's on the clean image without a defense) per image; segmentation: confusion counts; detection:
    matches.  seeds: how many seeds of the defenses, from 0 (default: the one of params.yaml).  labels: columns of all
    these cells, such as experiment="figure_06"; one of the frame's columns is replaced.
    """
    victims = [victims] if isinstance(victims, str) else list(victims)
    tasks = {victim: study.scale.networks[victim].task for victim in victims}
    before = {name: judge(study, name, study.images.images) for name in victims if tasks[name] == "classification"}
    if seeds is None:
        found = [(one.cell, one.defense, one.victim, 0, one.outcome) for one in grid(study, cells, victims, defenses)]
    else:
        found = [
            (cell, defense, victim, seed, judge(study, victim, cell.images, defense, seed=seed))
            for victim in victims
            for defense in defenses
            for cell in cells
            for seed in range(seeds)
        ]
    rows = [_row(tasks[victim], cell, defense, victim, seed) | labels for cell, defense, victim, seed, _ in found]
    parts = [_contributions(study, tasks[victim], outcome, before.get(victim)) for _, _, victim, _, outcome in found]
    return _frame(study, rows, parts)


def nearness(
    study: Study,
    cells: Sequence[Adversaries],
    defenses: Sequence[str] = (NONE,),
    extractor: str | None = None,
    **labels: object,
) -> Frame:
    """How near adversaries, or what a defense makes of them, are to the clean images: `fidelity` as outcomes."""
    rows, parts = [], []
    for cell in cells:
        for defense in defenses:
            rows.append(_row("fidelity", cell, defense, "", 0) | labels)
            parts.append(fidelity(study, cell.images, defense, extractor))
    return _frame(study, rows, parts)


def measured(images: Sequence[str], outcomes: dict[str, dict[str, np.ndarray]], label: str, **labels: object) -> Frame:
    """A frame of other numbers per image. outcomes: value of the column `label` -> name of an outcome -> `[n]`."""
    rows = [dict.fromkeys(KEYS, "") | {"eps": 0.0, "steps": 0, "seed": 0} | labels | {label: name} for name in outcomes]
    return Frame(pd.DataFrame(rows), list(outcomes.values()), [tuple(images)] * len(rows))


def _row(task: str, cell: Adversaries, defense: str, victim: str, seed: int) -> dict[str, object]:
    values = ("", task, cell.attack, cell.surrogate, cell.knowledge, cell.eps, cell.steps, defense, victim, seed)
    return dict(zip(KEYS, values, strict=True))


def _frame(study: Study, rows: list[dict], parts: list[Contributions]) -> Frame:
    return Frame(pd.DataFrame(rows), parts, [tuple(study.images.ids)] * len(rows))


def _contributions(study: Study, task: str, outcome: Outcome, before: Prediction | None) -> Contributions:
    """What scoring needs of what a victim predicted; before: its predictions on the clean images."""
    if task == "segmentation":
        return confusions(outcome, study.images.labels.numpy(), len(study.images.classes))
    if task == "detection":
        return evaluate_boxes(study.images.truth, study.images.image_ids, outcome)
    labels, fooled = study.images.labels.numpy(), outcome.classes[:, 0] != before.classes[:, 0]
    return {"top1": top_k(outcome, labels, 1), "top5": top_k(outcome, labels, 5), "fooled": fooled}
