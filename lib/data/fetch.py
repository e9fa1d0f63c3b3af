"""Getting the real data sets into data/: `neurips2017`, `imagenet_val`, `comics`, `paintings`, `list` of `lib.data`.

CamVid and COCO are in `lib.data.fetch_scenes`. Everything can be interrupted and run again.
"""

import argparse
import csv
from pathlib import Path

from tabulate import tabulate

from lib.data import fetch_scenes, images
from lib.data.download import download, download_images, link, linked, target

# The 1,000 PNG images and their CSV file as the DIM-TI authors publish them (dongyp13/Translation-Invariant-Attacks).
NEURIPS_URL = (
    "https://raw.githubusercontent.com/dongyp13/Translation-Invariant-Attacks/"
    "6555251ccae73d155e5cd58d6f92ff1fdfae5072/dataset"
)
NEURIPS_CSV = "dev_dataset.csv"
SIDE = 299

IMAGENET_HELP = (
    "ImageNet may not be redistributed: register at https://image-net.org, and put labels.csv (columns file,label; "
    "0-based, torchvision's class order) and images/ into one folder, then run: "
    "python -m lib.data imagenet_val --from FOLDER"
)
# The source domains of CDA (Naseer et al. 2019) beside photographs.
COLLECTIONS_HELP = {
    "comics": (
        "Kaggle asks for an account: run kaggle datasets download cenkbircanoglu/comic-books-classification --unzip, "
        "then: python -m lib.data comics --from FOLDER"
    ),
    "paintings": (
        "Kaggle asks for an account, and consent to the rules: run "
        "kaggle competitions download -c painter-by-numbers -f train.zip, unzip it, then: "
        "python -m lib.data paintings --from FOLDER"
    ),
}
HOW = {
    "neurips2017": "python -m lib.data neurips2017",
    "imagenet_val": IMAGENET_HELP,
    **fetch_scenes.HOW,
    **COLLECTIONS_HELP,
}


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the commands: each sets `run`, a function of the parsed options that raises OSError or ValueError."""
    neurips = commands.add_parser("neurips2017", help="the NeurIPS-2017 development images (1,000, 299x299)")
    neurips.add_argument("--url", help="download from this folder, which holds the CSV file and images/")
    neurips.add_argument("--csv", default=NEURIPS_CSV, help="name of the CSV file there (default: %(default)s)")
    neurips.set_defaults(run=lambda options: neurips2017(options.url, options.csv))
    imagenet = commands.add_parser("imagenet_val", help="ImageNet validation images from a local folder")
    imagenet.add_argument("--from", dest="folder", type=Path, help="folder with labels.csv and images/")
    imagenet.set_defaults(run=lambda options: imagenet_val(options.folder))
    for name in COLLECTIONS_HELP:
        images_below = commands.add_parser(name, help=f"{name} from a local folder, to train on")
        images_below.add_argument("--from", dest="folder", type=Path, help="folder with images, in any folders below")
        images_below.set_defaults(run=lambda options, name=name: collection(name, options.folder))
    fetch_scenes.add_commands(commands)
    commands.add_parser("list", help="which real data sets are here").set_defaults(run=lambda _: print(table()))


def table() -> str:
    """One line per real data set: found or not, where, how to get it."""
    rows = [(name, images.find(name), how) for name, how in HOW.items()]
    cells = [(name, "yes" if place else "no", place or "-", "-" if place else how) for name, place, how in rows]
    return tabulate(cells, headers=("data set", "found", "where", "how to get it"), maxcolwidths=[None, None, None, 60])


def neurips2017(url: str | None = None, csv_name: str = NEURIPS_CSV) -> Path:
    """data/neurips2017: linked to $COMPANION_ASSETS where it has the images and no `url` is given, else downloaded."""
    place = linked("neurips2017", url)
    return place or download_neurips(target("neurips2017"), (url or NEURIPS_URL).rstrip("/"), csv_name)


def imagenet_val(folder: Path | None) -> Path:
    """data/imagenet_val, linked to `folder` after its first image was read; without a folder, what to do."""
    place = target("imagenet_val")
    if folder is None:
        raise FileNotFoundError(f"imagenet_val cannot be downloaded. {IMAGENET_HELP}")
    images.load_imagenet_val(folder, side=8, count=1)
    return link(place, folder.resolve())


def collection(name: str, folder: Path | None) -> Path:
    """data/NAME, linked to `folder` after its first image was read; without a folder, what to do."""
    place = target(name)
    if folder is None:
        raise FileNotFoundError(f"{name} cannot be downloaded from here. {COLLECTIONS_HELP[name]}")
    images.read_image(images.image_files(folder, below=True)[0])
    return link(place, folder.resolve())


def download_neurips(place: Path, url: str, csv_name: str = NEURIPS_CSV) -> Path:
    """Download `url`/`csv_name` to `place`/images.csv and every image it lists; complete images are kept.

    ConnectionError in one line if some images could not be had; the rest stays for the next run.
    """
    (place / "images").mkdir(parents=True, exist_ok=True)
    listing = place / "images.csv"
    if not listing.is_file():
        download(f"{url}/{csv_name}", listing, check_csv)
    with listing.open(newline="", encoding="utf-8") as file:
        names = [f"{row['ImageId']}.png" for row in csv.DictReader(file)]
    jobs = [(f"{url}/images/{name}", place / "images" / name, check_image) for name in names]
    print(f"data/{place.name}: {download_images(jobs, 'neurips2017')} images")
    return place


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
