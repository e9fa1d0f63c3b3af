"""Images in files, as 8-bit tensors; the NeurIPS-2017 development set and ImageNet's validation images."""

import csv
import os
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from lib.settings import ROOT, Missing

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
LARGEST = 1_000_000_000  # pixels: 3 GB in memory, 12 GB as floats
# How other files begin that are taken for images.
MARKS = (
    (b"ftyphei", "HEIC under another name (convert it to PNG)"), (b"ftypmif1", "HEIC under another name (convert it)"),
    (b"ftypavif", "AVIF under another name (convert it)"), (b"ftyp", "a film"), (b"<html", "a web page"),
    (b"<!doctype", "a web page"), (b"<svg", "an SVG drawing"), (b"%pdf", "a PDF document"),
    (b"version https://git-lfs", "a pointer of Git LFS"), (b"pk\x03\x04", "a zip archive"),
)  # fmt: skip
_pillow = threading.Lock()  # its limit of pixels is one for all threads


@dataclass(frozen=True)
class ImageSet:
    """images: uint8 `[N,3,H,W]`, RGB; labels: int64 `[N]`, 0-based; ids: one name per image."""

    images: Tensor
    labels: Tensor
    ids: list[str]

    def __len__(self) -> int:
        return len(self.ids)

    def slice(self, start: int, stop: int) -> "ImageSet":
        """The images from `start` to before `stop`."""
        return ImageSet(self.images[start:stop], self.labels[start:stop], self.ids[start:stop])


class Unclear(ValueError):
    """A good file whose pixels may mean several things."""


def find_folder(source: str) -> Path:
    """The folder `source`, such as own/photos or data/coco: here, in the repository or in $COMPANION_ASSETS, where
    data/coco is called coco.  FileNotFoundError in one line where it is in none."""
    name = source.removeprefix("data/")
    places = [Path(source), ROOT / source]
    if assets := os.environ.get("COMPANION_ASSETS"):
        places += [Path(assets) / source, Path(assets) / name]
    if there := [place for place in places if place.is_dir()]:
        return there[0]
    how = "name a folder of images" if name == source else "companion data says how to get a set; or put your own there"
    raise Missing(f"{source}: neither here nor in the repository nor in $COMPANION_ASSETS; {how}")


def load_neurips2017(root: Path, side: int, count: int | None = None, ids: Collection[str] | None = None) -> ImageSet:
    """The first `count` images (default: all) of `root`/images.csv, or of those in `ids`, as `side` x `side` pixels.

    `TrueLabel` is TF-Slim's, 1-based (0 = background): 1 is subtracted. Files are images/ID.png or ID.webp.
    """
    table = read_neurips2017(root / "images.csv", count=count, ids=ids)
    return _image_set(table, [or_webp(root / "images" / f"{name}.png") for name, _ in table], side)


def load_imagenet_val(
    root: Path, side: int, count: int | None = None, ids: Collection[str] | None = None, upright: bool = False
) -> ImageSet:
    """The first `count` images (default: all) of `root`/labels.csv by file name, or of those in `ids`, `side` x `side`.

    `label` is 0-based, in torchvision's order of the classes. Files are images/FILE. Of an image that is not square the
    middle is taken, as torchvision evaluates ImageNet (shorter side to 256, centre 224); a small square was cut before.
    upright: see `read_image`.
    """
    table = read_imagenet_val(root / "labels.csv", count=count, ids=ids)
    return _image_set(table, [root / "images" / file for file, _ in table], side, crop=True, upright=upright)


def or_webp(path: Path) -> Path:
    """The file, or if only that is there the one of its name in the other format without loss."""
    webp = path.with_suffix(".webp")
    return webp if webp.is_file() and not path.is_file() else path


def image_files(folder: Path, below: bool = False) -> list[Path]:
    """The images of a folder, and of those `below` it, by path, without macOS's hidden files beside them.
    FileNotFoundError for a missing folder, ValueError for one without images."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: {'a file; name its' if folder.exists() else 'no such'} folder")
    entries = folder.rglob("*") if below else folder.iterdir()
    named = (path for path in entries if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    paths = sorted(path for path in named if path.is_file())
    if not paths:
        raise ValueError(f"{folder}: no images here ({', '.join(SUFFIXES)})")
    return paths


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Pillow's image of a file, only its header read yet. FileNotFoundError, PermissionError or ValueError in one line
    that names a file which is missing, may not be read, is no image or cannot be decoded."""
    try:
        with path.open("rb") as content:
            with any_size():
                file = Image.open(content)
            if file.width * file.height > LARGEST:
                raise MemoryError
            yield file
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such image; companion data says if its set is complete") from None
    except PermissionError:
        raise PermissionError(f"{path}: you may not read this file; change its permissions") from None
    except UnidentifiedImageError:
        raise ValueError(f"{path}: {kind_of(path)}") from None
    except MemoryError:
        raise ValueError(f"{path}: too large for the memory, or more than {LARGEST:,} pixels") from None
    except Unclear as error:
        raise ValueError(f"{path}: {error}") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: corrupt image ({error}); is the file complete?") from None


