"""The attacks by name.

Your own needs one file and one line of params.yaml: docs/own_attack.md. To add one to the library: write it in a file
beside this one and add a line to ATTACKS and to params.yaml.

A file of its own, so that a training that uses one attack does not depend on all of them.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Literal, NamedTuple

from lib.attacks import decision, features, generators, noise, transport
from lib.attacks.own import GIVEN, NAME, TAKES, own_attack
from lib.own import check_options, load
from lib.settings import OwnAttack
from lib.store import code_of, digest


class Attack(NamedTuple):
    """How an experiment calls an attack.

    run: the function.  section: its parameters in params.yaml, under `attacks`.  on: what it looks at, which is its
    first argument (the surrogate's logits, its features at a tap, its responses at many taps, a generator's proposals,
    or nothing).  labels: takes the true labels.  random: takes ids and seed.  iterative: takes snapshots.  coupled:
    attacks the images in batches of its parameter `batch`, which their ids determine.  code: of an own attack, the
    digest of its file.
    """

    run: Callable
    section: str
    on: Literal["logits", "features", "responses", "generator", "nothing"] = "logits"
    labels: bool = True
    random: bool = False
    iterative: bool = True
    coupled: bool = False
    code: str = ""


ATTACKS: dict[str, Attack] = {
    "Noise": Attack(noise.sign_noise, "noise", "nothing", labels=False, random=True, iterative=False),
    "FGSM": Attack(decision.fgsm, "fgsm", iterative=False),
    "R-FGSM": Attack(decision.r_fgsm, "r_fgsm", random=True, iterative=False),
    "I-FGSM": Attack(decision.i_fgsm, "i_fgsm"),
    "MI-FGSM": Attack(decision.mi_fgsm, "mi_fgsm"),
    "DIM": Attack(decision.dim, "dim", random=True),
    "DIM-TI": Attack(decision.dim_ti, "dim_ti", random=True),
    "PGD": Attack(decision.pgd, "pgd", random=True),
    "PGD (targeted)": Attack(decision.targeted_pgd, "pgd", random=True),
    "FFF": Attack(features.fff, "fff", "responses", labels=False, random=True, iterative=False),
    "SSP": Attack(features.ssp, "ssp", "features", labels=False, random=True),
    "FSA": Attack(transport.fsa, "fsa", labels=False, random=True, coupled=True),
    "CDA": Attack(generators.cda, "cda", "generator", labels=False, iterative=False),
}

# Taken when the code is loaded: an edit during a long run must not label old code's results as new ones.
OWN_CODE = code_of(own_attack)


def attacks(own: dict[str, OwnAttack]) -> dict[str, Attack]:
    """ATTACKS, and after them the user's, by their names in params.yaml's `own_attacks`.

    ValueError in one line for a name that is taken, and for an option that the function has not, or needs; errors of
    the file as of `lib.own.load`.
    """
    for name in own:
        if name in ATTACKS or name == "none":
            raise ValueError(f"own_attacks: the name '{name}' is taken; the others are {', '.join(['none', *ATTACKS])}")
    return ATTACKS | {name: _own(name, spec) for name, spec in own.items()}


def _own(name: str, spec: OwnAttack) -> Attack:
    function, code = load(spec.file, NAME)
    what = f"the attack {name} ({spec.file})"
    for option in GIVEN:
        if option in spec.options:
            raise ValueError(f"{what}: '{option}' is no option; the experiment gives it to a function that names it")
    known = inspect.signature(function).parameters
    check_options(what, function, TAKES, [*spec.options, *(option for option in GIVEN if option in known)])
    run, iterative = functools.partial(own_attack, spec.file), {"steps", "snapshots"} <= set(known)
    return Attack(run, "", spec.looks_at, random=True, iterative=iterative, code=digest(OWN_CODE, code))
