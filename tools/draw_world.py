"""Draws the embedded synthetic data set: 48x48 RGB, one main object among smaller ones, before a layered background.

    python tools/draw_world.py                   draw data/world anew
    python tools/draw_world.py --check           prove that this file still draws what data/world holds
    python tools/draw_world.py --sheet FILE      a contact sheet of data/world (docs/world.png)

`lib.data.world` reads what is written here; data.dvc pins it. A class is a shape AND a texture of low contrast, so that
networks lean partly on cues that small perturbations can overwrite, as they do on photographs. Everything follows from
(seed, split, index); the styles share their masks.
"""

import colorsys
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from PIL import Image, ImageDraw
from scipy import ndimage
from tqdm import tqdm

from lib.data.world import (
    BACKGROUNDS,
    CLASSES,
    COUNTS,
    FOLDER,
    SIDE,
    TILES,
    VERSION,
    load_scenes,
    read_index,
    read_sheet,
)

SEED = 0
SPLITS = ("train", "val", "test")  # each a stream of random numbers of its own
STYLES = ("natural", "comic", "painted")
OVERSAMPLE = 4  # outlines are drawn this much larger, so that their edges are smooth and their masks exact
ZOOM = 2  # of the contact sheet
CELL = SIDE * ZOOM + 6
LEFT, TOP = 66, 20
ROWS_SHOWN = (*STYLES, "boxes", "instances", "classes")


class Scene(NamedTuple):
    """One scene. boxes are half-open pixel extents (x0, y0, x1, y1) of what is visible; object 0 is the main one."""

    image: np.ndarray  # uint8 [48,48,3]
    label: int  # class of the main object
    boxes: np.ndarray  # int64 [n,4]
    objects: np.ndarray  # int64 [n], a class per object
    instances: np.ndarray  # uint8 [48,48], 0 = background, i + 1 = object i
    pixels: np.ndarray  # uint8 [48,48], an index into PIXEL_CLASSES


class Thing(NamedTuple):
    """Where and how one object stands: centre and radius in pixels, turn in radians, texture phase and contrast."""

    kind: int
    centre: tuple[float, float]
    radius: float
    turn: float
    colour: np.ndarray
    contrast: float
    phase: float


class Plan(NamedTuple):
    """What all styles of a scene share."""

    layers: np.ndarray  # uint8 [48,48], an index into BACKGROUNDS
    colours: np.ndarray  # float [3,3], a base colour per background
    reliefs: np.ndarray  # float [3,48,48], the texture of each background in levels
    things: list[Thing]  # the main object first


