"""An attack or a defense on every image of a folder, each at its own size."""

import errno
import hashlib
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Container, Iterable
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from lib import settings, zoo
from lib.atomic import replacing
from lib.attacks.registry import attacks
from lib.checks import checked_labels
from lib.data.images import ImageSet, image_files, open_image, read_image, remarks
from lib.defenses import Defense, defense
from lib.defenses.purifier import NOISE
from lib.experiment import NONE, Study, adversaries, explore, predictions
from lib.experiment.study import here
from lib.networks import weights as files
from lib.units import OF_ATTACKS, in_levels, to_bytes, unit_images

PER_PIXEL = 100  # bytes that the lightest defenses take at their peak
UNKNOWN = -1  # the label of an image that no file of labels names


def defend_folder(kind: str, source: Path, target: Path, scale: str | None = None, **options: object) -> str:
    """Defended copies of the images in `source` as `target`/STEM.png; what was done, in words.

    kind: of `lib.defenses`, with its options (of nrp: as of `nrp_in_file`), or a name of params.yaml's defenses.
    ValueError or OSError in one line, at the end for files that cannot be read or defended; the others are there.
    """
    study = empty_study(scale)
    if kind in study.params.defenses:
        function = study.defense(kind, **options)
    else:
        function = nrp_in_file(**options) if kind == "nrp" else defense(kind, **options)
    return apply(lambda image, _: function(unit_images(image[None], study.device))[0], source, target)


def nrp_in_file(weights: Path | None = None, dynamic: bool = False, **options: object) -> Defense:
    """`nrp` with the network that is in a file. ValueError in one line for a file that is missing or holds none."""
    if weights is None or not weights.is_file():
        known = "NRP.pth, NRP_resG.pth or a purifier.safetensors"
        raise ValueError(f"nrp needs --weights: {known}; {weights or 'nothing'} is no such file")
    network = files.read_purifier(weights).to(zoo.device_here())
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
    levels. ValueError or OSError in one line, at the end for images that cannot be read or attacked.
    """
    study = empty_study(scale)
    surrogate, _ = explore.chosen_networks(study, name, surrogate, None, NONE)
    if surrogate:
        photographs_for(study)
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


def photographs_for(study: Study) -> None:
    """Say on stderr what networks that know drawn scenes alone make of photographs."""
    if study.scale.data.name == "world":
        print(f"The networks of {study.scale.name} know drawn scenes; for photographs: --scale sample", file=sys.stderr)


def empty_study(scale: str | None) -> Study:
    """A study of the scale without images yet, one at a time."""
    chosen, images = settings.load(scale), ImageSet(torch.empty(0), torch.empty(0), [])
    return Study(settings.params_at(chosen), chosen, images, batch=1)


def read_labels(path: Path) -> dict[str, int]:
    """The labels of files by their names. ValueError or OSError in one line for another kind of file."""
    try:
        return pd.read_csv(path, dtype={"label": int}).set_index("file", verify_integrity=True)["label"].to_dict()
    except (KeyError, ValueError, OverflowError):
        what = "with the columns file and label (each file once, a whole number)"
        raise ValueError(f"{path}: is no table {what}") from None


def apply(function: Callable[[Tensor, Path], Tensor], source: Path, target: Path) -> str:
    """Write what `function` makes of each image of a folder, losslessly; how many, in words.

    function: uint8 `[3,H,W]` and its file -> `[3,H,W]` in [0,1]. Folders below are not read; on stderr a progress bar,
    what was left out, and what a file holds that its result does not. An image that cannot be done is left out;
    ValueError in one line at the end, when the others are there, names it with the reason.
    """
    paths = find_images(source)
    if target.exists() and target.samefile(source):
        raise ValueError(f"{target}: the results would mix with the images they come from; name another folder")
    target.mkdir(parents=True, exist_ok=True)
    failed = {}
    for path in tqdm(paths, unit="image"):
        try:
            image, words = readable(path), remarks(path)
        except (OSError, ValueError) as error:
            failed[path] = str(error)
            continue
        if words:
            tqdm.write(f"{path.name}: {', '.join(words)}", sys.stderr)
        try:
            save_png(function(image, path), target / f"{path.stem}.png")
        except (ValueError, TypeError, FloatingPointError, RuntimeError, MemoryError) as error:
            failed[path] = f"{path.name} ({image.shape[2]}x{image.shape[1]}): {in_one_line(error)}"
        except OSError as error:
            if error.errno not in (errno.ENAMETOOLONG, errno.EISDIR):  # others, such as a full disk, are of all files
                raise
            failed[path] = f"{path.name}: cannot be written ({error.strerror}); name it otherwise"
    refuse(failed, paths, target)
    return f"{target}: {len(paths)} images"


def readable(path: Path) -> Tensor:
    """An image, uint8 `[3,H,W]`. OSError or ValueError in one line, naming it, also for one that memory cannot hold."""
    with open_image(path) as file:
        wanted, free = file.width * file.height * PER_PIXEL, free_memory()
    if wanted > free:
        gigabytes = f"about {wanted / 1e9:.0f} GB, and {free / 1e9:.0f} GB are free"
        raise ValueError(f"{path}: a good file, but too large here: its pixels take {gigabytes}")
    return read_image(path)


def free_memory() -> float:
    """Bytes that are free, as the kernel says; without bound where it says nothing."""
    try:
        return 1024 * int(re.search(r"MemAvailable:\s*(\d+)", Path("/proc/meminfo").read_text())[1])
    except (OSError, TypeError):
        return math.inf


def in_one_line(error: Exception) -> str:
    """What an error says, without a repetition of where."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "the GPU's memory is too small for the image; give a --tile, such as 512"
    return " ".join(str(error).split())[:300] or type(error).__name__


