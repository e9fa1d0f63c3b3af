"""What every section of the settings shares: strict, frozen objects and errors of one line."""

import difflib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from lib.units import OF_ATTACKS, in_levels

ROOT = Path(__file__).resolve().parents[2]


class Missing(FileNotFoundError):
    """Data, weights or results that are not here; the message names the command that gets them."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in a notebook: the line alone."""
        return [str(self)]


def choices(name: object, known: Iterable[str]) -> str:
    """What there is, and which of it is nearest to `name`, whatever the case."""
    names = {str(each).lower(): str(each) for each in known}
    near = difflib.get_close_matches(str(name).lower(), names, n=1, cutoff=0.01)
    meant = f"did you mean '{names[near[0]]}'? There are" if near else "there are"
    return f"{meant}: {', '.join(names.values())}" if names else "it takes none"


class Strict(BaseModel):
    """Frozen; an unknown key is refused and the nearest valid one named; budgets and steps must be levels."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def known_keys(cls, data: Any) -> Any:
        for key in data if isinstance(data, dict) else ():
            if key not in cls.model_fields:
                raise ValueError(f"unknown key '{key}'; {choices(key, cls.model_fields)}")
        if isinstance(data, dict):
            # A purifier's own steps are those of its training.
            in_levels(data | {"steps": data.get("ssp_steps", data.get("steps", 1))}, OF_ATTACKS)
        return data


def validated(model: type[BaseModel], data: object, where: str, networks: object = None) -> Any:
    """`data` as a `model`; ValueError in one line that begins with `where`.

    networks: name -> entry of the scale file, not yet validated, by which `NetworkName` and its like are checked.
    """
    try:
        return model.model_validate(data, context=networks)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "[key]")
        raise ValueError(f"{where}: {place or 'top level'}: {first['msg'].removeprefix('Value error, ')}") from None


def holding(*needed: object, why: str) -> AfterValidator:
    """The check that a list, or the keys of a dict, hold these."""

    def check(found: Collection) -> Collection:
        if not set(needed) <= set(found):
            raise ValueError(f"must hold {' and '.join(map(str, needed))}, {why}")
        return found

    return AfterValidator(check)


def named_network(task: str | None = None) -> Any:
    """The type of the name of one of the scale's networks that does this task (None: any)."""

    def check(name: str, info: ValidationInfo) -> str:
        if not isinstance(info.context, dict):  # the section stands alone
            return name
        if name not in info.context:
            raise ValueError(f"no network '{name}'; {choices(name, info.context)}")
        spec = info.context[name]
        found = spec.get("task", "classification") if isinstance(spec, dict) else task
        if task and found != task:
            raise ValueError(f"networks.{name} does {found}, not {task}")
        return name

    return Annotated[str, AfterValidator(check)]


Count = Annotated[int, Field(ge=1)]
Levels = Annotated[float, AfterValidator(lambda value: in_levels({"eps": value}, {"eps"}) or value)]
Rate = Annotated[float, Field(gt=0)]
NetworkName = named_network()
ClassifierName = named_network("classification")
SegmenterName = named_network("segmentation")
DetectorName = named_network("detection")
PurifierName = named_network("purification")
GeneratorName = named_network("generation")
