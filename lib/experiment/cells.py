"""The adversaries of a study's images by one attack: a cell of the experiment, through the store.

Every shard of images is stored as soon as it is done, so a killed run continues where it stopped.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from tqdm import tqdm

from lib import settings, zoo
from lib.attacks.adaptive import MODES
from lib.attacks.features import add_perturbation
from lib.attacks.registry import Attack, attacks, own_recipe
from lib.attacks.shards import attacked, timed, universal
from lib.attacks.transport import grouped
from lib.experiment.study import NONE, Images, Study
from lib.keys import networks_unchanged
from lib.networks.wrappers import Bf16
from lib.settings import OwnAttack
from lib.units import OF_ATTACKS, in_unit, same_size, to_bytes, unit_images

# What an attacker who knows of a defense is called, by the mode of `Through`.
KNOWLEDGE = {"identity": "BPDA", "exact": "exact", "expectation": "EOT ({draws} draws)"}
ATTACKER = 1000  # seeds of the attacker's own draws of a random defense begin here, away from the defender's


@dataclasses.dataclass(frozen=True)
class Adversaries:
    """The images that one run of an attack gives, and what made them.

    images: uint8, `[N,3,H,W]`, or a list of `[3,H,W]` where the study's images differ in size.  knowledge: what the
    attacker knows of a defense: unaware (nothing), BPDA, exact, or EOT (k draws); see `lib.attacks.adaptive`.
    """

    attack: str
    surrogate: str
    eps: float
    steps: int
    images: Images
    knowledge: str = "unaware"


class Through(NamedTuple):
    """A defense that an attack knows of.

    defense: its name in params.yaml.  mode: how the attack sees it (`lib.attacks.adaptive`).  draws: of a random
    defense, over which the mode "expectation" averages.
    """

    defense: str
    mode: str = "exact"
    draws: int = 8


def clean(study: Study) -> Adversaries:
    """The images themselves, as the row "no attack"."""
    return Adversaries("none", "", 0.0, 0, study.images.images)


def adversaries(
    study: Study,
    attack: str | Callable[..., Tensor],
    surrogate: str | Sequence[str] | None = None,
    *,
    tap: str | None = None,
    through: Through | None = None,
    snapshots: Sequence[int] | None = None,
    **overrides: object,
) -> list[Adversaries]:
    """The attack's adversaries of all the study's images, one entry per snapshot (one in all without snapshots).

    attack: a name of `lib.attacks.registry.ATTACKS` or of params.yaml's `own_attacks`; or a function as an own attack's
    (docs/own_attack.md), which is computed anew each time where it stands in a notebook's cell.  surrogate: a network
    of the scale, or several for an ensemble.
    tap: the layer of a feature attack, if not the one that the scale names.  through: the defense that the attack knows
    to stand before the surrogate (attacks on logits only).  overrides: parameters of params.yaml to
    change for this run, in its units (eps=8). ValueError for an unknown attack, network, tap or parameter.
    """
    recipe, chosen = _recipe(study, attack, overrides)
    attack, names = attack if isinstance(attack, str) else attack.__name__, _names(surrogate)
    if through and recipe.on != "logits":
        raise ValueError(f"only attacks on logits can go through a defense, not one on {recipe.on}")
    if snapshots and not recipe.iterative:
        raise ValueError(f"{attack} takes no snapshots")
    if snapshots:
        chosen |= {"snapshots": list(snapshots), "steps": max(snapshots)}
    label, knowledge = " + ".join(names), "unaware"
    if through:
        knowledge = KNOWLEDGE.get(through.mode, "").format(draws=through.draws)
    if recipe.on == "responses":
        made = [_with_universal(study, attack, recipe, chosen, names[0])]
    else:
        target = _target(study, recipe.on, names, tap, through)
        words = f"{attack} on {label}" + (f" behind {through.defense}, {through.mode}" if through else "")
        with networks_unchanged():
            made = _per_image(study, shards(study, attack, recipe, chosen, target), words)
    counts = list(snapshots or [chosen.get("steps", chosen.get("iterations", 1))])
    cells = zip(counts, made, strict=True)
    return [Adversaries(attack, label, chosen["eps"], steps, images, knowledge) for steps, images in cells]


def _names(surrogate: str | Sequence[str] | None) -> list[str]:
    return [surrogate] if isinstance(surrogate, str) else list(surrogate or [])


def all_attacks(
    study: Study,
    surrogate: str,
    feature_surrogate: str,
    done: Sequence[Adversaries] = (),
) -> list[Adversaries]:
    """Every attack of `lib.attacks.registry.ATTACKS` but CDA, then the user's own; the clean images first.

    CDA needs a generator, trained for a source domain; its cells are made with `adversaries`.

    done: cells of the same study, made without overrides, that are taken as they are where attack, surrogate, budget
    and steps agree: a run with snapshots gives the shorter runs too.
    """
    known = {(cell.attack, cell.surrogate, cell.eps, cell.steps): cell for cell in done}
    cells = [clean(study)]
    for name, attack in attacks(study.params.own_attacks).items():
        if attack.on == "generator":
            continue
        chosen = {"nothing": None, "logits": surrogate}.get(attack.on, feature_surrogate)
        values = _values(study, name, attack)
        ready = known.get((name, chosen, values.eps, getattr(values, "steps", None)))
        cells += [ready] if ready else adversaries(study, name, chosen)
    return cells


def _recipe(study: Study, attack: str | Callable[..., Tensor], overrides: dict) -> tuple[Attack, dict]:
    """How to call an attack, and its parameters in levels: those of params.yaml with what this run changes."""
    if callable(attack):
        spec = settings.validated(OwnAttack, {"file": "", **overrides}, attack.__name__)
        return own_recipe(attack.__name__, attack, spec), spec.options
    known = attacks(study.params.own_attacks)
    if attack not in known:
        raise ValueError(f"no attack '{attack}'; there are {', '.join(known)}")
    values = _values(study, attack, known[attack])
    values = settings.validated(type(values), values.model_dump() | overrides, attack)
    if isinstance(values, OwnAttack):
        return attacks({attack: values})[attack], values.options  # again: the changes must be options of its function
    return known[attack], values.model_dump()


def _values(study: Study, name: str, attack: Attack) -> BaseModel:
    """What params.yaml says of an attack."""
    own = study.params.own_attacks
    return own[name] if name in own else getattr(study.params.attacks, attack.section)


def _target(
    study: Study, on: str, names: list[str], tap: str | None, through: Through | None
) -> list[nn.Module | functools.partial]:
    """What the attack looks at: networks, with a defense before them or not, or taps, in the scale's precision."""
    loaded = [study.network(name) for name in names]
    if through:
        return [_through(study, network, through) for network in loaded]
    if on == "features":
        loaded = [zoo.cut(net, name, study.scale, tap) for net, name in zip(loaded, names, strict=True)]
    # Half precision would round the purifier's output: a weaker attack, and a defense that looks better than it is.
    if on in ("logits", "features") and study.scale.precision == "bf16":
        loaded = [Bf16(net) for net in loaded]
    return loaded


