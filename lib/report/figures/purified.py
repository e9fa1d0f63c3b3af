"""Figures 7 to 9: attacks that the purifier never met, and what it makes of them.

They are drawn alike, by `purified`, from these arrays (G attacks, N images):

groups: `[G]`, the attack of each group of rows;  victim, purifier: their names;
clean: `[N,H,W,3]` uint8;  truth: `[N]`, names of classes;  adversary, purified: `[G,N,H,W,3]` uint8;
before, before_score, right_before: `[G,N]`, the class that the victim sees in the adversary, its probability (0 to 1),
and whether it is right;  after, after_score, right_after: the same behind the purifier.
"""

import textwrap
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from lib.report.figures.selection import entries
from lib.report.figures.style import COLOURS, PAPER, Look, show, style

# A sign beside the colour: neither a print in grey nor the reader's eye need tell blue from orange.
RIGHT, WRONG = ("✓", COLOURS[0]), ("✗", COLOURS[3])

# Inches in print. NARROW is what the notes above and below need; LETTER is wide for a text of 7 points.
NARROW, TOP, BOTTOM, LABELS, GAP, LINE, LETTER = 4.2, 0.27, 0.36, 0.4, 0.06, 0.115, 0.056
SMALL = {"fontsize": 7, "linespacing": 1.1}
DENSE = 1.3  # the largest scale of type that leaves room for as many pictures and captions

# What can be chosen: attacks are rows of `groups`, images the columns of the figure.
_JUDGED = [name for when in ("before", "after") for name in (when, f"{when}_score", f"right_{when}")]
ATTACKS = entries("attack", dict.fromkeys(["groups", "adversary", "purified", *_JUDGED], 0), "groups")
IMAGES = entries("image", {"clean": 0, "truth": 0} | dict.fromkeys(["adversary", "purified", *_JUDGED], 1))


class Row(NamedTuple):
    """A row of pictures. captions: (text, colour) above each, or none.  gap: inches above the captions, in print."""

    label: str
    images: np.ndarray
    captions: list[tuple[str, str]]
    gap: float = GAP

    @property
    def above(self) -> float:
        """Inches from the pictures of the row above to these, in print."""
        return self.gap + LINE * max((1 + text.count("\n") for text, _ in self.captions), default=0)


class Plan(NamedTuple):
    """Where everything stands, in inches. blocks: the rows of each block; blocks stand side by side.

    wide, tall: of a picture.  pitch: from a picture to the next.  columns: pictures side by side in a block.
    top: above the first row.  size: of the figure.
    """

    blocks: list[list[Row]]
    wide: float
    tall: float
    pitch: float
    columns: int
    top: float
    size: tuple[float, float]


def purified(pictures: dict[str, np.ndarray], look: Look = PAPER) -> Figure:
    """Figures 7, 8 and 9: images; then, for each attack, adversaries, the same purified, and what that took away.

    The attacks stand one below the other on a page, side by side on a slide. ValueError where the arrays differ in
    their attacks or images.
    """
    check(pictures)
    style(look)
    look = look._replace(scale=min(look.scale, DENSE))
    page = plan(pictures, look)
    scale = look.scale
    figure = Figure(figsize=page.size)
    figure.set_layout_engine("none")  # places are given in inches; matplotlib forgets `layout="none"` once it saved
    for place, rows in enumerate(page.blocks):
        left = scale * LABELS + place * (page.columns * page.pitch + 3 * GAP * scale)
        bottom = page.size[1] - page.top
        if look.wide:
            middle = left + page.columns * page.pitch / 2
            write(figure, look, middle, bottom + scale * LINE, str(pictures["groups"][place]), weight="bold")
        for row in rows:
            bottom -= scale * row.above + page.tall
            first = Bbox.from_bounds(left + (page.pitch - page.wide) / 2, bottom, page.wide, page.tall)
            draw(figure, look, row, first, page.pitch)
            if place == 0:
                label = textwrap.fill(row.label, int(page.tall / (scale * LETTER)), break_long_words=False)
                write(figure, look, scale * LABELS / 2, bottom + page.tall / 2, label, rotation=90)
    judge = f"class and probability by {pictures['victim']}: {RIGHT[0]} right, {WRONG[0]} wrong"
    note = f"{judge}\ndifference: adversary − purified, grey where they are equal"
    write(figure, look, page.size[0] / 2, scale * BOTTOM / 2, note, color="0.4")
    return figure


