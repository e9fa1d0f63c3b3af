"""The adversaries of a study's images by one attack: a cell of the experiment, through the store.

Every shard of images is stored as soon as it is done, so a killed run continues where it stopped.
"""

import dataclasses
import functools
import time
import timeit
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from lib import zoo
from lib.attacks.adaptive import Adaptive
from lib.attacks.features import add_perturbation
from lib.attacks.registry import Attack, attack_named, attacks, custom_attack
from lib.attacks.shards import attack_shard, universal_perturbation
from lib.attacks.transport import grouped
from lib.engine import one_thread
from lib.experiment.study import NONE, Images, Study
from lib.networks.wrappers import SURROGATES
from lib.settings import OwnAttack, validated
from lib.settings.base import choices
from lib.store import Call
from lib.units import OF_ATTACKS, in_unit, same_size, to_bytes, unit_images

MODES = ("exact", "BPDA", "EOT", "EOT of losses")
ATTACKER = 1000  # seeds of the attacker's own draws of a random defense begin here, away from the defender's


@dataclasses.dataclass(frozen=True)
class Adversaries:
    """The images that one run of an attack gives, and what made them.

    images: uint8, `[N,3,H,W]`, or a list of `[3,H,W]` where the study's images differ in size.  knowledge: what the
    attacker knows of a defense: unaware (nothing), BPDA, exact, EOT (k draws) or EOT of losses (k draws); see
    `lib.attacks.adaptive`.  targets: the classes `[N]` that a targeted attack aims at, if they are to be counted.
    """

    attack: str
    surrogate: str
    eps: float
    steps: int
    images: Images
    knowledge: str = "unaware"
    targets: np.ndarray | None = None


class Through(NamedTuple):
    """A defense that an attack knows of.

    defense: its name in params.yaml.  mode: one of MODES, how the attack sees it (`lib.attacks.adaptive`).  draws: of a
    random defense, over whose logits EOT averages, and EOT of losses over their losses.  static: as if it added no
    noise.  seed: of the one draw in the other modes (default: params.yaml's).
    """

    defense: str
    mode: str = "exact"
    draws: int = 8
    static: bool = False
    seed: int | None = None


def clean(study: Study) -> Adversaries:
    """The images themselves, as the row "no attack"."""
    return Adversaries("none", "", 0.0, 0, study.images.images)


def adversaries(
    study: Study,
    attack: str | Attack | Callable[..., Tensor],
    surrogate: str | Sequence[str] | None = None,
    *,
    tap: str | None = None,
    through: Through | None = None,
    snapshots: Sequence[int] | None = None,
    **overrides: object,
) -> list[Adversaries]:
    """The attack's adversaries of all the study's images, one entry per snapshot (one in all without snapshots).

    attack: a name of `lib.attacks.registry.ATTACKS` or of params.yaml's `own_attacks`; an `Attack` that is not there,
    which takes the overrides and PGD's budget; or a function like a custom attack's (docs/own_attack.md), which is
    computed anew each time where it stands in a notebook's cell.  surrogate: a network of the scale, or several for an
    ensemble.  tap: the layer of a feature attack, if not the one that the scale names.  through: the defense that the
    attack knows of (attacks on logits only).  overrides: parameters of params.yaml to change, in its units (eps=8).
    ValueError for an unknown attack, network, tap or parameter.
    """
    recipe, values = _recipe(study, attack, overrides)
    attack = attack if isinstance(attack, str) else getattr(attack, "run", attack).__name__
    names = [surrogate] if isinstance(surrogate, str) else list(surrogate or [])
    label, knowledge, cell = " + ".join(names), "unaware", f"{attack} on {' + '.join(names)}"
    if snapshots and not {"steps", "snapshots"} <= recipe.parameters:
        raise ValueError(f"{attack} takes no snapshots")
    if snapshots:
        values |= {"snapshots": list(snapshots), "steps": max(snapshots)}
    if through:
        if recipe.on != "logits":
            raise ValueError(f"only attacks on logits can go through a defense, not one on {recipe.on}")
        if through.mode == "EOT of losses" and (recipe.coupled or not recipe.section):
            raise ValueError(
                f"{attack} ascends no cross-entropy, whose mean over draws is {through.mode}; there is EOT"
            )
        knowledge = f"{through.mode} ({through.draws} draws)" if through.mode.startswith("EOT") else through.mode
        cell += f" with {through.defense}, {through.mode}"
    if recipe.on == "responses":
        made = [_with_universal(study, attack, recipe, values, names[0])]
    else:
        shards = _shards(study, attack, recipe, values, _target(study, recipe.on, names, tap, through))
        made = _per_image(study, shards, cell, recipe.coupled)
    counts = snapshots or [values.get("steps", values.get("iterations", 1))]
    cells = zip(counts, made, strict=True)
    return [Adversaries(attack, label, values["eps"], steps, images, knowledge) for steps, images in cells]


