"""Train CDA: `python -m lib.training.generator CDA-ImageNet --scale mini`. No labels are read.

Cross-domain transferability (Naseer et al. 2019, [14] of the supplement; Muzammal-Naseer/CDA, train.py): a generator
learns to turn the images of a source domain into adversaries of one frozen classifier, which serves as the only critic
through a relativistic cross-entropy. The generator then attacks images and networks that it has never seen.
Writes the weights models/<scale>/NAME.safetensors, the record results/<scale>/metrics/networks/NAME.json with
throughput and device hours, the loss results/<scale>/data/NAME_losses.csv and, per epoch, a sheet of samples
results/<scale>/sheets/NAME/epoch_0001.png. Uses a GPU where there is one. A killed run continues where it was when the
same command is given again (on a GPU not to the last bit).

`--images FOLDER` trains on any folder of images; `--render comic` or `painting` draws them so first
(`lib.data.renderings`), a stand-in for the Comics and Paintings sets.

Ours, not train.py's: generator and classifier run in bfloat16, images are resized by torch instead of Pillow, a last
incomplete batch is left out, random crops and a mirror where a scale asks for them, and sides that the generator does
not give back unchanged are filled up (`lib.attacks.generators.proposal`).
"""

import argparse
import functools
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib import linf, settings, zoo
from lib.attacks.ascent import evaluating
from lib.attacks.generators import proposal
from lib.data.renderings import RENDERINGS
from lib.data.unlabelled import Photographs, unlabelled
from lib.networks.cda_generator import GENERATORS, Generator
from lib.networks.precision import Bf16
from lib.rng import generator as numbers
from lib.rng import key
from lib.settings import GeneratorSpec, NetworkSpec, Scale, unit
from lib.store import code_digest, digest
from lib.training import loop, samples
from lib.training.samples import Curves

BETAS = (0.5, 0.999)  # Adam's (train.py:60)
LOSSES = ("loss", "fooled")
KEPT = 1000  # images that stay in memory once they are read, resized and rendered
LIB = Path(__file__).resolve().parents[1]
CODE = code_digest(
    [
        *(LIB / "training" / name for name in ("generator.py", "loop.py", "samples.py")),
        LIB / "networks" / "cda_generator.py",
        LIB / "networks" / "precision.py",
        LIB / "attacks" / "generators.py",
        LIB / "data" / "images.py",
        LIB / "data" / "renderings.py",
        LIB / "data" / "unlabelled.py",
        LIB / "linf.py",
        LIB / "rng.py",
    ]
)


def main() -> None:
    """Train the named generator and print its record in one line."""
    parser = argparse.ArgumentParser(prog="python -m lib.training.generator", description=__doc__.splitlines()[0])
    parser.add_argument("name", help="a key of generators in the scale file, such as CDA-ImageNet")
    parser.add_argument("--scale", help="scales/SCALE.yaml (default: the scale that params.yaml names)")
    parser.add_argument("--images", help="a folder of images to train on instead of the scale's")
    parser.add_argument("--render", help="draw them as comic or painting first; none leaves them as they are")
    parser.add_argument("--root", type=Path, default=settings.ROOT, help="where weights, record and sheets go")
    arguments = parser.parse_args()
    changed = {field: value for field in ("images", "render") if (value := getattr(arguments, field))}
    try:
        record = train(arguments.name, settings.load(arguments.scale), arguments.root, **changed)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")
    print(f"{arguments.name}: {record['steps']} steps on {record['images']} images, {record['crops_per_second']:.1f} "
          f"crops a second, {record['device_hours']:.2f} hours of one {record['device']}; at budget {record['eps']:g} "
          f"it fools {record['classifier']} on {100 * record['fooled']:.0f} % of the last crops")  # fmt: skip


def train(name: str, scale: Scale, root: Path, **changed: str) -> dict:
    """Train generator `name` of the scale; write weights, record, losses and sheets below `root`; returns the record.

    changed: fields of the scale's `GeneratorSpec` (images, render). ValueError for a name that the scale does not know
    or images smaller than a crop, FileNotFoundError (with the command) for missing images or classifier weights.
    """
    if name not in scale.generators:
        raise ValueError(
            f"no generator '{name}' in scales/{scale.name}.yaml, only {', '.join(scale.generators) or 'none'}"
        )
    spec = settings.validated(GeneratorSpec, scale.generators[name].model_dump() | changed, name)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = unlabelled(spec.images)
    if isinstance(data, Photographs):
        data.check(1 if spec.resize else spec.side)
    classifier = zoo.load(spec.classifier, scale, device).to(memory_format=torch.channels_last)
    file, results = root / "models" / scale.name / f"{name}.safetensors", root / "results" / scale.name
    sheets = results / "sheets" / name
    made, curves, seconds = fit(spec, scale.networks[name], data, classifier, file.with_suffix(".ckpt"), sheets)
    curves.save(results / "data" / f"{name}_losses.csv")
    fooled = round(curves.rows[-1][1 + LOSSES.index("fooled")], 4)
    facts = {"rendered": spec.render, "classifier": spec.classifier, "eps": spec.eps, "fooled": fooled}
    facts |= samples.facts(len(data), spec.steps, spec.steps * spec.batch, seconds, device)
    return loop.keep(made, facts, seconds, file, results / "metrics" / "networks" / f"{name}.json")


