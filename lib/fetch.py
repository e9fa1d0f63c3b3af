"""What a scale needs, from where anybody has it: its networks and data sets, or one of them.

    companion fetch sample                 all of a scale
    companion fetch VGG-19 --scale paper   one network
    companion fetch coco                   one data set, all of it

Data sets lie in data/, weights where `lib.zoo` looks for them; raw files of a network (`lib.networks.raw`) in data/raw/
until it is made.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import torch
from pydantic import BaseModel
from torch import nn

from lib import settings, zoo
from lib.data import fetch as sets
from lib.data.images import find_folder
from lib.data.sets import load_set, read_ids
from lib.data.unlabelled import SCENE_STYLES
from lib.digests import FirstSeen, content_sha256, git_object
from lib.download import File, download, no_text, online
from lib.networks import raw
from lib.networks.weights import check_sha256
from lib.settings import Data, NetworkSpec, Scale, Scenes, choices
from lib.settings.networks import UNTRAINED
from lib.units import unit_images

HUB = "https://huggingface.co"  # its own client downloads timm's networks, and says late that there is no connection


def fetch_all(
    what: str, scale: str | None = None, url: str | None = None, file: Path | None = None
) -> Iterator[tuple[bool, str]]:
    """Whether each thing is here now, and a line on it: of a scale, a data set, or a network of a scale.

    url: another place to download from: the folder of a data set, or of the files that a network is made from.  file:
    of a network, one that the user has.  ValueError for a name that is none of these.
    """
    for name, job in _jobs(what, scale, url, file).items():
        try:
            yield True, f"{name}: {job()}"
        except (OSError, ValueError) as error:
            yield False, f"{name}: not fetched: {' '.join(str(error).split()).removeprefix(f'{name}: ')}"


def _jobs(what: str, scale: str | None, url: str | None, file: Path | None) -> dict[str, Callable[[], str]]:
    """By name, what gets one thing and says what was done; OSError or ValueError in one line."""
    scales = {path.stem for path in (settings.ROOT / "scales").glob("*.yaml")}
    if what in scales:
        if url or file:
            raise ValueError("another address, or a file, belongs to one network or data set, not to a scale")
        chosen = settings.load(what)
        networks = {name: partial(get_network, name, chosen) for name in chosen.networks}
        return networks | {name: partial(get_data, name, ids) for name, ids in data_sets(chosen).items()}
    if what in sets.SETS:
        if file:
            raise ValueError(f"a data set is a folder: companion data {what} --from FOLDER")
        return {what: partial(get_data, what, None, url)}
    chosen = settings.load(scale)
    if what not in chosen.networks:
        known = choices(what, [*sorted(scales), *sets.SETS, *chosen.networks])
        raise ValueError(f"'{what}' is no scale, no data set and no network of scales/{chosen.name}.yaml; {known}")
    return {what: partial(get_network, what, chosen, url, file)}


def get_network(name: str, chosen: Scale, url: str | None = None, file: Path | None = None) -> str:
    """Get a network's weights and check them; where they are, in words. OSError or ValueError in one line.

    url: of the folder with the raw files.  file: a raw file, or the weights, that the user has already.
    """
    (source, path, how), spec = zoo.weights_of(name, chosen), chosen.networks[name]
    target = zoo.ROOT / source
    if spec.weights == UNTRAINED:
        return how
    if file and zoo.tagged(spec):
        raise ValueError(f"its library downloads {source}; no file is taken")
    if file or (path is None and target.name in raw.RAW):
        try:
            make(spec, target, url, file)
        except ConnectionError as error:
            if spec.sha256:  # of the sample scale: most are made of many files
                raise
            made = raw.RAW[target.name]
            raise ConnectionError(f"{error}; or, with {made.url}/{made.files}: {how} --file PATH") from None
    elif path is None and target.with_name(f"{target.name}.dvc").is_file():
        pull(f"{source}.dvc")
    elif path is None and spec.family == "timm" and zoo.tagged(spec):
        online(HUB)
    elif path is None and zoo.family_of(spec).trained and not spec.how:
        return how
    path = zoo.weights_file(name, chosen)
    if spec.sha256:
        return f"{path} (SHA-256 as committed)"
    # What somebody else published stays as it is; what is trained here, or the user's own, does not.
    return f"{path} ({remember(source, path)})" if spec.licence else str(path)


def remember(source: str, path: Path) -> str:
    """Record the digest of a file without a committed one; ValueError if it was another one at first."""
    made = raw.RAW.get(path.name)
    if made and made.git and git_object(path) == made.git:
        return f"as in {raw.where(made)}"
    seen = FirstSeen(zoo.ROOT)
    seen.check(source, content_sha256(path))
    seen.save()
    return seen.note(source)


def make(spec: NetworkSpec, target: Path, url: str | None = None, file: Path | None = None) -> None:
    """Make a network's file of its raw files, downloaded, or of one that the user has. ValueError if it is another
    network's, OSError where the raw files cannot be had."""
    made, folder = raw.RAW.get(target.name), zoo.ROOT / "data" / "raw" / target.stem

    def build() -> nn.Module:
        return zoo.family_of(spec).build(spec)

    paths = [file] if file else download_raw(made, raw.file_names(made, build), folder, spec.sha256, url)
    target.parent.mkdir(parents=True, exist_ok=True)
    whole = target.with_name(f"unchecked-{target.name}")
    try:
        if file and (made is None or file.suffix == target.suffix):
            shutil.copyfile(file, whole)
        else:
            raw.assemble(made, build, paths, whole)
        check_sha256(whole, spec.sha256)
        if not spec.sha256:
            zoo.with_weights(spec, whole)
    except ValueError as error:
        whole.unlink(missing_ok=True)
        why = str(error).replace(whole.name, file.name if file else target.name)
        if not file:
            shutil.rmtree(folder)
            why += "; the raw files are deleted again"
        raise ValueError(why) from None
    whole.replace(target)
    shutil.rmtree(folder, ignore_errors=True)


