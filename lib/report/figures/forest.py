"""The figure of all claims: every effect with its interval, beside where its claim expects it."""

import textwrap

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
LIMIT = 100.0  # points; an effect beyond is drawn at the edge
SMALLEST = 0.9  # of the type in print
LETTERS = 58  # per line of a claim
LINE, CASE, GAP, FRAME = 0.13, 0.055, 0.1, 1.0  # inches: a line of text, a case, between claims, around them all


def claims_forest(data: pd.DataFrame, look: Look = PAPER) -> Figure:
    """A row per claim of the supplement, a dot with a 95 % interval per case; shaded: where the claim expects it.

    data: of `lib.report.claims.judge`. Claims that this scale cannot judge are left out; claims.md lists them. On
    slides choose some.  ValueError when there is none, and for more than a slide holds.
    """
    judged = data[data["verdict"] != "not judged"]
    if judged.empty:
        raise ValueError("no claim of the supplement can be judged at this scale yet; run: dvc repro")
    style(look)
    rows = list(judged.groupby("id", sort=False, observed=True))
    texts = [textwrap.wrap(f"{name}  {part['says'].iloc[0]}", LETTERS) for name, part in rows]
    heights = [max(LINE * len(text), CASE * len(part)) + GAP for text, (_, part) in zip(texts, rows, strict=True)]
    size = min(look.scale, (look.height - FRAME * look.scale) / sum(heights) if look.wide else look.scale)
    if size < SMALLEST:
        some = ",".join(name for name, _ in rows[:3])
        raise ValueError(f"{len(rows)} claims do not fit a slide; choose some, as in --only {some}")
    figure = Figure(figsize=(look.width * 1.25, size * sum(heights) + FRAME * look.scale))
    axes = figure.add_subplot()
    top = 0.0
    for text, (_, part), height in zip(texts, rows, heights, strict=True):
        _claim(axes, part, top, height, size)
        note = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right", "va": "center"}
        axes.annotate("\n".join(text), (0, top + height / 2), (-6, 0), fontsize=7 * size, **note)
        top += height
    axes.axvline(0, color="0.2", linewidth=0.8)
    axes.set(xlim=(-LIMIT, LIMIT), ylim=(top, 0), yticks=[], xlabel="effect (percentage points, 95 % interval)")
    axes.tick_params(top=True, labeltop=True)
    axes.grid(axis="y", visible=False)
    signs = [Line2D([], [], linestyle="", label=name, **sign) for name, sign in SIGNS.items()]
    signs.append(Patch(color=COLOURS[2], alpha=0.18, linewidth=0, label="where the claim expects it"))
    figure.legend(handles=signs, loc="outside lower center", ncols=5, frameon=False, fontsize=8 * look.scale)
    return figure


def _claim(axes: Axes, part: pd.DataFrame, top: float, height: float, size: float) -> None:
    """One claim: the shaded range, a dot per case."""
    low, high = RANGES[part["expected"].iloc[0]]
    left, right = max(low, -LIMIT), min(high, LIMIT)
    axes.barh(top + height / 2, right - left, height - GAP / 2, left, color=COLOURS[2], alpha=0.18, linewidth=0)
    for place, row in enumerate(part.itertuples()):
        y = top + GAP / 2 + (height - GAP) * (place + 0.5) / len(part)
        sign = SIGNS[row.verdict]
        low, effect, high = (min(max(float(end), -LIMIT), LIMIT) for end in (row.low, row.effect, row.high))
        axes.plot([low, high], [y, y], color=sign["color"], linewidth=0.8 * size)
        axes.plot(effect, y, markersize=3.5 * size, markeredgewidth=0, linestyle="", **sign)
