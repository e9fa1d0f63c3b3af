"""Figures 4 and 5: what a segmenter and a detector say of clean images and of their adversaries."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from lib.report.style import COLOURS, WIDTH, show, style


def figure_04(pictures: dict[str, np.ndarray]) -> Figure:
    """Figure 4: (a) image, (b) its prediction, (c) adversary, (d) its prediction; the colours of the classes below.

    images, adversaries: `[rows,H,W,3]` uint8; before, after: `[rows,H,W]` classes; classes, colours: by class.
    """
    style()
    colours = pictures["colours"]
    columns = {
        "(a) image": pictures["images"],
        "(b) prediction": colours[pictures["before"]],
        "(c) SSP adversary": pictures["adversaries"],
        "(d) its prediction": colours[pictures["after"]],
    }
    rows, height, width = pictures["before"].shape
    figure = Figure(figsize=(WIDTH, WIDTH / len(columns) * height / width * rows + 0.9))
    for row in range(rows):
        for place, (title, images) in enumerate(columns.items(), 1):
            axes = figure.add_subplot(rows, len(columns), row * len(columns) + place)
            show(axes, images[row], title if row == 0 else "", smooth=place in (1, 3))
    present = sorted(set(np.unique(pictures["before"])) | set(np.unique(pictures["after"])))
    handles = [Patch(facecolor=colours[k] / 255, edgecolor="0.5", label=pictures["classes"][k]) for k in present]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=7)
    return figure


def figure_05(pictures: dict[str, np.ndarray]) -> Figure:
    """Figure 5: detections on the image and on its adversary, a row per image; stored as `detected` says."""
    above = f"detections of score {float(pictures['threshold']):g} or more"
    return detected(pictures, {"clean": f"image, {above}", "adversary": f"SSP adversary, {above}"})


def detected(pictures: dict[str, np.ndarray], columns: dict[str, str]) -> Figure:
    """Detections on several kinds of image, a row per image. columns: each kind and the title of its column.

    image_0_clean, boxes_0_clean (x0, y0, x1, y1), names_0_clean, scores_0_clean, the same for every other kind, and so
    on for every row; threshold: the score from which a detection is drawn.
    """
    style()
    rows, across = sum(name.startswith("image_") for name in pictures) // len(columns), len(columns)
    heights = [pictures[f"image_{row}_clean"].shape[0] / pictures[f"image_{row}_clean"].shape[1] for row in range(rows)]
    # At most as wide as gives each picture its share of a page's width and the whole a page's height.
    width = min(WIDTH, 8 / (sum(heights) / across))
    figure = Figure(figsize=(width, width / across * sum(heights) + 0.1 * rows + 0.4))
    grid = figure.add_gridspec(rows, across, height_ratios=heights)
    for row in range(rows):
        kinds = sorted({name for kind in columns for name in pictures[f"names_{row}_{kind}"].tolist()})
        colours = dict(zip(kinds, COLOURS * (1 + len(kinds) // len(COLOURS)), strict=False))
        for column, (kind, title) in enumerate(columns.items()):
            axes = figure.add_subplot(grid[row, column])
            show(axes, pictures[f"image_{row}_{kind}"], title if row == 0 else "")
            boxes, names, scores = (pictures[f"{what}_{row}_{kind}"] for what in ("boxes", "names", "scores"))
            detections(axes, boxes, names, scores, colours)
    return figure


def detections(axes: Axes, boxes: np.ndarray, names: np.ndarray, scores: np.ndarray, colours: dict[str, str]) -> None:
    """Boxes (x0, y0, x1, y1) in pixels, in the colour of their class, with name and score."""
    for (left, top, right, bottom), name, score in zip(boxes, names.tolist(), scores, strict=True):
        colour = colours[name]
        # Pixel centres lie at whole numbers, so an image begins at -0.5.
        axes.add_patch(
            Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=1.2)
        )
        label = {"boxstyle": "square,pad=0.1", "facecolor": colour, "edgecolor": "none", "alpha": 0.85}
        text = f"{name} {score:.2f}"
        # Above the box, or inside it where there is no room above.
        side = "bottom" if top > 0.06 * axes.get_ylim()[0] else "top"
        axes.text(max(left, 0), max(top, 0), text, fontsize=6, color="white", va=side, bbox=label, clip_on=True)
