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
    """Figure 5: detections on the image and on its adversary, a row per image.

    image_0_clean, boxes_0_clean (x0, y0, x1, y1), names_0_clean, scores_0_clean, the same for image_0_adversary, and so
    on for every row; threshold: the score from which a detection is drawn.
    """
    style()
    rows = sum(name.startswith("image_") for name in pictures) // 2
    heights = [pictures[f"image_{row}_clean"].shape[0] / pictures[f"image_{row}_clean"].shape[1] for row in range(rows)]
    figure = Figure(figsize=(WIDTH, WIDTH / 2 * sum(heights) + 0.3 * rows + 0.3))
    grid = figure.add_gridspec(rows, 2, height_ratios=heights)
    threshold = float(pictures["threshold"])
    for row in range(rows):
        for column, (kind, title) in enumerate({"clean": "image", "adversary": "SSP adversary"}.items()):
            axes = figure.add_subplot(grid[row, column])
            show(axes, pictures[f"image_{row}_{kind}"], f"{title}: detections with a score of {threshold:g} or more")
            boxes, names, scores = (pictures[f"{what}_{row}_{kind}"] for what in ("boxes", "names", "scores"))
            detections(axes, boxes, names, scores)
    return figure


def detections(axes: Axes, boxes: np.ndarray, names: np.ndarray, scores: np.ndarray) -> None:
    """Boxes (x0, y0, x1, y1) in pixels, one colour per class, with name and score."""
    kinds = sorted(set(names.tolist()))
    for (left, top, right, bottom), name, score in zip(boxes, names.tolist(), scores, strict=True):
        colour = COLOURS[kinds.index(name) % len(COLOURS)]
        # Pixel centres lie at whole numbers, so an image begins at -0.5.
        axes.add_patch(
            Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=1.2)
        )
        label = {"boxstyle": "square,pad=0.1", "facecolor": colour, "edgecolor": "none", "alpha": 0.85}
        text = f"{name} {score:.2f}"
        axes.text(left, max(top, 0), text, fontsize=5, color="white", va="bottom", bbox=label, clip_on=True)
