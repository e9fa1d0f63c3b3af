"""The loop that every training here shares: steps, losses, sheets of samples, checkpoints, exact resume.

A step's random numbers are keyed by its number, so a run that is killed and started again ends with the same weights as
one that was not (on a CPU, with the same number of threads; on a GPU not to the last bit).

Several workers can share each batch (`lib.engine.in_group`): each makes the whole batch, keeps its `share`, and steps
down the mean of all gradients. PyTorch's DistributedDataParallel wraps one network's forward pass; a step here has
attacks and two networks.
"""

import functools
import io
import json
import math
import pickle
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.utils import make_grid
from tqdm import tqdm

from lib.atomic import replacing, write_bytes
from lib.checks import checked_bytes, checked_labels, finite
from lib.rng import generator
from lib.units import to_bytes

LOGGED = 200  # rows of the table of losses, at most
EXAMPLES = 6  # images of a sheet
WARM_UP = 0.2  # share of the steps during which the learning rate rises


class Training(NamedTuple):
    """A training that is ready to begin."""

    prepare: Callable[..., "Training"]  # the function of its file that made this; it names the code of the steps
    network: nn.Module  # what it trains, in training mode
    state: dict[str, Any]  # all that a step changes, by name: networks and optimisers
    steps: int
    advance: Callable[[int], dict[str, float]]  # trains step 0, 1, ... and gives its losses by name
    inputs: Sequence[object]  # the data (tensors) and the networks that it learns from
    epoch: int = 1  # steps from one sheet to the next
    sheet: Callable[[], Sequence[Tensor]] | None = None  # rows of images [B,3,H,W] in [0,1] to look at


def check_and_seed(seed: int, images: Tensor, labels: Tensor | None = None, classes: int | None = None) -> None:
    """Seed PyTorch for a training on uint8 images `[N,3,H,W]`, or on many of which one `[3,H,W]` is shown.

    labels: `[N]` with their number of classes, or without it of pixels, uint8 `[N,H,W]`. TypeError or ValueError in one
    line for other images and labels, and where PyTorch's defaults are not its own: they would be the weights' too.
    """
    kind, place = torch.get_default_dtype(), torch.get_default_device()
    if kind != torch.float32 or place.type != "cpu":
        raise ValueError(f"trainings need PyTorch's defaults, float32 on the CPU, not {kind} on {place}")
    if torch.is_inference_mode_enabled():
        raise ValueError("trainings need gradients; leave torch.inference_mode()")
    checked_bytes(images, count=images.ndim != 3 if isinstance(images, Tensor) else True)
    if classes is not None:
        checked_labels(labels, len(images), classes)
    elif labels is not None:
        shape = list(labels.shape) if isinstance(labels, Tensor) and labels.dtype == torch.uint8 else "another type"
        if shape != (wanted := [len(images), *images.shape[2:]]):
            raise ValueError(f"labels of pixels must be a uint8 tensor {wanted}, got {shape}")
    torch.manual_seed(seed)


def run_steps(
    training: Training, checkpoint: Path, identity: str, every: float, sheets: Path | None = None
) -> dict[str, np.ndarray]:
    """Train every step that is left; the weights by name, and `losses` (`means` as JSON) and `seconds` of all steps.

    identity: names the recipe, the data and the code; a checkpoint with another one is not continued.  every: seconds
    between checkpoints.  sheets: folder of the sheets epoch_0001.png, ...  FloatingPointError for a loss or a weight
    that is not finite; the last checkpoint stays.
    """
    begin, before, losses = resume(training.state, checkpoint, identity)
    begun, first = (saved := time.monotonic()), worker()[0] == 0
    with tqdm(total=training.steps, initial=begin, desc=checkpoint.stem, mininterval=1, disable=not first) as progress:
        for step in range(begin, training.steps):
            now, done = agreed(training.state, training.advance(step)), step + 1
            for name, loss in now.items():
                if not math.isfinite(loss):
                    where = f"at step {done} of {training.steps}; try a lower lr"
                    raise FloatingPointError(f"{checkpoint.stem}: the loss '{name}' is not finite {where}")
                losses.setdefault(name, torch.zeros(training.steps, dtype=torch.float64))[step] = loss
            progress.set_postfix({name: f"{loss:.2f}" for name, loss in now.items()}, refresh=False)
            progress.update()
            if not first:
                continue
            if sheets and training.sheet and (done % training.epoch == 0 or done == training.steps):
                save_sheet(training.sheet(), sheets / f"epoch_{math.ceil(done / training.epoch):04d}.png")
            if time.monotonic() - saved > every:
                saved = time.monotonic()
                save_checkpoint(training.state, checkpoint, identity, done, before + saved - begun, losses)
    trained = training.network.state_dict().items()
    weights = {name: finite(value, f"{checkpoint.stem}: the trained {name}").cpu().numpy() for name, value in trained}
    table = np.frombuffer(json.dumps(means(losses)).encode(), np.uint8)
    return weights | {"losses": table, "seconds": np.array(before + time.monotonic() - begun)}


def worker() -> tuple[int, int]:
    """Which of the workers that share each batch this process is, and how many they are; alone: (0, 1)."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def share(batch: Tensor | range) -> Tensor | range:
    """This worker's rows of a batch: of four workers the second one has rows 1, 5, 9, ..."""
    number, workers = worker()
    return batch[number::workers]


