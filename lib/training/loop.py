"""The loop that every training here shares: steps, progress, checkpoints, exact resume.

A step's random numbers are keyed by its number, so a run that is killed and started again ends with the same weights as
one that was not (on a CPU, with the same number of threads; on a GPU not to the last bit).
"""

import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lib.rng import generator

WARM_UP = 0.2  # share of the steps during which the learning rate rises


class Training(NamedTuple):
    """A training that is ready to begin.

    network: what it trains, in the mode for training.  state: everything that a step changes, by name (networks,
    optimisers, curves: what has state_dict() and load_state_dict()).  advance: trains step 0, 1, ... and gives its loss.
    inputs: the data and the weights that it learns from, for `lib.store.digest`.
    """

    network: nn.Module
    state: dict[str, Any]
    steps: int
    advance: Callable[[int], float]
    inputs: Sequence[object]


def run(training: Training, checkpoint: Path, identity: str, every: float) -> float:
    """Train every step that is left; the seconds of all. Its networks are in eval mode then.

    identity: names the recipe, the data and the code; a checkpoint with another one is not continued.  every: seconds
    between checkpoints.
    """
    done, before = resume(training.state, checkpoint, identity)
    begun = saved = time.monotonic()
    with tqdm(total=training.steps, initial=done, desc=checkpoint.stem, mininterval=1) as progress:
        for step in range(done, training.steps):
            progress.set_postfix(loss=f"{training.advance(step):.2f}", refresh=False)
            progress.update()
            if time.monotonic() - saved > every:
                saved = time.monotonic()
                save(training.state, checkpoint, identity, step + 1, before + saved - begun)
    for part in training.state.values():
        if isinstance(part, nn.Module):
            part.eval()
    return before + time.monotonic() - begun


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


def weights(*networks: nn.Module) -> list:
    """The parameters and buffers of networks as arrays, and their structure: what tells them apart."""
    tensors = [value for network in networks for value in [*network.parameters(), *network.buffers()]]
    return [*map(repr, networks), *(value.detach().cpu().numpy() for value in tensors)]
