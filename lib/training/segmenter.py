"""Train SegNet-Basic: `python -m lib.training.segmenter SegNet-Basic --scale mini`.

Writes the weights models/<scale>/NAME.safetensors and the record results/<scale>/metrics/networks/NAME.json. Uses a GPU
where there is one. A killed run continues where it was when the same command is given again (on a GPU not to the last
bit).

Source: SegNet-Tutorial, Models/segnet_basic_solver.prototxt and segnet_basic_train.prototxt: SGD, learning rate 0.1
(twice that for biases), momentum 0.9, weight decay 5e-4 (none for biases), batches of 4, weighted softmax loss.
Not as published: the forward pass in bfloat16 and, where a scale says so, a falling rate and mirrored images.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from lib import settings
from lib.data.labelled import labelled
from lib.data.segmentation import CAMVID_CLASSES, VOID, SegmentationSet
from lib.networks.segnet_basic import SegNetBasic
from lib.rng import generator
from lib.settings import Scale, SegmenterSpec
from lib.store import code_digest, digest
from lib.tasks.segmentation import confusions, predict, scores
from lib.training import loop

MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4
# Median-frequency balancing as the prototxt prints it, in the order of CAMVID_CLASSES.
CAMVID_WEIGHTS = (0.2595, 0.1826, 4.5640, 0.1417, 0.9051, 0.3826, 9.6446, 1.8418, 0.6823, 6.2478, 7.3614)
LIB = Path(__file__).resolve().parents[1]
CODE = code_digest(
    [
        *(LIB / "training" / name for name in ("loop.py", "segmenter.py")),
        LIB / "networks" / "segnet_basic.py",
    ]
)


def main() -> None:
    """Train the named network and print its record in one line."""
    parser = argparse.ArgumentParser(prog="python -m lib.training.segmenter", description=__doc__.splitlines()[0])
    parser.add_argument("name", help="a key of segmenters in the scale file, such as SegNet-Basic")
    parser.add_argument("--scale", help="scales/SCALE.yaml (default: the scale that params.yaml names)")
    parser.add_argument("--root", type=Path, default=settings.ROOT, help="where weights and record go")
    arguments = parser.parse_args()
    try:
        record = train(arguments.name, settings.load(arguments.scale), arguments.root)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")
    print(f"{arguments.name}: {record['pixels']:.1f} % of the labelled pixels, mean IoU {record['iou']:.1f} % "
          f"({record['images']} test images, {record['seconds']:.0f} s)")  # fmt: skip


def train(name: str, scale: Scale, root: Path) -> dict:
    """Train on the train split, judge on the test split, write weights and record below `root`; returns the record.

    ValueError for a name that the scale does not know, FileNotFoundError (with the command) for missing data.
    """
    if name not in scale.segmenters:
        raise ValueError(
            f"no segmenter '{name}' in scales/{scale.name}.yaml, only {', '.join(scale.segmenters) or 'none'}"
        )
    spec = scale.segmenters[name]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train_set, test_set = labelled(spec.data, "train"), labelled(spec.data, "test")
    file = root / "models" / scale.name / f"{name}.safetensors"
    network, seconds = fit(spec, train_set, file.with_suffix(".ckpt"), device)
    predicted = predict(network, test_set.images, batch=spec.batch, device=device)
    confusion = confusions(predicted, test_set.labels.numpy(), len(test_set.classes)).sum(0)
    facts = scores(confusion)._asdict() | {
        "images": len(test_set),
        "side": list(test_set.images.shape[2:]),
        "steps": spec.steps,
    }
    record = root / "results" / scale.name / "metrics" / "networks" / f"{name}.json"
    return loop.keep(network, facts, seconds, file, record)


def fit(spec: SegmenterSpec, data: SegmentationSet, checkpoint: Path, device: str = "cpu") -> tuple[SegNetBasic, float]:
    """The trained network in eval mode, its batch normalisation computed over `data`, and the seconds of training."""
    torch.manual_seed(spec.seed)
    network = SegNetBasic(len(data.classes), spec.maps).to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(groups(network, spec.lr), momentum=MOMENTUM)
    weights = torch.tensor(class_weights(data), device=device)

    def advance(step: int) -> float:
        chosen = loop.shuffled(len(data), spec.batch, step, spec.seed)
        x, y = augmented(spec, data.images[chosen], data.labels[chosen], generator(spec.seed, "augment", step))
        with torch.autocast(device, torch.bfloat16):
            logits = network(x.to(device, memory_format=torch.channels_last))
        loss = weighted_loss(logits.float(), y.to(device), weights)
        optimiser.zero_grad()
        loss.backward()
        if step % (spec.steps // spec.cycles) == 0:
            optimiser.state.clear()
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * decay(spec, step)
        optimiser.step()
        return loss.item()

    identity = digest(spec.model_dump(), data.images.numpy(), data.labels.numpy(), CODE)
    seconds = loop.run(advance, {"network": network.train(), "optimiser": optimiser}, spec.steps, checkpoint, identity)
    # The published network has no running statistics: compute_bn_statistics.py takes them over the training set.
    update_bn(_batches(data, spec), network, device)
    return network.eval(), seconds


def groups(network: nn.Module, lr: float) -> list[dict]:
    """The solver's groups of parameters: a convolution's bias learns twice as fast, and no bias decays."""
    biases = [module.bias for module in network.modules() if isinstance(module, nn.Conv2d)]
    shifts = [module.bias for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    others = [parameter for name, parameter in network.named_parameters() if not name.endswith("bias")]
    return [
        {"params": others, "lr": lr, "peak": lr, "weight_decay": WEIGHT_DECAY},
        {"params": shifts, "lr": lr, "peak": lr, "weight_decay": 0.0},
        {"params": biases, "lr": 2 * lr, "peak": 2 * lr, "weight_decay": 0.0},
    ]


def decay(spec: SegmenterSpec, step: int) -> float:
    """The share of the learning rate at a step: 1, or half a cosine down to 0, once per cycle."""
    if spec.decay == "constant":
        return 1.0
    cycle = spec.steps // spec.cycles
    return 0.5 * (1 + math.cos(math.pi * (step % cycle) / cycle))


def weighted_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Sum of the weighted cross-entropies over the number of labelled pixels.

    Source: caffe-segnet, softmax_loss_layer.cpp. PyTorch's own mean divides by the sum of the weights instead, with
    which a learning rate of 0.1 means something else.
    """
    total = F.cross_entropy(logits, labels.long(), weights, ignore_index=VOID, reduction="sum")
    return total / (labels != VOID).sum()


