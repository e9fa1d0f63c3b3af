"""Train a detector of the embedded world: `python -m lib.training.detectors RetinaNet --scale mini`.

Writes the weights models/<scale>/NAME.safetensors and the record results/<scale>/metrics/networks/NAME.json. The trunk
begins with the weights of a trained stand-in classifier. A killed run continues where it was when the same command is
given again.
"""

import argparse
import contextlib
import copy
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as runs
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from safetensors.torch import load_file
from torch import Tensor, nn

from lib import settings
from lib.data import world
from lib.data.detection import DetectionSet, from_world
from lib.data.world import World
from lib.networks.detectors import DETECTORS
from lib.rng import generator, key
from lib.settings import DetectorSpec, Scale
from lib.store import code_digest, digest
from lib.tasks import detection
from lib.training import loop
from lib.training.augment import photographed

NOISE = 16 / 255  # strongest noise in training
WEIGHT_DECAY = 0.05
LIB = Path(__file__).resolve().parents[1]
CODE = code_digest(
    [
        *(LIB / "training" / name for name in ("augment.py", "detectors.py", "loop.py")),
        *(LIB / "networks" / name for name in ("detectors.py", "small.py")),
    ]
)

# Ground truth of one image: boxes float32 [n,4], labels int64 [n] from 1, masks uint8 [n,H,W].
Truth = dict[str, Tensor]


def main() -> None:
    """Train the named detector and print its record in one line."""
    parser = argparse.ArgumentParser(prog="python -m lib.training.detectors", description=__doc__.splitlines()[0])
    parser.add_argument("name", help="a key of detectors in the scale file, such as RetinaNet")
    parser.add_argument("--scale", help="scales/SCALE.yaml (default: the scale that params.yaml names)")
    parser.add_argument("--root", type=Path, default=settings.ROOT, help="where models/ and results/ lie")
    arguments = parser.parse_args()
    try:
        record = train(arguments.name, settings.load(arguments.scale), arguments.root)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")
    print(f"{arguments.name}: mAP@0.5 {record['map_50']:.1f}, mAP@0.5:0.95 {record['map_50_95']:.1f} "
          f"({record['images']} test images, {record['seconds']:.0f} s)")  # fmt: skip


def train(name: str, scale: Scale, root: Path) -> dict:
    """Train on the train split, judge on the test split, write weights and record below `root`; returns the record.

    ValueError for a name that the scale does not know, FileNotFoundError (with the command) for a missing backbone.
    """
    if name not in scale.detectors:
        known = ", ".join(scale.detectors) or "none"
        raise ValueError(f"no detector '{name}' in scales/{scale.name}.yaml, only {known}")
    spec, folder, data = scale.detectors[name], root / "models" / scale.name, settings.ROOT / "data" / "world"
    backbone = folder / f"{spec.backbone}.safetensors"
    if not backbone.is_file():
        command = f"python -m lib.training {spec.backbone} --scale {scale.name}"
        raise FileNotFoundError(f"{backbone} not found; train it with `{command}`")
    out = folder / f"{name}.safetensors"
    train_set, checkpoint = world.load(data, "train"), out.with_suffix(".ckpt")
    detector, seconds = fit(spec, train_set, len(world.CLASSES), checkpoint, load_file(backbone))
    facts = evaluate(detector, from_world(world.load(data, "test")))
    record = root / "results" / scale.name / "metrics" / "networks" / f"{name}.json"
    return loop.keep(detector, facts, seconds, out, record)


def build(spec: DetectorSpec, classes: int, backbone: dict[str, Tensor]) -> nn.Module:
    """The detector with fresh heads on the trunk of the classifier whose state is `backbone`.

    ValueError for an unknown detector or for the state of another architecture.
    """
    if spec.detector not in DETECTORS:
        raise ValueError(f"unknown detector '{spec.detector}'; known: {', '.join(DETECTORS)}")
    torch.manual_seed(spec.seed)
    detector = DETECTORS[spec.detector](classes)
    trunk = {name: value for name, value in backbone.items() if not name.startswith("head.")}
    try:
        detector.backbone.trunk.load_state_dict(trunk)
    except RuntimeError:
        raise ValueError(f"backbone '{spec.backbone}' has another architecture than the detectors' trunk") from None
    return detector.to(memory_format=torch.channels_last)