def all_attacks(
    study: Study, surrogate: str, feature_surrogate: str, done: Sequence[Adversaries] = ()
) -> list[Adversaries]:
    """Every attack that transfers but CDA, then the user's own; the clean images first.

    CDA needs a generator, trained for a source domain; its cells are made with `adversaries`.  done: cells of the same
    study, made without overrides, that are taken as they are where attack, surrogate, budget and steps agree: a run
    with snapshots gives the shorter runs too.
    """
    known = {(cell.attack, cell.surrogate, cell.eps, cell.steps): cell for cell in done}
    cells = [clean(study)]
    for name, attack in attacks(study.params.own_attacks).items():
        if attack.on != "generator" and attack.transfers:
            chosen = {"nothing": None, "logits": surrogate}.get(attack.on, feature_surrogate)
            values = _values(study, name, attack)
            ready = known.get((name, chosen, values.eps, getattr(values, "steps", None)))
            cells += [ready] if ready else adversaries(study, name, chosen)
    return cells


def seconds_per_image(study: Study, attack: str, surrogate: str, count: int, **overrides: object) -> float:
    """The attack alone on the study's first `count` images, the faster of two runs; nothing is taken from the store,
    nor kept there.  overrides: as of `adversaries`."""
    few = study.first(count)
    recipe, values = _recipe(few, attack, overrides)
    shards = _shards(few, attack, recipe, values, _target(few, recipe.on, [surrogate]))

    def run() -> None:
        for _, arguments in shards:
            attack_shard(*arguments, device=study.device, coupled=recipe.coupled)

    return _seconds(study, run) / count


def seconds_behind(study: Study, defense: str, count: int) -> float:
    """A defense alone on the study's first `count` images, seconds per image, the faster of two runs."""
    function, images = study.defense(defense), unit_images(study.images.images[:count], study.device)
    with torch.inference_mode():
        return _seconds(study, lambda: function(images).cpu()) / count


def _seconds(study: Study, run: Callable[[], object]) -> float:
    """The faster of two runs, of which the first one also warms up. run: ends with its images on the CPU, so that a
    GPU has finished too."""
    with one_thread(study.device):
        return min(timeit.repeat(run, timer=time.perf_counter, repeat=2, number=1))


def _recipe(study: Study, attack: str | Callable[..., Tensor], overrides: dict) -> tuple[Attack, dict]:
    """How to call an attack, and its parameters in levels: those of params.yaml with what this run changes."""
    if isinstance(attack, Attack):
        return attack, {"eps": study.params.attacks.pgd.eps, **overrides}
    if callable(attack):
        spec = validated(OwnAttack, {"file": "", **overrides}, attack.__name__)
        return custom_attack(attack.__name__, attack, spec), spec.options
    recipe = attack_named(attack, study.params.own_attacks)
    values = _values(study, attack, recipe)
    values = validated(type(values), values.model_dump() | overrides, attack)
    if isinstance(values, OwnAttack):  # the changes must be options of its function
        return custom_attack(attack, recipe.run.args[0], values), values.options
    return recipe, values.model_dump()


def _values(study: Study, name: str, attack: Attack) -> BaseModel:
    """What params.yaml says of an attack."""
    return study.params.own_attacks.get(name) or getattr(study.params.attacks, attack.section)


def _target(
    study: Study, on: str, names: list[str], tap: str | None = None, through: Through | None = None
) -> list[nn.Module | functools.partial]:
    """What the attack looks at: networks, in the scale's precision or with the defense, or taps."""
    if through:
        return seen_through(study, names, through)
    networks = [study.network(name) for name in names]
    if on == "features":
        networks = [zoo.cut(net, name, study.scale, tap) for net, name in zip(networks, names, strict=True)]
    # Only here: half precision would round a purifier's output, a weaker attack and a defense that looks better.
    return [SURROGATES[study.scale.precision](net) if on in ("logits", "features") else net for net in networks]


