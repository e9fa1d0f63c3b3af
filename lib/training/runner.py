"""One training of a scale, whatever its kind: looked up by name, resumed where it was killed, evaluated, written.

A kind says where its data come from, and how what it trained is evaluated; its own file (classifiers.py, ...) says what
a step computes, and knows no names. Modules that take seconds to import are imported where they are used.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lib import settings, zoo
from lib.data import detection as boxes
from lib.data import world
from lib.data.labelled import labelled
from lib.data.unlabelled import Photographs, unlabelled
from lib.settings import ROOT, Scale
from lib.store import code_of, digest
from lib.tasks import detection, segmentation
from lib.training import classifiers, loop, purifier, segmenter

Facts = dict[str, Any]
Evaluate = Callable[[float], Facts]  # the seconds of the training -> what its record says


class Job(NamedTuple):
    """One training that is asked for. root: the folder of models/ and results/."""

    name: str
    spec: Any
    scale: Scale
    root: Path
    device: str

    def weights(self, name: str) -> Path:
        return self.root / "models" / self.scale.name / f"{name}.safetensors"

    @property
    def results(self) -> Path:
        return self.root / "results" / self.scale.name


def stand_in(job: Job) -> tuple[loop.Training, Evaluate]:
    sources = []
    for source in job.spec.sources:
        state = trained(job, source)
        sources.append(classifiers.build(find(source, job.scale)[1].architecture, len(world.CLASSES)))
        sources[-1].network.load_state_dict(state)
    train, test = scenes("train"), scenes("test")
    sources = [source.to(job.device).eval() for source in sources]
    training = classifiers.training(job.spec, *labels(train), len(world.CLASSES), sources, job.device)
    images = [tensor.to(job.device) for tensor in labels(test)]
    return training, lambda seconds: classifiers.evaluate(training.state["victim"], *images, test.ids)


def segmenter_of_pixels(job: Job) -> tuple[loop.Training, Evaluate]:
    train, test = (labelled(job.spec.data, split) for split in ("train", "test"))
    training = segmenter.training(job.spec, train.images, train.labels, train.classes, job.device)

    def evaluate(seconds: float) -> Facts:
        predicted = segmentation.predict(training.network, test.images, batch=job.spec.batch, device=job.device)
        confusion = segmentation.confusions(predicted, test.labels.numpy(), len(test.classes)).sum(0)
        side = list(test.images.shape[2:])
        return segmentation.scores(confusion)._asdict() | {"images": len(test), "side": side, "steps": training.steps}

    return training, evaluate


def detector(job: Job) -> tuple[loop.Training, Evaluate]:
    from lib.training import detectors

    state, train = trained(job, job.spec.backbone), scenes("train")
    truth = detectors.ground_truth(train.boxes, train.objects, train.instances)
    training = detectors.training(job.spec, pixels(train), truth, len(world.CLASSES), state, job.device)
    data = boxes.from_world(scenes("test"))
    return training, lambda seconds: detection_scores(training.network, data, job.device)


def purifier_of_photographs(job: Job) -> tuple[loop.Training, Evaluate]:
    data = photographs(job.spec.images, job.spec.crop)
    extractor = zoo.extractor(job.spec.extractor, job.scale, device=job.device).to(memory_format=torch.channels_last)
    training = purifier.training(job.spec, job.scale.networks[job.name], data, extractor, sheets(job))
    crops = job.spec.steps * job.spec.batch * job.spec.accumulate
    return training, lambda seconds: throughput(job, len(data), crops, seconds)


def generator_of_adversaries(job: Job) -> tuple[loop.Training, Evaluate]:
    from lib.training import generator

    spec, data = job.spec, photographs(job.spec.images, 1 if job.spec.resize else job.spec.side)
    classifier = zoo.load(spec.classifier, job.scale, job.device).to(memory_format=torch.channels_last)
    training = generator.training(spec, job.scale.networks[job.name], data, classifier, sheets(job))

    def evaluate(seconds: float) -> Facts:
        fooled = round(training.state["curves"].table()["fooled"].iloc[-1], 4)
        facts = {"rendered": spec.render, "classifier": spec.classifier, "eps": spec.eps, "fooled": fooled}
        return facts | throughput(job, len(data), spec.steps * spec.batch, seconds)

    return training, evaluate


class Kind(NamedTuple):
    """gpu: it trains on a GPU where there is one.  line: what is printed of its record."""

    begin: Callable[[Job], tuple[loop.Training, Evaluate]]
    gpu: bool
    line: str


SPEED = (
    "{steps} steps on {images} images, {crops_per_second:.1f} crops a second, {device_hours:.2f} hours of one {device}"
)
KINDS = {
    "stand_ins": Kind(
        stand_in, False,
        "{accuracy:.1%} clean, {accuracy_noise:.1%} under noise, {accuracy_fgsm:.1%} under FGSM "
        "({parameters} parameters, {seconds:.0f} s)",
    ),
    "segmenters": Kind(
        segmenter_of_pixels, True,
        "{pixels:.1f} % of the labelled pixels, mean IoU {iou:.1f} % ({images} test images, {seconds:.0f} s)",
    ),
    "detectors": Kind(
        detector, False, "mAP@0.5 {map_50:.1f}, mAP@0.5:0.95 {map_50_95:.1f} ({images} test images, {seconds:.0f} s)"
    ),
    "purifiers": Kind(purifier_of_photographs, True, SPEED),
    "generators": Kind(
        generator_of_adversaries, True,
        SPEED + "; at budget {eps:g} it fools {classifier} on {fooled:.0%} of the last crops",
    ),
}  # fmt: skip


def train(name: str, scale: Scale, root: Path = ROOT, device: str | None = None, **changed: str) -> Facts:
    """Train `name` of the scale; write its weights, record, losses and sheets below `root`; returns the record.

    device: "cpu" or "cuda" (default: the kind's own).  changed: fields of its spec (images, render). ValueError for a
    name or field that is not known or images smaller than a crop, FileNotFoundError (with the command) for missing
    images or weights.
    """
    section, spec = find(name, scale)
    kind = KINDS[section]
    spec = settings.validated(type(spec), spec.model_dump() | changed, name)
    device = device or ("cuda" if kind.gpu and torch.cuda.is_available() else "cpu")
    job = Job(name, spec, scale, root, device)
    training, evaluate = kind.begin(job)
    file = job.weights(name)
    seconds = fit(spec, training, file.with_suffix(".ckpt"))
    if "curves" in training.state:
        training.state["curves"].save(job.results / "data" / f"{name}_losses.csv")
    record = job.results / "metrics" / "networks" / f"{name}.json"
    return write(training.network, evaluate(seconds), seconds, file, record)


def find(name: str, scale: Scale) -> tuple[str, Any]:
    """The section of the scale file that says how to train `name`, and the spec there."""
    sections = {section: getattr(scale, section) for section in KINDS}
    for section, specs in sections.items():
        if name in specs:
            return section, specs[name]
    known = ", ".join(known for specs in sections.values() for known in specs)
    raise ValueError(f"scales/{scale.name}.yaml trains no '{name}', only {known or 'nothing'}")


def fit(spec: Any, training: loop.Training, checkpoint: Path) -> float:
    """Train, or continue from a checkpoint of the same recipe, data and code; the seconds of training."""
    recipe = spec.model_dump(exclude={"images", "checkpoint_minutes"})  # neither changes a step
    identity = digest(recipe, *training.inputs, code_of(training.advance))
    return loop.run(training, checkpoint, identity, 60 * spec.checkpoint_minutes)


def write(network: nn.Module, facts: Facts, seconds: float, file: Path, record: Path) -> Facts:
    """Write the weights `file` (.safetensors) and what is known of them, `record` (.json); the checkpoint goes.

    Returns the record: `facts`, seconds, parameters, sha256 of the weights file.
    """
    content = save({name: value.cpu().contiguous() for name, value in network.state_dict().items()})
    whole = facts | {
        "seconds": round(seconds, 1),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    loop.write_whole(file, lambda out: out.write(content))
    loop.write_whole(record, lambda out: out.write((json.dumps(whole, indent=2) + "\n").encode()))
    file.with_suffix(".ckpt").unlink(missing_ok=True)
    return whole


def trained(job: Job, name: str) -> dict[str, Tensor]:
    """The weights of another network that the scale trains. FileNotFoundError with the command that trains it."""
    path = job.weights(name)
    if not path.is_file():
        command = f"python -m lib.training {name} --scale {job.scale.name}"
        raise FileNotFoundError(f"{path} not found; train it with `{command}`")
    return load_file(path)


def scenes(split: str) -> world.World:
    """The embedded world."""
    return world.load(ROOT / "data" / "world", split)


def pixels(data: world.World) -> Tensor:
    """The images of a split, uint8 `[N,3,H,W]`."""
    return torch.from_numpy(data.images).permute(0, 3, 1, 2).contiguous()


def labels(data: world.World) -> tuple[Tensor, Tensor]:
    """The images of a split and their classes `[N]`."""
    return pixels(data), torch.from_numpy(data.labels)


def photographs(source: str, side: int) -> Sequence[Tensor]:
    """Images without labels; ValueError for a file that holds no square of `side` pixels."""
    data = unlabelled(source)
    if isinstance(data, Photographs):
        data.check(side)
    return data


def sheets(job: Job) -> Path:
    """The folder of the samples."""
    return job.results / "sheets" / job.name


def throughput(job: Job, images: int, crops: int, seconds: float) -> Facts:
    """What a record says of a training on crops: how many, how fast, on which device."""
    return {
        "images": images,
        "steps": job.spec.steps,
        "crops": crops,
        "crops_per_second": round(crops / seconds, 2),
        "device": zoo.device_name(job.device),
        "device_hours": round(seconds / 3600, 3),
    }


def detection_scores(network: nn.Module, data: boxes.DetectionSet, device: str = "cpu") -> Facts:
    """mAP@0.5 and mAP@0.5:0.95 of the boxes and, if the detector gives masks, mAP@0.5 of the masks; in percent."""
    from lib.training.detectors import mask_precision

    found: list[dict[str, Tensor]] = []

    def recorded(x: list[Tensor]) -> list[dict[str, Tensor]]:
        results = network(x)
        found.extend(results)
        return results

    predicted = detection.predict(recorded, data.images, batch=50, device=device)
    evaluation = detection.evaluate(data.truth, data.image_ids, predicted)
    facts = {"images": len(data), "map_50": evaluation.ap("0.5"), "map_50_95": evaluation.ap("0.5:0.95")}
    if "masks" in found[0]:
        facts["mask_map_50"] = mask_precision(data.truth, data.image_ids, found)
    return facts
