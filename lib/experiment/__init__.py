"""The evaluation grid attack x budget x defense x victim, computed through the store.

A notebook opens a `Study` (the scale, its images, its store), asks for `adversaries`, and has victims evaluated on
them, with a defense or without: `grid` for any task, `frame` for classification.
"""

from lib.experiment.cells import Adversaries, Through, adversaries, all_attacks, clean, seconds_per_image
from lib.experiment.judging import Judged, fidelity, frame, grid, judge
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
    "fidelity",
    "frame",
    "grid",
    "judge",
    "open_study",
    "outputs",
    "seconds_per_image",
]
