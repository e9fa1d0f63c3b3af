"""What victims predict on adversaries, with and without a defense, and the frame of an experiment, by the store."""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib import zoo
from lib.checks import checked_labels
from lib.defenses import Defense
from lib.defenses.memo import Memo
from lib.experiment.cells import Adversaries
from lib.experiment.study import NONE, Images, Study, joined, label_of
from lib.frames import KEYS, Contributions, Frame
from lib.store import Arrays, Call
from lib.tasks.confusion import confusions
from lib.tasks.precision import Detections, evaluations_from, scored_boxes
from lib.tasks.predictions import TASKS, Prediction, fidelity_of, top_k

Predictions = Prediction | np.ndarray | list[Detections]


def predictions(
    study: Study, victim: str, images: Images, defense: str | Defense = NONE, **changed: object
) -> Predictions:
    """What the victim predicts on 8-bit images with a defense: a `Prediction`; the class of every pixel, uint8
    `[N,H,W]`; or `Detections` per image.  changed: options of the defense other than params.yaml's, such as a seed."""
    calls = _calls(study, victim, images, defense, study.defense(defense, **changed))
    return TASKS[study.scale.networks[victim].task][1](study.cached(calls, victim))


def _calls(study: Study, victim: str, images: Images, name: str | Defense, defense: Defense | None) -> list[Call]:
    """What the victim predicts, shard by shard."""
    compute, network = TASKS[study.scale.networks[victim].task][0], study.network(victim)
    cell = f"{victim} with {label_of(name)}"
    return study.calls(compute, lambda part: (network, images[part], defense), cell, batch=study.batch)


def evaluate(
    study: Study,
    cells: Sequence[Adversaries],
    victims: str | Sequence[str],
    defenses: Sequence[str | Defense] = (NONE,),
    *,
    seeds: int | None = None,
    **labels: object,
) -> Frame:
    """The frame of every adversary x defense x victim (x seed of a random defense).

    Classification: top1, top5 (is the label the first class, among the first five) and fooled (the first class differs
    from the victim's on the clean image without a defense) per image, and hit (is it the target) of targeted cells;
    segmentation: confusion counts; detection: matches.  defenses: names of params.yaml's `defenses`, functions, or
    "none".  seeds: how many seeds of the defenses, from 0 (default: the one of params.yaml).  labels: columns of all
    these cells, such as experiment="figure_06"; one of the frame's columns is replaced.
    """
    victims = [victims] if isinstance(victims, str) else list(victims)
    tasks = {victim: study.scale.networks[victim].task for victim in victims}
    for victim in victims:
        check_classes(study, victim)
    clean = {name: predictions(study, name, study.images.images) for name in victims if tasks[name] == "classification"}
    several, places = [None] if seeds is None else range(seeds), range(len(cells))
    cases, groups, found = [*itertools.product(defenses, several, places)], [], {}
    for name, seed, place in cases:
        defense = study.defense(name, **({} if seed is None else {"seed": seed}))
        shared = Memo(defense) if defense and len(victims) > 1 else defense
        groups += zip(*(_calls(study, victim, cells[place].images, name, shared) for victim in victims), strict=True)
    made = study.cached_all(groups, "evaluating")
    for name, seed, place in cases:
        for victim, shards in zip(victims, zip(*itertools.islice(made, len(study.shards())), strict=True), strict=True):
            part, aims = joined(shards), cells[place].targets
            found[victim, name, place, seed] = _contributions(study, victim, part, clean.get(victim))
            if aims is not None:
                found[victim, name, place, seed]["hit"] = part["classes"][:, 0] == aims
    scores = {key: [part] for key, part in found.items() if isinstance(part, Call)}
    for key, (arrays,) in zip(scores, study.cached_all([*scores.values()], "scoring" if scores else ""), strict=True):
        (found[key],) = evaluations_from(arrays, [len(study.images)])
    keys = [*itertools.product(victims, defenses, places, several)]
    rows = [_columns(tasks[v], cells[place], label_of(name), v, seed or 0) | labels for v, name, place, seed in keys]
    return _frame(study, rows, [found[key] for key in keys])


def check_classes(study: Study, victim: str) -> None:
    """ValueError in one line where the truth of the images holds a class that the victim does not know."""
    spec, images = study.scale.networks[victim], study.images
    if spec.task == "classification":
        checked_labels(images.labels, len(images), spec.classes - spec.background, f"labels of images for {victim}")
    if spec.task == "detection":
        known = {one["category_id"] for one in images.truth["annotations"]}
        if unknown := sorted(known - {*range(spec.classes + 1)}):
            raise ValueError(f"category {unknown[0]} of the images is unknown to {victim}, which has {spec.classes}")


def _contributions(study: Study, victim: str, found: Arrays, clean: Prediction | None) -> Contributions | Call:
    """What scoring needs of what a victim predicted, of boxes how to compute it; clean: of the clean images."""
    task, data = study.scale.networks[victim].task, study.images
    if task == "detection":
        return Call(scored_boxes, (data.boxes, np.array(data.image_ids), found), f"scores of {victim}")
    predicted = TASKS[task][1](found)
    if task == "segmentation":
        return confusions(predicted, data.labels.numpy(), len(data.classes))
    labels, fooled = data.labels.numpy(), predicted.classes[:, 0] != clean.classes[:, 0]
    return {"top1": top_k(predicted, labels, 1), "top5": top_k(predicted, labels, 5), "fooled": fooled}


def nearness(
    study: Study,
    cells: Sequence[Adversaries],
    defenses: Sequence[str] = (NONE,),
    extractor: str | None = None,
    **labels: object,
) -> Frame:
    """The frame of how near adversaries, or what defenses make of them, are to the clean images: psnr, and features of
    an extractor, a network of the scale cut at its tap (`lib.tasks.predictions.fidelity_of`)."""
    tap = zoo.cut(study.network(extractor), extractor, study.scale) if extractor else None
    rows, groups, images = [], [], study.images.images
    for cell, name in itertools.product(cells, defenses):
        asked = [(images[part], cell.images[part], study.defense(name), tap) for part in study.shards()]
        groups.append([Call(fidelity_of, one, f"fidelity with {name}", {"batch": study.batch}) for one in asked])
        rows.append(_columns("fidelity", cell, name) | labels)
    return _frame(study, rows, [joined(shards) for shards in study.cached_all(groups, "comparing")])


def measured(images: Sequence[str], outcomes: dict[str, dict[str, np.ndarray]], label: str, **labels: object) -> Frame:
    """A frame of other numbers per image. outcomes: value of the column `label` -> name of an outcome -> `[n]`."""
    rows = [dict.fromkeys(KEYS, "") | {"eps": 0.0, "steps": 0, "seed": 0} | labels | {label: name} for name in outcomes]
    return Frame(pd.DataFrame(rows), list(outcomes.values()), [tuple(images)] * len(rows))


def _columns(task: str, cell: Adversaries, defense: str, victim: str = "", seed: int = 0) -> dict[str, object]:
    values = ("", task, cell.attack, cell.surrogate, cell.knowledge, cell.eps, cell.steps, defense, victim, seed)
    return dict(zip(KEYS, values, strict=True))


def _frame(study: Study, rows: list[dict], parts: list[Contributions]) -> Frame:
    return Frame(pd.DataFrame(rows), parts, [tuple(study.images.ids)] * len(rows))
