"""The figures: from stored data to a matplotlib Figure. No attack runs here, and torch is not needed.

Figures are named `figure_01` and so on, after the paper's, and `transfer` (the matrix of attacks and victims). FIGURES
says where each gets its data, and what can be chosen from them; `lib.report.figures.style` has the two looks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from lib.report.figures import pictures
from lib.report.figures.charts import (
    by_budget,
    by_layer,
    figure_01,
    figure_03,
    figure_06,
    protocol,
    purification,
    transfer,
)
from lib.report.figures.forest import claims_forest
from lib.report.figures.pictures import Grid, segmented, tiles
from lib.report.figures.style import LETTER, PAPER, Look, every
from lib.report.results import Results
from lib.settings.base import choices

if TYPE_CHECKING:
    from IPython.display import Markdown


class Drawing(NamedTuple):
    """How a figure is redrawn.

    item: as in the paper.  draw: from the data and a Look.  of: what --only chooses.  column: the column of the frame
    that names it; for a figure of pictures, what makes a `Grid` of the stored arrays.
    """

    item: str
    title: str
    draw: Callable[[pd.DataFrame | Grid, Look], Figure]
    of: str
    column: str | Callable[[dict], Grid]

    @property
    def data(self) -> str:
        """The folder of its data: "data" (CSV) or "pictures" (npz)."""
        return "data" if isinstance(self.column, str) else "pictures"


_STRIPS = (pictures.strips, "attack", pictures.purified)
_DETECTED, _DEFENDED = (partial(pictures.detected, kinds) for kinds in (pictures.DETECTED, pictures.PURIFIED))

FIGURES: dict[str, Drawing] = {
    "claims": Drawing("All appendices", "every claim, judged", claims_forest, "claim", "id"),
    "figure_01": Drawing("Figure 1", "fooling rate of SSP from several feature spaces", figure_01, "line", "source"),
    "figure_02": Drawing("Figure 2", "adversaries from several feature spaces", *_STRIPS),
    "figure_03": Drawing("Figure 3", "t-SNE of logits and of features", figure_03, "panel", "space"),
    "figure_04": Drawing("Figure 4", "SegNet-Basic on images and on SSP adversaries", tiles, "column", segmented),
    "figure_05": Drawing("Figure 5", "detections on images and on SSP adversaries", tiles, "column", _DETECTED),
    "figure_06": Drawing("Figure 6", "accuracy against attack iterations", figure_06, "line", "attack"),
    "figure_07": Drawing("Figure 7", "SSP on another network's features, purified", *_STRIPS),
    "figure_08": Drawing("Figure 8", "DIM and DIM-TI from an ensemble, purified", *_STRIPS),
    "figure_09": Drawing("Figure 9", "CDA from two data sets, purified", *_STRIPS),
    "figure_10": Drawing("Figure 10", "detections on CDA adversaries, purified", tiles, "column", _DEFENDED),
    "layers": Drawing("Appendix A", "SSP of every layer of several networks", by_layer, "network", "source"),
    "budgets": Drawing("Appendix E", "accuracy against budget, behind every transform", by_budget, "line", "line"),
    "protocol": Drawing("The protocol", "accuracy against budget under every attacker", protocol, "panel", "defense"),
    "purification": Drawing("Appendix G", "accuracy before and after purification", purification, "victim", "victim"),
    "transfer": Drawing("Appendix F", "all attacks against all victims", transfer, "victim", "victim"),
}

NOTES = {
    "mini": "embedded world, stand-in networks",
    "lab": "embedded world, stand-in networks, few images",
    "sample": "real images, modest networks, attacks in bfloat16",
    "paper": "paper scale",
}


def redraw(
    results: Results, name: str, look: Look = PAPER, only: str | None = None, images: str | None = None
) -> Figure:
    """A figure from its stored data, with the scale written below it.

    only: names of lines, columns, panels, victims or attacks, in any order; images: their numbers, in the order wanted;
    commas part both. KeyError for an unknown figure, FileNotFoundError where nothing is stored yet, ValueError for a
    choice that the figure has not.
    """
    drawing, data, names = opened_figure(results, name)
    if images is not None:
        if not isinstance(data, Grid):
            raise ValueError(f"{name} has no --images; it has {options(results, name)}")
        data = data._replace(rows=[data.rows[k] for k in chosen(range(len(data.rows)), images, "image")])
    if only is not None:
        places = sorted(chosen(names, only, drawing.of))
        if isinstance(data, Grid):
            rows = [[row[k] for k in places] for row in data.rows]
            data = data._replace(titles=[names[k] for k in places], rows=rows)
        else:
            # Also the names that were not chosen: a line keeps its colour without them.
            data = data[data[drawing.column].isin([names[k] for k in places])]
            data = data.assign(**{drawing.column: pd.Categorical(data[drawing.column], categories=names)})
    figure = drawing.draw(data, look)
    note = f"{drawing.item}, scale {results.scale}: {NOTES.get(results.scale, results.scale)}"
    size = min(7 * look.scale, figure.get_figwidth() / (LETTER * len(note)))  # on one line
    figure.suptitle(note, fontsize=size, color="0.4", x=0.01, ha="left")
    return figure


def opened_figure(results: Results, name: str) -> tuple[Drawing, pd.DataFrame | Grid, list[str]]:
    """A figure, its stored data, and the names that --only chooses from."""
    drawing = FIGURES[name]
    if drawing.data == "data":
        data = results.load_data(name)
        return drawing, data, every(data[drawing.column])
    grid = drawing.column(results.load_pictures(name))
    return drawing, grid, grid.titles


def chosen(names: Sequence, asked: str, of: str) -> list[int]:
    """The places of the names asked for: those of this spelling, or the only ones that a text is a part of.

    ValueError says what there is.
    """
    names, found = [str(name) for name in names], []
    for text in map(str.strip, asked.split(",")):
        exact = [k for k, name in enumerate(names) if text.lower() == name.lower()]
        fitting = exact or [k for k, name in enumerate(names) if text and text.lower() in name.lower()]
        if not fitting:
            raise ValueError(f"no {of} '{text}'; {choices(text, names)}")
        if len(fitting) > 1:
            raise ValueError(f"'{text}' fits several {of}s: {'; '.join(names[k] for k in fitting)}")
        found += fitting
    return list(dict.fromkeys(found))


def options(results: Results, name: str) -> str:
    """The options of a figure and what they choose from, in one line; FileNotFoundError where nothing is stored yet."""
    drawing, data, names = opened_figure(results, name)
    images = f"--images (0 to {len(data.rows) - 1}), " if isinstance(data, Grid) else ""
    return f"{images}--only ({drawing.of}s: {'; '.join(names)})"


def shown(results: Results, name: str) -> Markdown:
    """Redraw, write SVG and PNG, show the PNG in a notebook and return the caption, without verdicts: the notebook
    judges its claims at its end."""
    from IPython.display import Image, Markdown, display  # half a second that only a notebook needs

    from lib.report.captions import caption

    display(Image(filename=str(results.save_figure(name, redraw(results, name))[-1])))
    return Markdown(caption(results, name))
