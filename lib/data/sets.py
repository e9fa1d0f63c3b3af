"""The data sets by the names that a scale file gives them: the embedded one, the real ones, a user's own folder."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lib.data import detection, generated, images, segmentation, world
from lib.data.detection import DetectionSet
from lib.data.images import ImageSet, find_folder
from lib.data.segmentation import SegmentationSet
from lib.settings import ROOT, Data, Scenes


def load_set(source: Data | Scenes, split: str = "test", count: int | None = None) -> ImageSet | DetectionSet:
    """The first `count` images (default: the source's own count, or all): `Data` with one label each, `source.side`
    pixels square; `Scenes` with labelled pixels or boxes.  split: train, val or test, of the sets that are split.

    FileNotFoundError in one line names the command that gets missing data; ValueError for a count, a size or a split
    that the data set does not have.
    """
    count = source.count if count is None else count
    ids = read_ids(source.ids)
    if source.name == "world":
        if ids is not None:
            raise ValueError(f"the embedded data set is taken in its own order, not by a list ({source.ids})")
        scenes = world.load_scenes(split, count=count)
        if isinstance(source, Data):
            if source.side != world.SIDE:
                raise ValueError(f"the embedded data set has {world.SIDE} x {world.SIDE} pixels, not {source.side}")
            return ImageSet(scenes.images, scenes.labels, scenes.ids)
        if source.labels == "boxes":
            return detection.coco_format(scenes)
        names = world.PIXEL_CLASSES, segmentation.WORLD_COLOURS
        return SegmentationSet(scenes.images, scenes.pixels, scenes.ids, *names)
    if source.name == "generated":
        if isinstance(source, Data):
            return generated.classified(source.side, count)
        make = generated.with_boxes if source.labels == "boxes" else generated.with_pixels
        return make(source.sides or segmentation.CAMVID_SIDES, count)
    if split != "test" and source.name != "camvid":
        raise ValueError(f"{source.name} has no {split} images of its own; name some by a list (ids)")
    folder = _folder(source)
    if source.name == "coco":
        return detection.load_coco(folder, count, ids)
    if source.name == "camvid":
        return segmentation.load_camvid(folder, split, source.sides or segmentation.CAMVID_SIDES, count, ids)
    if source.name == "neurips2017":
        return images.load_neurips2017(folder, source.side, count, ids)
    published = source.name == "imagenet_val"
    found = images.load_imagenet_val(folder, source.side, count, ids, upright=not published)
    return found if published else _own_set(found, source)


def not_fetched(source: Data | Scenes) -> str:
    """Nothing if a data set is here, else that it is not, and how to get it."""
    try:
        if source.name not in ("world", "generated"):
            _folder(source)
    except FileNotFoundError as error:
        return f"not fetched: {error}"
    return ""


def read_ids(file: str | None) -> dict[str, list[str]] | None:
    """The images that a list of a scale names, in its order, each with the SHA-256 of its files as far as committed: a
    line is the id that `load_set` gives an image, then those digests (`lib.digests`). FileNotFoundError or ValueError
    in one line for a missing list and one that names an image twice."""
    if file is None:
        return None
    path = ROOT / file
    if not path.is_file():
        raise FileNotFoundError(f"{file}: no such list of images")
    lines = [line.split() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if len(ids := {line[0]: line[1:] for line in lines}) < len(lines):
        raise ValueError(f"{file}: names an image twice")
    return ids


def class_names(source: Data) -> Sequence[str]:
    """The names of a data set's classes, by label."""
    if source.name == "world":
        return world.CLASSES
    if "/" in source.name and (file := find_folder(source.name) / "classes.txt").is_file():
        return file.read_text(encoding="utf-8-sig").splitlines()
    from torchvision.models import ResNet50_Weights  # a second that only ImageNet's names need

    return ResNet50_Weights.IMAGENET1K_V1.meta["categories"]


def _folder(source: Data | Scenes) -> Path:
    return find_folder(source.name if "/" in source.name else f"data/{source.name}")


def _own_set(found: ImageSet, source: Data) -> ImageSet:
    """The images of a user's own folder (docs/own_data.md): their names differ, their labels are of its classes."""
    classes = len(class_names(source))
    if twice := [name for name, times in Counter(found.ids).items() if times > 1]:
        raise ValueError(f"{source.name}: labels.csv has more than one file called '{twice[0]}'; rename one")
    if len(found) and found.labels.max() >= classes:
        raise ValueError(f"{source.name}: label {found.labels.max()} in labels.csv, but there are {classes} classes")
    return found
