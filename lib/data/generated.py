"""Images that a seed draws, for a dry run: smooth colours with a few boxes, labels at random. They show nothing."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.data.detection import DetectionSet
from lib.data.images import ImageSet
from lib.data.segmentation import CAMVID_CLASSES, CAMVID_COLOURS, SegmentationSet
from lib.rng import generator
from lib.units import to_bytes

COUNT = 2  # where a scale names none
CATEGORIES = [{"id": number, "name": f"category {number}"} for number in range(91)]  # as many as torchvision's COCO has


def picture(name: str, height: int, width: int) -> Tensor:
    """One image, uint8 `[3,height,width]`."""
    coarse = torch.rand(1, 3, 6, 6, generator=generator("generated", name))
    return to_bytes(F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1))[0]


def names(count: int | None) -> list[str]:
    """The images' ids."""
    return [f"generated-{number}" for number in range(COUNT if count is None else count)]


def classified(side: int, count: int | None, classes: int = 1000) -> ImageSet:
    """Images of `side` x `side` pixels with labels spread over the classes, two images each."""
    ids = names(count)
    labels = torch.arange(len(ids)) // 2 * 389 % classes
    return ImageSet(torch.stack([picture(name, side, side) for name in ids]), labels, ids)


def with_pixels(sides: Sequence[int], count: int | None) -> SegmentationSet:
    """Images of `sides` (height, width) with CamVid's classes, every pixel's at random."""
    ids = names(count)
    labels = [torch.randint(len(CAMVID_CLASSES), tuple(sides), generator=generator("pixels", name)) for name in ids]
    images = torch.stack([picture(name, *sides) for name in ids])
    return SegmentationSet(images, torch.stack(labels).byte(), ids, CAMVID_CLASSES, CAMVID_COLOURS)


def with_boxes(sides: Sequence[int], count: int | None) -> DetectionSet:
    """Images of `sides`, every second one upright, with one box each, of COCO's number of categories."""
    ids, numbers = names(count), [*range(1, len(names(count)) + 1)]
    sizes = [tuple(sides) if number % 2 else tuple(sides)[::-1] for number in numbers]
    entries = [{"id": k, "height": size[0], "width": size[1]} for k, size in zip(numbers, sizes, strict=True)]
    box = {"bbox": [10, 10, 50, 40], "area": 2000, "iscrowd": 0}
    truth = {
        "images": entries,
        "annotations": [box | {"id": k, "image_id": k, "category_id": k} for k in numbers],
        "categories": CATEGORIES,
    }
    return DetectionSet([picture(name, *size) for name, size in zip(ids, sizes, strict=True)], ids, numbers, truth)
