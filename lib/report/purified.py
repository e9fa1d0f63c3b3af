"""Figures 7 to 10, and accuracies beside them: attacks that the purifier never met, and what it makes of them.

Figures 7, 8 and 9 are drawn alike, by `purified`, from these arrays (G attacks, N images):

groups: `[G]`, the attack of each group of rows;  victim, purifier: their names;
clean: `[N,H,W,3]` uint8;  truth: `[N]`, names of classes;  adversary, purified: `[G,N,H,W,3]` uint8;
before, before_score, right_before: `[G,N]`, the class that the victim sees in the adversary, its probability (0 to 1),
and whether it is right;  after, after_score, right_after: the same behind the purifier.
"""

import textwrap
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from lib.report.predictions import detected
from lib.report.style import COLOURS, WIDTH, show, style

# A sign beside the colour: neither a print in grey nor the reader's eye need tell blue from orange.
RIGHT, WRONG = ("✓", COLOURS[0]), ("✗", COLOURS[3])

# Inches. HEIGHT leaves out the second lines of long names, half an inch or so; NARROW is what the notes above and below
# need; LETTER is wide for a text of 7 points.
HEIGHT, NARROW, TOP, BOTTOM, LABELS, GAP, LINE, LETTER = 8.5, 4.2, 0.27, 0.36, 0.4, 0.06, 0.115, 0.056
SMALL = {"fontsize": 7, "linespacing": 1.1}


class Row(NamedTuple):
    """A row of pictures. captions: (text, colour) above each, or none.  gap: inches above the captions."""

    label: str
    images: np.ndarray
    captions: list[tuple[str, str]]
    gap: float = GAP

    @property
    def above(self) -> float:
        """Inches from the pictures of the row above to these."""
        return self.gap + LINE * max((1 + text.count("\n") for text, _ in self.captions), default=0)


def purified(pictures: dict[str, np.ndarray]) -> Figure:
    """Figures 7, 8 and 9: images; then, for each attack, adversaries, the same purified, and what that took away.

    ValueError where the arrays differ in their attacks or images.
    """
    check(pictures)
    style()
    wide, tall = size(pictures)
    count = len(pictures["clean"])
    pitch = max(wide + GAP, (NARROW - LABELS) / count)
    rows = stack(pictures, letters=int((pitch - GAP) / LETTER))
    width, height = LABELS + count * pitch, TOP + sum(row.above + tall for row in rows) + BOTTOM
    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("none")  # places are given in inches; matplotlib forgets `layout="none"` once it saved
    bottom = height - TOP
    for row in rows:
        bottom -= row.above + tall
        draw(figure, row, Bbox.from_bounds(LABELS + (pitch - wide) / 2, bottom, wide, tall), pitch)
    judge = f"class and probability by {pictures['victim']}: {RIGHT[0]} right, {WRONG[0]} wrong"
    note = f"{judge}\ndifference: adversary − purified, grey where they are equal"
    write(figure, width / 2, BOTTOM / 2, note, color="0.4")
    return figure


def figure_10(pictures: dict[str, np.ndarray]) -> Figure:
    """Figure 10: detections on images, on their CDA adversaries, and on these behind the purifier.

    Stored like Figure 5's, of the kinds clean, adversary and purified.
    """
    figure = detected(pictures, {"clean": "image", "adversary": "CDA adversary", "purified": "purified by NRP"})
    figure.supxlabel(f"detections of score {float(pictures['threshold']):g} or more", fontsize=7, color="0.4")
    return figure


def purification(data: pd.DataFrame) -> Figure:
    """Accuracy under every attack, from without a defense to behind the purifier: a panel per victim.

    data: columns attack, victim, defense ("none", "NRP", ...), value, n.
    """
    style()
    attacks, victims = (list(dict.fromkeys(data[column])) for column in ("attack", "victim"))
    figure = Figure(figsize=(WIDTH, 0.22 * len(attacks) + 1.1))
    panels = figure.subplots(1, len(victims), sharey=True, squeeze=False)[0]
    for axes, victim in zip(panels, victims, strict=True):
        cells = data[data["victim"] == victim].pivot(index="attack", columns="defense", values="value").loc[attacks]
        places = range(len(attacks))
        axes.hlines(places, cells["none"], cells["NRP"], color="0.75", linewidth=1.5, zorder=1)
        axes.scatter(cells["none"], places, color="0.35", marker="o", s=18, label="no defense", zorder=2)
        axes.scatter(cells["NRP"], places, color=COLOURS[0], marker="D", s=18, label="behind NRP", zorder=2)
        axes.set(xlim=(-4, 104), xticks=[0, 50, 100])
        axes.set_title(victim, fontsize=8)
    panels[0].set_yticks(places, ["no attack" if name == "none" else name for name in attacks], fontsize=7)
    panels[0].invert_yaxis()
    figure.supxlabel(f"accuracy (%), n = {data['n'].iloc[0]}", fontsize=8)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    return figure


