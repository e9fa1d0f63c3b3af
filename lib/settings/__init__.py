"""params.yaml and scales/*.yaml as validated, frozen objects.

Budgets and steps are in the paper's 0-255 levels here, as on screen (`lib.units` converts them). An unknown key is an
error of one line that names the nearest valid key.
"""

import functools
import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from lib import machine
from lib.reading import read_yaml
from lib.settings import appendices, base
from lib.settings import networks as recipes
from lib.settings.attacks import AttackChanges, Attacks, OwnAttack
from lib.settings.base import ROOT, Count, Missing, Strict, choices, validated
from lib.settings.networks import UNTRAINED, Data, NetworkSpec, Scenes

SCALES = ("mini", "sample", "paper")


class Params(Strict):
    """params.yaml: the paper's constants and the scale to run."""

    scale: str
    seed: int
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    workers: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    engine: Literal["local", "ray"] = "local"
    attacks: Attacks
    # A heading with nothing below it is None, as params.yaml comes.
    own_attacks: Annotated[dict[str, OwnAttack], BeforeValidator(lambda entries: entries or {})] = {}
    defenses: dict[str, appendices.Options]  # name -> kind and options of `lib.defenses`

    def cores(self) -> int:
        """How many workers compute side by side on a CPU: $COMPANION_WORKERS, else as params.yaml says."""
        asked = os.environ.get("COMPANION_WORKERS") or str(self.workers)
        if asked != "auto" and not re.fullmatch(r"[1-9]\d*", asked):
            raise ValueError(f"COMPANION_WORKERS={asked} is none of: auto, 1, 2, ...")
        return machine.cores() if asked == "auto" else int(asked)

    def engine_here(self) -> str:
        """Where they compute: $COMPANION_ENGINE, else as params.yaml says. ValueError for another than local or ray."""
        asked = os.environ.get("COMPANION_ENGINE") or self.engine
        if asked not in ("local", "ray"):
            raise ValueError(f"COMPANION_ENGINE={asked} is none of: local, ray")
        return asked

    def with_attacks(self, **changes: dict) -> "Params":
        """With other values of these parameters, by section; ValueError in one line for an unknown one."""
        sections = merged(self.attacks.model_dump(), changes)
        return self.model_copy(update={"attacks": validated(Attacks, sections, "attacks")})


class Scale(Strict):
    """scales/<name>.yaml: data sets, networks, image counts, training lengths."""

    name: str = ""
    like: str | None = None  # the scale whose settings and trained networks this one shares, where its file is silent
    precision: Literal["float32", "tf32", "bf16"]  # of the surrogates while they are attacked
    batch: Count  # images per step and per stored shard
    split: Literal["val", "test"] = "test"  # of the data sets that have both; settings are chosen on "val"
    attacks: AttackChanges = AttackChanges()  # parameters that differ from params.yaml at this scale
    data: Data
    networks: dict[str, NetworkSpec]
    stand_ins: dict[base.ClassifierName, recipes.StandIn] = {}
    segmenters: dict[base.SegmenterName, recipes.SegmenterSpec] = {}
    detectors: dict[base.DetectorName, recipes.DetectorSpec] = {}
    purifiers: dict[base.PurifierName, recipes.PurifierSpec] = {}
    generators: dict[base.GeneratorName, recipes.GeneratorSpec] = {}
    f: appendices.AppendixF
    a: appendices.AppendixA
    b: appendices.AppendixB
    c: appendices.AppendixC
    d: appendices.AppendixD
    e: appendices.AppendixE
    g: appendices.AppendixG
    h: appendices.Protocol

    @property
    def note(self) -> str:
        """What every output of a dry run says; else nothing."""
        dry = self.data.name == "generated" or any(spec.weights == UNTRAINED for spec in self.networks.values())
        return "DRY RUN: untrained networks, generated images; the numbers mean nothing." if dry else ""


def _scale(name: object, root: Path) -> dict:
    """The content of scales/<name>.yaml."""
    known = sorted(path.stem for path in (root / "scales").glob("*.yaml"))
    if name not in known:
        raise FileNotFoundError(f"scales/{name}.yaml not found; {choices(name, known)}")
    return read_yaml(root / "scales" / f"{name}.yaml")


def params(root: Path = ROOT) -> Params:
    """The validated params.yaml. ValueError in one line for an unknown key or a bad value."""
    return validated(Params, read_yaml(root / "params.yaml"), "params.yaml")


def purifier() -> str:
    """The network of the defense NRP of params.yaml."""
    spec = params().defenses.get("NRP", {})
    if "network" not in spec:
        raise ValueError("params.yaml: defenses: the tables of NRP need the entry NRP: {kind: nrp, network: NAME}")
    return spec["network"]


def params_at(scale: Scale, root: Path = ROOT) -> Params:
    """params.yaml with the attack parameters that the scale changes."""
    return params(root).with_attacks(**scale.attacks.model_dump(exclude_unset=True))


def load(scale: str | None = None, root: Path = ROOT) -> Scale:
    """The validated scales/<scale>.yaml (default: the scale that params.yaml names), over the one that it is `like`.

    FileNotFoundError or ValueError in one line.
    """
    name = scale or params(root).scale
    where, data = f"scales/{name}.yaml", _scale(name, root)
    if like := data.get("like"):
        other = _scale(like, root)
        if "like" in other:
            raise ValueError(f"{where}: like: {like} is itself like {other['like']}; name a scale that stands alone")
        shared = load(like, root)  # by itself first: a mistake in it is reported where it stands
        # Trained networks are found from here too.
        files = {key: spec.weights or f"models/{like}/{key}.safetensors" for key, spec in shared.networks.items()}
        networks = {key: {"weights": file} for key, file in files.items()}
        data = merged(merged(shared.model_dump(exclude_unset=True), {"networks": networks}), data)
    return validated(Scale, {**data, "name": name}, where, data.get("networks"))


@functools.cache
def note(scale: str) -> str:
    """`Scale.note` of a scale by name; nothing where it has no file."""
    return load(scale).note if (ROOT / "scales" / f"{scale}.yaml").is_file() else ""


def records(scale: Scale, root: Path = ROOT) -> Path:
    """The folder of what the trainings of the scale's networks recorded: seconds, images, device."""
    return root / "results" / (scale.like or scale.name) / "train" / "networks"


def merged(values: dict, changes: dict) -> dict:
    """`values` with what `changes` holds in their place: sections key by key, lists and single values as a whole."""
    both = [key for key in changes if isinstance(changes[key], dict) and isinstance(values.get(key), dict)]
    return values | changes | {key: merged(values[key], changes[key]) for key in both}