@contextmanager
def any_size() -> Iterator[None]:
    """Pillow takes an image of more than 179 megapixels for an attack; here the user names the files."""
    with _pillow:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def kind_of(path: Path) -> str:
    """What a file that is no image looks like, in words."""
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        return "is an empty file"
    unknown = "corrupt image (no format that is known); is the file complete?"
    return next((f"is {words}, no image" for mark, words in MARKS if mark in head.lower()), unknown)


def before_crop(side: int) -> int:
    """The shorter side of what a centre of `side` pixels is taken from: 256 for 224."""
    return round(side * 256 / 224)


def middle(image: Image.Image, side: int) -> Image.Image:
    """The shorter side to 8/7 `side` (256 for 224), then the centre `side` x `side`; as torchvision's transforms."""
    width, height = (int(before_crop(side) * length / min(image.size)) for length in image.size)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + side, top + side))


def read_image(path: Path, side: int | None = None, crop: bool = False, upright: bool = True) -> Tensor:
    """One image as uint8 `[3,H,W]`, RGB; squashed to `side` x `side` (Pillow, bilinear) if it has another size.

    Of more than 8 bits the nearest 8-bit value, what is transparent on white, of an animation the first picture.  crop:
    the `middle` of an image that is not square, of a published one also if it is square and larger than what that is
    cut from.  upright: turned as its camera says (EXIF); not so in the published data sets, whose numbers come from
    files read as they are.  Errors as of `open_image`.
    """
    with open_image(path) as file:
        image = as_rgb(ImageOps.exif_transpose(file) if upright else file)
    if side and crop and (image.width != image.height or (not upright and image.width > before_crop(side))):
        image = middle(image, side)
    if side and image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def as_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as RGB."""
    if image.mode in ("I", "F"):  # which level is white is not in the file
        raise Unclear("32 bits a channel, whose white is not known; save it with 8 or 16")
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow itself would clip at 255
        levels = np.asarray(image).astype(np.float64) / 257
        image = Image.fromarray(levels.clip(0, 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def remarks(path: Path) -> list[str]:
    """What an image file holds that `read_image` leaves out, in words. Errors as of `open_image`."""
    with open_image(path) as file:
        transparent = file.has_transparency_data and file.convert("RGBA").getchannel("A").getextrema()[0] < 255
        pictures = getattr(file, "n_frames", 1)
        found = {
            "transparent, laid on white": transparent,
            f"animated, the first of {pictures} pictures": pictures > 1,
            "16 bits, rounded to 8": file.mode.startswith("I") or ";16" in str(file.tile),
        }
    return [words for words, true in found.items() if true]


def _image_set(
    table: list[tuple[str, int]], paths: list[Path], side: int, crop: bool = False, upright: bool = False
) -> ImageSet:
    images = torch.empty(len(table), 3, side, side, dtype=torch.uint8)
    for slot, path in zip(images, paths, strict=True):
        slot.copy_(read_image(path, side, crop, upright))
    labels = torch.tensor([label for _, label in table], dtype=torch.int64)
    return ImageSet(images, labels, [Path(name).stem for name, _ in table])


def read_table(
    path: Path,
    columns: tuple[str, str],
    count: int | None = None,
    ids: Collection[str] | None = None,
    first: int = 0,
    in_order: bool = False,
) -> list[tuple[str, int]]:
    """The names (by name if `in_order`) and 0-based labels in the first `count` rows of a CSV file with these columns,
    or of the rows of `ids`.  first: the file's lowest label."""
    if not path.is_file():
        how = "companion data says how to get a set, docs/own_data.md what yours needs"
        raise FileNotFoundError(f"{path}: no such file; {how}")
    try:
        reader = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())  # spreadsheets begin with a mark
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not UTF-8; save it so") from None
    there = reader.fieldnames or ()
    if missing := [column for column in columns if column not in there]:
        raise ValueError(f"{path}: no column '{missing[0]}', only {', '.join(there or ['nothing'])}")
    rows = [tuple(row[column] for column in columns) for row in reader]
    if in_order:
        rows.sort(key=lambda row: row[0])
    rows = select(rows, lambda row: row[0], ids, count, path)
    return [(name, _label(text, name, first)) for name, text in rows[:count]]


def select(
    entries: list, file: Callable[[Any], str], ids: Collection[str] | None, count: int | None, path: Path
) -> list:
    """The entries whose image files have these names, in this order (default: all). ValueError for a name that the list
    in the file `path` lacks, and where there are fewer than `count`."""
    if ids is not None:
        known = {Path(file(entry)).stem: entry for entry in entries}
        if missing := [name for name in ids if name not in known]:
            more = f"{len(missing)} of the {len(ids)} images that the scale takes are missing"
            raise ValueError(f"{path} has no image '{missing[0]}' ({more}); run: companion fetch SCALE")
        entries = [known[name] for name in ids]
    if count is not None and count > len(entries):
        raise ValueError(f"{count} images asked for, but {path} lists {len(entries)}")
    return entries


read_neurips2017 = partial(read_table, columns=("ImageId", "TrueLabel"), first=1)
read_imagenet_val = partial(read_table, columns=("file", "label"), in_order=True)


def _label(text: str | None, image: str, first: int) -> int:
    try:
        label = int(text or "")
    except ValueError:
        raise ValueError(f"{image}: label '{text}' is no whole number") from None
    if not first <= label < first + 1000:
        raise ValueError(f"{image}: label {text} is outside {first} to {first + 999}")
    return label - first
