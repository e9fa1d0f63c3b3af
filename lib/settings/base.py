"""What every section of the settings shares: strict, frozen objects and errors of one line."""

import difflib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

ROOT = Path(__file__).resolve().parents[2]


class Strict(BaseModel):
    """Frozen; an unknown key is refused and the nearest valid one named."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def known_keys(cls, data: Any) -> Any:
        for key in data if isinstance(data, dict) else ():
            if key not in cls.model_fields:
                near = difflib.get_close_matches(str(key), cls.model_fields, n=1, cutoff=0.0)
                raise ValueError(f"unknown key '{key}'; did you mean '{near[0]}'?")
        return data


def validated(model: type[Strict], data: dict, where: str) -> Any:
    """`data` as a `model`; ValueError in one line that begins with `where`."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where}: {place or 'top level'}: {first['msg'].removeprefix('Value error, ')}") from None
