"""Pictures of an experiment, as arrays for the figures: images, adversaries, and what a victim predicts of them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lib.data.classification import class_names
from lib.experiment.cells import Adversaries
from lib.experiment.judging import judge
from lib.experiment.study import NONE, Study
from lib.settings import Data
from lib.tasks.classification import top_k
from lib.units import to_bytes, unit_images


def evenly(count: int, examples: int) -> list[int]:
    """The indices of `examples` images, spread evenly over `count`."""
    return [index * count // examples for index in range(examples)]


def defended(study: Study, images: Tensor, defense: str) -> Tensor:
    """What a defense makes of 8-bit images `[N,3,H,W]`, in 8 bits again."""
    return to_bytes(study.defense(defense)(unit_images(images, study.device)))


def segmented(study: Study, cells: dict[str, Adversaries], victim: str, examples: int) -> dict[str, np.ndarray]:
    """What Figure 4 shows. cells: "clean" and "adversary"; the arrays are those of `figures.pictures.segmented`."""
    chosen = evenly(len(study.images), examples)
    names = {"clean": ("images", "before"), "adversary": ("adversaries", "after")}
    found = {"classes": np.array(study.images.classes), "colours": np.array(study.images.colours, np.uint8)}
    for kind, (images, predicted) in names.items():
        found[images] = cells[kind].images[chosen].permute(0, 2, 3, 1).numpy()
        found[predicted] = judge(study, victim, cells[kind].images)[chosen]
    return found


def detected(
    study: Study, cells: dict[str, tuple[Adversaries, str]], victim: str, examples: int, threshold: float
) -> dict[str, np.ndarray]:
    """What Figures 5 and 10 show: images of several kinds, with the detections of at least `threshold` in each.

    cells: name of the kind -> adversaries and the defense that they are shown behind.
    """
    names = {category["id"]: category["name"] for category in study.images.truth["categories"]}
    pictures: dict[str, np.ndarray] = {"threshold": np.array(threshold)}
    for kind, (cell, defense) in cells.items():
        outcome = judge(study, victim, cell.images, defense)
        for row, index in enumerate(evenly(len(study.images), examples)):
            image, found = cell.images[index], outcome[index]
            shown = image if defense == NONE else defended(study, image[None], defense)[0]
            sure = found.scores >= threshold
            pictures |= {
                f"image_{row}_{kind}": shown.permute(1, 2, 0).numpy(),
                f"boxes_{row}_{kind}": found.boxes[sure],
                f"scores_{row}_{kind}": found.scores[sure],
                f"names_{row}_{kind}": np.array([names[label] for label in found.labels[sure]], dtype="U32"),
            }
    return pictures


def purified(
    study: Study, cells: dict[str, Adversaries], victim: str, defense: str, examples: int, source: Data
) -> dict[str, np.ndarray]:
    """What Figures 7 to 9 show, see `figures.pictures.removed`: the first images that the victim knows when clean.

    cells: name of the group of rows -> adversaries.  source: the images' data set, for the names of its classes.
    """
    names, labels = np.array(class_names(source)), study.images.labels.numpy()
    known = top_k(judge(study, victim, study.images.images), labels, 1).nonzero()[0]
    chosen = np.concatenate([known, np.setdiff1d(np.arange(len(labels)), known)])[:examples]
    groups = [_group(study, cell, victim, defense, chosen, names, labels) for cell in cells.values()]
    return {name: np.stack([group[name] for group in groups]) for name in groups[0]} | {
        "groups": np.array(list(cells)),
        "clean": study.images.images[chosen].permute(0, 2, 3, 1).numpy(),
        "truth": names[labels[chosen]],
        "victim": np.array(victim),
        "purifier": np.array(defense),
    }


def _group(
    study: Study, cell: Adversaries, victim: str, defense: str, chosen: Sequence[int], names: np.ndarray, labels
) -> dict[str, np.ndarray]:
    images = cell.images[torch.as_tensor(chosen)]
    kinds = {"adversary": images, "purified": defended(study, images, defense)}
    group = {name: shown.permute(0, 2, 3, 1).numpy() for name, shown in kinds.items()}
    for when, where in {"before": NONE, "after": defense}.items():
        predicted = judge(study, victim, cell.images, where)
        group[when] = names[predicted.classes[chosen, 0]]
        group[f"{when}_score"] = predicted.confidence[chosen, 0]
        group[f"right_{when}"] = predicted.classes[chosen, 0] == labels[chosen]
    return group
