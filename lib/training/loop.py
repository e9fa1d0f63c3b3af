"""The loop that every training here shares: steps, progress, checkpoints, exact resume.

A step's random numbers are keyed by its number, so a run that is killed and started again ends with the same weights as
one that was not (with the same number of threads).
"""

import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors
from torch import nn
from tqdm import tqdm

from lib.rng import generator

CHECKPOINT_SECONDS = 15.0
WARM_UP = 0.2  # share of the steps during which the learning rate rises

Parts = dict[str, Any]  # what has state_dict() and load_state_dict(): networks, optimisers


def write_whole(path: Path, write: Callable[[Any], None]) -> None:
    """Write a file so that it is either the old one or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def keep(network: nn.Module, facts: dict[str, Any], seconds: float, file: Path, record: Path) -> dict[str, Any]:
    """Write the weights `file` (.safetensors) and what is known of them, `record` (.json); the checkpoint goes.

    Returns the record: `facts`, seconds, parameters, sha256 of the weights file.
    """
    content = save_tensors({name: value.cpu().contiguous() for name, value in network.state_dict().items()})
    whole = facts | {
        "seconds": round(seconds, 1),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    write_whole(file, lambda out: out.write(content))
    write_whole(record, lambda out: out.write((json.dumps(whole, indent=2) + "\n").encode()))
    file.with_suffix(".ckpt").unlink(missing_ok=True)
    return whole


def run(
    advance: Callable[[int], float],
    parts: Parts,
    steps: int,
    checkpoint: Path,
    identity: str,
    every: float | None = None,
) -> float:
    """Call `advance(step)`, which trains one step and gives its loss, for every step that is left; the seconds of all.

    parts: everything that a step changes.  identity: names the recipe, the data and the code; a checkpoint with another
    one is not continued.  every: seconds between checkpoints (default CHECKPOINT_SECONDS).
    """
    every = CHECKPOINT_SECONDS if every is None else every
    done, before = resume(parts, checkpoint, identity)
    begun = saved = time.monotonic()
    with tqdm(total=steps, initial=done, desc=checkpoint.stem, mininterval=1) as progress:
        for step in range(done, steps):
            progress.set_postfix(loss=f"{advance(step):.2f}", refresh=False)
            progress.update()
            if time.monotonic() - saved > every:
                saved = time.monotonic()
                save(parts, checkpoint, identity, step + 1, before + saved - begun)
    return before + time.monotonic() - begun


def resume(parts: Parts, checkpoint: Path, identity: str) -> tuple[int, float]:
    """The steps and seconds already done, `parts` brought to that state; (0, 0) without a checkpoint that fits.

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
    for name, part in parts.items():
        part.load_state_dict(stored[name])
    return stored["step"], stored["seconds"]


def save(parts: Parts, checkpoint: Path, identity: str, step: int, seconds: float) -> None:
    """Keep everything that the next step depends on."""
    state = {"identity": identity, "step": step, "seconds": seconds}
    state |= {name: part.state_dict() for name, part in parts.items()}
    write_whole(checkpoint, lambda file: torch.save(state, file))


def shuffled(count: int, batch: int, step: int, seed: int) -> torch.Tensor:
    """The indices of one step's images; every epoch is one shuffled pass, without the incomplete last batch.

    ValueError when there are fewer images than a batch holds.
    """
    if count < batch:
        raise ValueError(f"{count} training images do not fill a batch of {batch}")
    epoch, place = divmod(step, count // batch)
    order = torch.randperm(count, generator=generator(seed, "order", epoch))
    return order[place * batch : (place + 1) * batch]


def rise_and_fall(peak: float, done: float) -> float:
    """A learning rate that rises in a line and falls along half a cosine; done: the finished share of the training."""
    if done < WARM_UP:
        return peak * (done / WARM_UP * 0.95 + 0.05)
    return peak * 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))
