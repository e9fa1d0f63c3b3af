"""Which images, lines, columns or panels of a figure: chosen in its stored data, before it is drawn.

A figure's data are a frame (curves, panels) or arrays by name (pictures), as `lib.report.results` stores them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

Data = pd.DataFrame | dict[str, np.ndarray]


class Choice(NamedTuple):
    """What an option chooses from.

    of: what one name stands for, such as "line".  names: all that the data hold.  keep: the data of those at `places`.
    """

    of: str
    names: Callable[[Data], list[str]]
    keep: Callable[[Data, list[int]], Data]

    def choose(self, data: Data, asked: str) -> Data:
        """The data of the names asked for, which commas part; ValueError says what there is.

        Images come in the order asked for, all else stays in the figure's.
        """
        names = self.names(data)
        places = list(dict.fromkeys(place(names, text.strip(), self.of) for text in asked.split(",")))
        return self.keep(data, places if self.of == "image" else sorted(places))


def place(names: Sequence[str], text: str, of: str) -> int:
    """Where the name stands: that of this spelling, or the only one that `text` is a part of."""
    lower = [name.lower() for name in names]
    if text.lower() in lower:
        return lower.index(text.lower())
    fitting = [k for k, name in enumerate(lower) if text and text.lower() in name]
    if len(fitting) > 1:
        raise ValueError(f"'{text}' fits several {of}s: {'; '.join(names[k] for k in fitting)}")
    if not fitting:
        raise ValueError(f"no {of} '{text}'; there are {'; '.join(names)}")
    return fitting[0]


def every(column: pd.Series) -> list[str]:
    """The names in a column in their order, also those that were not chosen: a line keeps its colour without them."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return list(column.cat.categories)
    return list(dict.fromkeys(column))


def rows(of: str, column: str) -> Choice:
    """The rows of a frame that hold some of a column's names."""

    def keep(frame: pd.DataFrame, places: list[int]) -> pd.DataFrame:
        names = every(frame[column])
        chosen = frame[frame[column].isin([names[k] for k in places])]
        return chosen.assign(**{column: pd.Categorical(chosen[column], categories=names)})

    return Choice(of, lambda frame: every(frame[column]), keep)


def entries(of: str, axes: dict[str, int], names: str | None = None) -> Choice:
    """Some entries of several arrays. axes: along which axis of which array.  names: the array that names them."""

    def there(pictures: dict[str, np.ndarray]) -> list[str]:
        if names:
            return [str(name) for name in pictures[names]]
        return numbers(next(pictures[name].shape[axis] for name, axis in axes.items() if name in pictures))

    def keep(pictures: dict[str, np.ndarray], places: list[int]) -> dict[str, np.ndarray]:
        return pictures | {name: pictures[name].take(places, axis) for name, axis in axes.items() if name in pictures}

    return Choice(of, there, keep)


def parts(of: str, titles: dict[str, str]) -> Choice:
    """Some columns of pictures. titles: the array `part`, or all arrays `..._part` -> what stands above them."""

    def keep(pictures: dict[str, np.ndarray], places: list[int]) -> dict[str, np.ndarray]:
        left_out = [part for k, part in enumerate(titles) if k not in places]
        return {
            name: array
            for name, array in pictures.items()
            if not any(name == part or name.endswith(f"_{part}") for part in left_out)
        }

    return Choice(of, lambda _: list(titles.values()), keep)


def numbered(of: str) -> Choice:
    """Some images of arrays called what_0_kind, what_1_kind and so on; the others stay."""

    def keep(pictures: dict[str, np.ndarray], places: list[int]) -> dict[str, np.ndarray]:
        kept = {name: array for name, array in pictures.items() if number(name) is None}
        for new, old in enumerate(places):
            for name in pictures:
                if number(name) == old:
                    kept[name.replace(f"_{old}_", f"_{new}_")] = pictures[name]
        return kept

    return Choice(of, lambda pictures: numbers(len({number(name) for name in pictures} - {None})), keep)


def number(name: str) -> int | None:
    """The 3 of image_3_clean."""
    found = re.fullmatch(r"[a-z]+_(\d+)_[a-z]+", name)
    return int(found[1]) if found else None


def numbers(count: int) -> list[str]:
    """'0', '1' and so on."""
    return [str(k) for k in range(count)]
