"""The figure of all claims: every effect with its interval, beside where its claim expects it."""

import textwrap
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from lib.report.claims import RANGES
from lib.report.figures.style import COLOURS, PAPER, Look, style

# Colour and shape both say the verdict.
SIGNS = {
    "reproduced": {"color": COLOURS[0], "marker": "o"},
    "not reproduced": {"color": COLOURS[3], "marker": "X"},
    "inconclusive": {"color": "0.45", "marker": "D"},
    "underpowered": {"color": "0.7", "marker": "s"},
}
FARTHEST = 100.0  # points; an effect beyond is drawn at the edge
SMALLEST = 0.9  # of the type in print
LETTERS, LINES = 44, 2  # per line of a claim, and lines of it; what is longer is cut
LINE, CASE, GAP, FRAME = 0.12, 0.04, 0.06, 1.0  # inches: a line of text, a case, between claims, around them all
MOST = 20  # claims in one column; of more, stricter and looser readings are left out


class Row(NamedTuple):
    """A claim's text in lines, its cases, and the inches that it takes in print."""

    text: list[str]
    cases: pd.DataFrame
    height: float


def claims_forest(data: pd.DataFrame, look: Look = PAPER) -> Figure:
    """A row per claim of the supplement, a dot with a 95 % interval per case; shaded: where the claim expects it.

    data: of `lib.report.claims.judge`. Claims that this scale cannot judge are left out, and of many the stricter and
    looser readings; claims.md lists them. On slides choose some.  ValueError when there is none, and for more than a
    slide holds.
    """
    judged = data[data["verdict"] != "not judged"]
    if judged.empty:
        raise ValueError("no claim of the supplement can be judged at this scale yet; run: dvc repro")
    style(look)
    if judged["id"].nunique() > MOST and not look.wide:
        judged = judged[judged["reading"] == ""]
    rows = []
    for name, cases in judged.groupby("id", sort=False, observed=True):
        words = f"{name}  {cases['brief'].iloc[0] or cases['says'].iloc[0]}"
        text = textwrap.wrap(words, LETTERS, max_lines=LINES, placeholder=" …")
        rows.append(Row(text, cases, max(LINE * len(text), CASE * len(cases)) + GAP))
    columns = [rows]
    if len(rows) > MOST and not look.wide:  # two of about the same height
        heights = np.cumsum([row.height for row in rows])
        place = int(np.abs(heights - heights[-1] / 2).argmin()) + 1
        columns = [rows[:place], rows[place:]]
    tall = max(sum(row.height for row in column) for column in columns)
    size = min(look.scale, (look.height - FRAME * look.scale) / tall if look.wide else look.scale)
    if size < SMALLEST:
        some = ",".join(row.cases["id"].iloc[0] for row in rows[:3])
        raise ValueError(f"{len(rows)} claims do not fit a slide; choose some, as in --only {some}")
    figure = Figure(figsize=(look.width * 1.25, size * tall + FRAME * look.scale))
    for axes, column in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
        _column(axes, column, tall, size)
    signs = [Line2D([], [], linestyle="", label=name, **sign) for name, sign in SIGNS.items()]
    signs.append(Patch(color=COLOURS[2], alpha=0.18, linewidth=0, label="where the claim expects it"))
    figure.legend(handles=signs, loc="outside lower center", ncols=5, frameon=False, fontsize=8 * look.scale)
    return figure


def _column(axes: Axes, rows: list[Row], tall: float, size: float) -> None:
    """Claims below each other, in a column that is so many inches high in print."""
    note = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right", "va": "center"}
    top = 0.0
    for text, cases, height in rows:
        left, right = np.clip(RANGES[cases["expected"].iloc[0]], -FARTHEST, FARTHEST)
        axes.barh(top + height / 2, right - left, height - GAP / 2, left, color=COLOURS[2], alpha=0.18, linewidth=0)
        for place, row in enumerate(cases.itertuples()):
            y, sign = top + GAP / 2 + (height - GAP) * (place + 0.5) / len(cases), SIGNS[row.verdict]
            low, effect, high = np.clip([float(row.low), float(row.effect), float(row.high)], -FARTHEST, FARTHEST)
            axes.plot([low, high], [y, y], color=sign["color"], linewidth=0.8 * size)
            axes.plot(effect, y, markersize=3 * size, markeredgewidth=0, linestyle="", **sign)
        axes.annotate("\n".join(text), (0, top + height / 2), (-6, 0), fontsize=6.5 * size, **note)
        top += height
    axes.axvline(0, color="0.2", linewidth=0.8)
    axes.set(xlim=(-FARTHEST, FARTHEST), ylim=(tall, 0), yticks=[])
    axes.set_xlabel("effect (points, 95 % interval)", fontsize=8 * size)
    axes.tick_params(labelsize=7 * size)
    axes.grid(axis="y", visible=False)
