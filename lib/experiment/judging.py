"""What a victim says of a study's images, with and without a defense in front of it, through the store."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor
from tqdm import tqdm

from lib import defenses
from lib.experiment.study import LIB, Adversaries, Images, Study, clean, network_digest
from lib.store import code_digest, digest
from lib.tasks import classification, detection, segmentation
from lib.tasks.classification import Prediction, top_k, unit_images
from lib.tasks.detection import Detections

NONE = "none"
DEFENSE_CODE = code_digest([LIB / "defenses" / name for name in ("transforms.py", "bregman.py", "ranks.py")])

Outcome = Prediction | np.ndarray | list[Detections]


class Task(NamedTuple):
    """How victims of one kind predict (and the code that does it), and how the store keeps what they say."""

    code: str
    predict: Callable[..., Outcome]
    pack: Callable[[Outcome], dict[str, np.ndarray]]
    unpack: Callable[[dict[str, np.ndarray]], Outcome]


TASKS = {
    "classification": Task(
        code_digest([Path(classification.__file__)]),
        classification.predict,
        Prediction._asdict,
        lambda found: Prediction(**found),
    ),
    "segmentation": Task(
        code_digest([Path(segmentation.__file__)]),
        segmentation.predict,
        lambda labels: {"labels": labels},
        lambda found: found["labels"],
    ),
    "detection": Task(code_digest([Path(detection.__file__)]), detection.predict, detection.pack, detection.unpack),
}


class Judged(NamedTuple):
    """What one victim says of one cell's images behind one defense.

    outcome: a `Prediction`; or the class of every pixel, uint8 `[N,H,W]`; or `Detections` per image.
    """

    cell: Adversaries
    defense: str
    victim: str
    outcome: Outcome


def grid(
    study: Study, cells: Sequence[Adversaries], victims: Sequence[str], fronts: Sequence[str] = (NONE,)
) -> list[Judged]:
    """Every adversary x defense x victim. fronts: names of params.yaml's `defenses`, or "none"."""
    judged = []
    with tqdm(total=len(victims) * len(fronts) * len(cells), desc="judging") as progress:
        for victim in victims:
            identity = network_digest(study.network(victim))
            for name in fronts:
                for cell in cells:
                    judged.append(Judged(cell, name, victim, _judge(study, victim, identity, cell.images, name)))
                    progress.update()
    return judged


def judge(study: Study, victim: str, images: Images, front: str = NONE) -> Outcome:
    """What the victim says of 8-bit images behind a defense, see `Judged.outcome`."""
    return _judge(study, victim, network_digest(study.network(victim)), images, front)


def in_front(study: Study, name: str) -> defenses.Defense | None:
    """The defense called `name` in params.yaml; None for "none". ValueError for a name that is not there."""
    if name == NONE:
        return None
    if name not in study.params.defenses:
        raise ValueError(f"no defense '{name}' in params.yaml, only {', '.join([NONE, *study.params.defenses])}")
    return defenses.defense(**study.params.defenses[name])


def frame(study: Study, cells: Sequence[Adversaries], victims: Sequence[str]) -> pd.DataFrame:
    """One row per adversary, victim and image: is the label first, among the first five, was the victim fooled?

    fooled: the victim's first class differs from its first class on the clean image.
    """
    rows = []
    labels = study.images.labels.numpy()
    unattacked = clean(study)
    before = None
    for cell, _, victim, after in grid(study, [unattacked, *cells], victims):
        if cell is unattacked:
            before = after
            continue
        rows.append(
            pd.DataFrame(
                {
                    "attack": cell.attack,
                    "surrogate": cell.surrogate,
                    "eps": cell.eps,
                    "steps": cell.steps,
                    "victim": victim,
                    "image": study.images.ids,
                    "top1": top_k(after, labels, 1),
                    "top5": top_k(after, labels, 5),
                    "fooled": after.classes[:, 0] != before.classes[:, 0],
                }
            )
        )
    return pd.concat(rows, ignore_index=True)


def _judge(study: Study, victim: str, identity: str, images: Images, front: str) -> Outcome:
    function = in_front(study, front)
    task = TASKS[study.scale.networks[victim].task]
    pixels = [images.numpy()] if isinstance(images, Tensor) else [image.numpy() for image in images]
    fronted = [study.params.defenses[front], DEFENSE_CODE] if function else []
    key = digest("judge", *pixels, identity, task.code, study.device, *fronted)
    settings = {"batch": study.batch, "device": study.device, "defense": function}
    found = study.store.get(key, lambda: task.pack(task.predict(study.network(victim), images, **settings)))
    return task.unpack(found)


def distortion(study: Study, front: str) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of a defense's output against its clean input, one per image `[N]`."""
    function = in_front(study, front)
    pixels = [image.numpy() for image in study.images.images]
    key = digest("distortion", *pixels, study.params.defenses[front], DEFENSE_CODE, study.device)
    return study.store.get(key, lambda: {"psnr": _psnr(study, function)})["psnr"]


def _psnr(study: Study, function: defenses.Defense) -> np.ndarray:
    from skimage.metrics import peak_signal_noise_ratio  # a second that only this needs

    images = (unit_images(image[None], study.device) for image in study.images.images)
    return np.array(
        [peak_signal_noise_ratio(x.cpu().numpy(), function(x).cpu().numpy(), data_range=1.0) for x in images]
    )
