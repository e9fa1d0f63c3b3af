"""What a victim predicts on a study's images, with and without a defense, through the store."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from lib import zoo
from lib.defenses import Defense
from lib.defenses.batches import Memo
from lib.experiment.cells import Adversaries
from lib.experiment.study import NONE, Images, Study
from lib.keys import networks_unchanged
from lib.tasks.precision import Detections
from lib.tasks.predictions import TASKS, Prediction, fidelity_of

Outcome = Prediction | np.ndarray | list[Detections]


class Judged(NamedTuple):
    """What one victim predicts on one cell's images behind one defense.

    outcome: a `Prediction`; or the class of every pixel, uint8 `[N,H,W]`; or `Detections` per image.
    """

    cell: Adversaries
    defense: str
    victim: str
    outcome: Outcome


def grid(
    study: Study, cells: Sequence[Adversaries], victims: Sequence[str], defenses: Sequence[str] = (NONE,)
) -> list[Judged]:
    """Every adversary x defense x victim. defenses: names of params.yaml's `defenses`, or "none"."""
    judged = {}
    total = len(victims) * len(defenses) * len(cells)
    with tqdm(total=total, desc="evaluating") as progress, networks_unchanged():
        for name in defenses:
            function = study.defense(name)
            for place, cell in enumerate(cells):
                shared = Memo(function) if function and len(victims) > 1 else function
                for victim in victims:
                    outcome = _judge(study, victim, cell.images, name, shared)
                    judged[victim, name, place] = Judged(cell, name, victim, outcome)
                    progress.update()
    return [judged[key] for key in itertools.product(victims, defenses, range(len(cells)))]


def judge(study: Study, victim: str, images: Images, defense: str = NONE, **changed: object) -> Outcome:
    """What the victim predicts on 8-bit images behind a defense, see `Judged.outcome`.

    changed: options of the defense that differ from params.yaml's, such as the seed of a random one.
    """
    return _judge(study, victim, images, defense, study.defense(defense, **changed))


def _judge(study: Study, victim: str, images: Images, name: str, defense: Defense | None) -> Outcome:
    compute, unpacked = TASKS[study.scale.networks[victim].task]
    asked = (study.network(victim), images, defense)
    return unpacked(study.cached(compute, *asked, batch=study.batch, cell=f"{victim} behind {name}"))


def fidelity(study: Study, images: Images, defense: str = NONE, extractor: str | None = None) -> dict[str, np.ndarray]:
    """How near 8-bit images, or what a defense makes of them, are to the study's clean ones; see
    `lib.tasks.predictions.fidelity_of`.

    extractor: a network of the scale, cut at its tap, whose features are compared too.
    """
    tap = zoo.cut(study.network(extractor), extractor, study.scale) if extractor else None
    asked = (study.images.images, images, study.defense(defense), tap)
    return study.cached(fidelity_of, *asked, batch=study.batch, cell=f"fidelity behind {defense}")