def fit(
    spec: GeneratorSpec,
    network: NetworkSpec,
    data: Sequence[Tensor],
    classifier: nn.Module,
    checkpoint: Path,
    sheets: Path | None = None,
) -> tuple[Generator, Curves, float]:
    """Train, or continue from `checkpoint`: the generator in eval mode, its losses and the seconds of training.

    data: uint8 images `[3,H,W]`.  classifier: images in [0,1] -> logits.  sheets: folder of the sample sheets.
    """
    device = next(classifier.parameters()).device
    classifier = Bf16(classifier)
    torch.manual_seed(spec.seed)
    made = GENERATORS[network.architecture](network.width, network.blocks)
    made = made.to(device, memory_format=torch.channels_last).train()
    optimiser = torch.optim.Adam(made.parameters(), spec.lr, BETAS, fused=True)
    curves = Curves(LOSSES, spec.steps)
    prepared = Prepared(data, spec.resize, spec.render)
    epoch = max(1, len(data) // spec.batch)  # in steps; one sheet each
    shown = cut(spec, prepared, range(min(samples.SHOWN, len(data))), numbers(spec.seed, "sheet")).to(device)

    def advance(step: int) -> float:
        x = batch(spec, prepared, step).to(device, memory_format=torch.channels_last)
        # Dropout draws from the global generator: keyed by the step, so that a resumed run draws the same.
        torch.manual_seed(key(spec.seed, "dropout", step))
        losses = update(spec, made, classifier, optimiser, x)
        curves.add(step, losses)
        done = step + 1
        if sheets and (done % epoch == 0 or done == spec.steps):
            save_sheet(spec, made, shown, sheets / f"epoch_{math.ceil(done / epoch):04d}.png")
        return losses[0]

    seen = [value.cpu().numpy() for value in [*classifier.parameters(), *classifier.buffers()]]
    recipe = spec.model_copy(update={"images": "", "checkpoint_minutes": 0})  # neither changes a step
    identity = digest(repr((recipe, network)), repr(classifier), *seen, *samples.contents(data), CODE)
    parts = {"generator": made, "optimiser": optimiser, "curves": curves}
    seconds = loop.run(advance, parts, spec.steps, checkpoint, identity, 60 * spec.checkpoint_minutes)
    return made.eval(), curves, seconds


class Prepared(Sequence):
    """The images, their shorter side brought to `side` pixels (None: as it is), then rendered.

    Rendered last: its lines have widths in pixels. KEPT of the resized images stay in memory.
    """

    def __init__(self, data: Sequence[Tensor], side: int | None, render: str):
        self.data, self.side, self.render = data, side, render
        self.read = functools.lru_cache(KEPT if side else 0)(self._read)

    def _read(self, index: int) -> Tensor:
        image = resized(self.data[index], self.side) if self.side else self.data[index]
        return image if self.render == "none" else RENDERINGS[self.render](image)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Tensor:
        return self.read(index)


def resized(image: Tensor, side: int) -> Tensor:
    """The image, uint8 `[3,H,W]`, with a shorter side of `side` pixels (bilinear, antialiased)."""
    height, width = image.shape[-2:]
    ratio = side / min(height, width)
    if ratio == 1:
        return image
    sides = (max(side, round(height * ratio)), max(side, round(width * ratio)))
    other = F.interpolate(image[None].float(), sides, mode="bilinear", antialias=True, align_corners=False)
    return other[0].round().byte()


def batch(spec: GeneratorSpec, data: Sequence[Tensor], step: int) -> Tensor:
    """The clean crops of one step, `[batch,3,side,side]` in [0,1]; every epoch is one shuffled pass."""
    chosen = loop.shuffled(len(data), spec.batch, step, spec.seed).tolist()
    return cut(spec, data, chosen, numbers(spec.seed, "crops", step))


def cut(spec: GeneratorSpec, data: Sequence[Tensor], chosen: Sequence[int], g: torch.Generator) -> Tensor:
    """A square of each chosen image, `[B,3,side,side]` in [0,1]: the centre, or a random crop, mirrored or not."""
    if spec.crops == "random":
        return samples.crops(spec.side, data, chosen, g)
    return torch.stack([centre(image, spec.side) for image in samples.read(data, chosen)]).float() / 255


def centre(image: Tensor, side: int) -> Tensor:
    """The square `[3,side,side]` in the middle of an image `[3,H,W]`; ValueError for an image that is smaller."""
    samples.check(image, side)
    top, left = ((size - side) // 2 for size in image.shape[-2:])
    return image[:, top : top + side, left : left + side]


def update(
    spec: GeneratorSpec, made: Generator, classifier: nn.Module, optimiser: torch.optim.Optimizer, x: Tensor
) -> list[float]:
    """One step of the generator on a batch; its LOSSES."""
    with torch.autocast(x.device.type, torch.bfloat16):
        proposed = proposal(made, x).float()
    x_adv = linf.project(proposed, x, unit(spec.eps))
    with torch.no_grad():
        clean = classifier(x)
    logits = classifier(x_adv)
    loss = relativistic(logits, clean)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return [loss.item(), (logits.argmax(1) != clean.argmax(1)).float().mean().item()]


def relativistic(logits: Tensor, clean: Tensor) -> Tensor:
    """Minus the cross-entropy of the change of the logits `[B,K]` to the class seen in the clean image (train.py:131).

    A plain cross-entropy stops teaching once an image is fooled by far; the change of the logits does not.
    """
    return -F.cross_entropy(logits.float() - clean.float(), clean.argmax(1))


@torch.no_grad()
def save_sheet(spec: GeneratorSpec, made: Generator, x: Tensor, path: Path) -> None:
    """Clean, what the generator proposes, adversary and ten times the perturbation (grey: none), a column per image."""
    with evaluating(made):
        proposed = proposal(made, x)
    x_adv = linf.project(proposed, x, unit(spec.eps))
    samples.save_sheet([x, proposed, x_adv, (0.5 + 10 * (x_adv - x)).clamp(0, 1)], path)


if __name__ == "__main__":
    main()