def download_raw(made: raw.Raw, names: list[str], folder: Path, sha256: str | None, url: str | None) -> list[Path]:
    """The raw files of a network, downloaded into a folder."""

    def check(path: Path) -> None:
        no_text(path)
        if made.git and (found := git_object(path)) != made.git:
            raise ValueError(f"is not the file of the commit: its object is {found}, expected {made.git}")

    files = dict.fromkeys(names, File(check))
    address = (url or made.url).rstrip("/")
    download(folder, address, files, mirror=url is not None, record=not sha256, megabytes=made.megabytes)
    return [folder / name for name in files]


def pull(pin: str) -> None:
    """Get what a .dvc file pins from the DVC remote inside the repository. OSError in one line."""
    command = [sys.executable, "-m", "dvc", "pull", "--quiet", pin]
    done = subprocess.run(command, cwd=zoo.ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"dvc pull {pin}: {' '.join(done.stderr.split())[-200:]}")


def get_data(name: str, ids: sets.Chosen | None, url: str | None = None) -> str:
    """Get a data set, or these images of it; FileNotFoundError in one line if they are not all here afterwards."""
    if name == "generated":
        return "drawn from a seed: nothing to fetch"
    if name == "world":
        if not (settings.ROOT / "data" / "world" / "world.json").is_file():
            pull("data.dvc")
        return "the embedded data set"
    if name not in sets.SETS:
        return str(find_folder(name))
    if url is None and sets.state(name, ids, check=True) == "yes":
        return f"{find_folder(f'data/{name}')}{sets.checked(name, ids)}"
    done = sets.get(name, url=url, chosen=ids)
    if (found := sets.state(name, ids, check=True)) != "yes":
        raise FileNotFoundError(f"{found}; {done}. {sets.SETS[name].how}")
    return done


def accuracy_rows(chosen: Scale, count: int) -> Iterator[dict[str, object]]:
    """Of each classifier, its accuracy on the scale's first images beside the one that is known, in percent.

    It differs where it is more than 3 standard errors and a point away: a wrong, untrained or wrongly fed network.
    """
    images = load_set(chosen.data, count=count)
    for name, spec in chosen.networks.items():
        if spec.top1 is None:
            continue
        row = {"network": name, "images": len(images), "known": spec.top1}
        if zoo.weights_of(name, chosen)[1] is None:
            yield row | {"here": None, "verdict": "not here"}
            continue
        device = zoo.device_here()
        victim = zoo.load(name, chosen, device)
        with torch.inference_mode():
            parts = images.images.split(chosen.batch)
            found = torch.cat([victim(unit_images(part, device)).argmax(1).cpu() for part in parts])
        here = 100 * (found == images.labels).float().mean().item()
        error = (spec.top1 * (100 - spec.top1) / len(images)) ** 0.5
        as_known = abs(here - spec.top1) <= 3 * error + 1
        yield row | {"here": round(here, 1), "verdict": "as known" if as_known else "differs"}


def data_sets(chosen: Scale) -> dict[str, sets.Chosen | None]:
    """The data sets that a scale reads, by name, and the images of each; None for all.

    What its networks are trained on is left out where their weights are committed.
    """
    return taken_images(_sources(chosen, chosen))


def taken_images(sources: Iterable[Data | Scenes | str]) -> dict[str, sets.Chosen | None]:
    """The images of each data set, by its name, that any of these takes; None for all."""
    found: dict[str, sets.Chosen | None] = {}
    for source in sources:
        name = source if isinstance(source, str) else source.name
        short = "world" if name in SCENE_STYLES else name.removeprefix("data/")
        name = short if short in ("world", "generated", *sets.SETS) else name
        ids = None if isinstance(source, str) else read_ids(source.ids)
        found[name] = None if ids is None or found.get(name, ids) is None else {**(found.get(name) or {}), **ids}
    return found


def _sources(part: object, chosen: Scale) -> Iterator[Data | Scenes | str]:
    """Every data set in a part of a scale; of a training its folder of images."""
    if isinstance(part, Data | Scenes):
        yield part
    elif isinstance(part, BaseModel):
        for field, value in part:
            yield from [value] if field == "images" and isinstance(value, str) else _sources(value, chosen)
    elif isinstance(part, dict):
        for name, value in part.items():
            if name not in chosen.networks or not chosen.networks[name].sha256:
                yield from _sources(value, chosen)
