"""What stands in front of a victim: a defense of params.yaml, ready to call, and what tells its results apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lib import defenses
from lib.defenses.own import NAME, own_defense
from lib.experiment.digests import network_digest
from lib.own import load
from lib.settings import unit
from lib.store import code_of

if TYPE_CHECKING:
    from lib.experiment.study import Study

NONE = "none"
# Taken when the code is loaded: an edit during a long run must not label old code's results as new ones.
CODE = {kind: code_of(function) for kind, function in defenses.DEFENSES.items()}
OWN_CODE = code_of(own_defense)
LEVELS_TO_UNIT = {"eps", "noise"}


class Front(NamedTuple):
    """A defense (None: nothing), and the part of a store's key that it determines."""

    function: defenses.Defense | None
    key: list


def in_front(study: Study, name: str, **changed: object) -> Front:
    """The defense called `name` in params.yaml; "none" is nothing. changed: options that differ from params.yaml's.

    `network: NRP` in an entry names a network of the scale. ValueError for a name or an option that is not there.
    """
    if name == NONE:
        return Front(None, [])
    if name not in study.params.defenses:
        raise ValueError(f"no defense '{name}' in params.yaml, only {', '.join([NONE, *study.params.defenses])}")
    options = study.params.defenses[name] | changed
    bound = {key: unit(value) if key in LEVELS_TO_UNIT else value for key, value in options.items()}
    weights = []
    if "network" in options:
        bound["network"] = study.network(options["network"])
        weights = [network_digest(bound["network"])]
    return Front(defenses.defense(**bound), [options, *_code(options["kind"]), *weights])


def _code(kind: str) -> list[str]:
    """What stands for the code of a defense in a key; of a user's own, also what is done around it."""
    return [CODE[kind]] if kind in CODE else [OWN_CODE, load(kind, NAME).code]
