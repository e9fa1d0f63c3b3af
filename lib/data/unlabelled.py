"""Images without labels, to train on: the embedded world's, or those of any folder."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lib.data import world
from lib.data.images import read_image
from lib.settings import ROOT

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


class Photographs(Sequence):
    """The images of a folder and of those below it, sorted by path, as uint8 `[3,H,W]`; read when asked for.

    ValueError for a folder without images.
    """

    def __init__(self, folder: Path):
        self.paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not self.paths:
            raise ValueError(f"{folder}: no images here ({', '.join(SUFFIXES)})")

    def check(self, side: int) -> None:
        """ValueError naming the first file that is no image or is smaller than `side` pixels; only headers are read."""
        for path in self.paths:
            try:
                with Image.open(path) as image:
                    width, height = image.size
            except (UnidentifiedImageError, OSError) as error:
                raise ValueError(f"{path}: corrupt image ({error}); delete it and get it again") from None
            if min(width, height) < side:
                raise ValueError(f"{path}: {width}x{height} pixels hold no crop of {side}x{side}; move it away")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return read_image(self.paths[index])


def unlabelled(source: str) -> Sequence[Tensor]:
    """uint8 images `[3,H,W]`. source: "world" (its natural training scenes), or a folder of images.

    A relative folder is looked for here, in the repository and in $COMPANION_ASSETS; FileNotFoundError where in none.
    """
    if source == "world":
        scenes = world.load(ROOT / "data" / "world", "train")
        return list(torch.from_numpy(scenes.images).permute(0, 3, 1, 2).contiguous())
    places = [
        Path(source),
        ROOT / source,
        *(Path(assets) / source for assets in [os.environ.get("COMPANION_ASSETS")] if assets),
    ]
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        raise FileNotFoundError(
            f"{source}: neither here nor in the repository nor in $COMPANION_ASSETS; name a folder of images"
        )
    return Photographs(folder)