def class_weights(data: SegmentationSet) -> list[float]:
    """CamVid's printed weights; for other classes, median-frequency weights of the labels."""
    if data.classes == CAMVID_CLASSES:
        return list(CAMVID_WEIGHTS)
    return median_frequency(data.labels, len(data.classes))


def median_frequency(labels: Tensor, classes: int) -> list[float]:
    """SegNet's balancing: the median of the classes' frequencies over each class's own, for labels `[N,H,W]`.

    A class's frequency: its pixels over all pixels, void too, of the images that show it. Without any it weighs 0.
    """
    counts = torch.stack([torch.bincount(image.flatten().long(), minlength=VOID + 1)[:classes] for image in labels])
    shown = (counts > 0).sum(0) * labels[0].numel()
    there = shown > 0
    frequency = counts.sum(0)[there].double() / shown[there]
    weights = torch.zeros(classes, dtype=torch.float64)
    # NumPy's median: PyTorch's takes the lower of the two middle values.
    weights[there] = frequency.quantile(0.5) / frequency
    return weights.tolist()


def augmented(spec: SegmenterSpec, x: Tensor, y: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """A batch of uint8 images and labels as float images in [0,1] and labels; half are mirrored if the spec says so."""
    x = x.float() / 255
    if spec.augment == "flip":
        mirrored = torch.rand(len(x), generator=g) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
        y = torch.where(mirrored[:, None, None], y.flip(2), y)
    return x, y


def _batches(data: SegmentationSet, spec: SegmenterSpec) -> Iterator[Tensor]:
    """The training images once, unchanged, in batches as mixed as those of the training.

    In the list's order a batch is four neighbouring frames of a video, whose variance leaves out that between scenes.
    """
    for part in torch.randperm(len(data), generator=generator(spec.seed, "statistics")).split(spec.batch):
        yield data.images[part].float() / 255


if __name__ == "__main__":
    main()
