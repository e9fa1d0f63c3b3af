"""Images with labelled pixels or boxes, by the name that a scale file gives them."""

from lib.data import detection, images, segmentation, world
from lib.data.detection import DetectionSet
from lib.data.segmentation import SegmentationSet
from lib.settings import ROOT, Scenes


def labelled(source: Scenes, split: str = "test", count: int | None = None) -> SegmentationSet | DetectionSet:
    """The first `count` images (default: the source's own count, or all) of a split.

    FileNotFoundError in one line names the command that gets missing data; ValueError for a count or sides that the
    data set does not have.
    """
    count = source.count if count is None else count
    if source.name == "coco":
        return detection.load_coco(images.root("coco"), count)
    if source.name == "camvid":
        return segmentation.load_camvid(images.root("camvid"), split, source.sides or segmentation.CAMVID_SIDES, count)
    scenes = world.load(ROOT / "data" / "world", split)
    if count is not None and count > len(scenes.ids):
        raise ValueError(f"{count} images asked for, but the embedded world has {len(scenes.ids)} {split} scenes")
    return (segmentation if source.labels == "pixels" else detection).from_world(scenes, count)
