"""An attack or a defense on every image of a folder, each at its own size."""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from lib import settings, zoo
from lib.atomic import replacing
from lib.attacks.registry import attacks
from lib.data.images import ImageSet, image_files, read_image
from lib.defenses import Defense, defense
from lib.defenses.purifier import NOISE
from lib.experiment import NONE, Study, adversaries, explore
from lib.experiment.study import here
from lib.networks import weights as files
from lib.units import to_bytes, unit_images

UNKNOWN = -1  # the label of an image that no file of labels names


def defend_folder(kind: str, source: Path, target: Path, scale: str | None = None, **options: object) -> str:
    """Defended copies of the images in `source` as `target`/STEM.png; what was done, in words.

    kind: of `lib.defenses`, with its options (of nrp: as of `purifier`), or a name of params.yaml's defenses.
    ValueError or OSError in one line, also at the first file that cannot be read; what was written before stays.
    """
    study = empty_study(scale)
    if kind in study.params.defenses:
        function = study.defense(kind, **options)
    else:
        function = purifier(**options) if kind == "nrp" else defense(kind, **options)
    try:
        return apply(lambda image, _: function(unit_images(image[None], study.device))[0], source, target)
    except torch.cuda.OutOfMemoryError:
        raise ValueError("the GPU's memory is too small for an image; give a --tile, such as 512") from None


def purifier(weights: Path | None = None, dynamic: bool = False, **options: object) -> Defense:
    """`nrp` with the network that is in a file. ValueError in one line for a file that is missing or holds none."""
    if weights is None or not weights.is_file():
        known = "NRP.pth, NRP_resG.pth or a purifier.safetensors"
        raise ValueError(f"nrp needs --weights: {known}; {weights or 'nothing'} is no such file")
    network = files.recognised_purifier(files.read_state(weights), weights.name).to(zoo.device_here())
    return defense("nrp", network=network, noise=NOISE if dynamic else 0.0, **options)


def attack_folder(
    name: str,
    source: Path,
    target: Path,
    scale: str | None = None,
    surrogate: str | None = None,
    labels: Path | None = None,
    **changed: object,
) -> str:
    """Adversaries of the images in `source` as `target`/STEM.png; what was done, in words.

    surrogate: a network of the scale (default: as of `explore.chosen_networks`).  labels: a file with the columns file
    and label; without it an attack that needs labels takes the surrogate's predictions.  changed: parameters, in
    levels. ValueError or OSError in one line.
    """
    study = empty_study(scale)
    surrogate, _ = explore.chosen_networks(study, name, surrogate, None, NONE)
    recipe, given = attacks(study.params.own_attacks)[name], read_labels(labels) if labels else {}
    if recipe.on == "responses":
        raise ValueError(f"{name} makes one perturbation for images of one size, and a folder may hold several")

    def attacked(image: Tensor, path: Path) -> Tensor:
        label = given.get(path.name, UNKNOWN)
        if "y" in recipe.parameters and label == UNKNOWN:
            if labels:
                raise ValueError(f"{labels}: no label for {path.name}")
            with torch.no_grad():
                label = study.network(surrogate)(unit_images(image[None], study.device)).argmax(1).item()
        study.images = ImageSet(image[None], torch.tensor([label]), [path.name])
        (cell,) = adversaries(study, name, surrogate, **changed)
        return unit_images(cell.images[0])

    words = [apply(attacked, source, target), f"{name} on {surrogate}" if surrogate else name]
    if "y" in recipe.parameters:
        words.append(f"labels of {labels}" if labels else f"labels predicted by {surrogate}")
    return ", ".join(words)


def empty_study(scale: str | None) -> Study:
    """A study of the scale without images yet, one at a time."""
    chosen, images = settings.load(scale), ImageSet(torch.empty(0), torch.empty(0), [])
    return Study(settings.params_at(chosen), chosen, images, batch=1)


def read_labels(path: Path) -> dict[str, int]:
    """The labels of files by their names. ValueError or OSError in one line for another kind of file."""
    try:
        return pd.read_csv(path, dtype={"label": int}).set_index("file")["label"].to_dict()
    except (KeyError, ValueError):
        raise ValueError(f"{path}: is no table with the columns file and label (a whole number)") from None


def apply(function: Callable[[Tensor, Path], Tensor], source: Path, target: Path) -> str:
    """Write what `function` makes of each image of a folder, losslessly; how many, in words.

    function: uint8 `[3,H,W]` and its file -> `[3,H,W]` in [0,1]. Only the folder itself is read, not what lies in
    folders below; on stderr a progress bar and what was left out. A file appears under its name only when it is
    complete; one of that name is replaced.
    """
    paths = find_images(source)
    if target.exists() and target.samefile(source):
        raise ValueError(f"{target}: the results would mix with the images they come from; name another folder")
    target.mkdir(parents=True, exist_ok=True)
    for path in tqdm(paths, unit="image"):
        save_png(function(read_image(path), path), target / f"{path.stem}.png")
    return f"{target}: {len(paths)} images"


def find_images(folder: Path) -> list[Path]:
    """The image files of a folder, sorted; says on stderr which other files and folders it leaves out."""
    images = image_files(folder)
    others = sorted(path.name for path in set(folder.iterdir()).difference(images))
    if others:
        print(f"{folder}: left out, no images: {', '.join(others)}", file=sys.stderr)
    stem, count = Counter(path.stem for path in images).most_common(1)[0]
    if count > 1:
        names = " and ".join(path.name for path in images if path.stem == stem)
        raise ValueError(f"{folder}: {names} would both become {stem}.png; rename one")
    return images


def save_png(image: Tensor, path: Path) -> None:
    """One image `[3,H,W]` in [0,1] as an 8-bit PNG, whole or not at all."""
    with replacing(path) as file:
        Image.fromarray(to_bytes(image).permute(1, 2, 0).numpy()).save(file, format="PNG")


def export_adversaries(pattern: str, target: Path) -> str:
    """Write the stored adversaries of the cells that fit a pattern as `target`/CELL/IMAGE.png; how many, in words.

    ValueError in one line where none fits.
    """
    count = 0
    for cell, image, pixels in here().adversaries(pattern):
        name = f"{image.replace('/', '_')}.png"
        save_png(unit_images(torch.from_numpy(pixels)), target / cell.partition(",")[0].replace("/", "_") / name)
        count += 1
    if not count:
        raise ValueError(
            f"no adversaries of '{pattern}' in the store; companion store why '{pattern}' lists what there is"
        )
    return f"{target}: {count} images"
