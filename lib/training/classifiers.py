"""Training of one stand-in classifier: naturally, or on adversaries (recipes fgsm, pgd, ensemble).

Every random number is keyed by (seed, step), so a run that is killed and started again ends with the same weights as
one that was not. A `spec` is `lib.settings.StandIn`: architecture, recipe, epochs, batch, lr, eps, step, steps (eps and
step in 0-255 units), seed.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn
from tqdm import tqdm

from lib.attacks.decision import fgsm, pgd
from lib.data.world import World
from lib.networks.normalised import Normalised
from lib.networks.small import ARCHITECTURES, MEAN, STD
from lib.rng import Streams, generator
from lib.store import code_digest, digest
from lib.training.augment import augmented

NOISE = 16 / 255  # strongest noise in training, and the sign noise of the evaluation
WEIGHT_DECAY = 0.05
WARM_UP = 0.2  # share of the steps during which the learning rate rises
RAMP = (0.3, 0.6)  # shares of the steps at which the adversaries begin, and reach their full budget
CHECKPOINT_SECONDS = 15.0
LIB = Path(__file__).resolve().parents[1]
CODE = code_digest([LIB / "training", LIB / "networks" / "small.py", LIB / "attacks"])


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


def learning_rate(peak: float, done: float) -> float:
    """Linear rise, then half a cosine down to 0; `done` is the finished share of the training."""
    if done < WARM_UP:
        return peak * (done / WARM_UP * 0.95 + 0.05)
    return peak * 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))


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
    """The batch as the recipe wants it: unchanged, half of it attacked (fgsm, ensemble), or all of it (pgd).

    step: the number of the training step; done: the finished share of the training.
    """
    share = share_of_budget(done)
    if spec.recipe == "natural" or share == 0:
        return x
    if spec.recipe == "pgd":
        schedule = {"eps": share * spec.eps / 255, "step": share * spec.step / 255, "steps": spec.steps}
        return pgd(victim, x, y, ids=range(len(x)), seed=spec.seed + step, **schedule)
    half = len(x) // 2
    budgets = kurakin_eps(half, share * spec.eps / 255, generator(spec.seed, "eps", step))
    # Tramer et al. 2018, section 4.1: each batch takes its adversaries from one network of the ensemble in turn.
    networks = [victim, *sources] if spec.recipe == "ensemble" else [victim]
    attacked = fgsm(networks[step % len(networks)], x[:half], y[:half], eps=budgets)
    return torch.cat([attacked, x[half:]])


def write_whole(path: Path, write: Callable[[Any], None]) -> None:
    """Write a file so that it is either the old one or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


class Run:
    """The state of one training: network, optimiser, step and seconds; kept in a checkpoint between steps."""

    def __init__(self, spec: Any, classes: int, steps: int, checkpoint: Path, inputs: str = ""):
        torch.manual_seed(spec.seed)
        self.spec, self.steps, self.checkpoint = spec, steps, checkpoint
        self.victim = build(spec.architecture, classes).to(memory_format=torch.channels_last)
        self.optimiser = torch.optim.AdamW(self.victim.parameters(), weight_decay=WEIGHT_DECAY, fused=True)
        self.step, self.seconds = 0, 0.0
        # A checkpoint of another recipe, length, data set, source network or code must not be continued.
        self.identity = repr((spec, classes, steps, inputs, CODE))
        if checkpoint.is_file():
            self._resume()

    def _resume(self) -> None:
        stored = torch.load(self.checkpoint, weights_only=True)
        if stored["identity"] != self.identity:
            return
        self.victim.load_state_dict(stored["victim"])
        self.optimiser.load_state_dict(stored["optimiser"])
        self.step, self.seconds = stored["step"], stored["seconds"]

    def save(self, seconds: float) -> None:
        """Keep everything that the next step depends on."""
        state = {"identity": self.identity, "victim": self.victim.state_dict(), "step": self.step, "seconds": seconds}
        state["optimiser"] = self.optimiser.state_dict()
        write_whole(self.checkpoint, lambda file: torch.save(state, file))

    def advance(self, data: Tensor, labels: Tensor, sources: Sequence[nn.Module]) -> float:
        """One training step; gives its loss."""
        spec, g = self.spec, generator(self.spec.seed, "batch", self.step)
        chosen = _batch(len(data), spec.batch, self.step, spec.seed)
        x = augmented(data[chosen], g, NOISE).contiguous(memory_format=torch.channels_last)
        y = labels[chosen]
        with torch.autocast("cpu", torch.bfloat16):
            x = adversaries(spec, self.victim, sources, x, y, self.step, self.step / self.steps)
            logits = self.victim(x)
        loss = F.cross_entropy(logits.float(), y)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(spec.lr, self.step / self.steps)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.step += 1
        return loss.item()


def _batch(count: int, batch: int, step: int, seed: int) -> Tensor:
    """The indices of one step's images; every epoch is one shuffled pass, without the incomplete last batch."""
    epoch, place = divmod(step, count // batch)
    order = torch.randperm(count, generator=generator(seed, "order", epoch))
    return order[place * batch : (place + 1) * batch]


def fit(spec: Any, world: World, classes: int, checkpoint: Path, sources: Sequence[nn.Module] = ()) -> Run:
    """Train, or continue from `checkpoint`; sources: trained networks for the recipe "ensemble"."""
    data, labels = images(world), torch.from_numpy(world.labels)
    weights = [tensor.numpy() for source in sources for tensor in source.state_dict().values()]
    inputs = digest(world.images, world.labels, *weights)
    run = Run(spec, classes, spec.epochs * (len(data) // spec.batch), checkpoint, inputs)
    run.victim.train()
    begun = saved = time.monotonic()
    before = run.seconds
    with tqdm(total=run.steps, initial=run.step, desc=checkpoint.stem, mininterval=1) as progress:
        while run.step < run.steps:
            loss = run.advance(data, labels, sources)
            progress.update()
            progress.set_postfix(loss=f"{loss:.2f}", refresh=False)
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                saved = time.monotonic()
                run.save(before + saved - begun)
    run.seconds = before + time.monotonic() - begun
    run.victim.eval()
    return run


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
    checkpoint = out.with_suffix(".ckpt")
    run = fit(spec, world, classes, checkpoint, sources)
    network = run.victim.network
    content = save({name: value.contiguous() for name, value in network.state_dict().items()})
    facts = evaluate(run.victim, test) | {
        "seconds": round(run.seconds, 1),
        "parameters": sum(p.numel() for p in network.parameters()),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    write_whole(out, lambda file: file.write(content))
    write_whole(record, lambda file: file.write((json.dumps(facts, indent=2) + "\n").encode()))
    checkpoint.unlink(missing_ok=True)
    return facts
