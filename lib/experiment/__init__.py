"""The grid attack x budget x defense x victim, computed through the store.

A notebook opens a `Study` (the scale, its images, its store), asks for `adversaries`, and has victims judge them,
with a defense in front of them or without: `grid` for any task, `frame` for classification.
"""

from lib.experiment.judging import Judged, frame, grid, in_front, judge
from lib.experiment.study import Adversaries, Study, adversaries, all_attacks, clean, open_study, outputs

__all__ = [
    "Adversaries",
    "Judged",
    "Study",
    "adversaries",
    "all_attacks",
    "clean",
    "frame",
    "grid",
    "in_front",
    "judge",
    "open_study",
    "outputs",
]
