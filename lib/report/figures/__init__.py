"""One function per figure: from its stored data to a matplotlib Figure. No attack runs here, and torch is not needed.

Figures are named `figure_01` and so on, after the paper's, and `transfer` (the matrix of attacks and victims). FIGURES
says where each gets its data, and what can be chosen from them; `lib.report.figures.style` has the two looks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.figure import Figure

from lib.report.figures.curves import budgets, figure_01, figure_06
from lib.report.figures.forest import claims
from lib.report.figures.panels import figure_03, purification, transfer
from lib.report.figures.pictures import DETECTED, PURIFIED, SEGMENTED, figure_02, figure_04, figure_05, figure_10
from lib.report.figures.purified import ATTACKS, IMAGES, purified
from lib.report.figures.selection import Choice, Data, entries, numbered, parts, rows
from lib.report.figures.style import PAPER, Look
from lib.report.results import Results

if TYPE_CHECKING:
    from IPython.display import Image


class Drawing(NamedTuple):
    """How a figure is redrawn.

    item: as in the paper.  data: "data" (CSV) or "pictures" (npz), both by name.  draw: from these and a Look.
    images, only: what the options of these names choose from, where the figure has them.
    """

    item: str
    title: str
    draw: Callable[[Data, Look], Figure]
    data: str
    only: Choice | None = None
    images: Choice | None = None


_COLUMNS = entries("column", {"images": 0, "names": 0}, "names")
_ROWS = entries("image", {"images": 1})
_STREETS = entries("image", dict.fromkeys(SEGMENTED, 0))

FIGURES: dict[str, Drawing] = {
    "claims": Drawing("All appendices", "every claim, judged", claims, "data", rows("claim", "id")),
    "figure_01": Drawing(
        "Figure 1", "fooling rate of SSP from several feature spaces", figure_01, "data", rows("line", "source")
    ),
    "figure_02": Drawing("Figure 2", "adversaries from several feature spaces", figure_02, "pictures", _COLUMNS, _ROWS),
    "figure_03": Drawing("Figure 3", "t-SNE of logits and of features", figure_03, "data", rows("panel", "space")),
    "figure_04": Drawing(
        "Figure 4", "SegNet-Basic on images and on SSP adversaries", figure_04, "pictures",
        parts("column", SEGMENTED), _STREETS,
    ),
    "figure_05": Drawing(
        "Figure 5", "detections on images and on SSP adversaries", figure_05, "pictures",
        parts("column", DETECTED), numbered("image"),
    ),
    "figure_06": Drawing("Figure 6", "accuracy against attack iterations", figure_06, "data", rows("line", "attack")),
    "figure_07": Drawing(
        "Figure 7", "SSP on another network's features, purified", purified, "pictures",
        ATTACKS, IMAGES,
    ),
    "figure_08": Drawing(
        "Figure 8", "DIM and DIM-TI from an ensemble, purified", purified, "pictures",
        ATTACKS, IMAGES,
    ),
    "figure_09": Drawing(
        "Figure 9", "CDA from two data sets, purified", purified, "pictures", ATTACKS, IMAGES
    ),
    "figure_10": Drawing(
        "Figure 10", "detections on CDA adversaries, purified", figure_10, "pictures",
        parts("column", PURIFIED), numbered("image"),
    ),
    "budgets": Drawing(
        "Appendix E", "accuracy against budget, behind every transform", budgets, "data", rows("line", "line")
    ),
    "purification": Drawing(
        "Appendix G", "accuracy before and after purification", purification, "data", rows("victim", "victim")
    ),
    "transfer": Drawing("Appendix F", "all attacks against all victims", transfer, "data", rows("victim", "victim")),
}  # fmt: skip


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

    only: names of lines, columns, panels, victims or attacks; images: their numbers; both as `Choice.choose` takes
    them. KeyError for an unknown figure, FileNotFoundError where nothing is stored yet, ValueError for a choice that
    the figure has not.
    """
    drawing = FIGURES[name]
    data = load(results, name)
    for option, choice, asked in (("images", drawing.images, images), ("only", drawing.only, only)):
        if asked is not None:
            if choice is None:
                raise ValueError(f"{name} has no --{option}; it has {options(results, name) or 'no such option'}")
            data = choice.choose(data, asked)
    figure = drawing.draw(data, look)
    note = f"{drawing.item}, scale {results.scale}: {NOTES.get(results.scale, results.scale)}"
    size = look.fit(note, figure.get_figwidth(), 7)
    figure.suptitle(note, fontsize=size, color="0.4", x=0.01, ha="left")
    return figure


def load(results: Results, name: str) -> Data:
    """The stored data of a figure; FileNotFoundError where there are none yet."""
    return results.load_data(name) if FIGURES[name].data == "data" else results.load_pictures(name)


def options(results: Results, name: str) -> str:
    """The options of a figure and what they choose from, in one line; FileNotFoundError where nothing is stored yet."""
    drawing, data = FIGURES[name], load(results, name)
    found = []
    if drawing.images:
        found.append(f"--images (0 to {len(drawing.images.names(data)) - 1})")
    if drawing.only:
        found.append(f"--only ({drawing.only.of}s: {'; '.join(drawing.only.names(data))})")
    return ", ".join(found)


def shown(results: Results, name: str) -> Image:
    """Redraw, write SVG and PNG, and return the PNG for a notebook to show."""
    from IPython.display import Image  # half a second that only a notebook needs

    paths = results.save_figure(name, redraw(results, name))
    return Image(filename=str(next(path for path in paths if path.suffix == ".png")))
