"""The embedded synthetic data set: a few thousand small scenes on disk, drawn by tools/draw_world.py.

A folder holds one lossless WebP sheet of images per (split, style), two PNG sheets per split (instance ids, pixel
classes; the styles share them) and `world.json` (labels, boxes, objects). Scene `i` is tile `i`, in rows of 50.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lib.settings import ROOT, Missing

SIDE = 48
BACKGROUNDS = ("sky", "hills", "ground")
CLASSES = ("ball", "crate", "tent", "star", "ring", "moon", "heart", "leaf", "cross", "flower", "house", "fish")
PIXEL_CLASSES = BACKGROUNDS + CLASSES
# The comic and painted scenes are the first ones of the natural split. Settings are chosen on "val" (docs/method.md).
COUNTS = {("train", "natural"): 3000, ("train", "comic"): 500, ("train", "painted"): 500}
COUNTS |= {("val", "natural"): 400, ("test", "natural"): 400}
FOLDER = ROOT / "data" / "world"
VERSION = 2
TILES = 50  # per row of a sheet
FETCH = "fetch it with `.venv/bin/dvc pull data.dvc`"


class World(NamedTuple):
    """One split in one style. boxes are half-open pixel extents (x0, y0, x1, y1); object 0 is the main one."""

    images: Tensor  # uint8 [N,3,48,48]
    labels: Tensor  # int64 [N], class of the main object
    ids: list[str]  # "test-00017"
    boxes: list[np.ndarray]  # int64 [n,4] per scene
    objects: list[np.ndarray]  # int64 [n] per scene, a class per box
    instances: np.ndarray  # uint8 [N,48,48], 0 = background, i + 1 = object i
    pixels: Tensor  # uint8 [N,48,48], an index into PIXEL_CLASSES


def load_scenes(split: str, style: str = "natural", count: int | None = None, root: Path = FOLDER) -> World:
    """The first `count` scenes (default: all) of one split in one style. FileNotFoundError or ValueError in one line
    for a missing or damaged sheet, another version, an unknown split or style, and a `count` beyond what there is."""
    index = read_index(root)
    counts = {f"{split}/{style}": count for split, style, count in index["counts"]}
    if (name := f"{split}/{style}") not in counts:
        raise ValueError(f"the embedded data set has no {name}; it has {', '.join(counts)}")
    there, natural = counts[name], counts[f"{split}/natural"]
    if count is not None and count > there:
        raise ValueError(f"{count} images asked for, but the embedded data set has {there} {split} scenes")
    count = there if count is None else count
    facts = {name: values[:count] for name, values in index["splits"][split].items()}

    def tiles(name: str, there: int) -> np.ndarray:
        """The first `count` tiles of a sheet with `there` tiles, `[count,48,48,...]`."""
        sheet, rows = read_sheet(root / f"{split}_{name}"), -(-there // TILES)
        if sheet.shape[:2] != (rows * SIDE, TILES * SIDE):
            raise ValueError(f"{split}_{name}: {sheet.shape[1]}x{sheet.shape[0]} pixels do not hold {there} scenes")
        grid = sheet.reshape(rows, SIDE, TILES, SIDE, -1).transpose(0, 2, 1, 3, 4)
        return grid.reshape(rows * TILES, SIDE, SIDE, *sheet.shape[2:])[:count]

    return World(
        images=torch.from_numpy(tiles(f"{style}.webp", there)).permute(0, 3, 1, 2).contiguous(),
        labels=torch.tensor(facts["labels"], dtype=torch.int64),
        ids=[f"{split}-{number:05d}" for number in range(count)],
        boxes=[np.array(boxes, np.int64).reshape(-1, 4) for boxes in facts["boxes"]],
        objects=[np.array(objects, np.int64) for objects in facts["objects"]],
        instances=tiles("instances.png", natural),
        pixels=torch.from_numpy(tiles("pixels.png", natural)),
    )


def read_index(root: Path) -> dict:
    """The checked `world.json`. Errors as of `load_scenes`."""
    path = root / "world.json"
    if not path.is_file():
        raise Missing(f"{root} holds no embedded data set; {FETCH}")
    index = json.loads(path.read_text())
    if index["version"] != VERSION:
        raise ValueError(f"{path} has version {index['version']}, this code reads {VERSION}")
    return index


def read_sheet(path: Path) -> np.ndarray:
    """The pixels of a sheet. Errors as of `load_scenes`."""
    if not path.is_file():
        raise Missing(f"{path} is missing; {FETCH}")
    try:
        return np.asarray(Image.open(path))
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read ({error}); {FETCH}") from None
