"""Images with boxes: the embedded data set and COCO, as 8-bit images of any size with ground truth in COCO's format."""

import functools
import json
import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import numpy as np
from torch import Tensor

from lib.data.images import read_image, select
from lib.data.world import CLASSES, World

ANNOTATIONS = "annotations/instances_val2017.json"
GET_COCO = "get it with: companion data coco"


@dataclass(frozen=True)
class DetectionSet:
    """images: one uint8 `[3,H,W]` each, RGB, at their own size; ids: one name per image; image_ids: its id in truth.

    truth: COCO's `images`, `annotations`, `categories` (boxes x, y, width, height), of these images only.
    """

    images: list[Tensor]
    ids: list[str]
    image_ids: list[int]
    truth: dict

    def __len__(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def boxes(self) -> np.ndarray:
        """The truth without masks as JSON, uint8: a stored score is keyed by its digest."""
        annotations = [{name: one[name] for name in one if name != "segmentation"} for one in self.truth["annotations"]]
        return np.frombuffer(json.dumps(self.truth | {"annotations": annotations}).encode(), np.uint8)


def load_coco(root: Path, count: int | None = None, ids: Collection[str] | None = None) -> DetectionSet:
    """The first `count` images (default: all) of COCO val2017 by image id, with every annotation, crowds included.

    ids: of the images with these names instead, such as 000000000139.  `root` holds val2017/ and ANNOTATIONS.
    FileNotFoundError or ValueError in one line for a missing or damaged file, an image of another size than annotated,
    or a `count` beyond what there is.
    """
    path = root / ANNOTATIONS
    whole = read_annotations(path)
    entries = sorted(whole["images"], key=lambda entry: entry["id"])
    if not (entries := select(entries, lambda entry: entry["file_name"], ids, count, path)[:count]):
        raise ValueError(f"{path}: lists no images")
    image_ids = dict.fromkeys(entry["id"] for entry in entries)  # an ordered set
    return DetectionSet(
        images=[_photograph(root / "val2017", entry) for entry in entries],
        ids=[Path(entry["file_name"]).stem for entry in entries],
        image_ids=list(image_ids),
        truth={
            "images": entries,
            "annotations": [one for one in whole["annotations"] if one["image_id"] in image_ids],
            "categories": whole["categories"],
        },
    )


def read_annotations(path: Path) -> dict:
    """A file of COCO's instance annotations. One-line errors, as in `load_coco`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {GET_COCO}")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: corrupt annotations ({error}); {GET_COCO}") from None
    for part in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or part not in content:
            raise ValueError(f"{path}: holds no '{part}', so it is no file of COCO's instance annotations")
    try:
        named = [{"name": str(entry["id"])} | entry for entry in content["categories"]]
        return content | {"categories": named, "annotations": completed(content)}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: an entry is not as COCO's are: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def completed(content: dict) -> list[dict]:
    """COCO's annotations with what other tools leave out: ids, iscrowd (0), area (of the box); without polygons of less
    than three points. ValueError for an image that is listed twice, and for a box or a category that is none."""
    images = Counter(entry["id"] for entry in content["images"] if entry["file_name"])
    for image, times in images.items():
        if times > 1:
            raise ValueError(f"image id {image} is listed {times} times")
    categories, texts = {entry["id"] for entry in content["categories"]}, set(map(str, images))
    found = []
    for number, one in enumerate(content["annotations"], 1):
        number = one.get("id", number)
        box = one["bbox"]
        if not (len(box) == 4 and all(math.isfinite(value) for value in box) and min(box[2:]) >= 0):
            raise ValueError(f"annotation {number}: the box {box} is not x, y, width, height")
        if one["category_id"] not in categories:
            raise ValueError(f"annotation {number}: category {one['category_id']} is not among the categories")
        if (image := one["image_id"]) not in images and str(image) in texts:  # its object would be lost
            kinds = f"of image_id {image!r} and the images' id one is text; write numbers"
            raise ValueError(f"annotation {number}: {kinds}")
        one = {"id": number, "iscrowd": 0, "area": float(box[2] * box[3])} | one
        if not isinstance(one["area"], Real) or one["iscrowd"] not in (0, 1):
            raise ValueError(f"annotation {number}: area must be a number and iscrowd 0 or 1")
        if isinstance(parts := one.get("segmentation"), list):
            one["segmentation"] = [part for part in parts if len(part) >= 6]
        found.append(one)
    return found


def coco_format(world: World) -> DetectionSet:
    """Scenes of the embedded data set in COCO's format: categories 1 to 12 are `world.CLASSES`; boxes, areas and masks
    (RLE) are those of each object's visible pixels."""
    from pycocotools import mask

    image_ids = list(range(1, len(world.images) + 1))
    annotations = []
    for image_id, boxes, objects, instances in zip(image_ids, world.boxes, world.objects, world.instances, strict=True):
        for instance, ((x0, y0, x1, y1), kind) in enumerate(zip(boxes.tolist(), objects.tolist(), strict=True), 1):
            inside = instances == instance
            runs = mask.encode(np.asfortranarray(inside.astype(np.uint8)))
            one = {"id": len(annotations) + 1, "image_id": image_id, "category_id": kind + 1}
            one |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": int(inside.sum()), "iscrowd": 0}
            one |= {"segmentation": {"size": runs["size"], "counts": runs["counts"].decode("ascii")}}
            annotations.append(one)
    height, width = world.images.shape[-2:]
    truth = {
        "images": [{"id": image_id, "width": width, "height": height} for image_id in image_ids],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)],
    }
    return DetectionSet(list(world.images), world.ids, image_ids, truth)


def _photograph(folder: Path, entry: dict) -> Tensor:
    path = folder / entry["file_name"]
    image = read_image(path, upright=False)
    height, width = image.shape[-2:]
    if (width, height) != (entry.get("width", width), entry.get("height", height)):
        raise ValueError(f"{path}: is {width}x{height}, but annotated as {entry['width']}x{entry['height']}")
    return image
