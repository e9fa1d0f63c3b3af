"""Curves with 95 % bands (Figures 1 and 6, the trend over budgets), t-SNE (Figure 3), transfer and purification."""

from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.report.figures.style import COLOURS, MARKERS, PAPER, Look, every, style

# Lines that stand in every panel of the trend over budgets; the defenses take the palette's colours.
COMPARED = {"no defense": "black", "random sign noise": "0.5"}
REACH = 10  # steps of 1.6 after which the budget of 16 is within reach
NOISE = ("noise", "Noise", "random noise", "random sign noise")  # grey in every figure


def _curve(axes: Axes, points: pd.DataFrame, x: str, sign: dict, band: float, **line) -> None:
    """A line with its 95 % band. sign: colour and marker.  band: the opacity of the band."""
    axes.plot(points[x], points["value"], **sign, **line)
    axes.fill_between(points[x], points["low"], points["high"], color=sign["color"], alpha=band, linewidth=0)


def _signs(names: list[str]) -> dict[str, dict[str, str]]:
    """A colour and a marker for each name; random noise is grey."""
    signs = {
        name: {"color": colour, "marker": marker}
        for name, colour, marker in zip(names, cycle(COLOURS), cycle(MARKERS), strict=False)
    }
    return signs | {name: {"color": "0.5", "marker": "."} for name in NOISE if name in signs}


def _iterations(data: pd.DataFrame, line: str, ylabel: str, look: Look) -> Figure:
    """A value against the number of iterations. line: the column that names the lines; `label`: their legend."""
    style(look)
    figure = Figure(figsize=look.size(3.6))
    axes = figure.add_subplot()
    signs = _signs(every(data[line]))
    for (name, label), points in data.groupby([line, "label"], sort=False, observed=True):
        _curve(axes, points, "steps", signs[name], 0.15, label=label)
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
    return _iterations(data.assign(label=data["source"]), "source", f"fooling rate on {victim} (%), n = {n}", look)


def figure_06(data: pd.DataFrame, look: Look = PAPER) -> Figure:
    """Figure 6: accuracy of the victim under several attacks."""
    first = data.iloc[0]
    labels = data["attack"].astype(str) + " from " + data["surrogate"]
    figure = _iterations(data.assign(label=labels), "attack", f"accuracy of {first['victim']} (%)", look)
    axes = figure.axes[0]
    axes.axhline(first["clean"], color="0.4", linestyle="--", linewidth=look.scale)
    axes.axhline(first["noise"], color="0.4", linestyle=":", linewidth=look.scale)
    note = {"x": data["steps"].max(), "color": "0.3", "fontsize": min(8 * look.scale, 12), "ha": "right"}
    axes.text(y=first["clean"] + 1, s=f"clean images, n = {first['n']}", va="bottom", **note)
    axes.text(y=first["noise"] - 1, s="random sign noise of the same size", va="top", **note)
    axes.axvline(REACH, color="0.4", linestyle="-.", linewidth=look.scale)
    axes.annotate(
        "10 steps of 1.6: the budget",
        (REACH, 60),
        (4, 0),
        textcoords="offset points",
        color="0.3",
        fontsize=note["fontsize"],
    )
    axes.set(ylim=(0, 108), yticks=range(0, 101, 20))
    return figure


def layers(data: pd.DataFrame, look: Look = PAPER) -> Figure:
    """Fooling rate under SSP of every layer: a panel per budget, a bar per layer, in a network's colour."""
    style(look)
    signs = _signs(every(data["source"]))
    sizes, bars = sorted(set(data["eps"])), list(data["layer"].drop_duplicates())
    figure = Figure(figsize=look.size(0.2 * len(bars) + 0.9))
    for axes, eps in zip(figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0], sizes, strict=True):
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


