"""A study: images, networks, parameters and a store; and the adversaries of every attack, through the store.

Every shard of images is stored as soon as it is done, so a killed run continues where it stopped.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn
from tqdm import tqdm

from lib import settings, zoo
from lib.attacks.adaptive import MODES
from lib.attacks.features import add_perturbation
from lib.attacks.registry import ATTACKS, Attack, attacks
from lib.attacks.transport import grouped
from lib.data.classification import classification_images
from lib.data.detection import DetectionSet
from lib.data.images import ImageSet, same_size
from lib.data.labelled import labelled
from lib.data.segmentation import SegmentationSet
from lib.defenses import defense
from lib.experiment.digests import network_digest
from lib.experiment.fronts import NONE, in_front
from lib.networks.precision import Bf16
from lib.settings import Data, OwnAttack, Params, Scale, Scenes, unit
from lib.store import Store, code_of, digest
from lib.tasks.classification import unit_images

# Taken when the code is loaded: an edit during a long run must not label old code's results as new ones.
ATTACK_CODE = {name: code_of(attack.run) for name, attack in ATTACKS.items()}
LEVELS_TO_UNIT = {"eps", "step", "alpha"}
# What an attacker who knows of a defense is called, by the mode of `Through`.
KNOWLEDGE = {"identity": "BPDA", "exact": "exact", "expectation": "EOT ({draws} draws)"}
ATTACKER = 1000  # seeds of the attacker's own draws of a random defense begin here, away from the defender's

Images = Tensor | Sequence[Tensor]


@dataclass
class Study:
    """Everything that the cells of an experiment share.

    params: params.yaml with the scale's changes.  batch: images per step and per stored shard (default: the scale's).
    """

    params: Params
    scale: Scale
    images: ImageSet | SegmentationSet | DetectionSet
    store: Store
    device: str
    networks: dict[str, nn.Module] = field(default_factory=dict)
    batch: int = 0

    def __post_init__(self):
        self.batch = self.batch or self.scale.batch

    def network(self, name: str) -> nn.Module:
        """A network of the scale, loaded once, on the study's device."""
        if name not in self.networks:
            network = zoo.load(name, self.scale, self.device)
            self.networks[name] = network.to(memory_format=torch.channels_last)
        return self.networks[name]


@dataclass(frozen=True)
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


def open_study(scale: str | None = None, count: int | None = None, source: Data | Scenes | None = None) -> Study:
    """The study of a scale (default: the one that params.yaml names), on the GPU where there is one.

    count: how many of its images.  source: another image set than the scale's; `Scenes` have labelled pixels or boxes.
    ValueError or FileNotFoundError for an own attack or a defense of params.yaml that cannot be called.
    """
    chosen = settings.load(scale)
    params = settings.params_at(chosen)
    # A mistake in the user's own line or file is found here, not after the hours before its turn.
    attacks(params.own_attacks)
    for spec in params.defenses.values():
        defense(**spec)
    source = source or chosen.data
    images = labelled(source, count=count) if isinstance(source, Scenes) else classification_images(source, count)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    store = Store(settings.ROOT / ".store")
    return Study(params, chosen, images, store, device, batch=getattr(source, "batch", None) or 0)


def clean(study: Study) -> Adversaries:
    """The images themselves, as the row "no attack"."""
    return Adversaries("none", "", 0.0, 0, study.images.images)


def adversaries(
    study: Study,
    attack: str,
    surrogate: str | Sequence[str] | None = None,
    *,
    tap: str | None = None,
    through: Through | None = None,
    snapshots: Sequence[int] | None = None,
    **overrides: object,
) -> list[Adversaries]:
    """The attack's adversaries of all the study's images, one entry per snapshot (one in all without snapshots).

    attack: a name of `lib.attacks.registry.ATTACKS` or of params.yaml's `own_attacks`.  surrogate: a network of the
    scale, or several for an ensemble.
    tap: the layer of a feature attack, if not the one that the scale names.  through: the defense that the attack knows
    to stand before the surrogate (attacks on logits only).  overrides: parameters of params.yaml to
    change for this run, in its units (eps=8). ValueError for an unknown attack, network, tap or parameter.
    """
    recipe, chosen = _recipe(study, attack, overrides)
    names = [surrogate] if isinstance(surrogate, str) else list(surrogate or [])
    if snapshots and not recipe.iterative:
        raise ValueError(f"{attack} takes no snapshots")
    if snapshots:
        chosen |= {"snapshots": list(snapshots), "steps": max(snapshots)}
    target = _target(study, recipe.on, names, tap, through)
    if recipe.on == "responses":
        made = _universal(study, attack, recipe, target, chosen, names)
    else:
        made = _per_image(study, attack, recipe, target, chosen, names, through)
    counts = list(snapshots or [chosen.get("steps", chosen.get("iterations", 1))])
    knowledge = KNOWLEDGE[through.mode].format(draws=through.draws) if through else "unaware"
    return [
        Adversaries(attack, " + ".join(names), chosen["eps"], n, images, knowledge)
        for n, images in zip(counts, made, strict=True)
    ]


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


def _recipe(study: Study, attack: str, overrides: dict) -> tuple[Attack, dict]:
    """How to call an attack, and its parameters in levels: those of params.yaml with what this run changes."""
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


