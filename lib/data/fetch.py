"""Getting the real data sets into data/: the commands `neurips2017`, `imagenet_val` and `list` of `python -m lib.data`.

Everything here can be interrupted and run again: a file appears under its name only when it is complete and checked.
"""

import argparse
import csv
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image
from tabulate import tabulate
from tqdm import tqdm

from lib.data import images

# The 1,000 PNG images and their CSV file as the DIM-TI authors publish them (dongyp13/Translation-Invariant-Attacks).
NEURIPS_URL = (
    "https://raw.githubusercontent.com/dongyp13/Translation-Invariant-Attacks/"
    "6555251ccae73d155e5cd58d6f92ff1fdfae5072/dataset"
)
NEURIPS_CSV = "dev_dataset.csv"
SIDE = 299
TRIES = 4
TIMEOUT = 30

IMAGENET_HELP = (
    "ImageNet may not be redistributed: register at https://image-net.org, and put labels.csv (columns file,label; "
    "0-based, torchvision's class order) and images/ into one folder, then run: "
    "python -m lib.data imagenet_val --from FOLDER"
)
HOW = {"neurips2017": "python -m lib.data neurips2017", "imagenet_val": IMAGENET_HELP}


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add this file's commands: each sets `run`, a function of the parsed options that raises OSError or ValueError."""
    neurips = commands.add_parser("neurips2017", help="the NeurIPS-2017 development images (1,000, 299x299)")
    neurips.add_argument("--url", help="download from this folder, which holds the CSV file and images/")
    neurips.add_argument("--csv", default=NEURIPS_CSV, help="name of the CSV file there (default: %(default)s)")
    neurips.set_defaults(run=lambda options: neurips2017(options.url, options.csv))
    imagenet = commands.add_parser("imagenet_val", help="ImageNet validation images from a local folder")
    imagenet.add_argument("--from", dest="folder", type=Path, help="folder with labels.csv and images/")
    imagenet.set_defaults(run=lambda options: imagenet_val(options.folder))
    commands.add_parser("list", help="which real data sets are here").set_defaults(run=lambda _: print(table()))


def table() -> str:
    """One line per real data set: found or not, where, how to get it."""
    rows = [(name, images.find(name), how) for name, how in HOW.items()]
    cells = [(name, "yes" if place else "no", place or "-", "-" if place else how) for name, place, how in rows]
    return tabulate(cells, headers=("data set", "found", "where", "how to get it"), maxcolwidths=[None, None, None, 60])


def neurips2017(url: str | None = None, csv_name: str = NEURIPS_CSV) -> Path:
    """data/neurips2017: linked to $COMPANION_ASSETS where it has the images and no `url` is given, else downloaded."""
    target = _target("neurips2017")
    assets = Path(os.environ.get("COMPANION_ASSETS", "")) / "neurips2017"
    if url is None and not target.exists() and assets.is_absolute() and assets.is_dir():
        return _link(target, assets)
    if target.is_symlink():
        print(f"data/neurips2017 is a link to {target.resolve()}; nothing to do")
        return target
    return download_neurips(target, (url or NEURIPS_URL).rstrip("/"), csv_name)


def imagenet_val(folder: Path | None) -> Path:
    """data/imagenet_val, linked to `folder` after its first image was read; without a folder, what to do."""
    target = _target("imagenet_val")
    if folder is None:
        raise FileNotFoundError(f"imagenet_val cannot be downloaded. {IMAGENET_HELP}")
    images.load_imagenet_val(folder, side=8, count=1)
    return _link(target, folder.resolve())


def _target(name: str) -> Path:
    """data/NAME, after removing a link there whose folder is gone."""
    target = images.ROOT / "data" / name
    if target.is_symlink() and not target.exists():
        target.unlink()
    return target


def _link(target: Path, source: Path) -> Path:
    """A symbolic link at data/NAME; nothing is copied. FileExistsError if something else is there."""
    if target.exists() and not target.samefile(source):
        raise FileExistsError(f"data/{target.name} exists already; move it away first")
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source, target_is_directory=True)
    print(f"data/{target.name} -> {source}")
    return target


def download_neurips(target: Path, url: str, csv_name: str = NEURIPS_CSV, workers: int = 8) -> Path:
    """Download `url`/`csv_name` to `target`/images.csv and every image it lists; complete images are kept.

    ConnectionError in one line if some images could not be had; the rest stays for the next run.
    """
    (target / "images").mkdir(parents=True, exist_ok=True)
    listing = target / "images.csv"
    if not listing.is_file():
        download(f"{url}/{csv_name}", listing, check_csv)
    with listing.open(newline="", encoding="utf-8") as file:
        names = [f"{row['ImageId']}.png" for row in csv.DictReader(file)]
    missing = [name for name in names if not _complete(target / "images" / name)]
    with ThreadPoolExecutor(workers) as pool:
        jobs = pool.map(lambda name: _attempt(f"{url}/images/{name}", target / "images" / name), missing)
        progress = tqdm(jobs, desc="neurips2017", total=len(names), initial=len(names) - len(missing), unit="image")
        failures = [failure for failure in progress if failure]
    if failures:
        raise ConnectionError(f"{len(failures)} of {len(names)} images are missing ({failures[0]}); run it again")
    print(f"data/{target.name}: {len(names)} images")
    return target


def download(url: str, path: Path, check: Callable[[Path], None], tries: int = TRIES, pause: float = 1.0) -> None:
    """Download one file; it gets its name only after `check` (which raises ValueError) has passed.

    Tried `tries` times, waiting `pause`, 2 `pause`, 4 `pause` ... seconds; an address that is not there or not allowed
    is not tried again. ConnectionError in one line at the end.
    """
    partial = path.with_name(path.name + ".part")
    for attempt in range(tries):
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
                partial.write_bytes(response.read())
            check(partial)
            partial.replace(path)
            return
        except (OSError, http.client.HTTPException, ValueError) as error:
            partial.unlink(missing_ok=True)
            hopeless = isinstance(error, urllib.error.HTTPError) and error.code in (401, 403, 404, 410)
            if hopeless or attempt + 1 == tries:
                raise ConnectionError(f"{url}: {error}") from None
            time.sleep(pause * 2**attempt)


def _attempt(url: str, path: Path) -> str | None:
    """Download one image; what went wrong, or None."""
    try:
        download(url, path, check_image)
    except ConnectionError as error:
        return str(error)
    return None


def check_csv(path: Path) -> None:
    """ValueError unless the file is the NeurIPS table; ids become file names, so they are letters and digits only."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"ImageId", "TrueLabel"} <= rows[0].keys():
        raise ValueError("is no table with the columns ImageId and TrueLabel")
    wrong = [row["ImageId"] for row in rows if not row["ImageId"].isalnum()]
    if wrong:
        raise ValueError(f"holds an ImageId that is no name: '{wrong[0]}'")


def check_image(path: Path) -> None:
    """ValueError unless the file is a whole 299x299 image."""
    shape = tuple(images.read_image(path).shape)
    if shape != (3, SIDE, SIDE):
        raise ValueError(f"image is {shape[2]}x{shape[1]}, not {SIDE}x{SIDE}")


def _complete(path: Path) -> bool:
    """Whether the image is there and whole; one that is not is deleted, to be fetched again."""
    if not path.is_file():
        return False
    try:
        with Image.open(path) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError):
        path.unlink()
        return False
    return True