@torch.no_grad()
def average(tensors: Iterable[Tensor]) -> None:
    """Put the workers' mean into each tensor."""
    if worker()[1] > 1 and (parts := list(tensors)):
        total = torch.cat([part.flatten() for part in parts])
        distributed.all_reduce(total)
        for part, mean in zip(parts, (total / worker()[1]).split([part.numel() for part in parts]), strict=True):
            part.copy_(mean.view_as(part))


def agreed(state: dict[str, Any], losses: dict[str, float]) -> dict[str, float]:
    """The workers' mean losses, after a step whose batch statistics each took from its own share of the batch; the
    running ones become their mean, so that all workers, and one that goes on from a checkpoint, have the same."""
    if worker()[1] == 1:
        return losses
    parts = [part for each in state.values() if isinstance(each, nn.Module) for part in each.modules()]
    average(part.running_mean for part in parts if isinstance(part, _BatchNorm))
    average(part.running_var for part in parts if isinstance(part, _BatchNorm))
    values = torch.tensor([*losses.values()]).to(next(parts[0].parameters()))
    average([values])
    return dict(zip(losses, values.tolist(), strict=True))


def means(losses: dict[str, Tensor]) -> dict[str, list]:
    """The losses of all steps, by name, as columns of at most LOGGED rows: each the means since the last row."""
    steps = len(next(iter(losses.values())))
    every = math.ceil(steps / LOGGED)
    return {"step": [*range(every, steps, every), steps]} | {
        name: [sum(part.tolist()) / len(part) for part in values.split(every)] for name, values in losses.items()
    }


def resume(state: dict[str, Any], checkpoint: Path, identity: str) -> tuple[int, float, dict[str, Tensor]]:
    """The steps and seconds already done and their losses, `state` brought there; nothing without a checkpoint that
    fits: one of another recipe, other data or other code is named on stderr, later written over."""
    number, workers = worker()
    stored = None
    if number == 0 and checkpoint.is_file():
        try:
            stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
        except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError):
            print(f"{checkpoint.name} is damaged; the training begins anew", file=sys.stderr)
    if workers > 1:  # the others may not see the first one's disk
        box = [stored]
        distributed.broadcast_object_list(box, device=torch.device("cpu"))
        (stored,) = box
    if stored:
        if stored["identity"] == identity:
            for name, part in state.items():
                part.load_state_dict(stored[name])
            return stored["step"], stored["seconds"], stored["losses"]
        other = f"{stored['step']} steps of another recipe, other data or other code; begins anew"
        print(f"{checkpoint.name}: {other}", file=sys.stderr)
    return 0, 0.0, {}


def save_checkpoint(
    state: dict[str, Any], checkpoint: Path, identity: str, step: int, seconds: float, losses: dict[str, Tensor]
) -> None:
    """Keep everything that the next step depends on."""
    facts = {"identity": identity, "step": step, "seconds": seconds, "losses": losses}
    content = io.BytesIO()  # torch.save says nothing clear of a file that cannot be written
    torch.save(facts | {name: part.state_dict() for name, part in state.items()}, content)
    write_bytes(checkpoint, content.getbuffer())


def save_sheet(rows: Sequence[Tensor], path: Path) -> None:
    """A picture with a row per batch `[B,3,H,W]` in [0,1], a column per image."""
    picture = to_bytes(make_grid(torch.cat(list(rows)), nrow=len(rows[0]), padding=0))
    with replacing(path) as file:
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file, format="PNG")


def magnified(change: Tensor) -> Tensor:
    """Ten times a difference of images, as an image; grey: none."""
    return (0.5 + 10 * change).clamp(0, 1)


def fingerprint(data: Sequence[Tensor]) -> list:
    """What tells one set of images from another: the pixels; for files (`lib.data.unlabelled.Photographs`) the names
    and sizes, and the first one's pixels, which show how files are read."""
    if hasattr(data, "paths"):
        return [*(f"{path.name} {path.stat().st_size}" for path in data.paths), data[0]]
    return list(data)


def shuffled(count: int, batch: int, step: int, seed: int) -> Tensor:
    """The indices of one step's images; every epoch is one shuffled pass, without the incomplete last batch."""
    if count < batch:
        raise ValueError(f"{count} training images do not fill a batch of {batch}")
    epoch, place = divmod(step, count // batch)
    return order(count, seed, epoch)[place * batch : (place + 1) * batch]


@functools.lru_cache(1)
def order(count: int, seed: int, epoch: int) -> Tensor:
    """The order of the images in one epoch: of a million drawn once, not at every step."""
    return torch.randperm(count, generator=generator(seed, "order", epoch))


def descend(optimiser: torch.optim.Optimizer, loss: Tensor, lr: float | None = None) -> float:
    """One step of the optimiser down the loss, at the rate `lr` (default: the optimiser's own); the loss's value.

    A group of parameters with a `factor` learns so many times as fast.
    """
    for group in optimiser.param_groups if lr is not None else ():
        group["lr"] = lr * group.get("factor", 1)
    if not loss.requires_grad:
        raise ValueError("trainings need gradients; leave torch.no_grad()")
    optimiser.zero_grad()
    loss.backward()
    average(weight.grad for group in optimiser.param_groups for weight in group["params"] if weight.grad is not None)
    optimiser.step()
    return loss.item()


def warmup_cosine(peak: float, done: float) -> float:
    """A learning rate with linear warm-up and cosine decay to 0; done: the finished share of the training."""
    if done < WARM_UP:
        return peak * (done / WARM_UP * 0.95 + 0.05)
    return peak * 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))