def _circle(radius: float, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    turns = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return np.stack([x + radius * np.cos(turns), y + radius * np.sin(turns)], 1)


def _polar(points: int, radius: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    turns = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([radius(turns) * np.sin(turns), -radius(turns) * np.cos(turns)], 1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y - 2], 1) / 16


def _leaf() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return np.stack([0.62 * np.sin(t) * np.abs(np.sin(t)), -1.1 * np.cos(t)], 1)


def _cross() -> np.ndarray:
    quarter = np.array([[0.34, -1.0], [0.34, -0.34], [1.0, -0.34]])
    spin = np.array([[0.0, 1.0], [-1.0, 0.0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(spin, k) for k in range(4)])


# Outlines in units of the radius, y downwards; each part is filled (1) or cut out (0), in order.
OUTLINES: dict[str, list[tuple[int, np.ndarray]]] = {
    "ball": [(1, _circle(0.95))],
    "crate": [(1, np.array([[-0.85, -0.85], [0.85, -0.85], [0.85, 0.85], [-0.85, 0.85]]))],
    "tent": [(1, np.array([[0, -1.0], [1.0, 0.85], [-1.0, 0.85]]))],
    "star": [(1, _polar(10, lambda t: np.where(np.arange(10) % 2, 0.45, 1.15)))],
    "ring": [(1, _circle(1.0)), (0, _circle(0.52))],
    "moon": [(1, _circle(1.0)), (0, _circle(0.85, 0.5, -0.1))],
    "heart": [(1, _heart())],
    "leaf": [(1, _leaf())],
    "cross": [(1, _cross())],
    "flower": [(1, _polar(60, lambda t: 0.78 + 0.24 * np.cos(6 * t)))],
    "house": [(1, np.array([[-0.8, 0.9], [-0.8, -0.1], [0, -1.0], [0.8, -0.1], [0.8, 0.9]]))],
    "fish": [(1, _circle(0.6, -0.2) * [1.2, 0.95]), (1, np.array([[0.3, 0.0], [1.05, -0.6], [1.05, 0.6]]))],
}


def _bricks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    row = np.floor(v * 2.2)
    return np.where(np.abs(v * 2.2 - row - 0.5) > 0.3, -1.0, np.sin(9 * u + np.pi * row))


# Textures over the object's own coordinates (u right, v down, in units of the radius), in [-1,1] after clipping.
TEXTURES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "ball": lambda u, v: np.sin(11 * u),
    "crate": lambda u, v: 1.5 * np.sin(9 * u) * np.sin(9 * v),
    "tent": lambda u, v: np.sin(11 * v),
    "star": lambda u, v: np.cos(11 * u) + np.cos(11 * v) - 0.7,
    "ring": lambda u, v: np.sin(9 * np.arctan2(v, u)),
    "moon": lambda u, v: np.cos(6 * u + 2 * v) + np.cos(6 * v - 2 * u) - 0.5,
    "heart": lambda u, v: np.sin(8 * (u + v)),
    "leaf": lambda u, v: np.sin(9 * (v + 1.2 * np.abs(u))),
    "cross": lambda u, v: np.sin(8 * (u - v)),
    "flower": lambda u, v: np.sin(12 * np.hypot(u, v)),
    "house": _bricks,
    "fish": lambda u, v: np.cos(10 * u + 2.5 * np.abs(np.sin(5 * v))),
}
ROWS, COLUMNS = np.mgrid[0:SIDE, 0:SIDE].astype(float)


def _turned(thing: Thing) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres in the thing's own coordinates."""
    x = (COLUMNS + 0.5 - thing.centre[0]) / thing.radius
    y = (ROWS + 0.5 - thing.centre[1]) / thing.radius
    cos, sin = np.cos(thing.turn), np.sin(thing.turn)
    return cos * x + sin * y, cos * y - sin * x


def _coverage(thing: Thing) -> np.ndarray:
    """How much of each pixel the thing covers, `[48,48]` in [0,1]."""
    canvas = Image.new("L", (SIDE * OVERSAMPLE,) * 2)
    pen = ImageDraw.Draw(canvas)
    cos, sin = np.cos(thing.turn), np.sin(thing.turn)
    for fill, outline in OUTLINES[CLASSES[thing.kind]]:
        placed = outline @ np.array([[cos, sin], [-sin, cos]]) * thing.radius + thing.centre
        pen.polygon([(int(x), int(y)) for x, y in np.rint(placed * OVERSAMPLE)], fill=fill)
    blocks = np.asarray(canvas).reshape(SIDE, OVERSAMPLE, SIDE, OVERSAMPLE)
    return blocks.mean((1, 3))


def _texture(thing: Thing) -> np.ndarray:
    """The thing's texture, `[48,48]` in [-1,1]."""
    u, v = _turned(thing)
    return np.clip(1.6 * TEXTURES[CLASSES[thing.kind]](u, v + 0.1 * thing.phase), -1, 1)


def _waves(rng: np.random.Generator, period: float, angle: float) -> np.ndarray:
    """Parallel bands, `[48,48]` in [-1,1]."""
    along = COLUMNS * np.cos(angle) + ROWS * np.sin(angle)
    return np.clip(1.5 * np.sin(2 * np.pi * along / period + rng.uniform(0, 6)), -1, 1)


def _patches(rng: np.random.Generator, size: int) -> np.ndarray:
    """Square patches of three brightnesses, `[48,48]` in {-1,0,1}."""
    patches = rng.integers(-1, 2, (SIDE // size, SIDE // size))
    return patches.repeat(size, 0).repeat(size, 1).astype(float)


def _layers(rng: np.random.Generator) -> np.ndarray:
    """Sky above, ground below, hills between them in two scenes of three."""
    horizon = rng.uniform(0.5, 0.8) * SIDE
    layers = np.where(ROWS > horizon, 2, 0)
    height = rng.uniform(6, 16) * (rng.uniform() < 0.67)
    ridge = horizon - height * (0.6 + 0.4 * np.sin(COLUMNS / rng.uniform(3, 9) + rng.uniform(0, 6)))
    return np.where((layers == 0) & (ROWS > ridge), 1, layers).astype(np.uint8)


def _reliefs(rng: np.random.Generator) -> np.ndarray:
    """Background textures in levels, `[3,48,48]`: clouds, a band pattern, gravel."""
    clouds = ndimage.zoom(rng.uniform(-1, 1, (6, 6)), 8, order=1, grid_mode=True, mode="nearest")
    bands = _waves(rng, rng.uniform(4, 9), rng.uniform(0, np.pi)) * rng.uniform(6, 14)
    gravel = _patches(rng, int(rng.choice([2, 3]))) * rng.uniform(6, 12)
    return np.stack([12 * np.round(2 * clouds) / 2, bands, gravel])


def _colour(rng: np.random.Generator, others: np.ndarray, gap: float) -> np.ndarray:
    """A colour whose mean channel distance to each of `others` is at least `gap` levels (or the best of 20)."""
    candidates = rng.uniform(45, 210, (20, 3))
    nearest = np.abs(candidates[:, None] - others).mean(-1).min(-1)
    good = np.flatnonzero(nearest >= gap)
    return candidates[good[0] if len(good) else int(nearest.argmax())]


def _spot(rng: np.random.Generator, radius: float, things: list[Thing]) -> tuple[float, float]:
    """The freest of 16 places for a small object."""
    places = rng.uniform(radius - 1, SIDE - radius + 1, (16, 2))
    gaps = [[np.hypot(*(place - t.centre)) - t.radius for t in things] for place in places]
    return tuple(places[int(np.min(gaps, 1).argmax())])


def _plan(rng: np.random.Generator, kind: int) -> Plan:
    """Draw a scene whose main object has class `kind`."""
    layers, reliefs = _layers(rng), _reliefs(rng)
    colours = rng.uniform(60, 190, (3, 3))
    things: list[Thing] = []
    kinds = [kind, *rng.permutation([k for k in range(len(CLASSES)) if k != kind])[: rng.integers(1, 4)]]
    for order, k in enumerate(kinds):
        radius = rng.uniform(5.0, 6.5) if order else rng.uniform(13.5, 17.5)
        middle = tuple(SIDE / 2 + rng.uniform(-4, 4, 2))
        centre = _spot(rng, radius, things) if order else middle
        colour = _colour(rng, colours, gap=32)
        things.append(Thing(int(k), centre, radius, rng.uniform(-0.35, 0.35), colour,
                            rng.uniform(14, 24), rng.uniform(0, 6)))  # fmt: skip
    return Plan(layers, colours, reliefs, things)


def _masks(plan: Plan, covers: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Instance ids and pixel classes; the main object lies in front, the later ones behind the earlier ones."""
    instances, pixels = np.zeros((SIDE, SIDE), np.uint8), plan.layers.copy()
    for order in reversed(range(len(covers))):
        inside = covers[order] >= 0.5
        instances[inside] = order + 1
        pixels[inside] = len(BACKGROUNDS) + plan.things[order].kind
    return instances, pixels


def _natural(plan: Plan, covers: list[np.ndarray]) -> np.ndarray:
    """Textures, a light from the upper left, smooth edges: float `[48,48,3]` in levels."""
    image = plan.colours[plan.layers] + np.take_along_axis(plan.reliefs, plan.layers[None].astype(int), 0)[0][..., None]
    for thing, cover in reversed(list(zip(plan.things, covers, strict=True))):
        u, v = _turned(thing)
        surface = thing.contrast * _texture(thing) - 8 * np.round(2 * np.clip(u + v, -1.5, 1.5)) / 2
        image += cover[..., None] * (thing.colour + surface[..., None] - image)
    return image


def _comic(plan: Plan, covers: list[np.ndarray], instances: np.ndarray) -> np.ndarray:
    """Few flat colours, two-tone textures, dark outlines: float `[48,48,3]` in levels."""

    def flat(colour: np.ndarray) -> np.ndarray:
        return np.round(np.clip(127 + 1.5 * (colour - 127), 0, 255) / 51) * 51

    image = flat(plan.colours)[plan.layers] + 0.0
    for order in reversed(range(len(covers))):
        tone = np.where(_texture(plan.things[order]) > 0, 20, -20)
        inside = covers[order] >= 0.5
        image[inside] = (flat(plan.things[order].colour) + tone[..., None])[inside]
    edges = ndimage.grey_dilation(instances, 3) != ndimage.grey_erosion(instances, 3)
    image[edges & (instances > 0)] = 20
    return image


def _painted(natural: np.ndarray, instances: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The natural image repainted with short strokes, one direction per object: uint8 `[48,48,3]`."""
    source = np.clip(np.rint(ndimage.uniform_filter(natural, (3, 3, 1)) / 6) * 6, 0, 255)
    canvas = Image.fromarray(source.astype(np.uint8))
    pen = ImageDraw.Draw(canvas)
    directions = rng.uniform(0, np.pi, 8)
    places = rng.integers(0, SIDE, (420, 2))
    tones = rng.integers(-1, 2, 420) * 12
    for (row, column), tone in zip(places, tones, strict=True):
        angle = directions[instances[row, column]]
        dx, dy = 3 * np.cos(angle), 3 * np.sin(angle)
        colour = tuple(int(c) for c in np.clip(source[row, column] + tone, 0, 255))
        ends = [round(column - dx), round(row - dy), round(column + dx), round(row + dy)]
        pen.line(ends, fill=colour, width=2)
    return np.asarray(canvas)


def extents(instances: np.ndarray, count: int) -> np.ndarray:
    """Half-open boxes (x0, y0, x1, y1) of instance ids 1..count, int64 `[count,4]`."""
    slices = ndimage.find_objects(instances, count)
    return np.array([[x.start, y.start, x.stop, y.stop] for y, x in slices], np.int64)


def draw(seed: int, split: str, index: int, style: str = "natural") -> Scene:
    """The scene number `index` of a split; classes of the main object take turns.

    Raises ValueError for an unknown split or style.
    """
    if split not in SPLITS or style not in STYLES:
        raise ValueError(f"no scenes of split {split!r}, style {style!r}; splits {SPLITS}, styles {STYLES}")
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    plan = _plan(rng, index % len(CLASSES))
    covers = [_coverage(thing) for thing in plan.things]
    instances, pixels = _masks(plan, covers)
    if style == "comic":
        image = _comic(plan, covers, instances)
    elif style == "painted":
        image = _painted(_natural(plan, covers), instances, rng)
    else:
        image = _natural(plan, covers)
    objects = np.array([thing.kind for thing in plan.things], np.int64)
    image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return Scene(image, int(objects[0]), extents(instances, len(objects)), objects, instances, pixels)


def _sheet(tiles: np.ndarray) -> np.ndarray:
    """Tiles `[N,48,48,...]` side by side in rows of 50, the last row filled up with black."""
    rows = -(-len(tiles) // TILES)
    full = np.zeros((rows * TILES, *tiles.shape[1:]), np.uint8)
    full[: len(tiles)] = tiles
    grid = full.reshape(rows, TILES, SIDE, SIDE, -1).transpose(0, 2, 1, 3, 4)
    return grid.reshape(rows * SIDE, TILES * SIDE, *tiles.shape[3:])


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


def check_drawn(root: Path) -> None:
    """Draw the world again and compare. ValueError in one line names the first file that differs.

    Images may differ by one level in 1e-4 of the values, because sine and cosine differ in the last bit between
    processors; all else is exact.
    """
    index = read_index(root)
    counts = {(split, style): count for split, style, count in index["counts"]}
    for name, drawn in _drawn(index["seed"], counts):
        if isinstance(drawn, dict):
            same = index["splits"].get(name) == drawn
            name = f"world.json ({name})"
        else:
            stored = read_sheet(root / name).astype(int)
            same = stored.shape == drawn.shape and _close(stored, drawn, images=name.endswith("webp"))
        if not same:
            raise ValueError(
                f"{root / name} differs from what the code draws now; draw it with `python tools/draw_world.py`"
            )


def _close(stored: np.ndarray, drawn: np.ndarray, images: bool) -> bool:
    difference = np.abs(stored - drawn)
    return difference.max() <= 1 and (difference > 0).mean() <= 1e-4 if images else not difference.any()


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


def contact_sheet(root: Path, path: Path) -> None:
    """One training scene per class in every style, with boxes and masks, as a picture. Errors as `load_scenes`."""
    worlds = {style: load_scenes("train", style, root=root) for style in STYLES}
    natural = worlds["natural"]
    objects, classes = _palette([0], 4), _palette([210, 150, 90], len(CLASSES))
    sheet = Image.new("RGB", (LEFT + CELL * len(CLASSES), TOP + CELL * len(ROWS_SHOWN)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, name in enumerate(ROWS_SHOWN):
        pen.text((6, TOP + row * CELL + CELL // 2 - 6), name, fill="black")
    for kind, label in enumerate(CLASSES):
        scene = int(np.flatnonzero(natural.labels == kind)[1])
        images = {style: worlds[style].images[scene].permute(1, 2, 0).numpy() for style in STYLES}
        tiles = [_enlarged(image) for image in images.values()]
        tiles.append(_boxed(images["natural"], natural.boxes[scene]))
        tiles.append(_enlarged(objects[natural.instances[scene]]))
        tiles.append(_enlarged(classes[natural.pixels[scene]]))
        left = LEFT + kind * CELL
        pen.text((left + CELL // 2, 4), label, fill="black", anchor="ma")
        for row, tile in enumerate(tiles):
            sheet.paste(tile, (left, TOP + row * CELL))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)


def main(
    root: Annotated[Path, typer.Option(help="the folder")] = FOLDER,
    check: Annotated[bool, typer.Option("--check", help="compare the stored data with what is drawn now")] = False,
    sheet: Annotated[Path | None, typer.Option(help="write a contact sheet of the stored data")] = None,
) -> None:
    """Draw the embedded synthetic data set; or check it, or show it."""
    try:
        if sheet:
            contact_sheet(root, sheet)
            print(f"{sheet}: contact sheet of {root}")
        elif check:
            check_drawn(root)
            print(f"{root}: these data are still what is drawn")
        else:
            generate(root)
            print(f"{root}: {sum(path.stat().st_size for path in root.iterdir()) / 1e6:.1f} MB")
    except (OSError, ValueError) as error:
        sys.exit(f"draw_world: {error}")


if __name__ == "__main__":
    typer.run(main)
