"""The grid attack x budget x victim, computed through the store, as one tidy frame.

A notebook opens a `Study` (the scale, its images, its store), asks for `adversaries`, and has victims judge them.
Every shard of images is stored as soon as it is done, so a killed run continues where it stopped.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from lib import attacks, settings, zoo
from lib.attacks.features import add_perturbation
from lib.data.classification import classification_images
from lib.data.images import ImageSet
from lib.networks.precision import Bf16
from lib.settings import Data, Params, Scale, unit
from lib.store import Store, code_digest, digest
from lib.tasks.classification import Prediction, predict, top_k, unit_images

LIB = Path(__file__).resolve().parent
# Taken when the code is loaded: an edit during a long run must not label old code's results as new ones.
ATTACK_CODE = code_digest([LIB / "attacks", LIB / "networks", LIB / "linf.py", LIB / "rng.py"])
JUDGE_CODE = code_digest([LIB / "tasks" / "classification.py", LIB / "networks"])
LEVELS_TO_UNIT = {"eps", "step", "alpha"}


@dataclass
class Study:
    """Everything that the cells of an experiment share. params: params.yaml with the scale's changes."""

    params: Params
    scale: Scale
    images: ImageSet
    store: Store
    device: str
    networks: dict[str, nn.Module] = field(default_factory=dict)

    def network(self, name: str) -> nn.Module:
        """A network of the scale, loaded once, on the study's device."""
        if name not in self.networks:
            network = zoo.load(name, self.scale, self.device)
            self.networks[name] = network.to(memory_format=torch.channels_last)
        return self.networks[name]


@dataclass(frozen=True)
class Adversaries:
    """The images that one run of an attack gives, and what made them. images: uint8 `[N,3,H,W]`."""

    attack: str
    surrogate: str
    eps: float
    steps: int
    images: Tensor


def open_study(scale: str | None = None, count: int | None = None, source: Data | None = None) -> Study:
    """The study of a scale (default: the one that params.yaml names), on the GPU where there is one.

    count: how many of its images.  source: another image set than the scale's.
    """
    chosen = settings.load(scale)
    images = classification_images(source or chosen.data, count)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Study(settings.params_at(chosen), chosen, images, Store(settings.ROOT / ".store"), device)


def clean(study: Study) -> Adversaries:
    """The images themselves, as the row "no attack"."""
    return Adversaries("none", "", 0.0, 0, study.images.images)


def adversaries(
    study: Study,
    attack: str,
    surrogate: str | Sequence[str] | None = None,
    *,
    tap: str | None = None,
    snapshots: Sequence[int] | None = None,
    **overrides: object,
) -> list[Adversaries]:
    """The attack's adversaries of all the study's images, one entry per snapshot (one in all without snapshots).

    attack: a name in `lib.attacks.ATTACKS`.  surrogate: a network of the scale, or several for an ensemble.
    tap: the layer of a feature attack, if not the one that the scale names.  overrides: parameters of params.yaml to
    change for this run, in its units (eps=8). ValueError for an unknown attack, network, tap or parameter.
    """
    if attack not in attacks.ATTACKS:
        raise ValueError(f"no attack '{attack}'; there are {', '.join(attacks.ATTACKS)}")
    recipe = attacks.ATTACKS[attack]
    names = [surrogate] if isinstance(surrogate, str) else list(surrogate or [])
    section = getattr(study.params.attacks, recipe.section)
    chosen = settings.validated(type(section), section.model_dump() | overrides, attack).model_dump()
    if snapshots:
        chosen |= {"snapshots": list(snapshots), "steps": max(snapshots)}
    target = _target(study, recipe.on, names, tap)
    run = _universal if recipe.on == "responses" else _per_image
    shards = run(study, attack, recipe, target, chosen, names)
    stacked = torch.cat(shards, dim=1)
    counts = list(snapshots or [chosen.get("steps", chosen.get("iterations", 1))])
    label = " + ".join(names)
    return [Adversaries(attack, label, chosen["eps"], n, images) for n, images in zip(counts, stacked, strict=True)]


def all_attacks(
    study: Study,
    surrogate: str,
    feature_surrogate: str,
    done: Sequence[Adversaries] = (),
) -> list[Adversaries]:
    """Every attack of `lib.attacks.ATTACKS` with its parameters, the clean images first.

    done: cells of the same study, made without overrides, that are taken as they are where attack, surrogate, budget
    and steps agree: a run with snapshots gives the shorter runs too.
    """
    known = {(cell.attack, cell.surrogate, cell.eps, cell.steps): cell for cell in done}
    cells = [clean(study)]
    for name, attack in attacks.ATTACKS.items():
        chosen = {"nothing": None, "logits": surrogate}.get(attack.on, feature_surrogate)
        values = getattr(study.params.attacks, attack.section)
        ready = known.get((name, chosen, values.eps, getattr(values, "steps", None)))
        cells += [ready] if ready else adversaries(study, name, chosen)
    return cells


