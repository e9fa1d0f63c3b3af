"""Pictures of an experiment, as arrays for the figures: images, adversaries, and what a victim predicts of them."""

import numpy as np
import torch
from torch import Tensor

from lib.data.sets import class_names
from lib.experiment.cells import Adversaries
from lib.experiment.evaluation import predictions
from lib.experiment.study import NONE, Study
from lib.settings import Data
from lib.tasks.predictions import top_k
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
    found = {"classes": np.array(study.images.classes), "colours": np.array(study.images.colours, np.uint8)}
    for kind, images, predicted in [("clean", "images", "before"), ("adversary", "adversaries", "after")]:
        found[images] = _last(cells[kind].images[chosen])
        found[predicted] = predictions(study, victim, cells[kind].images)[chosen]
    return found


def detected(
    study: Study, cells: dict[str, tuple[Adversaries, str]], victim: str, examples: int, threshold: float
) -> dict[str, np.ndarray]:
    """What Figures 5 and 10 show: images of several kinds, with the detections of at least `threshold` in each.

    cells: name of the kind -> adversaries and their defense.
    """
    names = {category["id"]: category["name"] for category in study.images.truth["categories"]}
    pictures: dict[str, np.ndarray] = {"threshold": np.array(threshold)}
    for kind, (cell, defense) in cells.items():
        predicted = predictions(study, victim, cell.images, defense)
        for row, index in enumerate(evenly(len(study.images), examples)):
            image, found = cell.images[index][None], predicted[index]
            sure = found.scores >= threshold
            pictures |= {
                f"image_{row}_{kind}": _last(image if defense == NONE else defended(study, image, defense))[0],
                f"boxes_{row}_{kind}": found.boxes[sure],
                f"scores_{row}_{kind}": found.scores[sure],
                f"names_{row}_{kind}": np.array(
                    [names.get(label, str(label)) for label in found.labels[sure]], dtype="U32"
                ),
            }
    return pictures


def purified(
    study: Study, cells: dict[str, Adversaries], victim: str, defense: str, examples: int, source: Data
) -> dict[str, np.ndarray]:
    """What Figures 7 to 9 show, see `figures.pictures.removed`: the first images that the victim knows when clean.

    cells: name of the group of rows -> adversaries.  source: the images' data set, for the names of its classes.
    """
    names, labels = np.array(class_names(source)), study.images.labels.numpy()
    known = top_k(predictions(study, victim, study.images.images), labels, 1).nonzero()[0]
    chosen = np.concatenate([known, np.setdiff1d(np.arange(len(labels)), known)])[:examples]
    groups = []
    for cell in cells.values():
        images = cell.images[torch.as_tensor(chosen)]
        group = {"adversary": _last(images), "purified": _last(defended(study, images, defense))}
        for when, name in {"before": NONE, "after": defense}.items():
            predicted = predictions(study, victim, cell.images, name)
            group[when] = names[predicted.classes[chosen, 0]]
            group[f"{when}_score"] = predicted.confidence[chosen, 0]
            group[f"right_{when}"] = predicted.classes[chosen, 0] == labels[chosen]
        groups.append(group)
    return {name: np.stack([group[name] for group in groups]) for name in groups[0]} | {
        "groups": np.array(list(cells)),
        "clean": _last(study.images.images[chosen]),
        "truth": names[labels[chosen]],
        "victim": np.array(victim),
        "purifier": np.array(defense),
    }


def _last(images: Tensor) -> np.ndarray:
    """Images `[N,3,H,W]` with the channels last, `[N,H,W,3]`."""
    return images.permute(0, 2, 3, 1).numpy()
