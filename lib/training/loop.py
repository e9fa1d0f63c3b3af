"""The loop that every training here shares: steps, losses, sheets of samples, checkpoints, exact resume.

A step's random numbers are keyed by its number, so a run that is killed and started again ends with the same weights as
one that was not (on a CPU, with the same number of threads; on a GPU not to the last bit).
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from lib.rng import generator

LOGGED = 200  # rows of the table of losses, at most
WEIGHTS = "weights."  # begins the names of the weights of a stored training
WARM_UP = 0.2  # share of the steps during which the learning rate rises


class Training(NamedTuple):
    """A training that is ready to begin.

    prepare: the function of its file that made this; it names the code of the steps.  network: what it trains, in
    training mode.  state: all that a step changes, by name: networks and optimisers.  advance: trains step 0, 1, ...
    and gives its losses by name.  inputs: the data (tensors) and the networks that it learns from.  epoch, sheet: after
    so many steps, and at the end, rows of images `[B,3,H,W]` in [0,1] to look at.
    """

    prepare: Callable[..., "Training"]
    network: nn.Module
    state: dict[str, Any]
    steps: int
    advance: Callable[[int], dict[str, float]]
    inputs: Sequence[object]
    epoch: int = 1
    sheet: Callable[[], Sequence[Tensor]] | None = None


class Curves:
    """The means of the losses since the last row, a row every few steps; part of a checkpoint like a network."""

    def __init__(self, steps: int):
        self.steps, self.every = steps, math.ceil(steps / LOGGED)
        self.rows: list[dict[str, float]] = []
        self.recent: list[dict[str, float]] = []

    def add(self, step: int, losses: dict[str, float]) -> None:
        """The losses of one step."""
        self.recent.append(losses)
        if (step + 1) % self.every == 0 or step + 1 == self.steps:
            means = {name: sum(past[name] for past in self.recent) / len(self.recent) for name in losses}
            self.rows.append({"step": step + 1} | means)
            self.recent = []

    def state_dict(self) -> dict:
        return {"rows": self.rows, "recent": self.recent}

    def load_state_dict(self, state: dict) -> None:
        self.rows, self.recent = state["rows"], state["recent"]


def trained(
    prepare: Callable[..., Training],
    recipe: Mapping[str, object],
    inputs: Sequence[object],
    *,
    device: str,
    training: Training,
    **kept: object,
) -> dict[str, np.ndarray]:
    """A training to its end, as a stored computation: weights, losses, seconds.

    prepare, recipe, inputs: what it is made from; `training` is what `prepare` gave for them.  kept: as of `run`.
    """
    curves, seconds = run(training, **kept)
    weights = {f"{WEIGHTS}{name}": value.cpu().numpy() for name, value in training.network.state_dict().items()}
    rows = np.frombuffer(json.dumps(curves.rows).encode(), np.uint8)
    return weights | {"seconds": np.array(seconds), "losses": rows}


def restore(training: Training, found: Mapping[str, np.ndarray]) -> Curves:
    """Bring a training to the end that `trained` gave; its losses."""
    names = [name for name in found if name.startswith(WEIGHTS)]
    training.network.load_state_dict({name.removeprefix(WEIGHTS): torch.from_numpy(found[name]) for name in names})
    for part in training.state.values():
        if isinstance(part, nn.Module):
            part.eval()
    curves = Curves(training.steps)
    curves.rows = json.loads(found["losses"].tobytes())
    return curves


def run(
    training: Training, checkpoint: Path, identity: str, every: float, sheets: Path | None = None
) -> tuple[Curves, float]:
    """Train every step that is left; the losses and the seconds of all steps.

    identity: names the recipe, the data and the code; a checkpoint with another one is not continued.  every: seconds
    between checkpoints.  sheets: folder of the sheets epoch_0001.png, ...
    """
    curves, epoch = Curves(training.steps), training.epoch
    state = training.state | {"curves": curves}
    done, before = resume(state, checkpoint, identity)
    begun = saved = time.monotonic()
    with tqdm(total=training.steps, initial=done, desc=checkpoint.stem, mininterval=1) as progress:
        for step in range(done, training.steps):
            losses, done = training.advance(step), step + 1
            curves.add(step, losses)
            progress.set_postfix({name: f"{loss:.2f}" for name, loss in losses.items()}, refresh=False)
            progress.update()
            if sheets and training.sheet and (done % epoch == 0 or done == training.steps):
                save_sheet(training.sheet(), sheets / f"epoch_{math.ceil(done / epoch):04d}.png")
            if time.monotonic() - saved > every:
                saved = time.monotonic()
                save(state, checkpoint, identity, done, before + saved - begun)
    return curves, before + time.monotonic() - begun


def resume(state: dict[str, Any], checkpoint: Path, identity: str) -> tuple[int, float]:
    """The steps and seconds already done, `state` brought there; (0, 0) without a checkpoint that fits.

    One of another recipe, other data or other code is said to be left alone (on stderr), and later written over.
    """
    if not checkpoint.is_file():
        return 0, 0.0
    stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if stored["identity"] != identity:
        print(
            f"{checkpoint.name}: {stored['step']} steps of another recipe, other data or other code; begins anew",
            file=sys.stderr,
        )
        return 0, 0.0
    for name, part in state.items():
        part.load_state_dict(stored[name])
    return stored["step"], stored["seconds"]


def save(state: dict[str, Any], checkpoint: Path, identity: str, step: int, seconds: float) -> None:
    """Keep everything that the next step depends on."""
    facts = {"identity": identity, "step": step, "seconds": seconds}
    whole = facts | {name: part.state_dict() for name, part in state.items()}
    write_whole(checkpoint, lambda file: torch.save(whole, file))


def write_whole(path: Path, write: Callable[[Any], None]) -> None:
    """Write a file so that it is either the old one or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def save_sheet(rows: Sequence[Tensor], path: Path) -> None:
    """A picture with a row per batch `[B,3,H,W]` in [0,1], a column per image."""
    # [rows,columns,3,H,W] -> one picture [rows*H,columns*W,3]
    picture = torch.stack(list(rows)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    levels = (picture * 255).round().byte().cpu().numpy()
    write_whole(path, lambda out: Image.fromarray(levels).save(out, format="PNG"))


def shuffled(count: int, batch: int, step: int, seed: int) -> Tensor:
    """The indices of one step's images; every epoch is one shuffled pass, without the incomplete last batch.

    ValueError when there are fewer images than a batch holds.
    """
    if count < batch:
        raise ValueError(f"{count} training images do not fill a batch of {batch}")
    epoch, place = divmod(step, count // batch)
    order = torch.randperm(count, generator=generator(seed, "order", epoch))
    return order[place * batch : (place + 1) * batch]


def descend(optimiser: torch.optim.Optimizer, loss: Tensor, lr: float | None = None) -> float:
    """One step of the optimiser down the loss, at the rate `lr` (default: the optimiser's own); the loss's value.

    A group of parameters with a `factor` learns so many times as fast.
    """
    for group in optimiser.param_groups if lr is not None else ():
        group["lr"] = lr * group.get("factor", 1)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


def warmup_cosine(peak: float, done: float) -> float:
    """A learning rate with linear warm-up and cosine decay to 0; done: the finished share of the training."""
    if done < WARM_UP:
        return peak * (done / WARM_UP * 0.95 + 0.05)
    return peak * 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))
