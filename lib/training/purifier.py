"""Train NRP: `python -m lib.training.purifier NRP --scale mini`. No labels are read, and no classifier is protected.

Algorithm 1 of the paper: SSP finds adversaries of each batch in the features of VGG-16's conv3-3; the purifier learns
to give back the clean images, judged by their features, their pixels and a critic (a relativistic average GAN).
Writes the weights models/<scale>/NAME.safetensors, the record results/<scale>/metrics/networks/NAME.json with
throughput and device hours, the losses results/<scale>/data/NAME_losses.csv and, per epoch, a sheet of samples
results/<scale>/sheets/NAME/epoch_0001.png. Uses a GPU where there is one. A killed run continues where it was when the
same command is given again (on a GPU not to the last bit).

`--images FOLDER` trains on any folder of images. The weights of the losses, the crops and Adam are recalled from the
main paper or are those of BasicSR's ESRGAN, which the authors name as their framework (issues 2 and 6 of
Muzammal-Naseer/NRP); see `lib.settings.PurifierSpec`. Ours: the learning rate's warm-up and cosine, mirroring alone
(BasicSR rotates too), crops without resizing the photograph first, and features compared as a share of their size.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib import settings, zoo
from lib.attacks.features import ssp
from lib.data.unlabelled import Photographs, unlabelled
from lib.networks.precision import Bf16
from lib.networks.purifier import PURIFIERS, Critic, begin_as_identity
from lib.rng import generator
from lib.settings import NetworkSpec, PurifierSpec, Scale, unit
from lib.store import code_digest, digest
from lib.training import loop, samples
from lib.training.samples import Curves, contents, crops

BETAS = (0.9, 0.99)  # Adam's, in BasicSR's train_ESRGAN_x4.yml
LOSSES = ("adversarial", "pixel", "feature", "critic")
LIB = Path(__file__).resolve().parents[1]
CODE = code_digest(
    [
        *(LIB / "training" / name for name in ("loop.py", "purifier.py", "samples.py")),
        LIB / "networks" / "purifier.py",
        LIB / "networks" / "precision.py",
        LIB / "networks" / "taps.py",
        LIB / "data" / "images.py",
        LIB / "data" / "unlabelled.py",
        LIB / "linf.py",
        LIB / "rng.py",
        *(LIB / "attacks" / name for name in ("ascent.py", "features.py")),
    ]
)


class Parts(NamedTuple):
    """What a step changes."""

    purifier: nn.Module
    critic: nn.Module
    optimiser: torch.optim.Optimizer
    critic_optimiser: torch.optim.Optimizer
    curves: Curves


def main() -> None:
    """Train the named purifier and print its record in one line."""
    parser = argparse.ArgumentParser(prog="python -m lib.training.purifier", description=__doc__.splitlines()[0])
    parser.add_argument("name", help="a key of purifiers in the scale file, such as NRP")
    parser.add_argument("--scale", help="scales/SCALE.yaml (default: the scale that params.yaml names)")
    parser.add_argument("--images", help="a folder of images to train on instead of the scale's")
    parser.add_argument("--root", type=Path, default=settings.ROOT, help="where weights, record and sheets go")
    arguments = parser.parse_args()
    try:
        record = train(arguments.name, settings.load(arguments.scale), arguments.root, arguments.images)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")
    print(f"{arguments.name}: {record['steps']} steps on {record['images']} images, {record['crops_per_second']:.1f} "
          f"crops a second, {record['device_hours']:.2f} hours of one {record['device']}")  # fmt: skip


def train(name: str, scale: Scale, root: Path, images: str | None = None) -> dict:
    """Train purifier `name` of the scale; write weights, record, losses and sheets below `root`; returns the record.

    images: a folder to train on instead of the scale's. ValueError for a name that the scale does not know or images
    smaller than a crop, FileNotFoundError (with the command) for missing images or extractor weights.
    """
    if name not in scale.purifiers:
        raise ValueError(
            f"no purifier '{name}' in scales/{scale.name}.yaml, only {', '.join(scale.purifiers) or 'none'}"
        )
    spec = scale.purifiers[name].model_copy(update={"images": images} if images else {})
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = unlabelled(spec.images)
    if isinstance(data, Photographs):
        data.check(spec.crop)
    extractor = zoo.extractor(spec.extractor, scale, device=device).to(memory_format=torch.channels_last)
    file, results = root / "models" / scale.name / f"{name}.safetensors", root / "results" / scale.name
    sheets = results / "sheets" / name
    purifier, curves, seconds = fit(spec, scale.networks[name], data, extractor, file.with_suffix(".ckpt"), sheets)
    curves.save(results / "data" / f"{name}_losses.csv")
    crops = spec.steps * spec.batch * spec.accumulate
    facts = samples.facts(len(data), spec.steps, crops, seconds, device)
    return loop.keep(purifier, facts, seconds, file, results / "metrics" / "networks" / f"{name}.json")


def fit(
    spec: PurifierSpec,
    network: NetworkSpec,
    data: Sequence[Tensor],
    extractor: nn.Module,
    checkpoint: Path,
    sheets: Path | None = None,
) -> tuple[nn.Module, Curves, float]:
    """Train, or continue from `checkpoint`: the purifier in eval mode, its losses and the seconds of training.

    data: uint8 images `[3,H,W]`.  extractor: images in [0,1] -> features.  sheets: folder of the sample sheets.
    """
    device = next(extractor.parameters()).device
    extractor = Bf16(extractor)
    parts = build(spec, network, device)
    epoch = max(1, len(data) // spec.batch // spec.accumulate)  # in steps; one sheet each
    shown = crops(spec.crop, data, range(min(samples.SHOWN, len(data))), generator(spec.seed, "sheet")).to(device)
    attacked = adversaries(spec, extractor, shown, "sheet")

    def advance(step: int) -> float:
        pairs = []
        for part in range(spec.accumulate):
            x = batch(spec, data, step, part).to(device, memory_format=torch.channels_last)
            pairs.append((x, adversaries(spec, extractor, x, f"{step}/{part}")))
        losses = update(spec, parts, extractor, pairs, loop.rise_and_fall(spec.lr, step / spec.steps))
        parts.curves.add(step, losses)
        if sheets and (step + 1) % epoch == 0:
            save_sheet(parts.purifier, shown, attacked, sheets / f"epoch_{(step + 1) // epoch:04d}.png")
        return losses[LOSSES.index("feature")]

    seen = [value.cpu().numpy() for value in [*extractor.parameters(), *extractor.buffers()]]
    recipe = spec.model_copy(update={"images": "", "checkpoint_minutes": 0})  # neither changes a step
    identity = digest(repr((recipe, network)), repr(extractor), *seen, *contents(data), CODE)
    seconds = loop.run(advance, parts._asdict(), spec.steps, checkpoint, identity, 60 * spec.checkpoint_minutes)
    return parts.purifier.eval(), parts.curves, seconds


def build(spec: PurifierSpec, network: NetworkSpec, device: torch.device) -> Parts:
    """Purifier, critic and their optimisers, with fresh weights."""
    torch.manual_seed(spec.seed)
    purifier = PURIFIERS[network.architecture](network.width, network.blocks)
    if spec.init == "identity":
        begin_as_identity(purifier)
    critic = Critic(spec.critic_width, spec.crop)
    networks = [net.to(device, memory_format=torch.channels_last).train() for net in (purifier, critic)]
    optimisers = [torch.optim.Adam(net.parameters(), betas=BETAS, fused=True) for net in networks]
    return Parts(*networks, *optimisers, Curves(LOSSES, spec.steps))


def batch(spec: PurifierSpec, data: Sequence[Tensor], step: int, part: int) -> Tensor:
    """The clean crops of one forward pass, `[batch,3,crop,crop]` in [0,1]; every epoch is one shuffled pass."""
    chosen = loop.shuffled(len(data), spec.batch, step * spec.accumulate + part, spec.seed).tolist()
    return crops(spec.crop, data, chosen, generator(spec.seed, "crops", step, part))


def adversaries(spec: PurifierSpec, extractor: nn.Module, x: Tensor, key: str) -> Tensor:
    """SSP of the crops; see `PurifierSpec` for the budgets."""
    eps = unit(spec.eps)
    if spec.budgets == "uniform":
        eps = eps * torch.rand(len(x), 1, 1, 1, generator=generator(spec.seed, "budgets", key)).to(x)
    schedule = {"eps": eps, "step": unit(spec.step), "steps": spec.ssp_steps, "start": spec.ssp_start}
    return ssp(extractor, x, ids=[f"{key}/{k}" for k in range(len(x))], seed=spec.seed, **schedule)


def update(
    spec: PurifierSpec, parts: Parts, extractor: nn.Module, pairs: Sequence[tuple[Tensor, Tensor]], lr: float
) -> list[float]:
    """One step of the purifier, then one of the critic, on pairs of clean images and adversaries; the mean LOSSES."""
    for optimiser in (parts.optimiser, parts.critic_optimiser):
        optimiser.param_groups[0]["lr"] = lr
    weights = torch.tensor([spec.adversarial, spec.pixel, spec.feature])
    purified, rows = [], []
    parts.critic.requires_grad_(False)
    parts.optimiser.zero_grad()
    for x, x_adv in pairs:
        with torch.autocast(x.device.type, torch.bfloat16):
            y = parts.purifier(x_adv).float()
        losses = torch.stack([deceit(parts.critic, x, y), F.l1_loss(y, x), feature_loss(extractor, x, y)])
        (losses @ weights.to(losses) / len(pairs)).backward()
        purified.append(y.detach())
        rows.append(losses.detach().tolist())
    parts.optimiser.step()
    parts.critic.requires_grad_(True)
    parts.critic_optimiser.zero_grad()
    for (x, _), y, row in zip(pairs, purified, rows, strict=True):
        loss = discernment(parts.critic, x, y)
        (loss / len(pairs)).backward()
        row.append(loss.item())
    parts.critic_optimiser.step()
    return np.mean(rows, 0).tolist()


def feature_loss(extractor: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mean distance of the features of y to those of x, as a share of the latter's mean size.

    The share, because a weight of 1 would mean something else for every extractor: the features of Oxford's VGG-16,
    which takes 0-255 levels, are hundreds.
    """
    with torch.no_grad():
        clean = extractor(x)
    return (extractor(y) - clean).abs().mean() / clean.abs().mean()