def outputs(study: Study, name: str, images: Sequence[int], *, features: bool) -> np.ndarray:
    """A network's logits, or its features at the tap that the scale names, `[n,...]` float32.

    images: the indices of the study's images to compute them of.
    """
    network = study.network(name)
    module = zoo.cut(network, name, study.scale) if features else network
    parts = study.images.images[list(images)].split(study.batch)
    with torch.no_grad():
        return torch.cat([module(unit_images(part, study.device)).float().cpu() for part in parts]).numpy()


def _target(study: Study, on: str, names: list[str], tap: str | None, through: Through | None) -> list[nn.Module]:
    """What the attack looks at: networks, behind a defense or not, or taps, in the scale's precision."""
    loaded = [study.network(name) for name in names]
    if through:
        if on != "logits":
            raise ValueError(f"only attacks on logits can go through a defense, not one on {on}")
        loaded = [_behind(study, network, through) for network in loaded]
    if on == "features":
        loaded = [zoo.cut(net, name, study.scale, tap) for net, name in zip(loaded, names, strict=True)]
    # Half precision would round the purifier's output: a weaker attack, and a defense that looks better than it is.
    if on in ("logits", "features") and study.scale.precision == "bf16" and not through:
        loaded = [Bf16(net) for net in loaded]
    return loaded


def _behind(study: Study, victim: nn.Module, through: Through) -> nn.Module:
    """The victim behind a defense as an attacker sees it, see `lib.attacks.adaptive`."""
    if through.mode not in MODES:
        raise ValueError(f"no mode '{through.mode}'; there are {', '.join(MODES)}")
    if through.defense == NONE:
        raise ValueError("the defense 'none' is nothing to go through; name one of params.yaml, or leave `through` out")
    if through.mode != "expectation":
        return MODES[through.mode](victim, in_front(study, through.defense).function)
    draws = [in_front(study, through.defense, seed=ATTACKER + k).function for k in range(through.draws)]
    return MODES[through.mode](victim, draws)


def _per_image(
    study: Study, attack: str, recipe: Attack, target, chosen: dict, names, through: Through | None
) -> list[Images]:
    """The images of an attack that makes a perturbation per image, per snapshot."""
    code = recipe.code or ATTACK_CODE[attack]
    identity = [attack, chosen, [network_digest(net) for net in target], code, study.params.seed]
    identity += [in_front(study, through.defense).key] if through else []
    arguments = {name: unit(value) if name in LEVELS_TO_UNIT else value for name, value in chosen.items()}
    clean_images = study.images.images
    made: list[list[Tensor]] = [[None] * len(study.images) for _ in chosen.get("snapshots") or [0]]
    if recipe.coupled and not isinstance(clean_images, Tensor):
        raise ValueError(f"{attack} couples the images of a batch, and these are no images of one size")
    shards = grouped(study.images.ids, chosen["batch"]) if recipe.coupled else same_size(clean_images, study.batch)
    for shard in tqdm(shards, desc=f"{attack} on {' + '.join(names)}"):
        images, ids = torch.stack([clean_images[i] for i in shard]), [study.images.ids[i] for i in shard]
        labels = study.images.labels[shard] if recipe.labels else torch.empty(0)
        key = digest(*identity, images.numpy(), labels.numpy(), ids, study.device)
        found = study.store.get(key, lambda: _attack(study, recipe, target, images, labels, ids, arguments))  # noqa: B023
        for snapshot, several in zip(made, torch.from_numpy(found["images"]), strict=True):
            for place, image in zip(shard, several, strict=True):
                snapshot[place] = image
    return [torch.stack(images) for images in made] if isinstance(clean_images, Tensor) else made


def _attack(
    study: Study, recipe: Attack, target, images: Tensor, labels: Tensor, ids: list[str], arguments: dict
) -> dict[str, np.ndarray]:
    x = unit_images(images, study.device)
    first = [] if recipe.on == "nothing" else [target[0] if len(target) == 1 else target]
    truth = [labels.to(study.device)] if recipe.labels else []
    keyed = {"ids": ids, "seed": study.params.seed} if recipe.random else {}
    result = recipe.run(*first, x, *truth, **keyed, **arguments)
    result = result if arguments.get("snapshots") else result[None]
    return {"images": to_bytes(result).numpy()}


def _universal(study: Study, attack: str, recipe: Attack, target, chosen: dict, names) -> list[Images]:
    """The one perturbation of a data-free attack, added to every image."""
    if not isinstance(study.images.images, Tensor):
        raise ValueError(f"{attack} makes one perturbation for all images, and these differ in size")
    network, eps = target[0], unit(chosen["eps"])
    shape = tuple(study.images.images.shape[1:])
    taps = [zoo.layer(names[0], study.scale, tap) for tap in study.scale.networks[names[0]].activations]
    key = digest(attack, chosen, taps, list(shape), network_digest(network), ATTACK_CODE[attack], study.params.seed)
    arguments = {**chosen, "eps": eps, "seed": study.params.seed}
    found = study.store.get(key, lambda: {"perturbation": recipe.run(network, taps, shape, **arguments).cpu().numpy()})
    perturbation = torch.from_numpy(found["perturbation"])
    return [to_bytes(add_perturbation(unit_images(study.images.images), perturbation, eps))]


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0,1] on the 8-bit grid as uint8, on the CPU."""
    return (images * 255).round().to(torch.uint8).cpu()
