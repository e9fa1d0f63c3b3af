"""Figures 2, 4, 5 and 10: images beside their adversaries, with what a segmenter or a detector predicts of them."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from lib.report.figures.style import COLOURS, PAPER, Look, show, style

# The columns of each figure: the arrays that they show, and their titles.
SEGMENTED = {
    "images": "(a) image",
    "before": "(b) prediction",
    "adversaries": "(c) SSP adversary",
    "after": "(d) its prediction",
}
DETECTED = {"clean": "image", "adversary": "SSP adversary"}
PURIFIED = {"clean": "image", "adversary": "CDA adversary", "purified": "purified by NRP"}


def figure_02(pictures: dict[str, np.ndarray], look: Look = PAPER) -> Figure:
    """Figure 2: adversaries found in the feature spaces of several networks. images: `[columns,rows,H,W,3]` uint8."""
    style(look)
    images, names = pictures["images"], [str(name) for name in pictures["names"]]
    columns, count, height, width = images.shape[:4]
    figure, picture = look.grid([height / width] * count, columns, 0.3)
    titles, size = look.titles(names, picture)
    for row in range(count):
        for column in range(columns):
            axes = figure.add_subplot(count, columns, row * columns + column + 1)
            show(axes, images[column, row], titles[column] if row == 0 else "", size=size)
    return figure


def figure_04(pictures: dict[str, np.ndarray], look: Look = PAPER) -> Figure:
    """Figure 4: images, adversaries and the predictions on both; the colours of the classes below.

    images, adversaries: `[rows,H,W,3]` uint8; before, after: `[rows,H,W]` classes; classes, colours: by class. Of these
    four columns those are drawn that are there.
    """
    style(look)
    colours, names = pictures["colours"], [name for name in SEGMENTED if name in pictures]
    maps = [name for name in ("before", "after") if name in pictures]
    rows, height, width = pictures[names[0]].shape[:3]
    present = sorted({int(k) for name in maps for k in np.unique(pictures[name])})
    labels = [str(pictures["classes"][k]) for k in present]
    # The legend stands where there is room.
    room = {"above": 0.5, "beside": 1.1} if look.wide and present else {"above": 0.9}
    figure, picture = look.grid([height / width] * rows, len(names), **room)
    titles, size = look.titles([SEGMENTED[name] for name in names], picture)
    for row in range(rows):
        for column, name in enumerate(names, 1):
            axes = figure.add_subplot(rows, len(names), row * len(names) + column)
            image = colours[pictures[name][row]] if name in maps else pictures[name][row]
            show(axes, image, titles[column - 1] if row == 0 else "", name not in maps, size)
    if present:
        handles = [
            Patch(facecolor=colours[k] / 255, edgecolor="0.5", label=label)
            for k, label in zip(present, labels, strict=True)
        ]
        ncols = 1 if look.wide else look.ncols(labels, figure.get_figwidth(), 7, most=6)
        side = "outside right center" if look.wide else "outside lower center"
        figure.legend(handles=handles, loc=side, ncols=ncols, frameon=False, fontsize=7 * look.scale)
    return figure


def figure_05(pictures: dict[str, np.ndarray], look: Look = PAPER) -> Figure:
    """Figure 5: detections on the image and on its adversary, a row per image; stored as `detected` says."""
    return detected(pictures, DETECTED, look)


def figure_10(pictures: dict[str, np.ndarray], look: Look = PAPER) -> Figure:
    """Figure 10: detections on images, on their CDA adversaries, and on these behind the purifier.

    Stored like Figure 5's, of the kinds clean, adversary and purified.
    """
    return detected(pictures, PURIFIED, look)


def detected(pictures: dict[str, np.ndarray], columns: dict[str, str], look: Look) -> Figure:
    """Detections on several kinds of image, a row per image. columns: each kind and the title of its column.

    image_0_clean, boxes_0_clean (x0, y0, x1, y1), names_0_clean, scores_0_clean, the same for every other kind, and so
    on for every row; threshold: the score from which a detection is drawn. Kinds that are not there have no column.
    """
    style(look)
    kinds = [kind for kind in columns if f"image_0_{kind}" in pictures]
    rows, across = sum(name.startswith("image_") for name in pictures) // len(kinds), len(kinds)
    shapes = [pictures[f"image_{row}_{kinds[0]}"].shape for row in range(rows)]
    heights = [height / width for height, width, _ in shapes]
    figure, picture = look.grid(heights, across, 0.1 * rows + 0.4)
    titles, size = look.titles([columns[kind] for kind in kinds], picture)
    grid = figure.add_gridspec(rows, across, height_ratios=heights)
    for row in range(rows):
        classes = sorted({name for kind in kinds for name in pictures[f"names_{row}_{kind}"].tolist()})
        colours = dict(zip(classes, COLOURS * (1 + len(classes) // len(COLOURS)), strict=False))
        for column, kind in enumerate(kinds):
            axes = figure.add_subplot(grid[row, column])
            show(axes, pictures[f"image_{row}_{kind}"], titles[column] if row == 0 else "", size=size)
            boxes, names, scores = (pictures[f"{what}_{row}_{kind}"] for what in ("boxes", "names", "scores"))
            detections(axes, boxes, names, scores, colours, look)
    note = f"detections of score {float(pictures['threshold']):g} or more"
    figure.supxlabel(note, fontsize=7 * look.scale, color="0.4")
    return figure


def detections(
    axes: Axes, boxes: np.ndarray, names: np.ndarray, scores: np.ndarray, colours: dict[str, str], look: Look
) -> None:
    """Boxes (x0, y0, x1, y1) in pixels, in the colour of their class, with name and score."""
    end = axes.get_xlim()[1]
    for (left, top, right, bottom), name, score in zip(boxes, names.tolist(), scores, strict=True):
        colour = colours[name]
        # Pixel centres lie at whole numbers, so an image begins at -0.5.
        corner, line = (left - 0.5, top - 0.5), 1.2 * look.scale
        axes.add_patch(Rectangle(corner, right - left, bottom - top, fill=False, edgecolor=colour, linewidth=line))
        label = {"boxstyle": "square,pad=0.1", "facecolor": colour, "edgecolor": "none", "alpha": 0.85}
        text = {"s": f"{name} {score:.2f}", "fontsize": min(6 * look.scale, 8.5), "color": "white", "bbox": label}
        # Above the box, or inside it where there is no room above.
        side = "bottom" if top > 0.06 * axes.get_ylim()[0] else "top"
        # From the box's left end on, or up to its right end where the picture soon ends.
        place, towards = (max(left, 0), "left") if left < 0.6 * end else (min(right, end), "right")
        axes.text(place, max(top, 0), va=side, ha=towards, clip_on=True, **text)
