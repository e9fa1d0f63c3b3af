"""params.yaml and scales/*.yaml as validated, frozen objects (imports nothing of lib).

Budgets and steps are in the paper's 0-255 units here, as on screen; `unit()` is the one place that converts them to
the [0,1] units of the code. An unknown key is an error of one line that names the nearest valid key.
"""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import model_validator

from lib.settings.appendices import AppendixA, AppendixB, AppendixC, AppendixD, AppendixE, AppendixF, AppendixG
from lib.settings.attacks import Attacks, Fff, Ssp
from lib.settings.base import ROOT, Strict, unit, validated
from lib.settings.networks import Data, NetworkSpec, Scenes
from lib.settings.trainings import DetectorSpec, GeneratorSpec, PurifierSpec, SegmenterSpec, StandIn

SCALES = ("mini", "sample", "paper")

__all__ = [
    "ROOT",
    "SCALES",
    "Attacks",
    "Data",
    "DetectorSpec",
    "Fff",
    "GeneratorSpec",
    "NetworkSpec",
    "Params",
    "PurifierSpec",
    "Scale",
    "Scenes",
    "SegmenterSpec",
    "Ssp",
    "StandIn",
    "load",
    "params",
    "params_at",
    "unit",
    "validated",
]


class Params(Strict):
    """params.yaml: the paper's constants and the scale to run. defenses: name -> kind and options (lib/defenses)."""

    scale: str = "mini"
    seed: int = 0
    attacks: Attacks = Attacks()
    defenses: dict[str, dict[str, int | float | str]] = {}

    @model_validator(mode="after")
    def every_defense_has_its_kind(self) -> "Params":
        for name, options in self.defenses.items():
            if "kind" not in options:
                raise ValueError(f"the defense '{name}' has no kind, such as jpeg or nrp")
        return self


class Scale(Strict):
    """scales/<name>.yaml: data sets, networks, image counts, training lengths.

    precision: of the surrogates while they are attacked.  batch: images per step and per stored shard.
    attacks: parameters that differ from params.yaml at this scale, by section.
    """

    name: str = ""
    precision: Literal["fp32", "bf16"] = "fp32"
    batch: int = 50
    attacks: dict[str, dict[str, int | float | str]] = {}
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
    def known_attacks(self) -> "Scale":
        Attacks.model_validate(self.attacks)
        return self

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


def _read(path: Path) -> dict:
    try:
        return yaml.safe_load(path.read_text()) or {}
    except FileNotFoundError:
        known = f"; the scales are {', '.join(SCALES)}" if path.parent.name == "scales" else ""
        raise FileNotFoundError(f"{path.parent.name}/{path.name} not found{known}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name}: not valid YAML: {' '.join(str(error).split())}") from None


def params(root: Path = ROOT) -> Params:
    """The validated params.yaml. ValueError in one line for an unknown key or a bad value."""
    return validated(Params, _read(root / "params.yaml"), "params.yaml")


def params_at(scale: Scale, root: Path = ROOT) -> Params:
    """params.yaml with the attack parameters that the scale changes."""
    chosen = params(root)
    sections = chosen.attacks.model_dump()
    changed = {name: sections[name] | values for name, values in scale.attacks.items()}
    return chosen.model_copy(update={"attacks": Attacks.model_validate(sections | changed)})


def load(scale: str | None = None, root: Path = ROOT) -> Scale:
    """The validated scales/<scale>.yaml (default: the scale that params.yaml names)."""
    name = scale or params(root).scale
    data = _read(root / "scales" / f"{name}.yaml")
    return validated(Scale, {**data, "name": name}, f"scales/{name}.yaml")
