"""What an attack costs: seconds per image, measured once and kept in the store."""

import dataclasses
import time

import numpy as np
import torch

from lib.experiment.digests import network_digest
from lib.experiment.study import ATTACK_CODE, Study, adversaries
from lib.store import Arrays, digest
from lib.zoo import device_name

RUNS = 2  # the first one also warms up


class Stopwatch:
    """In the place of a store: keeps nothing, and adds up the seconds of what is computed."""

    def __init__(self):
        self.seconds = 0.0

    def get(self, key: str, compute) -> Arrays:
        begun = time.perf_counter()
        made = compute()  # ends with the images on the CPU, so a GPU has finished too
        self.seconds += time.perf_counter() - begun
        return made


def seconds_per_image(study: Study, attack: str, surrogate: str, count: int, **overrides: object) -> float:
    """The attack alone on the study's first `count` images, the faster of two runs.

    overrides: as of `adversaries`. Nothing of the adversaries is stored, only the time: a second call gives the same
    number.
    """
    few = study.images.slice(0, count)
    spec = study.scale.networks[surrogate]
    key = digest("seconds per image", attack, ATTACK_CODE[attack], network_digest(study.network(surrogate)), spec.tap)
    key = digest(key, overrides, study.params.attacks.model_dump(), few.images.numpy(), study.batch)
    key = digest(key, device_name(study.device), torch.get_num_threads(), study.scale.precision)

    def measure() -> Arrays:
        times = []
        for _ in range(RUNS):
            watch = Stopwatch()
            adversaries(dataclasses.replace(study, images=few, store=watch), attack, surrogate, **overrides)
            times.append(watch.seconds)
        return {"seconds": np.array(min(times) / len(few))}

    return study.store.get(key, measure)["seconds"].item()