def check(pictures: dict[str, np.ndarray]) -> None:
    """ValueError names the first array that is not about the same attacks and images as `groups` and `clean`."""
    count = (len(pictures["groups"]), len(pictures["clean"]))
    for name in ("adversary", "purified", *_JUDGED):
        if pictures[name].shape[:2] != count:
            raise ValueError(f"{name} is of shape {pictures[name].shape}, with {count[0]} groups and {count[1]} images")


def plan(pictures: dict[str, np.ndarray], look: Look) -> Plan:
    """Pictures as large as the page holds: with names on one line, else with room for two lines of every name."""
    count, high, broad = pictures["clean"].shape[:3]
    groups = list(range(len(pictures["groups"])))
    blocks = [[group] for group in groups] if look.wide else [groups]
    top = (TOP + (2 * LINE if look.wide else 0)) * look.scale
    between = (len(blocks) - 1) * 3 * GAP * look.scale
    for lines in (1, 2):
        texts = LINE * (lines + 2 * (1 + lines) * len(blocks[0])) + GAP * (1 + 5 * len(blocks[0]))
        room = look.height - top - (BOTTOM + texts) * look.scale
        across = (look.width - LABELS * look.scale - between) / (count * len(blocks)) - GAP * look.scale
        wide = min(across, room / (1 + 3 * len(blocks[0])) * broad / high)
        tall = wide * high / broad
        pitch = max(wide + GAP * look.scale, (NARROW - LABELS) * look.scale / (count * len(blocks)))
        letters = int((pitch / look.scale - GAP) / LETTER)
        rows = [stack(pictures, block, letters, named=not look.wide) for block in blocks]
        height = top + max(sum(look.scale * row.above + tall for row in part) for part in rows) + BOTTOM * look.scale
        if height <= look.height:
            break
    width = LABELS * look.scale + count * len(blocks) * pitch + between
    return Plan(rows, wide, tall, pitch, count, top, (width, height))


def stack(pictures: dict[str, np.ndarray], groups: list[int], letters: int, named: bool) -> list[Row]:
    """The rows of some attacks from top to bottom, their captions no broader than so many letters.

    named: whether the rows of adversaries are labelled with their attacks.
    """
    rows = [Row("image", pictures["clean"], [(fit(name, letters), "black") for name in pictures["truth"]])]
    for group in groups:
        adversary, pure = pictures["adversary"][group], pictures["purified"][group]
        label = str(pictures["groups"][group]) if named else "adversary"
        rows += [
            Row(label, adversary, captions(pictures, "before", group, letters), gap=3 * GAP),
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


def draw(figure: Figure, look: Look, row: Row, first: Bbox, pitch: float) -> None:
    """One row. first: where its first picture lies, in inches.  pitch: inches from one picture to the next."""
    for column, image in enumerate(row.images):
        place = first.translated(column * pitch, 0).transformed(figure.dpi_scale_trans - figure.transFigure)
        axes = figure.add_axes(place.bounds)
        show(axes, image)
        if row.captions:
            text, colour = row.captions[column]
            axes.set_title(text, color=colour, pad=2 * look.scale, **small(look))


def write(figure: Figure, look: Look, x: float, y: float, text: str, **more) -> None:
    """Small text around a point in inches."""
    figure.text(x, y, text, transform=figure.dpi_scale_trans, ha="center", va="center", **small(look), **more)


def small(look: Look) -> dict[str, float]:
    """The type of captions and notes."""
    return SMALL | {"fontsize": SMALL["fontsize"] * look.scale}
