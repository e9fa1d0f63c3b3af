"""One training of a scale, whatever its kind: looked up by name, stored, resumed after a kill, evaluated, written.

A kind says here where its data come from and how its network is evaluated; its own file (classifiers.py, ...) says what
a step computes, and knows no names.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load, load_file, save
from torch import Tensor, nn

from lib import keys, settings, timings, zoo
from lib.atomic import write_bytes
from lib.data import detection as boxes
from lib.data import world
from lib.data.sets import load_set
from lib.data.unlabelled import Photographs, unlabelled
from lib.engine import engine_of, in_order, one_thread
from lib.reading import intact, read_json
from lib.settings import ROOT, NetworkSpec, Scale
from lib.settings.base import choices
from lib.store import Arrays, Store, folder
from lib.tasks import confusion, precision
from lib.tasks.predictions import detect, detections_from, segment
from lib.training import classifiers, loop, purifier, segmenter
from lib.training.loop import Training

ON_GPU = {"segmenters", "purifiers", "generators"}  # the kinds that train on the device of params.yaml
SHARED = {"stand_ins", "purifiers", "generators"}  # whose losses are means over the batch, so workers can share it

Facts = dict[str, Any]
# A training, and what evaluates its network afterwards, given the table of losses.
Begun = tuple[Training, Callable[[pd.DataFrame], Facts]]


def train(name: str, scale: Scale, root: Path = ROOT, workers: int = 1, **changed: str) -> Facts:
    """Train `name` of the scale; write its weights, record, losses and sheets below `root`; returns the record, with
    "as recorded" where nothing was trained because record and weights were there.

    workers: how many share each batch (SHARED kinds): another network than one worker's.  changed: fields of its spec
    (images, render). ValueError for a name or field that is not known, images smaller than a crop, or a batch that
    does not come in equal shares; FileNotFoundError (with the command) for missing images or weights.
    """
    known = trained_names(scale)
    if name not in known:
        raise ValueError(f"scales/{scale.name}.yaml trains no '{name}'; {choices(name, known)}")
    section, spec, network = known[name], getattr(scale, known[name])[name], scale.networks[name]
    spec = settings.validated(type(spec), spec.model_dump() | changed, name)
    if workers > 1 and section not in SHARED:
        raise ValueError(f"{name}: only {', '.join(sorted(SHARED))} are trained by several workers")
    if spec.batch % workers:
        raise ValueError(f"{name}: a batch of {spec.batch} does not come in {workers} equal shares")
    device = zoo.device_here() if section in ON_GPU else "cpu"
    zoo.family_of(network).build(network)  # ValueError for an unknown architecture
    training, evaluate = TRAININGS[section](spec, network, scale, device)
    file, results = root / "models" / scale.name / f"{name}.safetensors", root / "results" / scale.name
    made_from = record_of(spec, training, device, workers)
    recipe = keys.digest({part: value for part, value in made_from.items() if part != "device"})[:16]
    checkpoint, sheets = file.with_suffix(".ckpt"), results / "sheets" / name
    run = partial(train_in_group, workers, device, name, spec, scale.name, made_from) if workers > 1 else None
    losses, seconds = as_recorded(name, file, results, recipe, training) or cached_training(
        Store(folder(root)), name, spec, training, made_from, checkpoint, sheets, run
    )
    with one_thread(device):
        facts = evaluate(losses)
    if seconds is None:
        took = timings.read(results).get(f"training of {name}", {}) | {"as recorded": True}
    else:
        took = {"seconds": round(seconds, 1), "device": zoo.device_name(device)}
        took |= {"crops_per_second": round(facts["crops"] / seconds, 2)} if "crops" in facts else {}
        took = timings.recorded(results, f"training of {name}", lambda: took, recipe)
    weights = save({key: value.cpu().contiguous() for key, value in training.network.state_dict().items()})
    facts |= {"parameters": sum(parameter.numel() for parameter in training.network.parameters())}
    facts |= {"workers": workers} if workers > 1 else {}
    facts |= {"sha256": hashlib.sha256(weights).hexdigest(), "recipe": recipe}
    if training.sheet:
        table = losses.to_csv(index=False, float_format="%.5g")
        write_bytes(results / "train" / "data" / f"{name}_losses.csv", table.encode())
    write_bytes(file, weights)
    write_bytes(results / "train" / "networks" / f"{name}.json", (json.dumps(facts, indent=2) + "\n").encode())
    for left in file.parent.glob(f"{checkpoint.name}*"):
        left.unlink()
    return facts | took


def record_of(spec: Any, training: Training, device: str, workers: int = 1) -> dict:
    """What a training is made from (`lib.keys`)."""
    recipe = spec.model_dump(exclude={"images", "checkpoint_minutes"})  # neither changes a step
    made_from = keys.record(training.prepare, (recipe, list(training.inputs)), device)
    return made_from | ({"workers": workers} if workers > 1 else {})


def as_recorded(
    name: str, file: Path, results: Path, recipe: str, training: Training
) -> tuple[pd.DataFrame, None] | None:
    """As `cached_training`, of a network whose weights are there as the record in `results` has them, trained by the
    same recipe, code and data on any device, without seconds; None for another. So all CPUs judge the same networks."""
    record, table = results / "train" / "networks" / f"{name}.json", results / "train" / "data" / f"{name}_losses.csv"
    if not (file.is_file() and record.is_file()) or (training.sheet and not table.is_file()):
        return None
    try:
        facts, content = read_json(record), file.read_bytes()
    except ValueError:  # a damaged record: trained again, it is written again
        return None
    if facts.get("recipe") != recipe or facts.get("sha256") != hashlib.sha256(content).hexdigest():
        return None
    training.network.load_state_dict(load(content))
    training.network.eval()
    if not training.sheet:
        return pd.DataFrame(), None
    with intact(table):
        return pd.read_csv(table), None


def train_in_group(workers: int, device: str, *given: object) -> Arrays:
    """What `train_share` gives, on so many workers of the engine of params.yaml."""
    asked = settings.params()
    return engine_of(asked.engine_here(), device, asked.cores()).group(partial(train_share, *given), workers)


def train_share(name: str, spec: Any, scale: str, made_from: dict, *rest: Any) -> Arrays:
    """What one of several workers does: all of a training with its share of every batch.

    rest: as `loop.run_steps` takes it after the training, and the worker's device.
    """
    *how, device = rest
    chosen = settings.load(scale)
    with keys.in_force(made_from):
        training, _ = TRAININGS[trained_names(chosen)[name]](spec, chosen.networks[name], chosen, device)
        return loop.run_steps(training, *how)


def train_all(
    scale: Scale, root: Path = ROOT, workers: int = 1, engine: str = "local", **changed: str
) -> Iterator[tuple[str, Facts]]:
    """`train` everything, several networks side by side; each name and its record, as they end."""
    jobs = {name: partial(train_named, name, scale.name, root, **changed) for name in trained_names(scale)}
    submit = engine_of(engine, zoo.device_here(), workers).submit if engine == "ray" else None
    return in_order(jobs, learns_from(scale), workers, submit)


def train_named(name: str, scale: str, root: Path, **changed: str) -> Facts:
    """`train` at the scale of that name, as a worker is told."""
    return train(name, settings.load(scale), root, **changed)


def learns_from(scale: Scale) -> dict[str, list[str]]:
    """The networks that each network of the scale that is trained learns from."""
    found = {}
    for name, section in trained_names(scale).items():
        spec = getattr(scale, section)[name]
        found[name] = [getattr(spec, field, None) for field in ("backbone", "extractor", "classifier")]
        found[name] += getattr(spec, "sources", [])
    return found


def trained_names(scale: Scale) -> dict[str, str]:
    """All that the scale file trains and the section there that says how; what others learn from comes first."""
    return {name: section for section in TRAININGS for name in getattr(scale, section)}


def cached_training(
    store: Store,
    name: str,
    spec: Any,
    training: Training,
    made_from: dict,
    checkpoint: Path,
    sheets: Path | None = None,
    run: Callable[..., Arrays] | None = None,
) -> tuple[pd.DataFrame, float]:
    """Train, or take from the store what this recipe, data and code gave before; the table of losses and the seconds.

    A killed training goes on from its checkpoint.  made_from: of `record_of`.  run: how several workers train.
    """
    run = run or partial(loop.run_steps, training)
    run = partial(run, checkpoint, keys.digest(made_from), 60 * spec.checkpoint_minutes, sheets)
    found = store.entry(made_from, run, f"training of {name}")
    losses, seconds = (found.pop(key) for key in ("losses", "seconds"))
    training.network.load_state_dict({key: torch.from_numpy(value) for key, value in found.items()})
    training.network.eval()
    return pd.DataFrame(json.loads(losses.tobytes())), seconds.item()


def begin_stand_in(spec: Any, network: NetworkSpec, scale: Scale, device: str) -> Begun:
    train, val = world.load_scenes("train"), world.load_scenes("val")
    sources = [zoo.load(source, scale, device) for source in spec.sources]
    training = classifiers.training(spec, network, train.images, train.labels, sources, device)
    return training, lambda _: classifiers.accuracies_under_attack(
        training.state["victim"], val.images, val.labels, val.ids
    )


def begin_segmenter(spec: Any, network: NetworkSpec, scale: Scale, device: str) -> Begun:
    train, val = (load_set(spec.data, split) for split in ("train", "val"))
    training = segmenter.training(spec, network, train.images, train.labels, train.classes, device)

    def evaluate(_: pd.DataFrame) -> Facts:
        predicted = segment(training.network, val.images, batch=spec.batch, device=device)["labels"]
        scores = confusion.scores(confusion.confusions(predicted, val.labels.numpy(), len(val.classes)).sum(0))
        counts = {"images": len(val), "side": list(val.images.shape[2:]), "steps": training.steps}
        return scores._asdict() | counts

    return training, evaluate


def begin_detector(spec: Any, network: NetworkSpec, scale: Scale, device: str) -> Begun:
    from lib.training import detectors

    train, val = world.load_scenes("train"), boxes.coco_format(world.load_scenes("val"))
    truth = detectors.ground_truth(train.boxes, train.objects, train.instances)
    backbone = load_file(zoo.weights_file(spec.backbone, scale))
    training = detectors.training(spec, network, train.images, truth, backbone, device)
    return training, lambda _: average_precisions(training.network, val, device)


def average_precisions(network: nn.Module, data: boxes.DetectionSet, device: str = "cpu") -> Facts:
    """mAP@0.5 and mAP@0.5:0.95 of the boxes and, if the detector gives masks, mAP@0.5 of the masks; in percent."""
    found: list[dict[str, Tensor]] = []

    def recorded(x: list[Tensor]) -> list[dict[str, Tensor]]:
        found.extend(network(x))
        return found[-len(x) :]

    predicted = detections_from(detect(recorded, data.images, batch=50, device=device))
    evaluation = precision.evaluate_boxes(data.truth, data.image_ids, predicted)
    facts = {"images": len(data), "map_50": evaluation.ap("0.5"), "map_50_95": evaluation.ap("0.5:0.95")}
    if "masks" in found[0]:
        facts["mask_map_50"] = precision.mask_precision(data.truth, data.image_ids, found)
    return facts


def photographs(source: str, side: int) -> Sequence[Tensor]:
    """Images without labels; ValueError for a file that holds no square of `side` pixels."""
    data = unlabelled(source)
    if isinstance(data, Photographs):
        data.check(side)
    return data


def begin_purifier(spec: Any, network: NetworkSpec, scale: Scale, device: str) -> Begun:
    data = photographs(spec.images, spec.crop)
    extractor = zoo.extractor(spec.extractor, scale, device=device).to(memory_format=torch.channels_last)
    classifier = zoo.load(spec.classifier, scale, device) if spec.classifier else None
    facts = {"images": len(data), "steps": spec.steps, "crops": spec.steps * spec.batch}
    return purifier.training(spec, network, data, extractor, classifier), lambda _: facts


def begin_generator(spec: Any, network: NetworkSpec, scale: Scale, device: str) -> Begun:
    from lib.training import generator

    data = photographs(spec.images, 1 if spec.resize else spec.side)
    classifier = zoo.load(spec.classifier, scale, device).to(memory_format=torch.channels_last)
    facts = {"rendered": spec.render, "classifier": spec.classifier, "eps": spec.eps}
    counts = {"images": len(data), "steps": spec.steps, "crops": spec.steps * spec.batch}
    training = generator.training(spec, network, data, classifier)
    return training, lambda losses: facts | {"fooled": round(losses["fooled"].iloc[-1].item(), 4)} | counts


TRAININGS = {  # by section of the scale file
    "stand_ins": begin_stand_in,
    "segmenters": begin_segmenter,
    "detectors": begin_detector,
    "purifiers": begin_purifier,
    "generators": begin_generator,
}
