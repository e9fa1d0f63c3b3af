"""Figures 1 and 6 and the trend over budgets: curves with 95 % bands."""

import pandas as pd
from matplotlib.figure import Figure

from lib.report.figures.selection import every
from lib.report.figures.style import COLOURS, MARKERS, PAPER, Look, style

# Lines that stand for themselves in the trend over budgets; the transforms take the palette's colours.
LOOKS = {"no defense": "black", "random sign noise": "0.5"}


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