def refuse(failed: dict[Path, str], paths: list[Path], target: Path) -> None:
    """ValueError in one line where images could not be done; the reason alone where it is one for all."""
    if not failed:
        return
    reasons = {reason.partition("): ")[2] or reason for reason in failed.values()}
    if len(failed) == len(paths) and len(reasons) == 1:
        raise ValueError(reasons.pop())
    done = f"{target}: {len(paths) - len(failed)} of {len(paths)} images are there"
    raise ValueError(f"{done}; not done: {' '.join('; '.join(failed.values()).split())}")


def measure_folder(
    folder: Path,
    clean: Path,
    scale: str | None = None,
    victim: str | None = None,
    defense: str = NONE,
    labels: Path | None = None,
    eps: float | None = None,
) -> str:
    """What a classifier makes of a folder of adversaries, in words, with a warning of files that lose detail (JPEG) and
    of adversaries outside the budget.

    clean: the folder of the images that they were made from, of the same names but for the suffix.  victim: a network
    of the scale.  labels: as of `attack_folder`, with the clean images' names.  eps: the stated budget, in levels.
    ValueError or OSError in one line, also at the end for files that could not be evaluated.
    """
    if eps is not None:
        in_levels({"eps": eps}, {"eps"})
    study = empty_study(scale)
    _, victim = explore.chosen_networks(study, "Noise", None, victim, defense)
    photographs_for(study)
    partners, given = {path.stem: path for path in find_images(clean)}, read_labels(labels) if labels else None
    paths, failed, rows = find_images(folder), {}, []
    for path in tqdm(paths, unit="image"):
        try:
            rows.append(compared(study, victim, defense, path, partners.get(path.stem), given))
        except (FileNotFoundError, PermissionError, ValueError, RuntimeError, FloatingPointError) as error:
            failed[path] = in_one_line(error)
    found = pd.DataFrame(rows)
    lines = [f"{victim} with defense {defense}: {len(found)} adversaries of {folder}"]
    for name, column in {"accuracy, clean": "right", "accuracy": "right_adv", "fooled": "fooled"}.items():
        if column in found:
            lines.append(f"{name}: {100 * found[column].mean():.1f} %")
    if len(found):
        lines.append(f"distance from the clean images: at most {found['moved'].max()} levels")
        lossy = found[found["lossy"]]["file"]
        if len(lossy):
            what = f"{len(lossy)} of {len(found)} adversaries are JPEG or lossy WebP files, which changes them"
            lines.append(f"WARNING: {what}; write PNG: {some(lossy)}")
        far = found[found["moved"] > eps] if eps is not None else found[:0]
        if len(far):
            worst = [f"{file} by {moved}" for file, moved in zip(far["file"], far["moved"], strict=True)]
            lines.append(f"WARNING: {len(far)} of {len(found)} lie outside {eps:g} levels: {some(worst)}")
    if failed:
        print("\n".join(lines))
        refuse(failed, paths, folder)
    return "\n".join(lines)


