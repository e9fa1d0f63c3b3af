"""Curves with 95 % bands (Figures 1 and 6, the trend over budgets), t-SNE (Figure 3), transfer and purification."""

from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.report.figures.style import COLOURS, MARKERS, PAPER, Look, every

GREY = {"color": "0.5", "marker": "."}
# In every figure alike; the others take the palette's colours in turn.
FIXED = {"no defense": {"color": "black"}}
FIXED |= dict.fromkeys(["noise", "Noise", "random noise", "random sign noise"], GREY)
COMPARED = ("no defense", "random sign noise")  # lines in every panel of the trend over budgets
REACH = 10  # steps of 1.6 after which the budget of 16 is within reach
# At budget 16 under targeted PGD: Table 1 (10 steps), and Feature Denoising's repository (1,000 steps).
PUBLISHED = {"NRP, Table 1": 63.0, "Feature Denoising, Table 1": 55.7, "Feature Denoising, 1,000 steps": 42.8}
# Defenses of the figure of purification: colour, marker and label.
SIDES = {"none": ("0.35", "o", "no defense"), "NRP": (COLOURS[0], "D", "behind NRP")}


def _signs(names: list[str]) -> dict[str, dict[str, str]]:
    """A colour and a marker for each name."""
    looks = zip(names, cycle(COLOURS), cycle(MARKERS), strict=False)
    return {name: {"color": colour, "marker": marker} | FIXED.get(name, {}) for name, colour, marker in looks}


def _curves(axes: Axes, data: pd.DataFrame, x: str, by: str, signs: dict, band: float = 0.15, **line: float) -> None:
    """A line for each value of a column, with its 95 % band. signs: of the lines.  band: its opacity."""
    for name, points in data.groupby(by, sort=False, observed=True):
        points = points.sort_values(x)
        axes.plot(points[x], points["value"], label=name, **signs[name], **line)
        axes.fill_between(points[x], points["low"], points["high"], color=signs[name]["color"], alpha=band, linewidth=0)


def _iterations(data: pd.DataFrame, of: str, labels: pd.Series, ylabel: str, look: Look) -> Figure:
    """A value against the number of iterations. of: the column that tells the lines apart.  labels: of each point."""
    figure, ((axes,),) = look.panels(3.6)
    signs = _signs(every(data[of]))
    labelled = {label: signs[name] for name, label in zip(data[of], labels, strict=True)}
    _curves(axes, data.assign(label=labels), "steps", "label", labelled)
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
    return _iterations(data, "source", data["source"], f"fooling rate on {victim} (%), n = {n}", look)


def figure_06(data: pd.DataFrame, look: Look = PAPER) -> Figure:
    """Figure 6: accuracy of the victim under several attacks."""
    first = data.iloc[0]
    labels = data["attack"].astype(str) + " from " + data["surrogate"]
    figure = _iterations(data, "attack", labels, f"accuracy of {first['victim']} (%)", look)
    axes, line = figure.axes[0], {"color": "0.4", "linewidth": look.scale}
    small = {"color": "0.3", "fontsize": min(8 * look.scale, 12)}
    note = {"x": data["steps"].max(), "ha": "right", **small}
    axes.axhline(first["clean"], linestyle="--", **line)
    axes.axhline(first["noise"], linestyle=":", **line)
    axes.text(y=first["clean"] + 1, s=f"clean images, n = {first['n']}", va="bottom", **note)
    axes.text(y=first["noise"] - 1, s="random sign noise of the same size", va="top", **note)
    axes.axvline(REACH, linestyle="-.", **line)
    axes.annotate("10 steps of 1.6: the budget", (REACH, 60), (4, 0), textcoords="offset points", **small)
    axes.set(ylim=(0, 108), yticks=range(0, 101, 20))
    return figure


