"""Images with boxes: the embedded data set and COCO, as 8-bit images of any size with ground truth in COCO's format."""

import functools
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from lib.data.images import read_image, select
from lib.data.world import CLASSES, World

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

    ids: of the images with these names instead, such as 000000000139, in this order.
    `root` holds val2017/ and annotations/instances_val2017.json. FileNotFoundError or ValueError in one line for a
    missing or damaged file, an image of another size than annotated, or a `count` beyond what there is.
    """
    path = root / "annotations" / "instances_val2017.json"
    whole = read_annotations(path)
    entries = sorted(whole["images"], key=lambda entry: entry["id"])
    entries = select(entries, lambda entry: Path(entry["file_name"]).stem, ids, path)
    if count is not None and count > len(entries):
        raise ValueError(f"coco: {count} images asked for, but {path} lists {len(entries)}")
    entries = entries[:count]
    image_ids = dict.fromkeys(entry["id"] for entry in entries)  # an ordered set
    annotations = [one for one in whole["annotations"] if one["image_id"] in image_ids]
    return DetectionSet(
        images=[_photograph(root / "val2017", entry) for entry in entries],
        ids=[Path(entry["file_name"]).stem for entry in entries],
        image_ids=list(image_ids),
        truth={"images": entries, "annotations": annotations, "categories": whole["categories"]},
    )


def read_annotations(path: Path) -> dict:
    """A file of COCO's instance annotations. One-line errors, as in `load_coco`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {GET_COCO}")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: corrupt annotations ({error}); delete it and {GET_COCO}") from None
    for part in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or part not in content:
            raise ValueError(f"{path}: holds no '{part}', so it is no file of COCO's instance annotations")
    return content


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
    image = read_image(path)
    height, width = image.shape[-2:]
    if (width, height) != (entry["width"], entry["height"]):
        raise ValueError(f"{path}: is {width}x{height}, but annotated as {entry['width']}x{entry['height']}")
    return image
