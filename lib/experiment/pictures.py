"""Pictures of an experiment, as arrays for the figures: images, adversaries, and what a victim predicts of them."""

from itertools import cycle, islice

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_iou

from lib.data.detection import DetectionSet
from lib.data.segmentation import VOID, WORLD_COLOURS
from lib.data.sets import class_names
from lib.data.world import BACKGROUNDS
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
    """What Figure 4 shows, see `figures.pictures.segmented`. cells: "clean", "noise" and "adversary"."""
    chosen, data = evenly(len(study.images), examples), study.images
    truth = data.labels[chosen].numpy()
    drawn = {
        "classes": np.array([*data.classes, "void"]),
        "colours": np.array([*data.colours, (0, 0, 0)], np.uint8),
        "truth": np.where(truth == VOID, len(data.classes), truth).astype(np.uint8),
    }
    for kind, cell in cells.items():
        predicted = predictions(study, victim, cell.images)[chosen]
        right = [(mine == true)[true != VOID].mean() for mine, true in zip(predicted, truth, strict=True)]
        drawn |= {f"image_{kind}": _last(cell.images[chosen]), f"predicted_{kind}": predicted}
        drawn[f"right_{kind}"] = np.array(right)
    return drawn


def detected(
    study: Study, cells: dict[str, tuple[Adversaries, str]], victim: str, examples: int, threshold: float
) -> dict[str, np.ndarray]:
    """What Figures 5 and 10 show, see `figures.pictures.detected`: images of several kinds (name -> adversaries and
    their defense; one is "clean"), with the detections of at least `threshold` in each and how many objects they find,
    beside the true ones."""
    names = {category["id"]: category["name"] for category in study.images.truth["categories"]}
    colours = list(islice(cycle(WORLD_COLOURS[len(BACKGROUNDS) :]), len(names)))
    drawn = {
        "threshold": np.array(threshold),
        "classes": np.array(list(names.values())),
        "colours": np.array(colours, np.uint8),
    }
    chosen = list(enumerate(evenly(len(study.images), examples)))
    objects = {row: _objects(study.images, index) for row, index in chosen}
    for row, (boxes, labels) in objects.items():
        drawn |= {f"boxes_{row}_truth": boxes, f"names_{row}_truth": _named(labels, names)}
    for kind, (cell, defense) in cells.items():
        predicted = predictions(study, victim, cell.images, defense)
        for row, index in chosen:
            image, found = cell.images[index][None], predicted[index]
            sure = found.scores >= threshold
            drawn |= {
                f"image_{row}_{kind}": _last(image if defense == NONE else defended(study, image, defense))[0],
                f"boxes_{row}_{kind}": found.boxes[sure],
                f"scores_{row}_{kind}": found.scores[sure],
                f"names_{row}_{kind}": _named(found.labels[sure], names),
                f"found_{row}_{kind}": np.array(objects_found(found.boxes[sure], found.labels[sure], *objects[row])),
            }
    return drawn


def objects_found(boxes: np.ndarray, labels: np.ndarray, true_boxes: np.ndarray, true_labels: np.ndarray) -> int:
    """How many objects have a detection of their own, of their class and with an IoU of at least 0.5; boxes x0, y0, x1,
    y1, `[N,4]`."""
    overlap = box_iou(torch.as_tensor(boxes, dtype=torch.float), torch.as_tensor(true_boxes, dtype=torch.float)).numpy()
    fits = (overlap >= 0.5) & (labels[:, None] == true_labels)
    return int(fits[linear_sum_assignment(fits, maximize=True)].sum())


def _objects(images: DetectionSet, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (x0, y0, x1, y1) and labels of the objects in an image, without crowds."""
    image, known = images.image_ids[index], images.truth["annotations"]
    here = [one for one in known if one["image_id"] == image and not one["iscrowd"]]
    boxes = np.array([one["bbox"] for one in here], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes, np.array([one["category_id"] for one in here], np.int64)


def _named(labels: np.ndarray, names: dict[int, str]) -> np.ndarray:
    return np.array([names.get(label, str(label)) for label in labels.tolist()], dtype="U32")


def purified(
    study: Study, cells: dict[str, Adversaries], victim: str, defense: str, examples: int, source: Data
) -> dict[str, np.ndarray]:
    """What Figures 2 and 7 to 9 show, see `figures.pictures.purified`: the first images that the victim knows when
    clean and no more under the attacks, or under most of them.

    cells: name of the group of rows -> adversaries.  defense: "none" shows nothing purified.  source: the images' data
    set, for the names of its classes.
    """
    names, labels = np.array(class_names(source)), study.images.labels.numpy()
    defenses = {"before": NONE} | ({"after": defense} if defense != NONE else {})
    predicted = {
        (name, when): predictions(study, victim, cell.images, chosen)
        for name, cell in cells.items()
        for when, chosen in defenses.items()
    }
    known = top_k(predictions(study, victim, study.images.images), labels, 1)
    lost = sum(predicted[name, "before"].classes[:, 0] != labels for name in cells)
    chosen = np.argsort(-1 * known * (1 + lost), kind="stable")[:examples]
    groups = []
    for name, cell in cells.items():
        images = cell.images[torch.as_tensor(chosen)]
        group = {"adversary": _last(images)}
        if defense != NONE:
            group["purified"] = _last(defended(study, images, defense))
        for when in defenses:
            found = predicted[name, when]
            group[when] = names[found.classes[chosen, 0]]
            group[f"{when}_score"] = found.confidence[chosen, 0]
            group[f"right_{when}"] = found.classes[chosen, 0] == labels[chosen]
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