def check(pictures: dict[str, np.ndarray]) -> None:
    """ValueError names the first array that is not about the same attacks and images as `groups` and `clean`."""
    count = (len(pictures["groups"]), len(pictures["clean"]))
    judged = [name for when in ("before", "after") for name in (when, f"{when}_score", f"right_{when}")]
    for name in ("adversary", "purified", *judged):
        if pictures[name].shape[:2] != count:
            raise ValueError(f"{name} is of shape {pictures[name].shape}, with {count[0]} groups and {count[1]} images")


def size(pictures: dict[str, np.ndarray]) -> tuple[float, float]:
    """Width and height of each picture in inches: as large as a page holds."""
    count, high, broad = pictures["clean"].shape[:3]
    groups = len(pictures["groups"])
    lines, gaps = 1 + 4 * groups, 1 + 5 * groups
    room = HEIGHT - TOP - BOTTOM - lines * LINE - gaps * GAP
    wide = min((WIDTH - LABELS) / count - GAP, room / (1 + 3 * groups) * broad / high)
    return wide, wide * high / broad


def stack(pictures: dict[str, np.ndarray], letters: int) -> list[Row]:
    """The rows from top to bottom, their captions no broader than so many letters."""
    rows = [Row("image", pictures["clean"], [(fit(name, letters), "black") for name in pictures["truth"]])]
    for group, (name, adversary, pure) in enumerate(
        zip(pictures["groups"], pictures["adversary"], pictures["purified"], strict=True)
    ):
        rows += [
            Row(str(name), adversary, captions(pictures, "before", group, letters), gap=3 * GAP),
            Row(f"purified by {pictures['purifier']}", pure, captions(pictures, "after", group, letters)),
            Row("difference × 10", difference(adversary, pure), []),
        ]
    return rows


def captions(pictures: dict[str, np.ndarray], when: str, group: int, letters: int) -> list[tuple[str, str]]:
    """Class and probability for each picture, with the sign and in the colour of right or wrong."""
    found = []
    judged = (pictures[name][group] for name in (when, f"{when}_score", f"right_{when}"))
    for name, score, right in zip(*judged, strict=True):
        sign, colour = RIGHT if right else WRONG
        found.append((f"{fit(name, letters)}\n{sign} {100 * score:.0f} %", colour))
    return found


def fit(name: str, letters: int) -> str:
    """A name on at most two lines, cut short where even that is too little."""
    return "\n".join(textwrap.wrap(str(name), letters, max_lines=2, placeholder="…"))


def difference(adversary: np.ndarray, pure: np.ndarray) -> np.ndarray:
    """What the purifier took away, ten times as strong, around mid-grey."""
    return np.clip(128 + 10 * (adversary.astype(np.int16) - pure), 0, 255).astype(np.uint8)


def draw(figure: Figure, row: Row, first: Bbox, pitch: float) -> None:
    """One row. first: where its first picture lies, in inches.  pitch: inches from one picture to the next."""
    label = textwrap.fill(row.label, int(first.height / LETTER))
    write(figure, LABELS / 2, (first.y0 + first.y1) / 2, label, rotation=90)
    for column, image in enumerate(row.images):
        place = first.translated(column * pitch, 0).transformed(figure.dpi_scale_trans - figure.transFigure)
        axes = figure.add_axes(place.bounds)
        show(axes, image)
        if row.captions:
            text, colour = row.captions[column]
            axes.set_title(text, color=colour, pad=2, **SMALL)


def write(figure: Figure, x: float, y: float, text: str, **look) -> None:
    """Small text around a point in inches."""
    figure.text(x, y, text, transform=figure.dpi_scale_trans, ha="center", va="center", **SMALL, **look)
