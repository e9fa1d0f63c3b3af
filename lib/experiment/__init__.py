"""The evaluation grid attack x budget x defense x victim, computed through the store.

A notebook opens a `Study` (the scale, its images, its store), asks for `adversaries`, and has victims evaluated on
them, with a defense or without, into a frame (`lib.frames`): `evaluate`.
"""

from lib.experiment.cells import (
    Adversaries,
    Through,
    adversaries,
    all_attacks,
    clean,
    seconds_behind,
    seconds_per_image,
)
from lib.experiment.evaluation import evaluate, measured, nearness, predictions
from lib.experiment.protocol import Attacker, against, behind, confidences_of, gradients_of, reread, traits
from lib.experiment.study import NONE, Study, open_study, outputs
