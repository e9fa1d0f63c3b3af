"""One training of a scale, whatever its kind: looked up by name, stored, resumed after a kill, evaluated, written.

A kind says here where its data come from and how its network is evaluated; its own file (classifiers.py, ...) says what
a step computes, and knows no names. What takes seconds to import is imported where it is used.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lib import settings, timings, zoo
from lib.data import detection as boxes
from lib.data import world
from lib.data.sets import load_set
from lib.data.unlabelled import Photographs, unlabelled
from lib.keys import digest, record
from lib.settings import ROOT, Scale
from lib.store import Store, folder
from lib.tasks import confusion, precision
from lib.tasks.predictions import detect, detections_from, segment
from lib.training import classifiers, loop, purifier, segmenter
from lib.training.loop import Curves, Training

GPU = (
    "segmenters",
    "purifiers",
    "generators",
)  # the kinds that train on the device of params.yaml

Facts = dict[str, Any]
Begun = tuple[Training, Callable[[Curves], Facts]]  # a training, and what evaluates its network and losses afterwards


class Job(NamedTuple):
    """One training that is asked for."""

    name: str
    spec: Any
    scale: Scale
    device: str


def train(name: str, scale: Scale, root: Path = ROOT, device: str | None = None, **changed: str) -> Facts:
    """Train `name` of the scale; write its weights, record, losses and sheets below `root`; returns the record.

    device: "cpu" or "cuda" (default: the kind's own).  changed: fields of its spec (images, render). ValueError for a
    name or field that is not known or images smaller than a crop, FileNotFoundError (with the command) for missing
    images or weights.
    """
    section, spec = find(name, scale)
    spec = settings.validated(type(spec), spec.model_dump() | changed, name)
    device = device or (zoo.device_here() if section in GPU else "cpu")
    training, evaluate = KINDS[section](Job(name, spec, scale, device))
    file, results = root / "models" / scale.name / f"{name}.safetensors", root / "results" / scale.name
    store, checkpoint = Store(folder(root)), file.with_suffix(".ckpt")
    curves, seconds = fit(store, name, spec, training, device, checkpoint, results / "sheets" / name)
    facts = evaluate(curves)
    if training.sheet:
        table = pd.DataFrame(curves.rows).to_csv(index=False, float_format="%.5g")
        loop.write_whole(results / "train" / "data" / f"{name}_losses.csv", lambda out: out.write(table.encode()))
    took = {"seconds": round(seconds, 1), "device": zoo.device_name(device)}
    took |= {"crops_per_second": round(facts["crops"] / seconds, 2)} if "crops" in facts else {}
    took = timings.recorded(results, f"training of {name}", lambda: took)
    return write(training.network, facts, file, results / "train" / "networks" / f"{name}.json") | took


def names(scale: Scale) -> list[str]:
    """All that the scale file trains; what others learn from comes first."""
    return [name for section in KINDS for name in getattr(scale, section)]


def find(name: str, scale: Scale) -> tuple[str, Any]:
    """The section of the scale file that says how to train `name`, and the spec there."""
    for section in KINDS:
        if name in getattr(scale, section):
            return section, getattr(scale, section)[name]
    raise ValueError(f"scales/{scale.name}.yaml trains no '{name}', only {', '.join(names(scale)) or 'nothing'}")


def fit(
    store: Store, name: str, spec: Any, training: Training, device: str, checkpoint: Path, sheets: Path | None = None
) -> tuple[Curves, float]:
    """Train, or take from the store what this recipe, data and code gave before; the losses and the seconds.

    A killed training goes on from its checkpoint.
    """
    recipe = spec.model_dump(exclude={"images", "checkpoint_minutes"})  # neither changes a step
    asked = (training.prepare, recipe, list(training.inputs))
    identity = digest(record(loop.trained, asked, device))
    kept = {"checkpoint": checkpoint, "identity": identity, "every": 60 * spec.checkpoint_minutes, "sheets": sheets}
    cell = f"training of {name}"
    found = store.cached(loop.trained, *asked, device=device, cell=cell, training=training, **kept)
    return loop.restore(training, found), found["seconds"].item()


def write(network: nn.Module, facts: Facts, file: Path, record: Path) -> Facts:
    """Write the weights `file` (.safetensors) and what is known of them, `record` (.json); the checkpoint goes.

    Returns the record: `facts`, parameters, sha256 of the weights file.
    """
    content = save({name: value.cpu().contiguous() for name, value in network.state_dict().items()})
    whole = facts | {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    loop.write_whole(file, lambda out: out.write(content))
    loop.write_whole(record, lambda out: out.write((json.dumps(whole, indent=2) + "\n").encode()))
    file.with_suffix(".ckpt").unlink(missing_ok=True)
    return whole


def stand_in(job: Job) -> Begun:
    train, test = world.load("train"), world.load("test")
    sources = [zoo.load(source, job.scale, job.device) for source in job.spec.sources]
    training = classifiers.training(job.spec, train.images, train.labels, len(world.CLASSES), sources, job.device)
    return training, lambda _: classifiers.evaluate(training.state["victim"], test.images, test.labels, test.ids)


def segnet(job: Job) -> Begun:
    train, test = (load_set(job.spec.data, split) for split in ("train", "test"))
    training = segmenter.training(job.spec, train.images, train.labels, train.classes, job.device)

    def evaluate(_: Curves) -> Facts:
        predicted = segment(training.network, test.images, batch=job.spec.batch, device=job.device)["labels"]
        scores = confusion.scores(confusion.confusions(predicted, test.labels.numpy(), len(test.classes)).sum(0))
        counts = {"images": len(test), "side": list(test.images.shape[2:]), "steps": training.steps}
        return scores._asdict() | counts

    return training, evaluate


def detector(job: Job) -> Begun:
    from lib.training import detectors

    backbone = load_file(zoo.fetch(job.spec.backbone, job.scale))
    train = world.load("train")
    truth = detectors.ground_truth(train.boxes, train.objects, train.instances)
    training = detectors.training(job.spec, train.images, truth, len(world.CLASSES), backbone, job.device)
    test = boxes.coco_format(world.load("test"))
    return training, lambda _: average_precisions(training.network, test, job.device)


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


def nrp(job: Job) -> Begun:
    spec, data = job.spec, photographs(job.spec.images, job.spec.crop)
    extractor = zoo.extractor(spec.extractor, job.scale, device=job.device).to(memory_format=torch.channels_last)
    facts = {"images": len(data), "steps": spec.steps, "crops": spec.steps * spec.batch * spec.accumulate}
    return purifier.training(spec, job.scale.networks[job.name], data, extractor), lambda _: facts


def cda(job: Job) -> Begun:
    from lib.training import generator

    spec, data = job.spec, photographs(job.spec.images, 1 if job.spec.resize else job.spec.side)
    classifier = zoo.load(spec.classifier, job.scale, job.device).to(memory_format=torch.channels_last)
    facts = {"rendered": spec.render, "classifier": spec.classifier, "eps": spec.eps}
    counts = {"images": len(data), "steps": spec.steps, "crops": spec.steps * spec.batch}
    training = generator.training(spec, job.scale.networks[job.name], data, classifier)
    return training, lambda curves: facts | {"fooled": round(curves.rows[-1]["fooled"], 4)} | counts


# By section of the scale file.
KINDS = {"stand_ins": stand_in, "segmenters": segnet, "detectors": detector, "purifiers": nrp, "generators": cda}
