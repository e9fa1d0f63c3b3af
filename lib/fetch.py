"""What a scale needs, from where anybody has it: its networks and data sets, or one of them.

    companion fetch sample                 all of a scale
    companion fetch VGG-19 --scale paper   one network
    companion fetch coco                   one data set, all of it

Data sets lie in data/, weights where `lib.zoo` looks for them. A network that is made from raw files of a public
repository (`lib.networks.raw`) lies in weights/, the raw files in data/raw/ until it is made.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import torch
from pydantic import BaseModel

from lib import own, settings, zoo
from lib.data import fetch as sets
from lib.data.images import find_folder
from lib.data.sets import load_set, read_ids
from lib.data.unlabelled import STYLES
from lib.digests import FirstSeen, content_sha256
from lib.download import File, download, no_text, online
from lib.networks import raw
from lib.networks.weights import check_sha256
from lib.settings import Data, Scale, Scenes
from lib.settings.networks import UNTRAINED
from lib.units import unit_images

GITHUB = "https://raw.githubusercontent.com"
HUB = "https://huggingface.co"  # its own client downloads timm's networks, and says late that there is no connection

Job = Callable[[], str]  # gets one thing and says what was done; OSError or ValueError in one line


def fetch_all(what: str, scale: str | None = None, url: str | None = None) -> Iterator[tuple[bool, str]]:
    """Whether each thing is here now, and a line on it: of a scale, a data set, or a network of a scale.

    url: another place to download from: of a data set its folder, of a network what has GitHub's layout. ValueError for
    a name that is none of these.
    """
    for name, job in _jobs(what, scale, url).items():
        try:
            yield True, f"{name}: {job()}"
        except (OSError, ValueError) as error:
            yield False, f"{name}: not fetched: {' '.join(str(error).split()).removeprefix(f'{name}: ')}"


def _jobs(what: str, scale: str | None, url: str | None) -> dict[str, Job]:
    scales = {path.stem for path in (settings.ROOT / "scales").glob("*.yaml")}
    if what in scales and url:
        raise ValueError("another address belongs to one network or data set, not to a scale")
    if what in scales:
        chosen = settings.load(what)
        networks = {name: lambda name=name: get_network(name, chosen) for name in chosen.networks}
        return networks | {
            name: lambda name=name, ids=ids: get_data(name, ids) for name, ids in data_sets(chosen).items()
        }
    if what in sets.SETS:
        return {what: lambda: get_data(what, None, url)}
    chosen = settings.load(scale)
    if what not in chosen.networks:
        known = own.choices(what, [*sorted(scales), *sets.SETS, *chosen.networks])
        raise ValueError(f"'{what}' is no scale, no data set and no network of scales/{chosen.name}.yaml; {known}")
    return {what: lambda: get_network(what, chosen, url)}


def get_network(name: str, chosen: Scale, url: str | None = None) -> str:
    """Get a network's weights and check them; where they are, in words. OSError or ValueError in one line."""
    spec, (source, path, how) = chosen.networks[name], zoo.weights_of(name, chosen)
    target = zoo.ROOT / source
    if spec.weights == UNTRAINED:
        return how
    if path is None and target.name in raw.RAW:
        make(target, spec.sha256, url)
    elif path is None and target.with_name(f"{target.name}.dvc").is_file():
        pull(f"{source}.dvc")
    elif path is None and spec.family == "timm" and zoo.tagged(spec):
        online(HUB)
    elif path is None and zoo.family_of(spec).trained and not spec.how:
        return how
    path = zoo.fetch(name, chosen)
    if spec.sha256:
        return f"{path} (SHA-256 as committed)"
    # What somebody else published stays as it is; what is trained here, or the user's own, does not.
    return f"{path} ({remember(source, path)})" if spec.licence else str(path)


def remember(source: str, path: Path) -> str:
    """Record the digest of a file without a committed one; ValueError if it was another one at first."""
    seen = FirstSeen(zoo.ROOT)
    seen.check(source, content_sha256(path))
    seen.save()
    return seen.note(source)


def make(target: Path, sha256: str | None, url: str | None = None) -> None:
    """Download the raw files of a network and make its file of them. ValueError if it is another network."""
    made, folder = raw.RAW[target.name], zoo.ROOT / "data" / "raw" / Path(target.name).stem
    address = "/".join([(url or GITHUB).rstrip("/"), made.repository, made.commit, *quote(made.folder).split("/")])
    files = {name: File(quote(name), no_text) for name in raw.needed(made)}
    download(folder, address.rstrip("/"), files, mirror=url is not None, record=not sha256, megabytes=made.megabytes)
    target.parent.mkdir(parents=True, exist_ok=True)
    whole = target.with_name(f"unchecked-{target.name}")
    try:
        raw.convert(made, folder, whole)
        check_sha256(whole, sha256)
    except ValueError as error:
        whole.unlink(missing_ok=True)
        shutil.rmtree(folder)
        raise ValueError(f"{error}; the raw files are deleted again") from None
    whole.replace(target)
    shutil.rmtree(folder)


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
        try:
            return str(find_folder(name))
        except FileNotFoundError:
            raise FileNotFoundError(f"no such folder; put your images into {name}") from None
    if url is None and sets.state(name, ids, check=True) == "yes":
        return f"{find_folder(f'data/{name}')}{sets.checked(name, ids)}"
    done = sets.get(name, url=url, chosen=ids)
    if (found := sets.state(name, ids, check=True)) != "yes":
        raise FileNotFoundError(f"{found}; {done}. {sets.SETS[name].how}")
    return done


def accuracies(chosen: Scale, count: int) -> Iterator[dict[str, object]]:
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
    found: dict[str, sets.Chosen | None] = {}
    for source in _sources(chosen, chosen):
        name = source if isinstance(source, str) else source.name
        short = "world" if name in STYLES else name.removeprefix("data/")
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
