"""Figure 3, the transfer matrix, and accuracies before and after purification: points and cells in panels."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.report.figures.style import COLOURS, MARKERS, PAPER, Look, style


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


def purification(data: pd.DataFrame, look: Look = PAPER) -> Figure:
    """Accuracy under every attack, from without a defense to behind the purifier: a panel per victim.

    data: columns attack, victim, defense ("none", "NRP", ...), value, n.
    """
    style(look)
    attacks, victims = (list(dict.fromkeys(data[column])) for column in ("attack", "victim"))
    figure = Figure(figsize=look.size(0.22 * len(attacks) + 1.1))
    panels = figure.subplots(1, len(victims), sharey=True, squeeze=False)[0]
    points = {"s": 18 * look.scale**2, "zorder": 3, "clip_on": False}
    for axes, victim in zip(panels, victims, strict=True):
        cells = data[data["victim"] == victim].pivot(index="attack", columns="defense", values="value").loc[attacks]
        places = range(len(attacks))
        axes.hlines(places, cells["none"], cells["NRP"], color="0.75", linewidth=1.5 * look.scale, zorder=1)
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
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc=side, ncols=2, frameon=False, fontsize=8 * look.scale)
    return figure
