"""What an attack costs: seconds per image, measured once and kept in the store."""

import dataclasses
import time
from types import SimpleNamespace

import numpy as np

from lib.experiment.digests import network_digest
from lib.experiment.study import ATTACK_CODE, Study, adversaries
from lib.store import digest

RUNS = 2  # the first one also warms up


def seconds_per_image(study: Study, attack: str, surrogate: str, count: int, **overrides: object) -> float:
    """The faster of two runs of the attack on the study's first `count` images.

    overrides: as of `adversaries`. Nothing of the adversaries is stored, only the time: a second call gives the same
    number, on another machine too if the store went along.
    """
    few = study.images.slice(0, count)
    unstored = SimpleNamespace(get=lambda key, compute: compute())
    trial = dataclasses.replace(study, images=few, store=unstored)
    key = digest("seconds per image", attack, ATTACK_CODE[attack], network_digest(study.network(surrogate)), overrides)
    key = digest(key, study.params.attacks.model_dump(), few.images.numpy(), study.device, study.scale.precision)

    def measure() -> dict[str, np.ndarray]:
        times = []
        for _ in range(RUNS):
            begun = time.perf_counter()
            adversaries(trial, attack, surrogate, **overrides)
            times.append(time.perf_counter() - begun)
        return {"seconds": np.array(min(times) / len(few))}

    return study.store.get(key, measure)["seconds"].item()
