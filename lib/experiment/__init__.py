"""The grid attack x budget x defense x victim, computed through the store.

A notebook opens a `Study` (the scale, its images, its store), asks for `adversaries`, and has victims evaluate them,
with a defense in front of them or without, into a frame (`lib.frames`): `evaluate`.
"""

from lib.experiment.evaluation import evaluate, measured, nearness
from lib.experiment.fronts import in_front
from lib.experiment.judging import Judged, fidelity, frame, grid, judge
from lib.experiment.study import Adversaries, Study, Through, adversaries, all_attacks, clean, open_study, outputs

__all__ = [
    "Adversaries",
    "Judged",
    "Study",
    "Through",
    "adversaries",
    "all_attacks",
    "clean",
    "evaluate",
    "fidelity",
    "frame",
    "grid",
    "in_front",
    "judge",
    "measured",
    "nearness",
    "open_study",
    "outputs",
]
