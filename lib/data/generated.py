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


def random_image(name: str, height: int, width: int) -> Tensor:
    """uint8 `[3,height,width]`."""
    coarse = torch.rand(1, 3, 6, 6, generator=generator("generated", name))
    return to_bytes(F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1))[0]


def generated_ids(count: int | None) -> list[str]:
    """Of `count` images (default: COUNT)."""
    return [f"generated-{number}" for number in range(COUNT if count is None else count)]


def classified(side: int, count: int | None, classes: int = 1000) -> ImageSet:
    """Images of `side` x `side` pixels with labels spread over the classes, two images each."""
    ids = generated_ids(count)
    labels = torch.arange(len(ids)) // 2 * 389 % classes
    return ImageSet(torch.stack([random_image(name, side, side) for name in ids]), labels, ids)


def with_pixels(sides: Sequence[int], count: int | None) -> SegmentationSet:
    """Images of `sides` (height, width) with CamVid's classes, every pixel's at random."""
    ids = generated_ids(count)
    labels = [torch.randint(len(CAMVID_CLASSES), tuple(sides), generator=generator("pixels", name)) for name in ids]
    images = torch.stack([random_image(name, *sides) for name in ids])
    return SegmentationSet(images, torch.stack(labels).byte(), ids, CAMVID_CLASSES, CAMVID_COLOURS)


def with_boxes(sides: Sequence[int], count: int | None) -> DetectionSet:
    """Images of `sides`, every second one upright, with one box each, of COCO's number of categories."""
    ids = generated_ids(count)
    numbers = [*range(1, len(ids) + 1)]
    images = [random_image(name, *(sides if k % 2 else sides[::-1])) for k, name in enumerate(ids, 1)]
    box = {"bbox": [10, 10, 50, 40], "area": 2000, "iscrowd": 0}
    truth = {
        "images": [{"id": k, "height": image.shape[1], "width": image.shape[2]} for k, image in enumerate(images, 1)],
        "annotations": [box | {"id": k, "image_id": k, "category_id": k} for k in numbers],
        "categories": CATEGORIES,
    }
    return DetectionSet(images, ids, numbers, truth)
