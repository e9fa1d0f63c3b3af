"""The contact sheet of the embedded world that the README shows."""

import colorsys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from lib.data.scenes import CLASSES, SIDE, STYLES
from lib.data.world import load

ZOOM = 2
CELL = SIDE * ZOOM + 6
LEFT, TOP = 66, 20
ROWS = (*STYLES, "boxes", "instances", "classes")


def _palette(greys: list[int], count: int) -> np.ndarray:
    """The greys, then `count` distinct colours, uint8 `[len(greys) + count,3]`."""
    # Steps of the golden ratio around the colour circle keep neighbours apart.
    hues = [(0.618 * k % 1, 0.7, 0.6 + 0.35 * (k % 2)) for k in range(count)]
    colours = [[int(255 * channel) for channel in colorsys.hsv_to_rgb(*hue)] for hue in hues]
    return np.array([[grey] * 3 for grey in greys] + colours, np.uint8)


def _enlarged(tile: np.ndarray) -> Image.Image:
    return Image.fromarray(tile).resize((SIDE * ZOOM,) * 2, Image.Resampling.NEAREST)


def _boxed(tile: np.ndarray, boxes: np.ndarray) -> Image.Image:
    """The image with its boxes drawn around the objects, the main one in white."""
    shown = _enlarged(tile)
    pen = ImageDraw.Draw(shown)
    for order, (x0, y0, x1, y1) in reversed(list(enumerate(boxes * ZOOM))):
        pen.rectangle((x0, y0, x1 - 1, y1 - 1), outline="white" if order == 0 else "black")
    return shown


def save(root: Path, path: Path) -> None:
    """One test scene per class in every style, with boxes and masks, as a picture at `path`. Errors as `load`."""
    worlds = {style: load(root, "test", style) for style in STYLES}
    natural = worlds["natural"]
    objects, classes = _palette([0], 4), _palette([210, 150, 90], len(CLASSES))
    sheet = Image.new("RGB", (LEFT + CELL * len(CLASSES), TOP + CELL * len(ROWS)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, name in enumerate(ROWS):
        pen.text((6, TOP + row * CELL + CELL // 2 - 6), name, fill="black")
    for kind, label in enumerate(CLASSES):
        scene = int(np.flatnonzero(natural.labels == kind)[1])
        tiles = [_enlarged(worlds[style].images[scene]) for style in STYLES]
        tiles.append(_boxed(natural.images[scene], natural.boxes[scene]))
        tiles.append(_enlarged(objects[natural.instances[scene]]))
        tiles.append(_enlarged(classes[natural.pixels[scene]]))
        left = LEFT + kind * CELL
        pen.text((left + CELL // 2, 4), label, fill="black", anchor="ma")
        for row, tile in enumerate(tiles):
            sheet.paste(tile, (left, TOP + row * CELL))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)