def opinions(critic: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """What the critic says of clean images and of purified ones, `[B]` each."""
    with torch.autocast(x.device.type, torch.bfloat16):
        return critic(x).float(), critic(y).float()


def deceit(critic: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The purifier's loss in a relativistic average GAN: purified images should look more real than the clean ones do
    on average, and the other way round (BasicSR, esrgan_model.py)."""
    real, fake = opinions(critic, x, y)
    real = real.detach()
    return 0.5 * (says(real - fake.mean(), 0) + says(fake - real.mean(), 1))


def discernment(critic: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The critic's loss in a relativistic average GAN; y carries no gradient (BasicSR, esrgan_model.py)."""
    real, fake = opinions(critic, x, y)
    return 0.5 * (says(real - fake.mean().detach(), 1) + says(fake - real.mean().detach(), 0))


def says(logits: Tensor, truth: int) -> Tensor:
    """Binary cross-entropy of the logits to one truth for all."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, truth))


@torch.no_grad()
def save_sheet(purifier: nn.Module, x: Tensor, x_adv: Tensor, path: Path) -> None:
    """Clean, adversary, purified and ten times what the purifier took away (grey: nothing), a column per image."""
    y = purifier(x_adv).clamp(0, 1)
    samples.save_sheet([x, x_adv, y, (0.5 + 10 * (x_adv - y)).clamp(0, 1)], path)


if __name__ == "__main__":
    main()