def budgets(data: pd.DataFrame, look: Look = PAPER) -> Figure:
    """The trend of accuracy against budget: a row per victim, a panel per kind of defense, random noise dotted."""
    style(look)
    signs, data = _signs([*COMPARED, *every(data["line"])]), data.assign(line=data["line"].astype(str))
    parts = list(data.groupby(["task", "victim", "metric", "n"], sort=False))
    kinds = list(dict.fromkeys(name.split()[0] for name in data["line"] if name not in COMPARED)) or [""]
    figure = Figure(figsize=look.size(1.8 * len(parts) + 0.7))
    panels = figure.subplots(len(parts), len(kinds), squeeze=False, sharex=True, sharey=True)
    for row, ((_, victim, metric, n), part) in zip(panels, parts, strict=True):
        row[0].set_ylabel(f"{metric} (%)\n{victim}, n = {n}", fontsize=8 * look.scale)
        for axes, kind in zip(row, kinds, strict=True):
            here = part[part["line"].isin(COMPARED) | (part["line"].str.split().str[0] == kind)]
            for name, points in here.groupby("line", sort=False):
                sign = signs[name] | ({"color": COMPARED[name]} if name in COMPARED else {})
                line = {"linestyle": ":" if "noise" in name else "-", "markersize": 4 * look.scale}
                _curve(axes, points, "eps", sign, 0.15, label=name, **line)
            axes.set(ylim=(0, 100), xticks=sorted(set(part["eps"])))
    for axes, kind in zip(panels[0], kinds, strict=True):
        axes.set_title(kind, fontsize=8 * look.scale)
    for axes in panels[-1]:
        axes.set_xlabel("budget (levels)", fontsize=8 * look.scale)
    handles = {name: line for axes in figure.axes for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    look.legend(figure, handles.values(), list(handles), 8, most=4)
    return figure


# Published at budget 16 under targeted PGD: Table 1 (10 steps), and Feature Denoising's repository (1,000 steps).
PRINTED = {"NRP, Table 1": 63.0, "Feature Denoising, Table 1": 55.7, "Feature Denoising, 1,000 steps": 42.8}


def protocol(data: pd.DataFrame, look: Look = PAPER) -> Figure:
    """Accuracy against budget: a panel per defense, a line per attacker; the paper's numbers as marks at budget 16.

    data: columns defense, attacker, eps, value, low, high, n.
    """
    style(look)
    names = every(data["defense"])
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, signs = Figure(figsize=look.size(1.9 * rows + 0.6)), _signs(every(data["attacker"]))
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    for axes, name in zip(grid, names, strict=False):
        here = data[(data["defense"] == name) & (data["eps"] <= 16)]
        for attacker, points in here.groupby("attacker", sort=False, observed=True):
            _curve(
                axes, points.sort_values("eps"), "eps", signs[attacker], 0.1, label=attacker, markersize=4 * look.scale
            )
        for (label, value), marker in zip(PRINTED.items(), ("*", "x", "+"), strict=True):
            mark = {"color": "black", "marker": marker, "markeredgewidth": 1.2, "markersize": 6 * look.scale}
            axes.plot([16], [value], linestyle="", label=label, clip_on=False, zorder=4, **mark)
        axes.set(ylim=(0, 100), xticks=sorted(set(here["eps"])), xlabel="budget (levels)")
        axes.label_outer()
        axes.set_title(f"{name}, n = {here['n'].iloc[0]}", fontsize=8 * look.scale)
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    figure.supylabel("accuracy (%)", fontsize=8 * look.scale)
    handles = {name: line for axes in grid for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    look.legend(figure, handles.values(), list(handles), 8, most=4, below=True)
    return figure


def figure_03(data: pd.DataFrame, look: Look = PAPER) -> Figure:
    """Figure 3: t-SNE of logits beside t-SNE of features, one panel each, with the silhouette score in the title."""
    style(look)
    panels = list(data.groupby("space", sort=False, observed=True))
    signs = _signs(list(dict.fromkeys(data["class"])))
    figure = Figure(figsize=look.size(3.0))
    titles, size = look.titles([space for space, _ in panels], look.width / len(panels))
    for axes, title, (_, part) in zip(figure.subplots(1, len(panels), squeeze=False)[0], titles, panels, strict=True):
        for name, points in part.groupby("class", sort=False):
            axes.scatter(points["x"], points["y"], s=10 * look.scale**2, label=name, linewidths=0, **signs[name])
        axes.set(xticks=[], yticks=[], xlabel="", ylabel="")
        axes.set_title(f"{title}\nsilhouette {part['silhouette'].iloc[0]:.2f}", fontsize=size)
    handles = figure.axes[0].get_legend_handles_labels()
    look.legend(figure, *handles, 7, most=6, below=True, markerscale=1.5)
    return figure


def transfer(data: pd.DataFrame, look: Look = PAPER) -> Figure:
    """The transfer matrix as a heat map: accuracy of every victim under every attack; in parentheses where the attack
    saw the victim."""
    style(look)
    seen = data.assign(
        value=[
            victim in str(other).split(" + ") for victim, other in zip(data["victim"], data["surrogate"], strict=True)
        ]
    )
    seen = _matrix(seen, "victim").to_numpy()
    matrix = _matrix(data, "victim")
    figure = Figure(figsize=look.size(0.32 * len(matrix) + 1.2))
    axes = figure.add_subplot()
    image = axes.imshow(matrix, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    figure.colorbar(image, label=f"accuracy (%), n = {data['n'].iloc[0]}")
    for (row, column), value in np.ndenumerate(matrix.to_numpy()):
        text = f"({value:.0f})" if seen[row, column] else f"{value:.0f}"
        axes.text(column, row, text, ha="center", va="center", color="black" if value > 60 else "white")
    axes.set_xticks(range(matrix.shape[1]), matrix.columns, rotation=35, ha="right")
    axes.set_yticks(range(len(matrix)), matrix.index)
    axes.grid(False)
    return figure


def _matrix(data: pd.DataFrame, columns: str) -> pd.DataFrame:
    """The values by attack and another column, both in order of appearance."""
    orders = (data[name].drop_duplicates() for name in ("attack", columns))
    return data.pivot(index="attack", columns=columns, values="value").loc[*orders]


def purification(data: pd.DataFrame, look: Look = PAPER) -> Figure:
    """Accuracy under every attack, from without a defense to behind the purifier: a panel per victim.

    data: columns attack, victim, defense ("none", "NRP", ...), value, low, high, n.
    """
    style(look)
    attacks, victims = (list(dict.fromkeys(data[column])) for column in ("attack", "victim"))
    places = range(len(attacks))
    figure = Figure(figsize=look.size(0.22 * len(attacks) + 1.1))
    panels = figure.subplots(1, len(victims), sharey=True, squeeze=False)[0]
    points = {"s": 18 * look.scale**2, "zorder": 3, "clip_on": False}
    for axes, victim in zip(panels, victims, strict=True):
        cells = _matrix(data[data["victim"] == victim], "defense").loc[attacks]
        axes.hlines(places, cells["none"], cells["NRP"], color="0.75", linewidth=1.5 * look.scale, zorder=1)
        for defense, colour in (("none", "0.35"), ("NRP", COLOURS[0])):
            part = data[(data["victim"] == victim) & (data["defense"] == defense)].set_index("attack").loc[attacks]
            axes.hlines(places, part["low"], part["high"], color=colour, linewidth=0.8 * look.scale, zorder=2)
        axes.scatter(cells["none"], places, color="0.35", marker="o", label="no defense", **points)
        axes.scatter(cells["NRP"], places, color=COLOURS[0], marker="D", label="behind NRP", **points)
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
