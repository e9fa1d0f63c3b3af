"""How every figure looks: in print (`paper`) or on a projector (`slides`)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure

# seaborn's "colorblind" palette and, below, its style sheets as matplotlib ships them: importing seaborn itself takes
# longer than redrawing a figure may.
COLOURS = ["#0173B2", "#DE8F05", "#029E73", "#D55E00", "#CC78BC", "#CA9161", "#FBAFE4", "#949494", "#ECE133", "#56B4E9"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
WIDTH = 6.5  # of a page, in inches
LETTER = 0.008  # inches that a letter takes per point of its size, on the wide side
HANDLE = 8  # letters that the sign of a legend's entry and the space around it take


class Look(NamedTuple):
    """width, height: inches that a figure may take.  scale: of type and lines, 1 in print.  settings: rcParams."""

    width: float
    height: float
    scale: float
    settings: dict[str, float]

    @property
    def wide(self) -> bool:
        """Is there more room at the sides than below?"""
        return self.width > self.height

    def panels(self, height: float, rows: int = 1, columns: int = 1, **shared: bool) -> tuple[Figure, np.ndarray]:
        """A figure across the page, `height` inches high in print, and its axes `[rows,columns]`."""
        style(self)
        figure = Figure(figsize=(self.width, min(height * (self.width / WIDTH), self.height)))
        return figure, figure.subplots(rows, columns, squeeze=False, **shared)

    def grid(self, heights: Sequence[float], across: int, above: float, beside: float = 0) -> tuple[Figure, float]:
        """An empty figure for a grid of pictures, as large as the page holds, and the width of a picture in inches.

        heights: of every row, in widths of a picture.  above, beside: inches that titles and legends take in print.
        """
        style(self)
        above, beside = above * self.scale, beside * self.scale
        picture = min((self.width - beside) / across, (self.height - above) / sum(heights))
        width, least = across * picture + beside, 3.8 * self.scale  # the least for the note above
        figure = Figure(figsize=(max(width, least), sum(heights) * picture + above))
        if width < least:
            figure.set_layout_engine("compressed")  # spare room goes to the sides, not between the pictures
        return figure, picture

    def titles(self, texts: Sequence[str], inches: float, size: float = 8) -> tuple[list[str], float]:
        """Texts in lines within so many inches, and their points: `size` in print, less where a word is long."""
        inches -= 0.1  # between one text and the next
        longest = max(len(word) for text in texts for word in text.split())
        size = min(size * self.scale, inches / (LETTER * longest))
        letters = int(inches / (LETTER * size) + 1e-6)
        return ["\n".join(textwrap.wrap(text, letters, break_long_words=False)) for text in texts], size

    def legend(
        self, figure: Figure, size: float, most: int, below=False, entries: dict[str, Artist] | None = None, **more
    ) -> None:
        """The legend of a figure: at its side where there is room and not `below`, else below in at most so many
        columns. size: of its letters in print.  entries: label -> sign (default: those of all panels)."""
        if entries is None:
            signs = [axes.get_legend_handles_labels() for axes in figure.axes]
            entries = {name: sign for pair in signs for sign, name in zip(*pair, strict=True)}
        beside, fontsize = self.wide and not below, size * self.scale

        def fits(columns: int) -> bool:
            letters = sum(HANDLE + max(map(len, column)) for column in np.array_split(list(entries), columns))
            return letters * LETTER * fontsize <= figure.get_figwidth()

        ncols = next(filter(fits, range(1 if beside else min(most, len(entries)), 1, -1)), 1)
        loc = "outside right center" if beside else "outside lower center"
        figure.legend(entries.values(), entries, loc=loc, ncols=ncols, frameon=False, fontsize=fontsize, **more)


PAPER = Look(WIDTH, 8.5, 1.0, {"font.size": 10})
# Ten inches across, 16:9; on a slide of 13.3 inches all is a third larger.
SLIDES = Look(
    10.0,
    5.625,
    1.8,
    {"font.size": 16, "axes.labelsize": 15, "axes.linewidth": 1.5, "grid.linewidth": 1.2, "lines.linewidth": 2.6}
    | dict.fromkeys(["xtick.labelsize", "ytick.labelsize", "legend.fontsize"], 14.5)
    | {"lines.markersize": 8},
)
LOOKS = {"paper": PAPER, "slides": SLIDES}


def style(look: Look = PAPER) -> None:
    """Set matplotlib up: colour-blind safe, white behind, byte-identical for equal content."""
    matplotlib.style.use(["default", "seaborn-v0_8-paper", "seaborn-v0_8-whitegrid"])
    fixed = {"svg.hashsalt": "companion", "figure.constrained_layout.use": True}
    fixed |= {"font.family": ["STIXGeneral", "DejaVu Sans"], "grid.color": "0.9", "axes.edgecolor": "0.6"}
    fixed |= {"text.parse_math": False}  # a name may have two dollar signs
    matplotlib.rcParams.update(fixed | look.settings)


def every(column: pd.Series) -> list[str]:
    """The names in a column in their order, also those that were not chosen: a line keeps its colour without them."""
    return list(column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else column.unique())


def write_figure(figure: Figure, path: Path) -> Path:
    """Write a figure in the format of the path's ending (svg, pdf, png); byte-identical for equal content."""
    dated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata=dated, dpi=200)
    return path
