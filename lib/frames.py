"""The tidy frame of an experiment: what every image of every cell came to. Reading it needs no network and no torch.

A cell is one attack (attack, surrogate, knowledge, eps, steps) against one victim with one defense with one seed. Its
contributions are outcomes per image (top1, top5, fooled, psnr ...), confusion counts, or matches of detections;
`lib.report.scores` turns them into numbers.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pandas as pd

from lib.tasks.precision import Evaluation, evaluations_from, packed_evaluations, split

KEYS = ["experiment", "task", "attack", "surrogate", "knowledge", "eps", "steps", "defense", "victim", "seed"]
LAST = "max"  # in a selection: the largest value that there is
Outcomes = dict[str, np.ndarray]  # name -> one number per image `[n]`
Contributions = Outcomes | np.ndarray | Evaluation


@dataclass(frozen=True)
class Frame:
    """Cells and what they came to.

    cells: a row per cell, with KEYS and the labels of its notebook (missing ones: "").  parts: by cell, outcomes per
    image; or confusion counts `[n,classes+1,classes]`; or an `Evaluation`.  images: by cell, the names of its images.
    """

    cells: pd.DataFrame
    parts: list[Contributions]
    images: list[tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def rows(self) -> pd.DataFrame:
        """A row per cell and image: the cell's columns, image, and the outcomes that are numbers per image."""
        found = []
        for cell, part, images in zip(self.cells.to_dict("records"), self.parts, self.images, strict=True):
            found.append(pd.DataFrame({**cell, "image": images, **(part if isinstance(part, dict) else {})}))
        return pd.concat(found, ignore_index=True)

    def where(self, **columns: object) -> Frame:
        """The cells whose columns fit: a value, a pattern (* and ?, "!" for not), one of several, or "max".

        KeyError for a column that is not there.
        """
        cells = self.cells
        wanted = {name: value if isinstance(value, list | tuple) else [value] for name, value in columns.items()}
        for name, values in sorted(wanted.items(), key=lambda entry: LAST in entry[1]):
            if LAST in values and len(cells):
                values = [cells[name].max() if value == LAST else value for value in values]
            kept = {found: any(_fits(found, value) for value in values) for found in cells[name].unique()}
            cells = cells[cells[name].map(kept).astype(bool)]
        return self.at(cells.index)

    def at(self, places: Sequence[int]) -> Frame:
        """The cells at these places."""
        cells = self.cells.iloc[list(places)].reset_index(drop=True)
        return Frame(cells, [self.parts[k] for k in places], [self.images[k] for k in places])


def _fits(value: object, wanted: object) -> bool:
    if isinstance(value, str) and isinstance(wanted, str) and value != wanted:  # a name may look like a pattern
        return not fnmatchcase(value, wanted[1:]) if wanted.startswith("!") else fnmatchcase(value, wanted)
    return value == wanted


def join(frames: Iterable[Frame]) -> Frame:
    """Several frames as one; ValueError for none."""
    if not (frames := list(frames)):
        raise ValueError("no cells to join: did the cell of the notebook that evaluates them fail?")
    cells = pd.concat([frame.cells for frame in frames], ignore_index=True)
    for name, column in cells.items():
        # One with texts, or that some cells lack, holds texts alone: so it does once it is read again.
        if column.isna().any() or column.map(type).eq(str).any():
            cells[name] = ["" if pd.isna(one) else one if isinstance(one, str) else f"{one:g}" for one in column]
    return Frame(cells, [p for f in frames for p in f.parts], [i for f in frames for i in f.images])


def save_frame(frame: Frame, path: Path) -> None:
    """Write a frame as one compressed file; the same bytes for the same frame."""
    sets = list(dict.fromkeys(frame.images))
    about = frame.cells.assign(images=[sets.index(one) for one in frame.images], kind=[_kind(p) for p in frame.parts])
    arrays = {"cells": np.array(about.to_csv(index=False))}
    arrays |= {f"images_{k}": np.array(names) for k, names in enumerate(sets)}
    for kind in dict.fromkeys(about["kind"]):
        parts = [part for part, same in zip(frame.parts, about["kind"], strict=True) if same == kind]
        arrays |= {f"{kind}/{name}": array for name, array in _packed(kind, parts).items()}
    np.savez_compressed(path, **arrays)


def load_frame(path: Path) -> Frame:
    """The inverse of `save_frame`."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    about = pd.read_csv(io.StringIO(arrays["cells"].item()), keep_default_na=False)
    sets = [tuple(arrays[f"images_{k}"].tolist()) for k in range(about["images"].max() + 1)]
    images, parts = [sets[k] for k in about["images"]], [None] * len(about)
    for kind, places in about.groupby("kind").groups.items():
        stored = {name.partition("/")[2]: array for name, array in arrays.items() if name.startswith(f"{kind}/")}
        for place, part in zip(places, _unpacked(kind, stored, [len(images[k]) for k in places]), strict=True):
            parts[place] = part
    return Frame(about.drop(columns=["images", "kind"]), parts, images)


def _kind(part: Contributions) -> str:
    """How a cell's contributions are stored: outcomes by their names, confusions, matches."""
    if isinstance(part, dict):
        return " ".join(sorted(part))
    return "confusions" if isinstance(part, np.ndarray) else "matches"


def _packed(kind: str, parts: Sequence[Contributions]) -> dict[str, np.ndarray]:
    """The contributions of all cells of one kind, one after the other."""
    if kind == "confusions":
        return {"counts": np.concatenate(parts).astype(np.int32)}
    if kind == "matches":
        return packed_evaluations(parts)
    return {name: np.concatenate([part[name] for part in parts]) for name in kind.split()}


def _unpacked(kind: str, stored: dict[str, np.ndarray], counts: Sequence[int]) -> list[Contributions]:
    """The inverse of `_packed`; counts: of the images of each cell."""
    if kind == "confusions":
        return split(stored["counts"].astype(np.int64), counts)
    if kind == "matches":
        return evaluations_from(stored, counts)
    several = {name: split(stored[name], counts) for name in kind.split()}
    return [dict(zip(several, part, strict=True)) for part in zip(*several.values(), strict=True)]
