"""How much a defense really holds: attackers that differ in one thing, on a victim with any defense (h_protocol)."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lib.attacks.decision import bypass_nrp
from lib.attacks.inspection import aims, confidences, gradient_facts, traits_of
from lib.attacks.registry import ATTACKS, Attack
from lib.data.images import read_image
from lib.defenses import Defense
from lib.experiment.cells import ATTACKER, Adversaries, Through, adversaries, seen_through
from lib.experiment.evaluation import evaluate, predictions
from lib.experiment.study import NONE, Study
from lib.frames import Frame
from lib.store import Arrays, Call

# What an attacker sees of a defense; the `Through` of it: mode, and whether as if it added no noise; and the `Traits`
# that the defense must have for it, else it sees no more than one who wants less.
SEES: dict[str, tuple[str | None, bool, set[str]]] = {
    "nothing": (None, False, set()),
    "BPDA": ("BPDA", True, set()),  # forward through the static defense, backward as if it were the identity
    "BPDA, noise": ("BPDA", False, {"random"}),
    "static": ("exact", True, {"gradient"}),  # the true gradient of the static defense: the paper's attacker
    "fresh draw": ("exact", False, {"gradient", "random"}),  # with one draw's noise, another one in every step
    "mean of losses": ("EOT of losses", False, {"gradient", "random"}),
    "mean of logits": ("EOT", False, {"gradient", "random"}),
    "queries": ("exact", False, set()),  # outputs alone
}
SCRIPTS = {"bypass_nrp.py": Attack(bypass_nrp, "", transfers=False)}
CHOOSING = 2 * ATTACKER  # seeds of the draws by which an attacker chooses; the defender's and EOT's are others
CHOICES = 3  # such draws


class Attacker(NamedTuple):
    """An attack and what it knows.

    name: as in the tables.  attack: of `lib.attacks.registry`, or the released script.  sees: of SEES.  draws: of a
    random defense, in every step.  than: the attacker from which this one differs in one thing.  few: it costs so much
    that it gets fewer images.  restarts: random starts; each image takes the best one (`best_of`).  changes: parameters
    other than params.yaml's, in levels.
    """

    name: str
    attack: str = "PGD"
    sees: str = "nothing"
    draws: int = 1
    than: str = ""
    few: bool = False
    restarts: int = 1
    changes: Mapping = {}

    def applies(self, defense: str, found: Traits) -> bool:
        """Can it see of the defense what it wants to?"""
        if defense == NONE:
            return self.sees in ("nothing", "queries")
        return all(getattr(found, trait) for trait in SEES[self.sees][2])


def aware(defense: str, found: Traits, name: str = "aware", **changed: object) -> Attacker:
    """The attacker that knows all: of no defense the network's gradient, of one that passes none BPDA, of a random one
    the mean of the losses of two draws; `than` is what it is called in the waterfall. changed: fields of `Attacker`."""
    sees = "mean of losses" if found.gradient and found.random else "static" if found.gradient else "BPDA"
    sees = "nothing" if defense == NONE else sees
    than = {"nothing": "unaware", "mean of losses": "mean of losses, 2"}.get(sees, sees)
    return Attacker(name, "PGD", sees, draws=2, than="" if name == than else than, **changed)


class Traits(NamedTuple):
    """What a defense lets an attacker do: follow its gradient; average over its draws; see it without its noise."""

    gradient: bool
    random: bool
    quiet: bool = True


def traits(study: Study, name: str) -> Traits:
    """What the defense of that name does with the study's first image."""
    if name == NONE:
        return Traits(gradient=False, random=False)
    one, quiet = study.defense(name), variant(study, name, noise=0) is not None
    other = variant(study, name, seed=ATTACKER) or one
    found = study.cached([Call(traits_of, (one, other, study.images.images[:1]), f"traits of {name}")])
    return Traits(*found["traits"], quiet=quiet)


def variant(study: Study, name: str, **options: object) -> Defense | None:
    """The defense with other options; None where it takes none such."""
    try:
        return study.defense(name, **options)
    except ValueError:
        return None


def through(attacker: Attacker, defense: str, found: Traits) -> Through | None:
    """What the attacker sees of the defense, as attacks take it; of a random one that is never without noise, that. A
    draw that it sees is its own: who queries would choose by the defender's, and so break that draw alone."""
    mode, static, _ = SEES[attacker.sees]
    if defense == NONE or mode is None:
        return None
    static = static and found.random and found.quiet
    return Through(defense, mode, attacker.draws, static, ATTACKER if found.random and not static else None)


def attacked(study: Study, victim: str, defense: str, attacker: Attacker, **changed: object) -> Adversaries:
    """The adversaries of one attacker on a victim behind a defense, with the classes that they aim at, if any.
    changed: parameters that replace those of `Attacker.changes` (a budget, say)."""
    changes, seen = {**attacker.changes, **changed}, through(attacker, defense, traits(study, defense))
    attack = SCRIPTS.get(attacker.attack, attacker.attack)
    if attacker.restarts > 1 and attacker.attack == "PGD (targeted)":
        raise ValueError("restarts of a targeted attack aim at other classes each: take PGD")
    starts = [reseeded(study, start) for start in range(attacker.restarts)]
    made = [adversaries(one, attack, victim, through=seen, **changes)[0] for one in starts]
    cell = best_of(study, victim, defense, made) if len(made) > 1 else made[0]
    return dataclasses.replace(cell, attack=attacker.attack, targets=targets(study, victim, attacker, seen, changes))


