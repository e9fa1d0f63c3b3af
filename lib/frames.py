"""The tidy frame of an experiment: what every image of every cell came to. Reading it needs no network and no torch.

A cell is one attack (attack, surrogate, knowledge, eps, steps) against one victim behind one defense with one seed. Its
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

from lib.tasks.precision import Evaluation, Matches

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
        """The cells whose columns fit: a value, a pattern (* and ?, "!" for not), one of several, or "max"."""
        return self.at(select(self.cells, columns))

    def at(self, places: Sequence[int]) -> Frame:
        """The cells at these places."""
        cells = self.cells.iloc[list(places)].reset_index(drop=True)
        return Frame(cells, [self.parts[k] for k in places], [self.images[k] for k in places])


def select(cells: pd.DataFrame, where: dict[str, object]) -> list[int]:
    """The places of the cells that fit; KeyError for a column that is not there."""
    for column, wanted in sorted(where.items(), key=lambda entry: _asks_for_last(entry[1])):
        several = wanted if isinstance(wanted, list | tuple) else [wanted]
        if LAST in several and len(cells):
            several = [cells[column].max() if one == LAST else one for one in several]
        kept = {value: any(_fits(value, one) for one in several) for value in cells[column].unique()}
        cells = cells[cells[column].map(kept).astype(bool)]
    return cells.index.tolist()


def _asks_for_last(wanted: object) -> bool:
    return wanted == LAST or (isinstance(wanted, list | tuple) and LAST in wanted)


def _fits(value: object, wanted: object) -> bool:
    if isinstance(value, str) and isinstance(wanted, str):
        return not fnmatchcase(value, wanted[1:]) if wanted.startswith("!") else fnmatchcase(value, wanted)
    return value == wanted


def join(frames: Iterable[Frame]) -> Frame:
    """Several frames as one."""
    frames = list(frames)
    cells = pd.concat([frame.cells for frame in frames], ignore_index=True)
    texts = [name for name in cells if cells[name].map(lambda value: isinstance(value, str)).any()]
    cells = cells.fillna(dict.fromkeys(texts, ""))
    return Frame(cells, [p for f in frames for p in f.parts], [i for f in frames for i in f.images])


def save(frame: Frame, path: Path) -> None:
    """Write a frame as one compressed file; the same bytes for the same frame."""
    sets = list(dict.fromkeys(frame.images))
    about = frame.cells.assign(images=[sets.index(one) for one in frame.images], kind=[_kind(p) for p in frame.parts])
    arrays = {"cells": np.array(about.to_csv(index=False))}
    arrays |= {f"images_{k}": np.array(names) for k, names in enumerate(sets)}
    for kind in dict.fromkeys(about["kind"]):
        parts = [part for part, same in zip(frame.parts, about["kind"], strict=True) if same == kind]
        arrays |= {f"{kind}/{name}": array for name, array in _packed(kind, parts).items()}
    np.savez_compressed(path, **arrays)


def load(path: Path) -> Frame:
    """The inverse of `save`."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    about = pd.read_csv(io.StringIO(arrays["cells"].item()), keep_default_na=False)
    sets = [tuple(arrays[f"images_{k}"].tolist()) for k in range(about["images"].max() + 1)]
    images, parts = [sets[k] for k in about["images"]], [None] * len(about)
    for kind in about["kind"].unique():
        places = about.index[about["kind"] == kind]
        stored = {name.partition("/")[2]: array for name, array in arrays.items() if name.startswith(f"{kind}/")}
        for place, part in zip(places, _unpacked(kind, stored, [images[k] for k in places]), strict=True):
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
    if kind != "matches":
        return {name: np.concatenate([part[name] for part in parts]) for name in kind.split()}
    classes = [_without_the_end(one) for part in parts for one in part.matches]
    return {
        "ids": np.concatenate([part.image_ids for part in parts]),
        "classes": np.array([len(part.matches) for part in parts]),
        "lengths": np.array([len(one.images) for one in classes]),
        "images": np.concatenate([one.images for one in classes]).astype(np.int32),
        "hits": np.packbits(np.concatenate([one.hits for one in classes], 1), axis=0),
        "counted": np.packbits(np.concatenate([one.counted for one in classes], 1), axis=0),
        "objects": np.concatenate([one.objects for one in classes]).astype(np.int32),
    }


def _without_the_end(matches: Matches) -> Matches:
    """Precision is read at hits only, so what comes after the last hit at any threshold says nothing."""
    found = matches.hits.any(0).nonzero()[0]
    end = found[-1] + 1 if len(found) else 0
    return Matches(matches.images[:end], matches.hits[:, :end], matches.counted[:, :end], matches.objects)


def _unpacked(kind: str, stored: dict[str, np.ndarray], images: Sequence[tuple[str, ...]]) -> list[Contributions]:
    counts = [len(names) for names in images]
    if kind == "confusions":
        return _split(stored["counts"].astype(np.int64), counts)
    if kind != "matches":
        several = {name: _split(stored[name], counts) for name in kind.split()}
        return [dict(zip(several, part, strict=True)) for part in zip(*several.values(), strict=True)]
    shape = [n for n, several in zip(counts, stored["classes"], strict=True) for _ in range(several)]
    lengths = stored["lengths"].tolist()
    hits, counted = (np.unpackbits(stored[name], axis=0)[:10].astype(bool) for name in ("hits", "counted"))
    fields = (
        _split(stored["images"].astype(np.int64), lengths),
        [part.T for part in _split(hits.T, lengths)],
        [part.T for part in _split(counted.T, lengths)],
        _split(stored["objects"].astype(np.int64), shape),
    )
    matches = iter([Matches(*one) for one in zip(*fields, strict=True)])
    found = []
    for ids, count in zip(_split(stored["ids"], counts), stored["classes"], strict=True):
        several = tuple(next(matches) for _ in range(count))
        found.append(Evaluation(tuple(ids.tolist()), several))
    return found


def _split(array: np.ndarray, lengths: Sequence[int]) -> list[np.ndarray]:
    return np.split(array, np.cumsum(lengths)[:-1])
