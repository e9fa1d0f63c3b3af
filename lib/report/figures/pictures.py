"""Figures of pictures: images beside their adversaries, with what a network predicts of them.

Figures 4, 5 and 10 are `tiles`: a row per image and a column per kind of image. Figures 2 and 7 to 9 are `strips`: a
column per image. `segmented`, `detected` and `purified` turn stored arrays (lib/experiment/pictures.py makes them) into
a `Grid`, in which images and columns are chosen before it is drawn.
"""

import itertools
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from lib.report.figures.style import COLOURS, PAPER, Look

# The columns of a figure: the arrays that they show, and their titles, with the supplement's letters.
SEGMENTED = {
    "image_clean": "(a) image",
    "truth": "ground truth",
    "predicted_clean": "(b) prediction",
    "predicted_noise": "prediction under noise",
    "image_adversary": "(c) SSP adversary",
    "predicted_adversary": "(d) its prediction",
}
DETECTED = {
    "truth": "ground truth",
    "clean": "(a), (c) image",
    "noise": "random sign noise",
    "adversary": "(b), (d) SSP adversary",
}
PURIFIED = {"truth": "ground truth", "clean": "image", "adversary": "CDA adversary", "purified": "purified by NRP"}
# A sign beside the colour: neither a print in grey nor the reader's eye need tell blue from orange.
RIGHT, WRONG = ("✓", COLOURS[0]), ("✗", COLOURS[3])
# Inches in print: labels of rows, a line of a caption and the space around it, one of its letters (7 points).
LABELS, CAPTION_LINE, CAPTION_GAP, CAPTION_LETTER = 0.3, 0.115, 0.05, 0.056
DENSE = 1.3  # the largest scale of type that leaves room for as many pictures and captions


class Picture(NamedTuple):
    """A picture, uint8 `[H,W,3]`, and what is known of it.

    name, mark, colour: of the caption, the class and its probability.  head: stands above them.  boxes: of each object
    (x0, y0, x1, y1), its class and what is written at it.  classes: the names of those in a map of classes.
    """

    image: np.ndarray
    name: str = ""
    mark: str = ""
    colour: str = "black"
    head: str = ""
    boxes: Sequence[tuple] = ()
    classes: Sequence[str] = ()

    def caption(self, letters: int) -> str:
        """The name on at most two lines of so many letters, cut short where even that is too little; the mark."""
        return "\n".join(filter(None, [self.head, wrapped(self.name, letters, 2), self.mark]))


def wrapped(text: str, letters: int, lines: int) -> str:
    """A text in lines of so many letters, cut short where it needs more lines."""
    return "\n".join(textwrap.wrap(text, letters, max_lines=lines, placeholder="…"))


class Grid(NamedTuple):
    """What a figure of pictures shows.

    titles: of what can be chosen beside images, columns or attacks.  rows: by image and title, a picture; of `strips`
    several: image, adversary, purified, what was added, what is left.  note: below the pictures.  labels: of `strips`,
    of the several.  above: of `tiles`, inches for titles in print.  legend: of `tiles`, the colour (0 to 1) of each
    class of pixels or objects.
    """

    titles: list[str]
    rows: list[list]
    note: str
    labels: Sequence[str] = ()
    above: float = 0.0
    legend: dict[str, np.ndarray] | None = None


