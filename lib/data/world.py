"""The embedded world: a few thousand small scenes on disk, drawn by `lib.data.scenes` and checked against it.

A folder holds one lossless WebP sheet of images per (split, style), two PNG sheets per split (instance ids, pixel
classes; the styles share them) and `world.json` (labels, boxes, objects). Scene `i` is tile `i`, in rows of 50.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from lib.data.scenes import BACKGROUNDS, CLASSES, PIXEL_CLASSES, SIDE, STYLES, Scene, draw

__all__ = ["BACKGROUNDS", "CLASSES", "COUNTS", "PIXEL_CLASSES", "SIDE", "STYLES", "Scene", "World", "draw"]

VERSION = 1
SEED = 0
TILES = 50  # per row of a sheet
# The comic and painted scenes are the first ones of the natural split.
COUNTS = {
    ("train", "natural"): 3000,
    ("train", "comic"): 500,
    ("train", "painted"): 500,
    ("test", "natural"): 400,
    ("test", "comic"): 400,
    ("test", "painted"): 400,
}


class World(NamedTuple):
    """One split in one style. boxes are half-open pixel extents (x0, y0, x1, y1); object 0 is the main one."""

    images: np.ndarray  # uint8 [N,48,48,3]
    labels: np.ndarray  # int64 [N], class of the main object
    ids: list[str]  # "test-00017"
    boxes: list[np.ndarray]  # int64 [n,4] per scene
    objects: list[np.ndarray]  # int64 [n] per scene, a class per box
    instances: np.ndarray  # uint8 [N,48,48], 0 = background, i + 1 = object i
    pixels: np.ndarray  # uint8 [N,48,48], an index into PIXEL_CLASSES


def _sheet(tiles: np.ndarray) -> np.ndarray:
    """Tiles `[N,48,48,...]` side by side in rows of 50, the last row filled up with black."""
    rows = -(-len(tiles) // TILES)
    full = np.zeros((rows * TILES, *tiles.shape[1:]), np.uint8)
    full[: len(tiles)] = tiles
    grid = full.reshape(rows, TILES, SIDE, SIDE, -1).transpose(0, 2, 1, 3, 4)
    return grid.reshape(rows * SIDE, TILES * SIDE, *tiles.shape[3:])


def _tiles(sheet: np.ndarray, count: int) -> np.ndarray:
    """The inverse of `_sheet`. ValueError when the sheet has another size."""
    rows = -(-count // TILES)
    if sheet.shape[:2] != (rows * SIDE, TILES * SIDE):
        raise ValueError(f"{sheet.shape[1]}x{sheet.shape[0]} pixels do not hold {count} scenes")
    grid = sheet.reshape(rows, SIDE, TILES, SIDE, -1).transpose(0, 2, 1, 3, 4)
    return grid.reshape(rows * TILES, SIDE, SIDE, *sheet.shape[2:])[:count]


def _scenes(seed: int, split: str, style: str, count: int) -> list[Scene]:
    indices = tqdm(range(count), desc=f"{split} {style}", mininterval=1)
    return [draw(seed, split, index, style) for index in indices]


def _facts(scenes: list[Scene]) -> dict:
    """What `world.json` says about one split."""
    return {
        "labels": [scene.label for scene in scenes],
        "boxes": [scene.boxes.tolist() for scene in scenes],
        "objects": [scene.objects.tolist() for scene in scenes],
    }


def _drawn(seed: int, counts: dict) -> Iterator[tuple[str, np.ndarray | dict]]:
    """Every (file name or split name, sheet or facts) of the world, one style at a time."""
    for (split, style), count in counts.items():
        scenes = _scenes(seed, split, style, count)
        yield f"{split}_{style}.webp", _sheet(np.stack([scene.image for scene in scenes]))
        if style == "natural":
            yield f"{split}_instances.png", _sheet(np.stack([scene.instances for scene in scenes]))
            yield f"{split}_pixels.png", _sheet(np.stack([scene.pixels for scene in scenes]))
            yield split, _facts(scenes)


def generate(root: Path, seed: int = SEED, counts: dict = COUNTS) -> None:
    """Draw the world into the folder `root` (made if needed)."""
    root.mkdir(parents=True, exist_ok=True)
    stated = [[split, style, count] for (split, style), count in counts.items()]
    index = {"version": VERSION, "seed": seed, "classes": CLASSES, "counts": stated, "splits": {}}
    for name, drawn in _drawn(seed, counts):
        if isinstance(drawn, dict):
            index["splits"][name] = drawn
        elif name.endswith("webp"):
            Image.fromarray(drawn).save(root / name, lossless=True, quality=70, method=4)
        else:
            Image.fromarray(drawn).save(root / name, optimize=True)
    (root / "world.json").write_text(json.dumps(index, separators=(",", ":")) + "\n")


def check(root: Path) -> None:
    """Draw the world again and compare. ValueError in one line names the first file that differs.

    Images may differ by one level in 1e-4 of the values, because sine and cosine differ in the last bit between
    processors; all else is exact.
    """
    index = _index(root)
    counts = {(split, style): count for split, style, count in index["counts"]}
    for name, drawn in _drawn(index["seed"], counts):
        if isinstance(drawn, dict):
            same = index["splits"].get(name) == drawn
            name = f"world.json ({name})"
        else:
            stored = _read(root / name).astype(int)
            same = stored.shape == drawn.shape and _close(stored, drawn, images=name.endswith("webp"))
        if not same:
            raise ValueError(f"{root / name} differs from what the code draws now; draw it with `companion data world`")


def _close(stored: np.ndarray, drawn: np.ndarray, images: bool) -> bool:
    difference = np.abs(stored - drawn)
    return difference.max() <= 1 and (difference > 0).mean() <= 1e-4 if images else not difference.any()


def _index(root: Path) -> dict:
    """The checked `world.json`."""
    path = root / "world.json"
    if not path.is_file():
        raise FileNotFoundError(f"{root} holds no embedded world; fetch it with `.venv/bin/dvc pull data.dvc`")
    index = json.loads(path.read_text())
    if index["version"] != VERSION:
        raise ValueError(f"{path} has version {index['version']}, this code reads {VERSION}")
    return index


def _read(path: Path) -> np.ndarray:
    """The pixels of a sheet. One-line errors for a missing or damaged file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; fetch it with `.venv/bin/dvc pull data.dvc`")
    try:
        return np.asarray(Image.open(path))
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read ({error}); fetch it with `.venv/bin/dvc pull data.dvc`") from None


def load(root: Path | str, split: str, style: str = "natural") -> World:
    """One split of the world in one style, see `World`.

    FileNotFoundError when the folder or a sheet is missing, ValueError for an unknown split or style, a damaged sheet
    or another version; each in one line.
    """
    root = Path(root)
    index = _index(root)
    counts = {(split, style): count for split, style, count in index["counts"]}
    if (split, style) not in counts:
        known = ", ".join(f"{a}/{b}" for a, b in counts)
        raise ValueError(f"the world has no {split}/{style}; it has {known}")
    count = counts[split, style]
    facts = index["splits"][split]

    def sheet(name: str, tiles: int) -> np.ndarray:
        return _tiles(_read(root / f"{split}_{name}"), tiles)[:count]

    return World(
        images=sheet(f"{style}.webp", count),
        labels=np.array(facts["labels"][:count], np.int64),
        ids=[f"{split}-{number:05d}" for number in range(count)],
        boxes=[np.array(boxes, np.int64).reshape(-1, 4) for boxes in facts["boxes"][:count]],
        objects=[np.array(objects, np.int64) for objects in facts["objects"][:count]],
        instances=sheet("instances.png", counts[split, "natural"]),
        pixels=sheet("pixels.png", counts[split, "natural"]),
    )