def fit(
    spec: DetectorSpec, scenes: World, classes: int, checkpoint: Path, backbone: dict[str, Tensor]
) -> tuple[nn.Module, float]:
    """Train, or continue from `checkpoint`: the detector in eval mode, and the seconds of training.

    backbone: the state of the trained classifier that the trunk begins with.
    """
    images, truth = torch.from_numpy(scenes.images).permute(0, 3, 1, 2).contiguous(), ground_truth(scenes)
    detector = build(spec, classes, backbone).train()
    optimiser = torch.optim.AdamW(detector.parameters(), weight_decay=WEIGHT_DECAY, fused=True)
    steps = spec.epochs * (len(images) // spec.batch)

    def advance(step: int) -> float:
        chosen = loop.shuffled(len(images), spec.batch, step, spec.seed)
        g = generator(spec.seed, "augment", step)
        x, y = augmented(images[chosen], [truth[index] for index in chosen.tolist()], g)
        # torchvision samples anchors and proposals with the global generator.
        torch.manual_seed(key(spec.seed, "samples", step))
        loss = sum(detector(list(x), y).values())
        for group in optimiser.param_groups:
            group["lr"] = loop.rise_and_fall(spec.lr, step / steps)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.item()

    # A checkpoint of another recipe, data set, backbone or code must not be continued.
    arrays = [scenes.images, scenes.instances, np.concatenate(scenes.boxes), np.concatenate(scenes.objects)]
    weights = [value.numpy() for value in backbone.values()]
    identity = digest(spec.model_dump(), classes, *arrays, *weights, CODE)
    seconds = loop.run(advance, {"detector": detector, "optimiser": optimiser}, steps, checkpoint, identity)
    return detector.eval(), seconds


def ground_truth(scenes: World) -> list[Truth]:
    """The objects of a split as torchvision takes them."""
    truth = []
    for boxes, objects, instances in zip(scenes.boxes, scenes.objects, scenes.instances, strict=True):
        masks = instances == np.arange(1, len(boxes) + 1)[:, None, None]
        parts = torch.from_numpy(boxes).float(), torch.from_numpy(objects) + 1, torch.from_numpy(masks).byte()
        truth.append(dict(zip(("boxes", "labels", "masks"), parts, strict=True)))
    return truth


def mirrored(truth: Truth) -> Truth:
    """The ground truth of an image whose left and right are exchanged."""
    width = truth["masks"].shape[-1]
    x0, y0, x1, y1 = truth["boxes"].unbind(1)
    return truth | {"boxes": torch.stack([width - x1, y0, width - x0, y1], 1), "masks": truth["masks"].flip(-1)}


def augmented(images: Tensor, truth: Sequence[Truth], g: torch.Generator) -> tuple[Tensor, list[Truth]]:
    """A training batch of uint8 images `[B,3,H,W]`: half of them mirrored, all `photographed`."""
    turned = torch.rand(len(images), generator=g) < 0.5
    x = torch.where(turned[:, None, None, None], images.flip(3), images).float() / 255
    y = [mirrored(objects) if turn else objects for objects, turn in zip(truth, turned.tolist(), strict=True)]
    return photographed(x, g, NOISE), y


def evaluate(detector: nn.Module, data: DetectionSet) -> dict[str, float]:
    """mAP@0.5 and mAP@0.5:0.95 of the boxes and, if the detector gives masks, mAP@0.5 of the masks; in percent."""
    found: list[dict[str, Tensor]] = []

    def watched(x: list[Tensor]) -> list[dict[str, Tensor]]:
        results = detector(x)
        found.extend(results)
        return results

    judged = detection.evaluate(data.truth, data.image_ids, detection.predict(watched, data.images, batch=50))
    scores = {"images": len(data), "map_50": judged.ap("0.5"), "map_50_95": judged.ap("0.5:0.95")}
    return scores | ({"mask_map_50": mask_precision(data, found)} if "masks" in found[0] else {})


def mask_precision(data: DetectionSet, found: Sequence[dict[str, Tensor]]) -> float:
    """mAP@0.5 in percent of the masks `[n,1,H,W]` found in each image, by pycocotools; at most 100 per image."""
    rows = [
        {"image_id": image, "category_id": label, "score": score, "segmentation": segment, "iscrowd": 0}
        for image, objects in zip(data.image_ids, found, strict=True)
        for label, score, segment in zip(
            objects["labels"].tolist(), objects["scores"].tolist(), _segments(objects["masks"]), strict=True
        )
    ]
    # pycocotools takes an id of 0 for no match, and marks annotations in place.
    said = [row | {"id": number, "area": int(runs.area(row["segmentation"]))} for number, row in enumerate(rows, 1)]
    truth = copy.deepcopy(data.truth)
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(_indexed(truth), _indexed(truth | {"annotations": said}), "segm")
        judge.params.areaRng, judge.params.areaRngLbl = judge.params.areaRng[:1], judge.params.areaRngLbl[:1]
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][0, :, :, 0, -1]
    return 100 * float(precision[precision > -1].mean())


def _segments(masks: Tensor) -> list[dict]:
    """Masks `[n,1,H,W]` in [0,1] as run lengths of what exceeds a half."""
    return runs.encode(np.asfortranarray((masks[:, 0] > 0.5).byte().permute(1, 2, 0).numpy()))


def _indexed(truth: dict) -> COCO:
    index = COCO()
    index.dataset = truth
    index.createIndex()
    return index


if __name__ == "__main__":
    main()