def figure_03(data: pd.DataFrame, look: Look = PAPER) -> Figure:
    """Figure 3: t-SNE of logits beside t-SNE of features, one panel each, with the silhouette score in the title."""
    spaces = list(data.groupby("space", sort=False, observed=True))
    signs = _signs(every(data["class"]))
    figure, (panels,) = look.panels(3.0, columns=len(spaces))
    titles, size = look.titles([space for space, _ in spaces], look.width / len(spaces))
    for axes, title, (_, part) in zip(panels, titles, spaces, strict=True):
        for name, points in part.groupby("class", sort=False):
            axes.scatter(points["x"], points["y"], s=10 * look.scale**2, label=name, linewidths=0, **signs[name])
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"{title}\nsilhouette {part['silhouette'].iloc[0]:.2f}", fontsize=size)
    look.legend(figure, 7, most=6, below=True, markerscale=1.5)
    return figure


def by_layer(data: pd.DataFrame, look: Look = PAPER) -> Figure:
    """Fooling rate under SSP of every layer: a panel per budget, a bar per layer, in a network's colour."""
    signs = _signs(every(data["source"]))
    budgets, bars = sorted(set(data["eps"])), data["layer"].unique()
    figure, (panels,) = look.panels(0.2 * len(bars) + 0.9, columns=len(budgets), sharey=True)
    for axes, eps in zip(panels, budgets, strict=True):
        part = data[data["eps"] == eps]
        colours = [signs[source]["color"] for source in part["source"]]
        ends = np.clip([part["value"] - part["low"], part["high"] - part["value"]], 0, None)
        axes.barh(range(len(part)), part["value"], color=colours, xerr=ends, error_kw={"elinewidth": 0.8 * look.scale})
        axes.set(xlim=(0, 100), title=f"budget {eps:g}")
        axes.set_yticks(range(len(bars)), bars, fontsize=7.5 * look.scale)
        axes.grid(axis="y", visible=False)
    axes.invert_yaxis()
    label = f"fooling rate on {data['victim'].iloc[0]} (%), n = {data['n'].iloc[0]}"
    figure.supxlabel(label, fontsize=9 * look.scale)
    return figure


def by_budget(data: pd.DataFrame, look: Look = PAPER) -> Figure:
    """The trend of accuracy against budget: a row per victim, a panel per kind of defense, random noise dotted."""
    signs, data = _signs([*COMPARED, *every(data["line"])]), data.assign(line=data["line"].astype(str))
    dotted = {name: sign | {"linestyle": ":" if "noise" in name else "-"} for name, sign in signs.items()}
    parts = list(data.groupby(["task", "victim", "metric", "n"], sort=False))
    kinds = list(dict.fromkeys(name.split()[0] for name in data["line"] if name not in COMPARED)) or [""]
    figure, panels = look.panels(1.8 * len(parts) + 0.7, len(parts), len(kinds), sharex=True, sharey=True)
    for row, ((_, victim, metric, n), part) in zip(panels, parts, strict=True):
        row[0].set_ylabel(f"{metric} (%)\n{victim}, n = {n}", fontsize=8 * look.scale)
        for axes, kind in zip(row, kinds, strict=True):
            here = part[part["line"].isin(COMPARED) | (part["line"].str.split().str[0] == kind)]
            _curves(axes, here, "eps", "line", dotted, markersize=4 * look.scale)
            axes.set(ylim=(0, 100), xticks=sorted(set(part["eps"])))
    for top, bottom, kind in zip(panels[0], panels[-1], kinds, strict=True):
        top.set_title(kind, fontsize=8 * look.scale)
        bottom.set_xlabel("budget (levels)", fontsize=8 * look.scale)
    look.legend(figure, 8, most=4)
    return figure


