"""The evaluation grid attack x budget x defense x victim, computed through the store.

A notebook opens a `Study` (the scale, its images, its store), asks for `adversaries`, and has victims evaluated on
them, with a defense or without, into a frame (`lib.frames`): `evaluate`.
"""

from lib.experiment.cells import Adversaries, Through, adversaries, all_attacks, clean, seconds_per_image
from lib.experiment.evaluation import evaluate, measured, nearness
from lib.experiment.judging import Judged, fidelity, grid, judge
from lib.experiment.study import NONE, Study, open_study, outputs

__all__ = [
    "NONE",
    "Adversaries",
    "Judged",
    "Study",
    "Through",
    "adversaries",
    "all_attacks",
    "clean",
    "evaluate",
    "fidelity",
    "grid",
    "judge",
    "measured",
    "nearness",
    "open_study",
    "outputs",
    "seconds_per_image",
]