def judge(study: Study, victim: str, images: Tensor) -> Prediction:
    """The victim's five most likely classes of 8-bit images, through the store."""
    network = study.network(victim)
    key = digest("judge", images.numpy(), network_digest(network), JUDGE_CODE, study.device)
    found = study.store.get(
        key, lambda: predict(network, images, batch=study.scale.batch, device=study.device)._asdict()
    )
    return Prediction(**found)


def frame(study: Study, cells: Sequence[Adversaries], victims: Sequence[str]) -> pd.DataFrame:
    """One row per adversary, victim and image: is the label first, among the first five, was the victim fooled?

    fooled: the victim's first class differs from its first class on the clean image.
    """
    rows = []
    labels = study.images.labels.numpy()
    for victim in tqdm(victims, desc="judging"):
        before = judge(study, victim, study.images.images)
        for cell in cells:
            after = judge(study, victim, cell.images)
            rows.append(
                pd.DataFrame(
                    {
                        "attack": cell.attack,
                        "surrogate": cell.surrogate,
                        "eps": cell.eps,
                        "steps": cell.steps,
                        "victim": victim,
                        "image": study.images.ids,
                        "top1": top_k(after, labels, 1),
                        "top5": top_k(after, labels, 5),
                        "fooled": after.classes[:, 0] != before.classes[:, 0],
                    }
                )
            )
    return pd.concat(rows, ignore_index=True)


def outputs(study: Study, name: str, images: Sequence[int], *, features: bool) -> np.ndarray:
    """A network's logits, or its features at the tap that the scale names, `[n,...]` float32.

    images: the indices of the study's images to compute them of.
    """
    network = study.network(name)
    module = zoo.cut(network, name, study.scale) if features else network
    parts = study.images.images[list(images)].split(study.scale.batch)
    with torch.no_grad():
        return torch.cat([module(unit_images(part, study.device)).float().cpu() for part in parts]).numpy()


def network_digest(network: nn.Module) -> str:
    """SHA-256 of the weights, buffers (normalisation included) and structure."""
    tensors = {name: tensor.cpu().numpy() for name, tensor in [*network.named_parameters(), *network.named_buffers()]}
    return digest(repr(network), *[part for name in sorted(tensors) for part in (name, tensors[name])])


def _target(study: Study, on: str, names: list[str], tap: str | None) -> list[nn.Module]:
    """What the attack looks at: networks or taps, in the scale's precision."""
    loaded = [study.network(name) for name in names]
    if on == "features":
        loaded = [zoo.cut(net, name, study.scale, tap) for net, name in zip(loaded, names, strict=True)]
    if on != "responses" and study.scale.precision == "bf16":
        loaded = [Bf16(net) for net in loaded]
    return loaded


def _per_image(study: Study, attack: str, recipe: attacks.Attack, target, chosen: dict, names) -> list[Tensor]:
    """Shards `[snapshots,b,3,H,W]` of an attack that treats every image by itself."""
    identity = [attack, chosen, [network_digest(net) for net in target], ATTACK_CODE, study.params.seed]
    arguments = {name: unit(value) if name in LEVELS_TO_UNIT else value for name, value in chosen.items()}
    shards = []
    for start in tqdm(range(0, len(study.images.ids), study.scale.batch), desc=f"{attack} on {' + '.join(names)}"):
        part = study.images.slice(start, start + study.scale.batch)
        key = digest(*identity, part.images.numpy(), part.labels.numpy(), part.ids, study.device)
        found = study.store.get(key, lambda part=part: _attack(study, recipe, target, part, arguments))
        shards.append(torch.from_numpy(found["images"]))
    return shards


def _attack(study: Study, recipe: attacks.Attack, target, part: ImageSet, arguments: dict) -> dict[str, np.ndarray]:
    x = unit_images(part.images, study.device)
    first = [] if recipe.on == "nothing" else [target[0] if len(target) == 1 else target]
    labels = [part.labels.to(study.device)] if recipe.labels else []
    keyed = {"ids": part.ids, "seed": study.params.seed} if recipe.random else {}
    result = recipe.run(*first, x, *labels, **keyed, **arguments)
    result = result if arguments.get("snapshots") else result[None]
    return {"images": to_bytes(result).numpy()}


def _universal(study: Study, attack: str, recipe: attacks.Attack, target, chosen: dict, names) -> list[Tensor]:
    """One shard with the one perturbation of a data-free attack added to every image."""
    network, eps = target[0], unit(chosen["eps"])
    shape = tuple(study.images.images.shape[1:])
    taps = [zoo.layer(names[0], study.scale, tap) for tap in study.scale.networks[names[0]].activations]
    key = digest(attack, chosen, taps, list(shape), network_digest(network), ATTACK_CODE, study.params.seed)
    arguments = {**chosen, "eps": eps, "seed": study.params.seed}
    found = study.store.get(key, lambda: {"perturbation": recipe.run(network, taps, shape, **arguments).cpu().numpy()})
    perturbation = torch.from_numpy(found["perturbation"])
    return [to_bytes(add_perturbation(unit_images(study.images.images), perturbation, eps))[None]]


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0,1] on the 8-bit grid as uint8, on the CPU."""
    return (images * 255).round().to(torch.uint8).cpu()
