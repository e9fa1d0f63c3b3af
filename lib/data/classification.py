"""Classification images: the embedded world and the real data sets, by the name that a scale file gives them."""

from collections import Counter
from collections.abc import Sequence

import torch

from lib.data import images, world
from lib.data.images import ImageSet
from lib.data.unlabelled import find
from lib.settings import ROOT, Data


def classification_images(source: Data, count: int | None = None) -> ImageSet:
    """The first `count` images (default: the scale's own count) of a data set, `source.side` pixels square.

    FileNotFoundError in one line names the command that gets missing data; ValueError for a side or a count that the
    data set does not have.
    """
    count = source.count if count is None else count
    if source.name == "world":
        return _world(source, count)
    if "/" in source.name:
        return _own(source, count)
    load = {"neurips2017": images.load_neurips2017, "imagenet_val": images.load_imagenet_val}[source.name]
    return load(images.root(source.name), source.side, count)


def class_names(source: Data) -> Sequence[str]:
    """The names of a data set's classes, by label."""
    if source.name == "world":
        return world.CLASSES
    if "/" in source.name and (own := find(source.name) / "classes.txt").is_file():
        return own.read_text(encoding="utf-8").splitlines()
    from torchvision.models import ResNet50_Weights  # a second that only ImageNet's names need

    return ResNet50_Weights.IMAGENET1K_V1.meta["categories"]


def _own(source: Data, count: int | None) -> ImageSet:
    """The images of a user's own folder (docs/own_data.md)."""
    found, classes = images.load_imagenet_val(find(source.name), source.side, count), len(class_names(source))
    twice = [name for name, times in Counter(found.ids).items() if times > 1]
    if twice:
        raise ValueError(f"{source.name}: labels.csv has more than one file called '{twice[0]}'; rename one")
    if len(found) and found.labels.max() >= classes:
        raise ValueError(f"{source.name}: label {found.labels.max()} in labels.csv, but there are {classes} classes")
    return found


def _world(source: Data, count: int | None) -> ImageSet:
    """The natural test scenes of the embedded world."""
    if source.side != world.SIDE:
        raise ValueError(f"the embedded world has {world.SIDE} x {world.SIDE} pixels, not {source.side}")
    scenes = world.load(ROOT / "data" / "world", "test")
    if count is not None and count > len(scenes.ids):
        raise ValueError(f"{count} images asked for, but the embedded world has {len(scenes.ids)} test scenes")
    pixels = torch.from_numpy(scenes.images[:count]).permute(0, 3, 1, 2).contiguous()
    return ImageSet(pixels, torch.from_numpy(scenes.labels[:count]), list(scenes.ids[:count]))
