"""One function per figure: from its stored data to a matplotlib Figure. No attack runs here, and torch is not needed.

Figures are named `figure_01` and so on, after the paper's, and `transfer` (the matrix of attacks and victims). FIGURES
says where each gets its data, and what can be chosen from them; `lib.report.style` has the two looks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.report.forest import claims
from lib.report.predictions import DETECTED, SEGMENTED, figure_04, figure_05
from lib.report.purified import ATTACKS, IMAGES, PURIFIED, figure_10, purification, purified
from lib.report.results import Results
from lib.report.selection import Choice, Data, entries, every, numbered, parts, rows
from lib.report.style import COLOURS, MARKERS, PAPER, Look, show, style

if TYPE_CHECKING:
    from IPython.display import Image


# Lines that stand for themselves in the trend over budgets; the transforms take the palette's colours.
LOOKS = {"no defense": "black", "random sign noise": "0.5"}


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


def curves(data: pd.DataFrame, line: str, ylabel: str, look: Look) -> Figure:
    """A value against the number of iterations, with 95 % bands and distinct markers.

    line: the column of the lines' names; `label`: what the legend calls each.
    """
    style(look)
    figure = Figure(figsize=look.size(3.6))
    axes = figure.add_subplot()
    names = every(data[line])
    for (name, label), part in data.groupby([line, "label"], sort=False, observed=True):
        place = names.index(name)
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        axes.plot(part["steps"], part["value"], color=colour, marker=marker, label=label)
        axes.fill_between(part["steps"], part["low"], part["high"], color=colour, alpha=0.15, linewidth=0)
    ticks = sorted(set(data["steps"]))
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="number of attack iterations", ylabel=ylabel, ylim=(0, 100))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def figure_01(data: pd.DataFrame, look: Look = PAPER) -> Figure:
    """Figure 1: fooling rate of SSP from the feature space of several networks."""
    victim, n = data["victim"].iloc[0], data["n"].iloc[0]
    return curves(data.assign(label=data["source"]), "source", f"fooling rate on {victim} (%), n = {n}", look)


def figure_06(data: pd.DataFrame, look: Look = PAPER) -> Figure:
    """Figure 6: accuracy of the victim under several attacks."""
    victim, n = data["victim"].iloc[0], data["n"].iloc[0]
    labels = data["attack"].astype(str) + " from " + data["surrogate"]
    figure = curves(data.assign(label=labels), "attack", f"accuracy of {victim} (%)", look)
    axes = figure.axes[0]
    axes.axhline(data["clean"].iloc[0], color="0.4", linestyle="--", linewidth=look.scale)
    axes.axhline(data["noise"].iloc[0], color="0.4", linestyle=":", linewidth=look.scale)
    note = {"x": data["steps"].max(), "color": "0.3", "fontsize": min(8 * look.scale, 12), "ha": "right"}
    axes.text(y=data["clean"].iloc[0] + 1, s=f"clean images, n = {n}", va="bottom", **note)
    axes.text(y=data["noise"].iloc[0] - 1, s="random sign noise of the same size", va="top", **note)
    axes.set_ylim(0, 108)
    axes.set_yticks(range(0, 101, 20))
    return figure


def figure_02(pictures: dict[str, np.ndarray], look: Look = PAPER) -> Figure:
    """Figure 2: adversaries found in the feature spaces of several networks. images: `[columns,rows,H,W,3]` uint8."""
    style(look)
    images, names = pictures["images"], [str(name) for name in pictures["names"]]
    columns, count, height, width = images.shape[:4]
    figure, picture = look.grid([height / width] * count, columns, 0.3)
    titles, size = look.titles(names, picture)
    for row in range(count):
        for column in range(columns):
            axes = figure.add_subplot(count, columns, row * columns + column + 1)
            show(axes, images[column, row], titles[column] if row == 0 else "", size=size)
    return figure


def figure_03(data: pd.DataFrame, look: Look = PAPER) -> Figure:
    """Figure 3: t-SNE of logits beside t-SNE of features, one panel each, with the silhouette score in the title."""
    style(look)
    panels = list(data.groupby("space", sort=False, observed=True))
    classes = list(dict.fromkeys(data["class"]))
    looks = {
        name: {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)]}
        for k, name in enumerate(classes)
    }
    figure = Figure(figsize=look.size(3.0))
    titles, size = look.titles([space for space, _ in panels], look.width / len(panels))
    for index, (_, part) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        for name, points in part.groupby("class", sort=False):
            axes.scatter(points["x"], points["y"], s=10 * look.scale**2, label=name, linewidths=0, **looks[name])
        axes.set(xticks=[], yticks=[], xlabel="", ylabel="")
        axes.set_title(f"{titles[index]}\nsilhouette {part['silhouette'].iloc[0]:.2f}", fontsize=size)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    ncols = look.ncols(labels, look.width, 7, most=6)
    text = {"fontsize": 7 * look.scale, "markerscale": 1.5}
    figure.legend(handles, labels, loc="outside lower center", ncols=ncols, frameon=False, **text)
    return figure


def budgets(data: pd.DataFrame, look: Look = PAPER) -> Figure:
    """The trend of accuracy against budget: a panel per victim, a line per transform, random noise dashed."""
    style(look)
    panels = list(data.groupby(["task", "victim", "metric", "n"], sort=False))
    figure = Figure(figsize=look.size(3.2))
    lines = every(data["line"])
    for index, ((_, victim, metric, n), part) in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), index)
        for name, points in part.groupby("line", sort=False, observed=True):
            place = lines.index(name)
            colour = LOOKS.get(name, COLOURS[place % len(COLOURS)])
            sign = {"marker": MARKERS[place % len(MARKERS)], "markersize": 4 * look.scale}
            dashes = ":" if "noise" in name else "-"
            axes.plot(points["eps"], points["value"], color=colour, linestyle=dashes, label=name, **sign)
            axes.fill_between(points["eps"], points["low"], points["high"], color=colour, alpha=0.08, linewidth=0)
        axes.set(xlabel="budget (levels)", ylim=(0, 100), xticks=sorted(set(part["eps"])))
        axes.set_ylabel(f"{metric} (%)")
        axes.set_title(f"{victim}, n = {n}", fontsize=8 * look.scale)
    handles = {name: line for axes in figure.axes for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    ncols = 1 if look.wide else look.ncols(list(handles), look.width, 8, most=4)
    side = "outside right center" if look.wide else "outside lower center"
    figure.legend(handles.values(), handles, loc=side, ncols=ncols, frameon=False, fontsize=8 * look.scale)
    return figure


def transfer(data: pd.DataFrame, look: Look = PAPER) -> Figure:
    """The transfer matrix as a heat map: accuracy of every victim under every attack."""
    style(look)
    attacks = list(dict.fromkeys(data["attack"]))
    victims = list(dict.fromkeys(data["victim"]))
    matrix = data.pivot(index="attack", columns="victim", values="value").loc[attacks, victims]
    figure = Figure(figsize=look.size(0.32 * len(attacks) + 1.2))
    axes = figure.add_subplot()
    image = axes.imshow(matrix, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    figure.colorbar(image, label=f"accuracy (%), n = {data['n'].iloc[0]}")
    for (row, column), value in np.ndenumerate(matrix.to_numpy()):
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", color="black" if value > 60 else "white")
    axes.set_xticks(range(len(victims)), victims, rotation=35, ha="right")
    axes.set_yticks(range(len(attacks)), attacks)
    axes.grid(False)
    return figure


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
