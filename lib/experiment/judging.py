"""What a victim says of a study's images, with and without a defense in front of it, through the store."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from lib import zoo
from lib.data.images import same_size
from lib.defenses import Defense
from lib.experiment.digests import network_digest
from lib.experiment.fronts import NONE, Front, in_front
from lib.experiment.study import Adversaries, Images, Study, clean
from lib.store import code_digest, digest
from lib.tasks import classification, detection, segmentation
from lib.tasks.classification import Prediction, top_k, unit_images
from lib.tasks.detection import Detections

Outcome = Prediction | np.ndarray | list[Detections]


class Task(NamedTuple):
    """How victims of one kind predict (and the code that does it), and how the store keeps what they say."""

    code: str
    predict: Callable[..., Outcome]
    pack: Callable[[Outcome], dict[str, np.ndarray]]
    unpack: Callable[[dict[str, np.ndarray]], Outcome]


CODE = code_digest([Path(__file__)])

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
    identities = {victim: network_digest(study.network(victim)) for victim in victims}
    judged = {}
    with tqdm(total=len(victims) * len(fronts) * len(cells), desc="judging") as progress:
        for name in fronts:
            front = in_front(study, name)
            for place, cell in enumerate(cells):
                several = front.function and len(victims) > 1
                shared = front._replace(function=remembered(front.function)) if several else front
                for victim, identity in identities.items():
                    outcome = _judge(study, victim, identity, cell.images, shared)
                    judged[victim, name, place] = Judged(cell, name, victim, outcome)
                    progress.update()
    return [judged[key] for key in itertools.product(victims, fronts, range(len(cells)))]


def remembered(function: Defense) -> Defense:
    """The defense, computed once per batch of images: several victims look at the same ones. Kept off the GPU."""
    known: dict[str, Tensor] = {}

    def defend(x: Tensor) -> Tensor:
        key = digest(x.cpu().numpy())
        if key not in known:
            known[key] = function(x).cpu()
        return known[key].to(x.device, copy=True)

    return defend


def judge(study: Study, victim: str, images: Images, front: str = NONE, **changed: object) -> Outcome:
    """What the victim says of 8-bit images behind a defense, see `Judged.outcome`.

    changed: options of the defense that differ from params.yaml's, such as the seed of a random one.
    """
    return _judge(study, victim, network_digest(study.network(victim)), images, in_front(study, front, **changed))


def frame(
    study: Study, cells: Sequence[Adversaries], victims: Sequence[str], fronts: Sequence[str] = (NONE,)
) -> pd.DataFrame:
    """One row per adversary, defense, victim and image: is the label first, among the first five, is the victim fooled?

    fooled: the first class differs from the victim's first class on the clean image without a defense.
    """
    rows = []
    labels = study.images.labels.numpy()
    before = {one.victim: one.outcome for one in grid(study, [clean(study)], victims)}
    for cell, front, victim, after in grid(study, cells, victims, fronts):
        rows.append(
            pd.DataFrame(
                {
                    "attack": cell.attack,
                    "surrogate": cell.surrogate,
                    "eps": cell.eps,
                    "steps": cell.steps,
                    "defense": front,
                    "victim": victim,
                    "image": study.images.ids,
                    "top1": top_k(after, labels, 1),
                    "top5": top_k(after, labels, 5),
                    "fooled": after.classes[:, 0] != before[victim].classes[:, 0],
                }
            )
        )
    return pd.concat(rows, ignore_index=True)


def _judge(study: Study, victim: str, identity: str, images: Images, front: Front) -> Outcome:
    task = TASKS[study.scale.networks[victim].task]
    key = digest("judge", *_pixels(images), identity, task.code, study.device, *front.key)
    settings = {"batch": study.batch, "device": study.device, "defense": front.function}
    found = study.store.get(key, lambda: task.pack(task.predict(study.network(victim), images, **settings)))
    return task.unpack(found)


def fidelity(study: Study, images: Images, front: str = NONE, extractor: str | None = None) -> dict[str, np.ndarray]:
    """How near 8-bit images, or what a defense makes of them, are to the study's clean ones: one number per image.

    psnr: peak signal-to-noise ratio in dB (infinite where nothing differs).  features, with an extractor (a network of
    the scale, cut at its tap): squared distance of the features, as a share of the clean features' squared size.
    """
    function, fronted = in_front(study, front)
    tap = zoo.cut(study.network(extractor), extractor, study.scale) if extractor else None
    seen = [network_digest(tap)] if tap else []
    key = digest("fidelity", *_pixels(study.images.images), *_pixels(images), *fronted, *seen, study.device, CODE)
    return study.store.get(key, lambda: _fidelity(study, images, function, tap))


@torch.no_grad()
def _fidelity(study: Study, images: Images, function: Callable | None, tap: nn.Module | None) -> dict[str, np.ndarray]:
    found: dict[str, list[Tensor]] = {"psnr": []} | ({"features": []} if tap else {})
    groups = same_size(study.images.images, study.batch)
    for group in groups:
        x, other = (torch.stack([of[index] for index in group]) for of in (study.images.images, images))
        x, other = unit_images(x, study.device), unit_images(other, study.device)
        other = function(other) if function else other
        found["psnr"].append(-10 * (other - x).square().flatten(1).mean(1).log10())
        if tap:
            clean_features = tap(x)
            away = (tap(other) - clean_features).square().flatten(1).sum(1)
            found["features"].append(away / clean_features.square().flatten(1).sum(1))
    order = np.argsort(np.concatenate(groups))
    return {name: torch.cat(parts).cpu().numpy()[order] for name, parts in found.items()}


def _pixels(images: Images) -> list[np.ndarray]:
    return [images.numpy()] if isinstance(images, Tensor) else [image.numpy() for image in images]