def protocol(data: pd.DataFrame, look: Look = PAPER) -> Figure:
    """Accuracy against budget: a panel per defense, a line per attacker; the paper's numbers as marks at budget 16.

    data: columns defense, attacker, eps, value, low, high, n.
    """
    parts = list(data[data["eps"] <= 16].groupby("defense", sort=False, observed=True))
    columns = min(4, len(parts))
    rows, signs = -(-len(parts) // columns), _signs(every(data["attacker"]))
    figure, panels = look.panels(1.9 * rows + 0.6, rows, columns, sharex=True, sharey=True)
    for axes, (name, part) in zip(panels.flat, parts, strict=False):
        _curves(axes, part, "eps", "attacker", signs, band=0.1, markersize=4 * look.scale)
        for (label, value), marker in zip(PUBLISHED.items(), ("*", "x", "+"), strict=True):
            mark = {"color": "black", "marker": marker, "markeredgewidth": 1.2, "markersize": 6 * look.scale}
            axes.plot([16], [value], linestyle="", label=label, clip_on=False, zorder=4, **mark)
        axes.set(ylim=(0, 100), xticks=sorted(set(part["eps"])), xlabel="budget (levels)")
        axes.label_outer()
        axes.set_title(f"{name}, n = {part['n'].iloc[0]}", fontsize=8 * look.scale)
    for axes in panels.flat[len(parts) :]:
        axes.set_visible(False)
    figure.supylabel("accuracy (%)", fontsize=8 * look.scale)
    look.legend(figure, 8, most=4, below=True)
    return figure


def transfer(data: pd.DataFrame, look: Look = PAPER) -> Figure:
    """The transfer matrix as a heat map: accuracy of every victim under every attack; in parentheses where the attack
    saw the victim."""
    cells = zip(data["value"], data["victim"], data["surrogate"], strict=True)
    texts = [f"({value:.0f})" if victim in seen.split(" + ") else f"{value:.0f}" for value, victim, seen in cells]
    table = data.assign(text=texts).set_index(["attack", "victim"])
    attacks, victims = (data[name].unique() for name in ("attack", "victim"))
    matrix, texts = (table[name].unstack().loc[attacks, victims] for name in ("value", "text"))
    figure, ((axes,),) = look.panels(0.32 * len(matrix) + 1.2)
    image = axes.imshow(matrix, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    figure.colorbar(image, label=f"accuracy (%), n = {data['n'].iloc[0]}")
    for (row, column), value in np.ndenumerate(matrix):
        colour = "black" if value > 60 else "white"
        axes.text(column, row, texts.iloc[row, column], ha="center", va="center", color=colour)
    axes.set_xticks(range(matrix.shape[1]), matrix.columns, rotation=35, ha="right")
    axes.set_yticks(range(len(matrix)), matrix.index)
    axes.grid(False)
    return figure


def purification(data: pd.DataFrame, look: Look = PAPER) -> Figure:
    """Accuracy under every attack, from without a defense to behind the purifier: a panel per victim.

    data: columns attack, victim, defense ("none", "NRP", ...), value, low, high, n.
    """
    attacks, victims = (list(data[column].unique()) for column in ("attack", "victim"))
    places = range(len(attacks))
    figure, (panels,) = look.panels(0.22 * len(attacks) + 1.1, columns=len(victims), sharey=True)
    for axes, victim in zip(panels, victims, strict=True):
        cells = data[data["victim"] == victim].set_index(["defense", "attack"])
        parts = {defense: cells.loc[defense].loc[attacks] for defense in SIDES}
        ends = [part["value"] for part in parts.values()]
        axes.hlines(places, *ends, color="0.75", linewidth=1.5 * look.scale, zorder=1)
        for defense, part in parts.items():
            colour, marker, label = SIDES[defense]
            axes.hlines(places, part["low"], part["high"], color=colour, linewidth=0.8 * look.scale, zorder=2)
            points = {"s": 18 * look.scale**2, "zorder": 3, "clip_on": False}
            axes.scatter(part["value"], places, color=colour, marker=marker, label=label, **points)
        axes.set(xlim=(-4, 104), xticks=[0, 50, 100])
        axes.set_title(victim, fontsize=8 * look.scale)
    names = ["no attack" if name == "none" else name for name in attacks]
    panels[0].set_yticks(places, names, fontsize=7 * look.scale)
    panels[0].invert_yaxis()
    # On a slide the legend stands below the names of the attacks, beside the label of the numbers.
    side, middle = ("outside lower left", 0.65) if look.wide else ("outside upper right", 0.5)
    figure.supxlabel(f"accuracy (%), n = {data['n'].iloc[0]}", fontsize=8 * look.scale, x=middle)
    if look.wide:
        figure.get_layout_engine().set(w_pad=0.08)  # the numbers below one panel stay apart from the next one's
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc=side, ncols=2, frameon=False, fontsize=8 * look.scale)
    return figure
