"""The attacks by name. To add one: write it in a file beside this one and add a line to ATTACKS and to params.yaml.

A file of its own, so that a training that uses one attack does not depend on all of them.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from lib.attacks import decision, features, generators, noise, transport


class Attack(NamedTuple):
    """How an experiment calls an attack.

    run: the function.  section: its parameters in params.yaml, under `attacks`.  on: what it looks at, which is its
    first argument (the surrogate's logits, its features at a tap, its responses at many taps, a generator's proposals,
    or nothing).  labels: takes the true labels.  random: takes ids and seed.  iterative: takes snapshots.  coupled:
    attacks the images in batches of its parameter `batch`, which their ids determine.
    """

    run: Callable
    section: str
    on: Literal["logits", "features", "responses", "generator", "nothing"] = "logits"
    labels: bool = True
    random: bool = False
    iterative: bool = True
    coupled: bool = False


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