def reseeded(study: Study, start: int) -> Study:
    """The study with the random numbers of another start."""
    params = study.params.model_copy(update={"seed": study.params.seed + start})
    return dataclasses.replace(study, params=params) if start else study


def targets(study: Study, victim: str, attacker: Attacker, seen: Through | None, changes: Mapping) -> np.ndarray | None:
    """The classes `[N]` that a targeted attacker aims at; None for one that only leads away."""
    if attacker.attack not in ATTACKS or ATTACKS[attacker.attack].section != "pgd_targeted":
        return None
    which = changes.get("target", study.params.attacks.pgd_targeted.target)
    (network,), data, seed = seen_through(study, [victim], seen), study.images, study.params.seed

    def given(part: slice) -> tuple:
        return network, data.images[part], data.labels[part], which, data.ids[part], seed

    cell = f"{which} targets"
    return study.cached(study.calls(aims, given, cell), cell)["targets"]


def inspected(
    study: Study, function: Callable[..., Arrays], victim: str, seen: Through | None, images: Tensor, cell: str
) -> Arrays:
    """What a function of `lib.attacks.inspection` gives of images and of a victim as an attacker sees it."""
    (network,), y = seen_through(study, [victim], seen), study.images.labels
    return study.cached(study.calls(function, lambda part: (network, images[part], y[part]), cell), cell)


def best_of(study: Study, victim: str, defense: str, made: list[Adversaries]) -> Adversaries:
    """Of several runs, for each image the one that the victim gets right in the fewest of an attacker's own draws of
    the defense, and then with the least confidence."""
    random = traits(study, defense).random
    seeds = [{"seed": CHOOSING + k} for k in range(CHOICES)] if random else [{}]
    labels = study.images.labels.numpy()[:, None]
    held = np.zeros((len(made), len(labels)))
    for place, cell in enumerate(made):
        for seed in seeds:
            found = predictions(study, victim, cell.images, defense, **seed)
            sure = np.where(found.classes == labels, found.confidence, 0).max(1)
            held[place] += (found.classes[:, 0] == labels[:, 0]) + sure / 10
    images = torch.stack([cell.images for cell in made])[held.argmin(0), torch.arange(len(labels))]
    return dataclasses.replace(made[0], images=images)


def against(study: Study, victim: str, defense: str, attacker: Attacker, seeds: int, **changed: object) -> Frame:
    """`behind` of the adversaries of one attacker.  changed: as of `attacked`."""
    cell = attacked(study, victim, defense, attacker, **changed)
    return behind(study, victim, defense, cell, seeds, attacker.name, attacker.than)


def behind(
    study: Study, victim: str, defense: str, cell: Adversaries, seeds: int, attacker: str, than: str = ""
) -> Frame:
    """The frame of adversaries against a victim with a defense, a cell per seed of a random one, with the columns
    attacker and than (of `Attacker`)."""
    several = seeds if traits(study, defense).random else None
    return evaluate(study, [cell], victim, [defense], seeds=several, attacker=attacker, than=than)


def gradients_of(study: Study, victim: str, defense: str) -> Arrays | None:
    """`lib.attacks.inspection.gradient_facts` of the victim behind the static defense; None where none passes it."""
    found = traits(study, defense)
    if defense != NONE and not found.gradient:
        return None
    seen, cell = through(Attacker("", sees="static"), defense, found), f"gradient of {victim} with {defense}"
    return inspected(study, gradient_facts, victim, seen, study.images.images, cell)


def confidences_of(
    study: Study, victim: str, defense: str, attacker: Attacker, steps: list[int], **changed: object
) -> np.ndarray:
    """The probability of the right class, as the attacker sees it, after so many steps, `[len(steps),N]`.  changed: as
    of `attacked`."""
    seen = through(attacker, defense, traits(study, defense))
    made = adversaries(study, attacker.attack, victim, through=seen, snapshots=steps, **{**attacker.changes, **changed})
    name = f"confidence of {victim} with {defense}"
    found = [inspected(study, confidences, victim, seen, cell.images, name) for cell in made]
    return np.stack([one["confidence"] for one in found])


def reread(study: Study, victim: str, defense: str, attacker: Attacker) -> dict[str, float]:
    """How far adversaries that were saved as PNG files and read again lie from the images, in levels, and how many
    percent of them the victim gets right behind the defense (of a random one: its first draw)."""
    cell, images = attacked(study, victim, defense, attacker), []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.png"
        for image in cell.images:
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
            images.append(read_image(path))
    again = torch.stack(images)
    seed = {"seed": 0} if traits(study, defense).random else {}
    found = predictions(study, victim, again, defense, **seed).classes[:, 0] == study.images.labels.numpy()
    moved = (again.int() - study.images.images.int()).abs().max().item()
    return {"moved": float(moved), "accuracy": 100 * float(found.mean())}