def seen_through(study: Study, names: Sequence[str], through: Through | None) -> list[nn.Module | functools.partial]:
    """Networks as an attacker sees them who knows of a defense, or of none: what makes each. ValueError for a mode or a
    defense that is none."""
    networks = [study.network(name) for name in names]
    if through is None:
        return networks
    if through.mode not in MODES:
        raise ValueError(f"no mode '{through.mode}'; {choices(through.mode, MODES)}")
    if through.defense == NONE:
        raise ValueError("the defense 'none' is nothing to go through; name one of params.yaml, or leave it out")
    one = {} if through.seed is None else {"seed": through.seed}
    draws = [{"seed": ATTACKER + k} for k in range(through.draws)] if through.mode.startswith("EOT") else [one]
    draws = [{"noise": 0}] if through.static else draws
    defenses = [study.defense(through.defense, **changed) for changed in draws]
    how = {"bpda": through.mode == "BPDA", "losses": through.mode == "EOT of losses"}
    return [functools.partial(Adaptive, net, *defenses, **how) for net in networks]


def _shards(study: Study, name: str, recipe: Attack, values: dict, target: list) -> list[tuple[list[int], tuple]]:
    """The parts of a cell that are stored by themselves: the images of each, and the arguments of `attack_shard`.
    ValueError where the attack couples images and these differ in size."""
    data, options = study.images, in_unit(values, OF_ATTACKS)
    if recipe.coupled and not isinstance(data.images, Tensor):
        raise ValueError(f"{name} couples the images of a batch, and these are no images of one size")
    found = []
    for group in grouped(data.ids, values["batch"]) if recipe.coupled else same_size(data.images, study.batch):
        given = {"ids": [data.ids[k] for k in group], "seed": study.params.seed}
        given |= {"y": data.labels[group]} if "y" in recipe.parameters else {}
        given = {name: value for name, value in given.items() if name in recipe.parameters}
        # Views: nothing is copied before its turn.
        alike = isinstance(data.images, Tensor) and not recipe.coupled
        images = data.images[group[0] : group[-1] + 1] if alike else [data.images[k] for k in group]
        found.append((group, (recipe.run, target, images, given, options)))
    return found


def _per_image(study: Study, shards: Sequence[tuple[list[int], tuple]], name: str, coupled: bool) -> list[Images]:
    """The images of an attack that makes a perturbation per image, per snapshot."""
    ids, how, made = study.images.ids, {"coupled": coupled}, []
    calls = [[Call(attack_shard, given, f"{name}, from image {ids[group[0]]}", how)] for group, given in shards]
    for (group, _), (found,) in zip(shards, study.cached_all(calls, name), strict=True):
        made = made or [_like(study.images.images) for _ in found["images"]]
        for snapshot, shard in zip(made, torch.from_numpy(found["images"]), strict=True):
            for place, image in zip(group, shard, strict=True):
                snapshot[place].copy_(image)
    return made


def _like(images: Images) -> Images:
    """Room for as many images of the same sizes."""
    return torch.empty_like(images) if isinstance(images, Tensor) else [torch.empty_like(image) for image in images]


def _with_universal(study: Study, name: str, recipe: Attack, values: dict, network: str) -> Images:
    """The images with the one perturbation of a data-free attack added to each."""
    images, options = study.images.images, in_unit(values, OF_ATTACKS)
    if not isinstance(images, Tensor):
        raise ValueError(f"{name} makes one perturbation for all images, and these differ in size")
    taps = [zoo.layer(network, study.scale, tap) for tap in study.scale.networks[network].activations]
    asked = (recipe.run, study.network(network), taps, list(images.shape[1:]), options | {"seed": study.params.seed})
    found = study.cached([Call(universal_perturbation, asked, f"{name} on {network}")])
    made, perturbation = torch.empty_like(images), torch.from_numpy(found["perturbation"])
    for part in study.shards():
        made[part] = to_bytes(add_perturbation(unit_images(images[part]), perturbation, options["eps"]))
    return made
