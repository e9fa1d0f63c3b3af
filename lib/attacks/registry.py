"""The attacks by name.

Your own needs one file and one line of params.yaml: docs/own_attack.md. To add one to the library: write it in a file
beside this one, add a line to ATTACKS and to params.yaml, and its parameters' types to `lib.settings.attacks`.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Literal, NamedTuple

from lib.attacks import decision, features, generators, search, transport
from lib.attacks.own import own_attack
from lib.own import check_options, choices, function_in
from lib.settings import OwnAttack

GIVEN = ("ids", "seed")  # by the experiment, to a custom attack that names them


class Attack(NamedTuple):
    """How an experiment calls an attack."""

    run: Callable
    section: str  # with its parameters in params.yaml, under `attacks`
    # Its first argument: the surrogate's logits, its features at a tap, its responses at many taps, ...
    on: Literal["logits", "features", "responses", "generator", "nothing"] = "logits"
    coupled: bool = False  # attacks the images in batches of its parameter `batch`, which their ids determine
    transfers: bool = True  # is tried on other victims too; one that queries its victim is not

    @property
    def parameters(self) -> set[str]:
        """The names of the function's parameters, of a custom attack also those of its own function; y, ids, seed and
        snapshots are given to an attack that names them."""
        functions = [self.run, *getattr(self.run, "args", ())]
        return {name for function in functions for name in inspect.signature(function).parameters}


ATTACKS: dict[str, Attack] = {
    "Noise": Attack(decision.sign_noise, "noise", "nothing"),
    "FGSM": Attack(decision.fgsm, "fgsm"),
    "R-FGSM": Attack(decision.r_fgsm, "r_fgsm"),
    "I-FGSM": Attack(decision.i_fgsm, "i_fgsm"),
    "MI-FGSM": Attack(decision.mi_fgsm, "mi_fgsm"),
    "DIM": Attack(decision.dim, "dim"),
    "DIM-TI": Attack(functools.partial(decision.dim, kernel=15), "dim_ti"),
    "PGD": Attack(decision.pgd, "pgd"),
    "PGD (targeted)": Attack(functools.partial(decision.pgd, target="random"), "pgd_targeted"),
    "Square": Attack(search.square, "square", transfers=False),
    "SPSA": Attack(search.spsa, "spsa", transfers=False),
    "Random corners": Attack(search.corners, "corners", transfers=False),
    "FFF": Attack(features.fff, "fff", "responses"),
    "SSP": Attack(features.ssp, "ssp", "features"),
    "FSA": Attack(transport.fsa, "fsa", coupled=True),
    "CDA": Attack(generators.cda, "cda", "generator"),
}


def attacks(custom: dict[str, OwnAttack]) -> dict[str, Attack]:
    """ATTACKS, and after them the user's, by their names in params.yaml's `own_attacks`. ValueError for a name that is
    taken; errors as of `custom_attack` and `lib.own.function_in`."""
    taken = ["none", *ATTACKS]
    for name in custom:
        if name in taken:
            raise ValueError(f"own_attacks: the name '{name}' is taken; the others are {', '.join(taken)}")
    return ATTACKS | {
        name: custom_attack(name, function_in(spec.file, "attack"), spec) for name, spec in custom.items()
    }


def attack_named(name: str, custom: dict[str, OwnAttack]) -> Attack:
    """One of `attacks`; ValueError in one line for another name."""
    known = attacks(custom)
    if name not in known:
        raise ValueError(f"no attack '{name}'; {choices(name, known)}")
    return known[name]


def custom_attack(name: str, function: Callable, spec: OwnAttack) -> Attack:
    """How to call a user's function; ValueError in one line for an option that it has not, or needs."""
    what = f"the attack {name} ({spec.file})" if spec.file else f"the attack {name}"
    for option in GIVEN:
        if option in spec.options:
            raise ValueError(f"{what}: '{option}' is no option; the experiment gives it to a function that names it")
    named = [option for option in GIVEN if option in inspect.signature(function).parameters]
    check_options(what, function, ("network", "x", "y"), [*spec.options, *named])
    return Attack(functools.partial(own_attack, function), "", spec.looks_at)
