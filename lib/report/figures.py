"""One function per figure: from its stored data to a matplotlib Figure. No attack runs here, and torch is not needed.

Figures are named `figure_01` and so on, after the paper's, and `transfer` (the matrix of attacks and victims). FIGURES
says where each gets its data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.report.predictions import figure_04, figure_05
from lib.report.purified import figure_10, purification, purified
from lib.report.results import Results
from lib.report.style import COLOURS, MARKERS, WIDTH, show, style

if TYPE_CHECKING:
    from IPython.display import Image


# Lines that stand for themselves in the trend over budgets; the transforms take the palette's colours.
LOOKS = {"no defense": "black", "random sign noise": "0.5"}


class Drawing(NamedTuple):
    """How a figure is redrawn. item: as in the paper.  data: "data" (CSV) or "pictures" (npz), both by name."""

    item: str
    title: str
    draw: Callable
    data: str


def curves(data: pd.DataFrame, line: str, ylabel: str) -> Figure:
    """A value against the number of iterations, one line per `line`, with 95 % bands and distinct markers."""
    style()
    figure = Figure(figsize=(WIDTH, 3.6))
    axes = figure.add_subplot()
    for (name, part), colour, marker in zip(data.groupby(line, sort=False), COLOURS, MARKERS, strict=False):
        axes.plot(part["steps"], part["value"], color=colour, marker=marker, label=name)
        axes.fill_between(part["steps"], part["low"], part["high"], color=colour, alpha=0.15, linewidth=0)
    ticks = sorted(set(data["steps"]))
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="number of attack iterations", ylabel=ylabel, ylim=(0, 100))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def figure_01(data: pd.DataFrame) -> Figure:
    """Figure 1: fooling rate of SSP from the feature space of several networks."""
    victim, n = data["victim"].iloc[0], data["n"].iloc[0]
    return curves(data, "source", f"fooling rate on {victim} (%), n = {n}")


def figure_06(data: pd.DataFrame) -> Figure:
    """Figure 6: accuracy of the victim under several attacks."""
    victim, n = data["victim"].iloc[0], data["n"].iloc[0]
    figure = curves(
        data.assign(line=data["attack"] + " from " + data["surrogate"]), "line", f"accuracy of {victim} (%)"
    )
    axes = figure.axes[0]
    axes.axhline(data["clean"].iloc[0], color="0.4", linestyle="--", linewidth=1)
    axes.axhline(data["noise"].iloc[0], color="0.4", linestyle=":", linewidth=1)
    note = {"x": data["steps"].max(), "color": "0.3", "fontsize": 8, "ha": "right"}
    axes.text(y=data["clean"].iloc[0] + 1, s=f"clean images, n = {n}", va="bottom", **note)
    axes.text(y=data["noise"].iloc[0] - 1, s="random sign noise of the same size", va="top", **note)
    axes.set_ylim(0, 108)
    axes.set_yticks(range(0, 101, 20))
    return figure


def figure_02(pictures: dict[str, np.ndarray]) -> Figure:
    """Figure 2: adversaries found in the feature spaces of several networks. images: `[columns,rows,H,W,3]` uint8."""
    style()
    images, names = pictures["images"], [str(name) for name in pictures["names"]]
    columns, rows = images.shape[:2]
    figure = Figure(figsize=(WIDTH, WIDTH * rows / columns + 0.3))
    for row in range(rows):
        for column in range(columns):
            axes = figure.add_subplot(rows, columns, row * columns + column + 1)
            show(axes, images[column, row], names[column] if row == 0 else "")
    return figure


def figure_03(data: pd.DataFrame) -> Figure:
    """Figure 3: t-SNE of logits beside t-SNE of features, one panel each, with the silhouette score in the title."""
    style()
    panels = list(data.groupby("space", sort=False))
    classes = list(dict.fromkeys(data["class"]))
    colours = dict(zip(classes, COLOURS, strict=False))
    figure = Figure(figsize=(WIDTH, 3.0))
    for index, (space, part) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        for (name, points), marker in zip(part.groupby("class", sort=False), MARKERS * 3, strict=False):
            axes.scatter(points["x"], points["y"], s=10, color=colours[name], marker=marker, label=name, linewidths=0)
        axes.set(xticks=[], yticks=[], xlabel="", ylabel="")
        axes.set_title(f"{space}\nsilhouette {part['silhouette'].iloc[0]:.2f}", fontsize=8)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=7, markerscale=1.5)
    return figure


def budgets(data: pd.DataFrame) -> Figure:
    """The trend of accuracy against budget: a panel per victim, a line per transform, random noise dashed."""
    style()
    panels = list(data.groupby(["task", "victim", "metric", "n"], sort=False))
    figure = Figure(figsize=(WIDTH, 3.2))
    lines = list(dict.fromkeys(data["line"]))
    for index, ((_, victim, metric, n), part) in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), index)
        for name, points in part.groupby("line", sort=False):
            look = {
                "color": LOOKS.get(name, COLOURS[lines.index(name) % len(COLOURS)]),
                "linestyle": ":" if "noise" in name else "-",
            }
            marker = MARKERS[lines.index(name) % len(MARKERS)]
            axes.plot(points["eps"], points["value"], marker=marker, markersize=4, label=name, **look)
            axes.fill_between(
                points["eps"], points["low"], points["high"], alpha=0.08, linewidth=0, color=look["color"]
            )
        axes.set(xlabel="budget (levels)", ylim=(0, 100), xticks=sorted(set(part["eps"])))
        axes.set_ylabel(f"{metric} (%)")
        axes.set_title(f"{victim}, n = {n}", fontsize=8)
    handles = {name: line for axes in figure.axes for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def transfer(data: pd.DataFrame) -> Figure:
    """The transfer matrix as a heat map: accuracy of every victim under every attack."""
    style()
    attacks = list(dict.fromkeys(data["attack"]))
    victims = list(dict.fromkeys(data["victim"]))
    matrix = data.pivot(index="attack", columns="victim", values="value").loc[attacks, victims]
    figure = Figure(figsize=(WIDTH, 0.32 * len(attacks) + 1.2))
    axes = figure.add_subplot()
    image = axes.imshow(matrix, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    figure.colorbar(image, label=f"accuracy (%), n = {data['n'].iloc[0]}")
    for (row, column), value in np.ndenumerate(matrix.to_numpy()):
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", color="black" if value > 60 else "white")
    axes.set_xticks(range(len(victims)), victims, rotation=35, ha="right")
    axes.set_yticks(range(len(attacks)), attacks)
    axes.grid(False)
    return figure


FIGURES: dict[str, Drawing] = {
    "figure_01": Drawing("Figure 1", "fooling rate of SSP from several feature spaces", figure_01, "data"),
    "figure_02": Drawing("Figure 2", "adversaries from several feature spaces", figure_02, "pictures"),
    "figure_03": Drawing("Figure 3", "t-SNE of logits and of features", figure_03, "data"),
    "figure_04": Drawing("Figure 4", "SegNet-Basic on images and on SSP adversaries", figure_04, "pictures"),
    "figure_05": Drawing("Figure 5", "detections on images and on SSP adversaries", figure_05, "pictures"),
    "figure_06": Drawing("Figure 6", "accuracy against attack iterations", figure_06, "data"),
    "figure_07": Drawing("Figure 7", "SSP on another network's features, purified", purified, "pictures"),
    "figure_08": Drawing("Figure 8", "DIM and DIM-TI from an ensemble, purified", purified, "pictures"),
    "figure_09": Drawing("Figure 9", "CDA from two data sets, purified", purified, "pictures"),
    "figure_10": Drawing("Figure 10", "detections on CDA adversaries, purified", figure_10, "pictures"),
    "budgets": Drawing("Appendix E", "accuracy against budget, behind every transform", budgets, "data"),
    "purification": Drawing("Appendix G", "accuracy before and after purification", purification, "data"),
    "transfer": Drawing("Appendix F", "all attacks against all victims", transfer, "data"),
}


NOTES = {
    "mini": "embedded world, stand-in networks",
    "sample": "real images, modest networks, attacks in bfloat16",
    "paper": "paper scale",
}


def redraw(results: Results, name: str) -> Figure:
    """A figure from its stored data, with the scale written below it.

    KeyError for an unknown name, FileNotFoundError where nothing is stored yet.
    """
    drawing = FIGURES[name]
    load = results.load_data if drawing.data == "data" else results.load_pictures
    figure = drawing.draw(load(name))
    note = f"{drawing.item}, scale {results.scale}: {NOTES.get(results.scale, results.scale)}"
    figure.suptitle(note, fontsize=7, color="0.4", x=0.01, ha="left")
    return figure


def shown(results: Results, name: str) -> Image:
    """Redraw, write SVG and PNG, and return the PNG for a notebook to show."""
    from IPython.display import Image  # half a second that only a notebook needs

    paths = results.save_figure(name, redraw(results, name))
    return Image(filename=str(next(path for path in paths if path.suffix == ".png")))
