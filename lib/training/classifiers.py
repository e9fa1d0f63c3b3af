"""Training of one stand-in classifier: naturally, or on adversaries (recipes fgsm, pgd, ensemble, scatter).

Every random number is keyed by (seed, step), so a run that is killed and started again ends with the same weights as
one that was not. A `spec` is `lib.settings.StandIn`: architecture, recipe, epochs, batch, lr, eps, step, steps (eps and
step in 0-255 units), smoothing, seed.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from lib.attacks.decision import fgsm, pgd
from lib.attacks.transport import fsa
from lib.data.world import World
from lib.networks.normalised import Normalised
from lib.networks.small import ARCHITECTURES, MEAN, STD
from lib.rng import Streams, generator
from lib.store import code_digest, digest
from lib.training import loop
from lib.training.augment import augmented

NOISE = 16 / 255  # strongest noise in training, and the sign noise of the evaluation
WEIGHT_DECAY = 0.05
RAMP = (0.3, 0.6)  # shares of the steps at which the adversaries begin, and reach their full budget
LIB = Path(__file__).resolve().parents[1]
CODE = code_digest(
    [
        *(LIB / "training" / name for name in ("augment.py", "classifiers.py", "loop.py")),
        LIB / "networks" / "small.py",
        *(LIB / "attacks" / name for name in ("ascent.py", "decision.py", "transport.py")),
    ]
)


def build(architecture: str, classes: int) -> Normalised:
    """A stand-in with fresh weights, for images in [0,1]. ValueError for an unknown architecture."""
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture '{architecture}'; known: {', '.join(ARCHITECTURES)}")
    return Normalised(ARCHITECTURES[architecture](classes), MEAN, STD)


def restore(architecture: str, classes: int, path: Path) -> Normalised:
    """A trained stand-in, ready for inference. FileNotFoundError names the command that trains it."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found; train it with `python -m lib.training {path.stem}`")
    victim = build(architecture, classes)
    victim.network.load_state_dict(load_file(path))
    return victim.eval()


def images(world: World) -> Tensor:
    """All images of a split, uint8 `[N,3,H,W]`."""
    return torch.from_numpy(world.images).permute(0, 3, 1, 2).contiguous()


def kurakin_eps(count: int, eps: float, g: torch.Generator) -> Tensor:
    """Budgets `[count,1,1,1]` from |N(0, eps/2)| truncated to [0, eps] (Kurakin et al. 2017, section 4)."""
    # The inverse of the normal distribution function turns uniform numbers into truncated normal ones.
    half = math.erf(math.sqrt(2))
    return math.sqrt(2) * torch.erfinv(torch.rand(count, 1, 1, 1, generator=g) * half) * eps / 2


def share_of_budget(done: float) -> float:
    """0 to 1. With the full budget from the start small networks learn next to nothing in a few epochs."""
    begin, full = RAMP
    return min(1.0, max(0.0, (done - begin) / (full - begin)))


def adversaries(
    spec: Any, victim: nn.Module, sources: Sequence[nn.Module], x: Tensor, y: Tensor, step: int, done: float
) -> Tensor:
    """The batch as the recipe wants it: unchanged, half of it attacked (fgsm, ensemble), or all of it (pgd, scatter).

    step: the number of the training step; done: the finished share of the training.
    """
    share = share_of_budget(done)
    if spec.recipe == "natural" or share == 0:
        return x
    schedule = {"eps": share * spec.eps / 255, "step": share * spec.step / 255, "steps": spec.steps}
    if spec.recipe == "pgd":
        return pgd(victim, x, y, ids=range(len(x)), seed=spec.seed + step, **schedule)
    if spec.recipe == "scatter":
        return fsa(victim, x, ids=range(len(x)), seed=spec.seed + step, batch=len(x), **schedule)
    half = len(x) // 2
    budgets = kurakin_eps(half, share * spec.eps / 255, generator(spec.seed, "eps", step))
    # Tramer et al. 2018, section 4.1: each batch takes its adversaries from one network of the ensemble in turn.
    networks = [victim, *sources] if spec.recipe == "ensemble" else [victim]
    attacked = fgsm(networks[step % len(networks)], x[:half], y[:half], eps=budgets)
    return torch.cat([attacked, x[half:]])


def fit(
    spec: Any, world: World, classes: int, checkpoint: Path, sources: Sequence[nn.Module] = ()
) -> tuple[Normalised, float]:
    """Train, or continue from `checkpoint`: the network in eval mode, and the seconds of training.

    sources: trained networks for the recipe "ensemble".
    """
    data, labels = images(world), torch.from_numpy(world.labels)
    torch.manual_seed(spec.seed)
    victim = build(spec.architecture, classes).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(victim.parameters(), weight_decay=WEIGHT_DECAY, fused=True)
    steps = spec.epochs * (len(data) // spec.batch)
    # FeatureScatter's ls_factor is what the other classes get in all; PyTorch's share goes to the true class too.
    smoothing = spec.smoothing * classes / (classes - 1)

    def advance(step: int) -> float:
        chosen, done = loop.shuffled(len(data), spec.batch, step, spec.seed), step / steps
        x = augmented(data[chosen], generator(spec.seed, "batch", step), NOISE)
        x, y = x.contiguous(memory_format=torch.channels_last), labels[chosen]
        with torch.autocast("cpu", torch.bfloat16):
            x = adversaries(spec, victim, sources, x, y, step, done)
            logits = victim(x)
        loss = F.cross_entropy(logits.float(), y, label_smoothing=smoothing)
        for group in optimiser.param_groups:
            group["lr"] = loop.rise_and_fall(spec.lr, done)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.item()

    # A checkpoint of another recipe, length, data set, source network or code must not be continued.
    weights = [tensor.numpy() for source in sources for tensor in source.state_dict().values()]
    identity = digest(repr((spec, classes)), world.images, world.labels, *weights, CODE)
    seconds = loop.run(advance, {"victim": victim, "optimiser": optimiser}, steps, checkpoint, identity)
    return victim.eval(), seconds


def accuracy(victim: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of the images `[B,3,H,W]` in [0,1] whose class is y."""
    with torch.inference_mode():
        return torch.cat([victim(part).argmax(1) for part in x.split(100)]).eq(y).double().mean().item()


def evaluate(victim: nn.Module, world: World) -> dict[str, float]:
    """Accuracy on clean images, under random sign noise of 16 levels, and under the network's own FGSM of 16 levels."""
    x, y = images(world).float() / 255, torch.from_numpy(world.labels)
    noise = Streams(0, world.ids, "sign noise").normal(*x.shape[1:]).sign()
    attacked = torch.cat([fgsm(victim, a, b, eps=NOISE) for a, b in zip(x.split(100), y.split(100), strict=True)])
    return {
        "images": len(x),
        "accuracy": accuracy(victim, x, y),
        "accuracy_noise": accuracy(victim, (x + NOISE * noise).clamp(0, 1), y),
        "accuracy_fgsm": accuracy(victim, attacked, y),
    }


def train(
    spec: Any, world: World, test: World, classes: int, out: Path, record: Path, sources: Sequence[nn.Module] = ()
) -> dict[str, Any]:
    """Train on `world`, judge on `test`; write the bare network to `out` (.safetensors) and its `record` (.json).

    Returns the record: images, the accuracies, seconds, parameters, sha256 of the weights file.
    """
    victim, seconds = fit(spec, world, classes, out.with_suffix(".ckpt"), sources)
    return loop.keep(victim.network, evaluate(victim, test), seconds, out, record)