def _legend(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return dict(zip(arrays["classes"].tolist(), arrays["colours"] / 255, strict=True))


def segmented(arrays: dict[str, np.ndarray]) -> Grid:
    """Figure 4: images, adversaries and what is predicted of them; the colours of the classes below.

    image_clean, image_noise, image_adversary: `[rows,H,W,3]` uint8; predicted_clean and so on, truth: `[rows,H,W]`
    classes; right_clean and so on: `[rows]`, the share of labelled pixels that is right; classes, colours: by class.
    """

    def cell(row: int, name: str) -> Picture:
        one = arrays[name][row]
        if name.startswith("image"):
            return Picture(one)
        mark = "" if name == "truth" else f"{100 * arrays[name.replace('predicted', 'right')][row]:.0f} %"
        return Picture(arrays["colours"][one], mark=mark, classes=arrays["classes"][np.unique(one)].tolist())

    rows = [[cell(row, name) for name in SEGMENTED] for row in range(len(arrays["truth"]))]
    note = "in the corner: labelled pixels that are right"
    return Grid(list(SEGMENTED.values()), rows, note, above=0.9, legend=_legend(arrays))


def detected(kinds: dict[str, str], arrays: dict[str, np.ndarray]) -> Grid:
    """Figures 5 and 10: detections on several kinds of image. kinds: each and its title; "truth" has the true objects.

    image_0_clean, boxes_0_clean (x0, y0, x1, y1), names_0_clean, scores_0_clean, found_0_clean (how many objects), the
    same for every other kind, and so on for every row; boxes_0_truth, names_0_truth; threshold: the score from which a
    detection is drawn; classes, colours: by class.
    """

    def cell(row: int, kind: str) -> Picture:
        boxes, names = (arrays[f"{what}_{row}_{kind}"].tolist() for what in ("boxes", "names"))
        if kind == "truth":
            return Picture(arrays[f"image_{row}_clean"], boxes=list(zip(boxes, names, names, strict=True)))
        texts = [f"{name} {score:.2f}" for name, score in zip(names, arrays[f"scores_{row}_{kind}"], strict=True)]
        mark = f"{arrays[f'found_{row}_{kind}']} of {len(arrays[f'names_{row}_truth'])}"
        return Picture(arrays[f"image_{row}_{kind}"], mark=mark, boxes=list(zip(boxes, names, texts, strict=True)))

    rows = [[cell(row, kind) for kind in kinds] for row in range(sum(name.endswith("_truth") for name in arrays) // 2)]
    note = f"detections of score {arrays['threshold']:g} or more; in the corner: objects found (class, IoU ≥ 0.5)"
    return Grid(list(kinds.values()), rows, note, above=0.4, legend=_legend(arrays))


# What is stored of a prediction of each picture: its class, its probability and whether it is right.
PREDICTED = {
    "adversary": ("before", "before_score", "right_before"),
    "purified": ("after", "after_score", "right_after"),
}


def purified(arrays: dict[str, np.ndarray]) -> Grid:
    """Figures 2 and 7 to 9: attacks, and what the purifier, if there is one, makes of them (G attacks, N images).

    groups: `[G]`, the attacks;  victim, purifier: their names;  clean: `[N,H,W,3]` uint8;  truth: `[N]`, names of
    classes;  adversary, purified: `[G,N,H,W,3]` uint8;  before, before_score, right_before: `[G,N]`, the class that the
    victim predicts of the adversary, its probability (0 to 1), and whether it is right;  after, after_score,
    right_after: the same behind the purifier. ValueError names the first array of another shape.
    """
    groups, clean = arrays["groups"], arrays["clean"]
    kinds = [kind for kind in PREDICTED if kind in arrays]
    for name in (part for kind in kinds for part in (kind, *PREDICTED[kind])):
        if (shape := arrays[name].shape)[:2] != (len(groups), len(clean)):
            raise ValueError(f"{name} is of shape {shape}, with {len(groups)} groups and {len(clean)} images")
    most = max(np.abs(arrays[kind] - clean.astype(np.int16)).max() for kind in kinds)
    times = max(127 // max(1, int(most)), 1)

    def cells(group: int, image: int) -> list[Picture]:
        known = [[arrays[name][group, image] for name in (kind, *PREDICTED[kind])] for kind in kinds]
        changes = [difference(made, clean[image], times) for made, *_ in known]
        return [Picture(clean[image], str(arrays["truth"][image])), *(prediction(*one) for one in known), *changes]

    left = "; left: purified − image" if "purified" in kinds else ""
    victim = f"class and probability by {arrays['victim']}: {RIGHT[0]} right, {WRONG[0]} wrong"
    note = f"{victim}\nadded: adversary − image{left}; grey where they are equal; PSNR in dB"
    rows = [[cells(group, image) for group in range(len(groups))] for image in range(len(clean))]
    names = ["adversary", f"purified by {arrays['purifier']}"][: len(kinds)]
    labels = ["image", *names, f"added × {times}", f"left × {times}"]
    return Grid(list(map(str, groups)), rows, note, labels[: 1 + 2 * len(kinds)])


def prediction(image: np.ndarray, name: str, score: float, right: bool) -> Picture:
    """A picture with its predicted class and probability, and whether that is right by sign and colour."""
    sign, colour = RIGHT if right else WRONG
    return Picture(image, str(name), f"{sign} {100 * score:.0f} %", colour)


def difference(image: np.ndarray, clean: np.ndarray, times: int) -> Picture:
    """What an image has that the clean one has not, so many times as strong, around mid-grey; its PSNR."""
    change = image.astype(np.int16) - clean
    decibels = 10 * np.log10(255**2 / max(np.square(change.astype(float)).mean(), 1e-9))
    return Picture(np.clip(128 + times * change, 0, 255).astype(np.uint8), mark=f"{decibels:.1f} dB")


def tiles(grid: Grid, look: Look = PAPER) -> Figure:
    """A row per image with its detections, a titled column per kind, and a legend of the classes in maps."""
    present = {name for row in grid.rows for cell in row for name in cell.classes}
    coloured = {name: colour for name, colour in grid.legend.items() if name in present}
    heights = [row[0].image.shape[0] / row[0].image.shape[1] for row in grid.rows]
    # The legend stands where there is room.
    beside = 1.1 if coloured and look.wide else 0
    figure, picture = look.grid(heights, len(grid.titles), grid.above + 0.1 * len(heights), beside)
    titles, size = look.titles(grid.titles, picture)
    panels = figure.subplots(len(heights), len(titles), height_ratios=heights, squeeze=False)
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title, fontsize=size)
    for axes, cell in zip(panels.flat, itertools.chain(*grid.rows), strict=True):
        _show(axes, cell)
        for place, (corners, name, text) in enumerate(cell.boxes):
            under = sum(_same_corner(corners, other) for other, *_ in cell.boxes[:place])
            _box(axes, corners, text, grid.legend.get(name, np.zeros(3)), look, under)
        if cell.mark:
            plain = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
            corner = {"transform": axes.transAxes, "ha": "right", "va": "bottom", "bbox": plain}
            axes.text(0.985, 0.02, cell.mark, fontsize=min(6.5 * look.scale, 10), **corner)
    if coloured:
        signs = {name: Patch(facecolor=colour, edgecolor="0.5") for name, colour in coloured.items()}
        look.legend(figure, 7, most=6, entries=signs, title=grid.note, title_fontsize=7 * look.scale)
    else:
        figure.supxlabel(grid.note, fontsize=7 * look.scale, color="0.4")
    return figure


def _show(axes: Axes, cell: Picture) -> None:
    """A picture without axes; small ones and maps of classes are enlarged without smoothing."""
    smooth = not cell.classes and cell.image.shape[0] >= 128
    axes.imshow(cell.image, interpolation="antialiased" if smooth else "nearest")
    axes.set_axis_off()


def _same_corner(corners: Sequence[float], other: Sequence[float]) -> bool:
    """Would the labels of two boxes lie over each other?"""
    near = 0.12 * max(other[2] - other[0], other[3] - other[1])
    return abs(corners[0] - other[0]) < near and abs(corners[1] - other[1]) < near


def _box(axes: Axes, corners: Sequence[float], text: str, colour: np.ndarray, look: Look, under: int = 0) -> None:
    """The box of a detection, in pixels, with its name and score; under: so many labels in the same place."""
    (left, top, right, bottom), end = corners, axes.get_xlim()[1]
    # Pixel centres lie at whole numbers, so an image begins at -0.5.
    sides = {"width": right - left, "height": bottom - top, "fill": False}
    axes.add_patch(Rectangle((left - 0.5, top - 0.5), edgecolor=colour, linewidth=1.2 * look.scale, **sides))
    label = {"boxstyle": "square,pad=0.1", "facecolor": colour, "edgecolor": "none", "alpha": 0.85}
    # Above the box, or inside it where there is no room above.
    side = "bottom" if top > 0.06 * axes.get_ylim()[0] else "top"
    # From the box's left end on, or up to its right end where the picture soon ends.
    place, towards = (max(left, 0), "left") if left < 0.6 * end else (min(right, end), "right")
    light = colour @ (0.299, 0.587, 0.114) > 0.6
    letters = {"fontsize": min(6 * look.scale, 8.5), "color": "black" if light else "white", "bbox": label}
    shift = under * 0.075 * look.scale * axes.get_ylim()[0]
    axes.text(place, max(top, 0) + shift, text, va=side, ha=towards, clip_on=True, **letters)


def strips(grid: Grid, look: Look = PAPER) -> Figure:
    """Images; then, for each attack, adversaries, the same purified if they were, and how these differ from the images.

    The attacks stand one below the other on a page, side by side on a slide.
    """
    look, labels, blocks = look._replace(scale=min(look.scale, DENSE)), grid.labels, {}
    for place, title in enumerate(grid.titles):
        images = (labels[0], [row[place][0] for row in grid.rows])
        rows = blocks.setdefault(title if look.wide else "", [images])
        names = [labels[1] if look.wide else title, *labels[2:]]
        rows += [(name, [row[place][k] for row in grid.rows]) for k, name in enumerate(names, 1)]
    return captioned(blocks, look, grid.note)


def captioned(blocks: dict[str, list[tuple[str, list[Picture]]]], look: Look, note: str = "") -> Figure:
    """Blocks of pictures side by side, each picture with its caption above, as large as the page holds.

    blocks: title -> rows, a label and pictures each.  note: below them all.
    """
    rows = [[cell for _, cells in several for cell in cells] for several in zip(*blocks.values(), strict=True)]
    heights = [row[0].image.shape[0] / row[0].image.shape[1] for row in rows]

    def sized(letters: int) -> tuple[Figure, int]:
        """The figure for captions of at most so many letters, and how many letters a picture is wide."""
        lines = sum(max(len(cell.caption(letters).splitlines()) for cell in row) for row in rows)
        above = 0.4 + CAPTION_LINE * (lines + 2 * any(blocks) + 2 * bool(note)) + CAPTION_GAP * len(rows)
        figure, picture = look.grid(heights, len(rows[0]), above, LABELS * len(blocks))
        return figure, max(int((picture / look.scale - 0.06) / CAPTION_LETTER), 1)

    figure, letters = sized(sized(1)[1])
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, hspace=0)
    small = {"fontsize": 7 * look.scale, "linespacing": 1.1}
    for part, (title, block) in zip(figure.subfigures(1, len(blocks), squeeze=False)[0], blocks.items(), strict=True):
        part.suptitle(title, weight="bold", **small)
        panels = part.subplots(len(block), len(block[0][1]), height_ratios=heights, squeeze=False)
        for panel, (label, cells) in zip(panels, block, strict=True):
            left = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "right", "va": "center"}
            label = wrapped(label, letters, 3)
            panel[0].annotate(label, (0, 0.5), (-3, 0), rotation=90, ma="center", parse_math=False, **left, **small)
            for axes, cell in zip(panel, cells, strict=True):
                _show(axes, cell)
                axes.set_title(cell.caption(letters), color=cell.colour, pad=2 * look.scale, **small)
    if note:
        figure.supxlabel(note, color="0.4", **small)
    # Laid out once, with room for the note above: the layout of pictures with captions differs a little each time.
    figure.suptitle("\n\n", **small)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure
