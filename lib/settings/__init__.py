"""params.yaml and scales/*.yaml as validated, frozen objects.

Budgets and steps are in the paper's 0-255 levels here, as on screen (`lib.units` converts them). An unknown key is an
error of one line that names the nearest valid key.
"""

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from lib.settings.appendices import AppendixA, AppendixB, AppendixC, AppendixD, AppendixE, AppendixF, AppendixG
from lib.settings.attacks import AttackChanges, Attacks, OwnAttack
from lib.settings.base import ROOT, Strict, validated
from lib.settings.networks import Data, NetworkSpec, Scenes
from lib.settings.trainings import DetectorSpec, GeneratorSpec, PurifierSpec, SegmenterSpec, StandIn
from lib.units import unit

SCALES = ("mini", "sample", "paper")


class Params(Strict):
    """params.yaml: the paper's constants and the scale to run.

    own_attacks: name -> file and options of a user's attack (docs/own_attack.md).  defenses: name -> kind and options
    (lib/defenses).
    """

    scale: str
    seed: int
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    attacks: Attacks
    own_attacks: dict[str, OwnAttack] = {}
    defenses: dict[str, dict[str, int | float | str]]

    @field_validator("own_attacks", mode="before")
    @classmethod
    def none_yet(cls, entries: object) -> object:
        """A heading with nothing below it, as params.yaml comes."""
        return {} if entries is None else entries

    @model_validator(mode="after")
    def every_defense_has_its_kind(self) -> "Params":
        for name, options in self.defenses.items():
            if "kind" not in options:
                raise ValueError(f"the defense '{name}' has no kind, such as jpeg or nrp")
        return self

    def with_attacks(self, **changes: dict) -> "Params":
        """With other values of these parameters, by section; ValueError in one line for an unknown one."""
        sections = self.attacks.model_dump()
        sections |= {name: sections.get(name, {}) | values for name, values in changes.items()}
        return self.model_copy(update={"attacks": validated(Attacks, sections, "attacks")})


class Scale(Strict):
    """scales/<name>.yaml: data sets, networks, image counts, training lengths.

    like: the scale whose settings and trained networks this one shares; its file then holds only what differs.
    precision: of the surrogates while they are attacked.  batch: images per step and per stored shard.
    attacks: parameters that differ from params.yaml at this scale, by section.
    """

    name: str = ""
    like: str | None = None
    precision: Literal["fp32", "bf16"]
    batch: int
    attacks: AttackChanges = AttackChanges()
    data: Data
    networks: dict[str, NetworkSpec]
    stand_ins: dict[str, StandIn] = {}
    segmenters: dict[str, SegmenterSpec] = {}
    detectors: dict[str, DetectorSpec] = {}
    purifiers: dict[str, PurifierSpec] = {}
    generators: dict[str, GeneratorSpec] = {}
    f: AppendixF
    a: AppendixA
    b: AppendixB
    c: AppendixC
    d: AppendixD
    e: AppendixE
    g: AppendixG

    @model_validator(mode="after")
    def known_trainings(self) -> "Scale":
        for name, spec in self.segmenters.items():
            if name not in self.networks or self.networks[name].maps != spec.maps:
                raise ValueError(f"segmenters.{name} and networks.{name} must both be there, with equal maps")
        needs = [("purifiers", "purifier", name, spec.extractor) for name, spec in self.purifiers.items()]
        needs += [("generators", "cda_generator", name, spec.classifier) for name, spec in self.generators.items()]
        for section, family, name, other in needs:
            for needed in (name, other):
                if needed not in self.networks:
                    raise ValueError(f"{section}.{name} needs networks.{needed}, which is not there")
            if self.networks[other].task != "classification":
                task = self.networks[other].task
                raise ValueError(f"{section}.{name} needs a classifier, but networks.{other} does {task}")
            if self.networks[name].family != family:
                found = self.networks[name].family
                raise ValueError(f"{section}.{name} trains networks.{name}, which is of family {found}")
        return self


def _yaml(path: Path) -> dict:
    try:
        return yaml.safe_load(path.read_text()) or {}
    except FileNotFoundError:
        known = f"; the scales are {_scales(path.parent)}" if path.parent.name == "scales" else ""
        raise FileNotFoundError(f"{path.parent.name}/{path.name} not found{known}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name}: not valid YAML: {' '.join(str(error).split())}") from None


def _scales(folder: Path) -> str:
    """The scales that a folder holds, those of SCALES first."""
    here = {path.stem for path in folder.glob("*.yaml")}
    return ", ".join([name for name in SCALES if name in here] + sorted(here.difference(SCALES)))


def params(root: Path = ROOT) -> Params:
    """The validated params.yaml. ValueError in one line for an unknown key or a bad value."""
    return validated(Params, _yaml(root / "params.yaml"), "params.yaml")


def params_at(scale: Scale, root: Path = ROOT) -> Params:
    """params.yaml with the attack parameters that the scale changes."""
    return params(root).with_attacks(**scale.attacks.model_dump(exclude_unset=True))


def load(scale: str | None = None, root: Path = ROOT) -> Scale:
    """The validated scales/<scale>.yaml (default: the scale that params.yaml names), over the one that it is `like`.

    FileNotFoundError or ValueError in one line.
    """
    name = scale or params(root).scale
    where = f"scales/{name}.yaml"
    data = _yaml(root / "scales" / f"{name}.yaml")
    if data.get("like"):
        data = _merged(_base(data["like"], where, root), data)
    return validated(Scale, {**data, "name": name}, where)


def records(scale: Scale, root: Path = ROOT) -> Path:
    """The folder of what the trainings of the scale's networks recorded: seconds, images, device."""
    return root / "results" / (scale.like or scale.name) / "train" / "networks"


def _base(like: object, where: str, root: Path) -> dict:
    """What scales/<like>.yaml says, its trained networks' weights named, so that they are found from another scale."""
    folder = root / "scales"
    if not isinstance(like, str) or not (folder / f"{like}.yaml").is_file():
        raise ValueError(f"{where}: like: no scale '{like}'; the scales are {_scales(folder)}")
    base = _yaml(folder / f"{like}.yaml")
    if base.get("like"):
        raise ValueError(f"{where}: like: {like} is itself like {base['like']}; name a scale that stands alone")
    # First by itself: a mistake in it is reported where it stands.
    validated(Scale, {**base, "name": like}, f"scales/{like}.yaml")
    networks = {
        name: spec | {"weights": spec.get("weights") or f"models/{like}/{name}.safetensors"}
        for name, spec in base["networks"].items()
    }
    return base | {"networks": networks}


def _merged(base: dict, changes: dict) -> dict:
    """`base` with what `changes` holds in its place: sections key by key, lists and single values as a whole."""
    both = [key for key in changes if isinstance(changes[key], dict) and isinstance(base.get(key), dict)]
    return base | changes | {key: _merged(base[key], changes[key]) for key in both}