def _through(study: Study, victim: nn.Module, through: Through) -> functools.partial:
    """What makes the victim behind a defense as an attacker sees it, see `lib.attacks.adaptive`."""
    if through.mode not in MODES:
        raise ValueError(f"no mode '{through.mode}'; there are {', '.join(MODES)}")
    if through.defense == NONE:
        raise ValueError("the defense 'none' is nothing to go through; name one of params.yaml, or leave `through` out")
    mode = MODES[through.mode]
    if through.mode != "expectation":
        return functools.partial(mode, victim, study.defense(through.defense))
    draws = [study.defense(through.defense, seed=ATTACKER + k) for k in range(through.draws)]
    return functools.partial(mode, victim, draws)


class Shard(NamedTuple):
    """images: the indices of those that are attacked together.  arguments: of `lib.attacks.shards.attacked`."""

    images: list[int]
    arguments: tuple


def shards(study: Study, attack: str, recipe: Attack, chosen: dict, target: list) -> list[Shard]:
    """The parts of a cell that are computed and stored by themselves.

    ValueError where the attack couples images and these differ in size.
    """
    data = study.images
    if recipe.coupled and not isinstance(data.images, Tensor):
        raise ValueError(f"{attack} couples the images of a batch, and these are no images of one size")
    groups = grouped(data.ids, chosen["batch"]) if recipe.coupled else same_size(data.images, study.batch)
    options, found = in_unit(chosen, OF_ATTACKS), []
    for group in groups:
        labels = {"y": data.labels[group]} if recipe.labels else {}
        draws = {"ids": [data.ids[i] for i in group], "seed": study.params.seed} if recipe.random else {}
        images = torch.stack([data.images[i] for i in group])
        found.append(Shard(group, (recipe.run, target, images, labels | draws, options)))
    return found


def _per_image(study: Study, parts: Sequence[Shard], name: str) -> list[Images]:
    """The images of an attack that makes a perturbation per image, per snapshot."""
    made: list[list[Tensor]] = []
    for shard in tqdm(parts, desc=name):
        cell = f"{name}, from image {study.images.ids[shard.images[0]]}"
        found = study.cached(attacked, *shard.arguments, cell=cell)
        made = made or [[None] * len(study.images) for _ in found["images"]]
        for snapshot, several in zip(made, torch.from_numpy(found["images"]), strict=True):
            for place, image in zip(shard.images, several, strict=True):
                snapshot[place] = image
    return [torch.stack(images) for images in made] if isinstance(study.images.images, Tensor) else made


def seconds_per_image(study: Study, attack: str, surrogate: str, count: int, **overrides: object) -> float:
    """The attack alone on the study's first `count` images, the faster of two runs.

    overrides: as of `adversaries`. Nothing of the adversaries is stored, only the time: a second call gives the same
    number.
    """
    few = dataclasses.replace(study, images=study.images.slice(0, count))
    recipe, chosen = _recipe(few, attack, overrides)
    target = _target(few, recipe.on, [surrogate], None, None)
    calls = [shard.arguments for shard in shards(few, attack, recipe, chosen, target)]
    where = [zoo.device_name(study.device), torch.get_num_threads()]
    return study.cached(timed, calls, where, cell=f"seconds of {attack} on {surrogate}")["seconds"].item() / count


def _with_universal(study: Study, attack: str, recipe: Attack, chosen: dict, name: str) -> Images:
    """The images with the one perturbation of a data-free attack added to each."""
    if not isinstance(study.images.images, Tensor):
        raise ValueError(f"{attack} makes one perturbation for all images, and these differ in size")
    taps = [zoo.layer(name, study.scale, tap) for tap in study.scale.networks[name].activations]
    options = in_unit(chosen, OF_ATTACKS)
    shape = list(study.images.images.shape[1:])
    asked = (recipe.run, study.network(name), taps, shape, study.params.seed, options)
    perturbation = study.cached(universal, *asked, cell=f"{attack} on {name}")["perturbation"]
    x = unit_images(study.images.images)
    return to_bytes(add_perturbation(x, torch.from_numpy(perturbation), options["eps"]))