def compared(
    study: Study, victim: str, defense: str, path: Path, partner: Path | None, labels: dict[str, int] | None
) -> dict[str, object]:
    """A row of `measure_folder`. ValueError in one line without a partner of the same size, or a label."""
    if partner is None:
        raise ValueError(f"{path.name}: no clean image of this name")
    x_adv, x = readable(path), readable(partner)
    if x_adv.shape != x.shape:
        sizes = [f"{image.shape[2]}x{image.shape[1]}" for image in (x_adv, x)]
        raise ValueError(f"{path.name}: {sizes[0]} pixels, its clean image {sizes[1]}")
    if labels is not None:
        if partner.name not in labels:
            raise ValueError(f"{path.name}: no label for {partner.name}")
        spec = study.scale.networks[victim]
        checked_labels(torch.tensor([labels[partner.name]]), 1, spec.classes - spec.background, f"{path.name}: labels")
    study.images = ImageSet(x[None], torch.tensor([UNKNOWN]), [path.name])
    before = predictions(study, victim, x[None]).classes[0, 0]
    after = predictions(study, victim, x_adv[None], defense).classes[0, 0]
    moved = (x_adv.int() - x.int()).abs().max().item()
    row = {"file": path.name, "fooled": after != before, "lossy": loses(path), "moved": moved}
    if labels is not None:
        row |= {"right": before == labels[partner.name], "right_adv": after == labels[partner.name]}
    return row


def loses(path: Path) -> bool:
    """Whether a file's format loses detail: JPEG, and WebP that does not say that it is lossless."""
    with open_image(path) as image:
        return image.format == "JPEG" or (image.format == "WEBP" and b"VP8L" not in path.read_bytes()[:64])


def some(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


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


def export_adversaries(pattern: str, target: Path, only: Container[str] | None = None) -> str:
    """Write the stored adversaries of the cells that fit a pattern as `target`/RUN/IMAGE.png; how many, in words.

    RUN names attack, networks (with a digest of weights and layer) and options, in levels; IMAGE its snapshot, where
    there are several.  only: shards that begin with one of these images. ValueError in one line where none fits.
    """
    count = 0
    for made, snapshots in here().adversaries(pattern):
        cell, _, first = made["cell"].partition(", from image ")
        if only is not None and first not in only:
            continue
        _, networks, _, given, options = made["arguments"][:5]
        digest = hashlib.sha256(json.dumps(networks, sort_keys=True).encode()).hexdigest()[:6]
        levels = {key: f"{255 * value:g}" if key in OF_ATTACKS else value for key, value in options.items()}
        run = ", ".join([cell, digest, *(f"{key} {value}" for key, value in levels.items())]).replace("/", "_")
        for place, images in enumerate(snapshots):
            names = given.get("ids") or [f"{first}+{number:03d}" for number in range(len(images))]
            suffix = f"_{place}" if len(snapshots) > 1 else ""
            for name, image in zip(names, images, strict=True):
                file = f"{name.replace('/', '_')}{suffix}.png"
                save_png(unit_images(torch.from_numpy(image)), target / run / file)
                count += 1
    if not count:
        known = f"companion store why '{pattern}' lists what there is"
        raise ValueError(f"no adversaries of '{pattern}' in the store; {known}")
    return f"{target}: {count} images"
