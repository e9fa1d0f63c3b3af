"""What the trainings on images without labels share: random crops, the table of losses, the sheets of samples."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from lib.training import loop

LOGGED = 200  # rows of the table of losses, at most
EXAMPLES = 6  # images of a sheet


class Curves:
    """The means of some numbers since the last row, a row every few steps; part of a checkpoint like a network."""

    def __init__(self, names: Sequence[str], steps: int):
        self.names, self.steps, self.every = list(names), steps, math.ceil(steps / LOGGED)
        self.rows: list[list[float]] = []
        self.sums, self.count = [0.0] * len(names), 0

    def add(self, step: int, values: Sequence[float]) -> None:
        """The numbers of one step, in the order of the names."""
        self.sums = [total + value for total, value in zip(self.sums, values, strict=True)]
        self.count += 1
        if (step + 1) % self.every == 0 or step + 1 == self.steps:
            self.rows.append([step + 1, *(total / self.count for total in self.sums)])
            self.sums, self.count = [0.0] * len(self.names), 0

    def state_dict(self) -> dict:
        return {"rows": self.rows, "sums": self.sums, "count": self.count}

    def load_state_dict(self, state: dict) -> None:
        self.rows, self.sums, self.count = state["rows"], state["sums"], state["count"]

    def table(self) -> pd.DataFrame:
        """Columns step and the names."""
        return pd.DataFrame(self.rows, columns=["step", *self.names])

    def save(self, path: Path) -> None:
        """The table as CSV."""
        text = self.table().to_csv(index=False, float_format="%.5g")
        loop.write_whole(path, lambda out: out.write(text.encode()))


def contents(data: Sequence[Tensor]) -> list:
    """What tells one set of images from another: the pixels, or for files in a folder their names and sizes."""
    if hasattr(data, "paths"):  # `lib.data.unlabelled.Photographs`
        return [f"{path.name} {path.stat().st_size}" for path in data.paths]
    return [image.numpy() for image in data]


def crops(side: int, data: Sequence[Tensor], chosen: Sequence[int], g: torch.Generator) -> Tensor:
    """One random crop of each chosen image, half of them mirrored, `[B,3,side,side]` in [0,1].

    ValueError for an image that is smaller than a crop.
    """
    return torch.stack([crop(image, side, g) for image in read(data, chosen)]).float() / 255


def read(data: Sequence[Tensor], chosen: Sequence[int]) -> list[Tensor]:
    """The chosen images, read side by side."""
    with ThreadPoolExecutor() as readers:
        return list(readers.map(data.__getitem__, chosen))


def check(image: Tensor, side: int) -> None:
    """ValueError for an image `[3,H,W]` that is smaller than a crop."""
    height, width = image.shape[-2:]
    if min(height, width) < side:
        raise ValueError(f"an image of {width}x{height} pixels holds no crop of {side}x{side}; leave it out")


def crop(image: Tensor, side: int, g: torch.Generator) -> Tensor:
    """A random square `[3,side,side]` of an image `[3,H,W]`, mirrored half of the time."""
    check(image, side)
    height, width = image.shape[-2:]
    top, left, mirrored = (int(torch.randint(n, (), generator=g)) for n in (height - side + 1, width - side + 1, 2))
    part = image[:, top : top + side, left : left + side]
    return part.flip(-1) if mirrored else part


def sheet_due(folder: Path | None, done: int, steps: int, epoch: int) -> Path | None:
    """Where a sheet goes after `done` steps: one per epoch of `epoch` steps, and one at the end; else None."""
    if folder is None or (done % epoch and done != steps):
        return None
    return folder / f"epoch_{math.ceil(done / epoch):04d}.png"


def save_sheet(rows: Sequence[Tensor], path: Path) -> None:
    """A picture with a row per batch `[B,3,H,W]` in [0,1], a column per image."""
    # [rows,columns,3,H,W] -> one picture [rows*H,columns*W,3]
    picture = torch.stack(list(rows)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    levels = (picture * 255).round().byte().cpu().numpy()
    loop.write_whole(path, lambda out: Image.fromarray(levels).save(out, format="PNG"))
