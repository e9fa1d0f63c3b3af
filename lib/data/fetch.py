"""Getting the real data sets into data/: `neurips2017`, `imagenet_val`, `comics`, `paintings`, `list` of `lib.data`.

CamVid and COCO are in `lib.data.fetch_scenes`. Everything can be interrupted and run again.
"""

import csv
import functools
from collections.abc import Callable
from pathlib import Path

from tabulate import tabulate

from lib import own
from lib.data import contact, fetch_scenes, images, world
from lib.data.download import download, download_images, link, linked, target
from lib.settings import ROOT

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
    "companion data imagenet_val --from FOLDER"
)
# The source domains of CDA (Naseer et al. 2019) beside photographs.
COLLECTIONS_HELP = {
    "comics": (
        "Kaggle asks for an account: run kaggle datasets download cenkbircanoglu/comic-books-classification --unzip, "
        "then: companion data comics --from FOLDER"
    ),
    "paintings": (
        "Kaggle asks for an account, and consent to the rules: run "
        "kaggle competitions download -c painter-by-numbers -f train.zip, unzip it, then: "
        "companion data paintings --from FOLDER"
    ),
}
HOW = {
    "neurips2017": "companion data neurips2017",
    "imagenet_val": IMAGENET_HELP,
    **fetch_scenes.HOW,
    **COLLECTIONS_HELP,
}


def get(name: str = "", **options: object) -> str:
    """Get the data set `name`, or without one list them; what was done, in words.

    options: of the set's own function. ValueError for a set or an option that is not there; OSError or ValueError in
    one line where it cannot be had.
    """
    if not name:
        return table()
    if name not in SETS:
        raise ValueError(f"no data set '{name}'; {own.choices(name, SETS)}")
    function = SETS[name]
    own.check_options(f"the data set {name}", function, [], options)
    return str(function(**options))


def draw_world(root: Path = ROOT / "data" / "world", check: bool = False, sheet: Path | None = None) -> str:
    """Generate, check, or show the embedded world."""
    if sheet:
        contact.save(root, sheet)
        return f"{sheet}: contact sheet of {root}"
    if check:
        world.check(root)
        return f"{root}: the generator still draws these data"
    world.generate(root)
    return f"{root}: {sum(path.stat().st_size for path in root.iterdir()) / 1e6:.1f} MB"


def table() -> str:
    """One line per real data set: found or not, where, how to get it."""
    rows = [(name, images.find(name), how) for name, how in HOW.items()]
    cells = [(name, "yes" if place else "no", place or "-", "-" if place else how) for name, place, how in rows]
    return tabulate(cells, headers=("data set", "found", "where", "how to get it"), maxcolwidths=[None, None, None, 60])


def neurips2017(url: str | None = None, csv: str = NEURIPS_CSV) -> Path:
    """data/neurips2017: linked to $COMPANION_ASSETS where it has the images and no `url` is given, else downloaded."""
    place = linked("neurips2017", url)
    return place or download_neurips(target("neurips2017"), (url or NEURIPS_URL).rstrip("/"), csv)


def imagenet_val(folder: Path | None = None) -> Path:
    """data/imagenet_val, linked to `folder` after its first image was read; without a folder, what to do."""
    place = target("imagenet_val")
    if folder is None:
        raise FileNotFoundError(f"imagenet_val cannot be downloaded. {IMAGENET_HELP}")
    images.load_imagenet_val(folder, side=8, count=1)
    return link(place, folder.resolve())


def collection(name: str, folder: Path | None = None) -> Path:
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


SETS: dict[str, Callable[..., object]] = {
    "world": draw_world,
    "neurips2017": neurips2017,
    "imagenet_val": imagenet_val,
    "camvid": fetch_scenes.camvid,
    "coco": fetch_scenes.coco,
    "comics": functools.partial(collection, "comics"),
    "paintings": functools.partial(collection, "paintings"),
}
