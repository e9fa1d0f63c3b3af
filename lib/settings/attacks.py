"""Parameters of the attacks: the section `attacks` of params.yaml, and the user's own.

Names, types and ranges; the paper's values stand in params.yaml, a library user's in the functions' signatures.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, create_model, model_validator

from lib.settings.base import Count, Rate, Strict
from lib.units import OF_ATTACKS, in_levels

ASCENT = {"eps": float, "step": float, "steps": Count}
MOMENTUM = ASCENT | {"decay": NonNegativeFloat}
DIVERSE = MOMENTUM | {"probability": Annotated[float, Field(ge=0, le=1)]}
PGD = ASCENT | {"start": Literal["uniform", "clean"], "loss": Literal["cross-entropy", "margin", "dlr"]}
TRANSPORT = {"batch": Count, "reg": Rate, "iterations": Count, "tolerance": NonNegativeFloat}
SECTIONS: dict[str, dict[str, Any]] = {
    "noise": {"eps": float},
    "fgsm": {"eps": float, "step": float},
    "r_fgsm": {"eps": float, "alpha": float},
    "i_fgsm": ASCENT,
    "mi_fgsm": MOMENTUM,
    "dim": DIVERSE,
    "dim_ti": DIVERSE | {"kernel": Count, "edge": NonNegativeFloat},
    "pgd": PGD,
    "pgd_targeted": PGD | {"target": Literal["random", "least likely", "runner-up"]},
    "square": {"eps": float, "queries": Count, "share": Annotated[float, Field(gt=0, le=1)]},
    "spsa": ASCENT | {"samples": Count, "delta": Rate},
    "corners": {"eps": float, "queries": Count},
    "ssp": ASCENT | {"start": Literal["noise", "perturbed"]},
    "fff": {"eps": float, "iterations": Count, "lr": Rate, "halve_every": Count},
    "fsa": ASCENT | TRANSPORT | {"gradient": Literal["unrolled", "envelope"]},
    "cda": {"eps": float, "smoothing": bool},
}


def _model(name: str, default: Any) -> type[Strict]:
    """A model with a field per attack, a model itself; default: of every field, `...` for none."""
    fields = {
        attack: create_model(attack, __base__=Strict, **{key: (kind, default) for key, kind in kinds.items()})
        for attack, kinds in SECTIONS.items()
    }
    return create_model(name, __base__=Strict, **{attack: (model, default) for attack, model in fields.items()})


Attacks = _model("Attacks", ...)
AttackChanges = _model("AttackChanges", None)  # those parameters of params.yaml that a scale changes


class OwnAttack(BaseModel):
    """An entry of params.yaml's `own_attacks`; every key that is not listed is an option of the function."""

    model_config = ConfigDict(extra="allow", frozen=True)

    file: str  # in own/, defines `attack` (docs/own_attack.md)
    looks_at: Literal["logits", "features"] = "logits"  # what its first argument gives (`on` is true in YAML)
    eps: float = Field(ge=0, le=255)

    @model_validator(mode="before")
    @classmethod
    def can_be_levels(cls, data: Any) -> Any:
        if isinstance(data, dict):
            in_levels(data, OF_ATTACKS)
        return data

    @property
    def options(self) -> dict[str, Any]:
        """What is passed to the function by keyword, eps included; budgets and steps in levels."""
        return self.model_dump(exclude={"file", "looks_at"})
