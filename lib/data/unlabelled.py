"""Images without labels, to train on: the embedded world's, or those of any folder."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lib.data import world
from lib.data.images import image_files, open_image, read_image
from lib.settings import ROOT

WORLD = {"world": "natural", "world/comic": "comic", "world/painted": "painted"}  # source -> style
COLLECTIONS = ("data/comics", "data/paintings")  # what `companion data comics` and `paintings` link to


class Photographs(Sequence):
    """The images of a folder and of those below it, sorted by path, as uint8 `[3,H,W]`; read when asked for.

    FileNotFoundError for a missing folder, ValueError for one without images.
    """

    def __init__(self, folder: Path):
        self.paths = image_files(folder, below=True)

    def check(self, side: int) -> None:
        """ValueError naming the first file that is no image or is smaller than `side` pixels; only headers are read."""
        for path in self.paths:
            with open_image(path) as image:
                width, height = image.size
            if min(width, height) < side:
                raise ValueError(f"{path}: {width}x{height} pixels hold no crop of {side}x{side}; move it away")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return read_image(self.paths[index])


def unlabelled(source: str) -> Sequence[Tensor]:
    """uint8 images `[3,H,W]`.

    source: "world" (the embedded world's natural training scenes), "world/comic", "world/painted" (its other styles),
    or a folder of images. A relative folder is looked for here, in the repository and in $COMPANION_ASSETS;
    FileNotFoundError where in none.
    """
    if source in WORLD:
        scenes = world.load(ROOT / "data" / "world", "train", WORLD[source])
        return list(torch.from_numpy(scenes.images).permute(0, 3, 1, 2).contiguous())
    return Photographs(find(source))


def find(source: str) -> Path:
    """The folder `source`: here, in the repository or in $COMPANION_ASSETS; FileNotFoundError where in none."""
    assets = os.environ.get("COMPANION_ASSETS")
    places = [Path(source), ROOT / source]
    if assets:
        # data/NAME in the repository is NAME in the assets, as for `lib.data.images.find`.
        places += [Path(assets) / source, Path(assets) / source.removeprefix("data/")]
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        how = f"run: companion data {Path(source).name}" if source in COLLECTIONS else "name a folder of images"
        raise FileNotFoundError(f"{source}: neither here nor in the repository nor in $COMPANION_ASSETS; {how}")
    return folder
