"""Images without labels, to train on: the embedded data set's, or those of any folder."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from lib.data import generated, world
from lib.data.images import find_folder, image_files, open_image, read_image

# Of the embedded scenes, by source.
SCENE_STYLES = {"world": "natural", "world/comic": "comic", "world/painted": "painted"}


class Photographs(Sequence):
    """The images of a folder and of those below it, by path, uint8 `[3,H,W]`, read when asked for. Errors as of
    `image_files`."""

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
    """uint8 images `[3,H,W]` of a source: SCENE_STYLES (training scenes), "generated" (`lib.data.generated`), a folder
    that `find_folder` finds."""
    if source == "generated":
        return list(generated.classified(320, None).images)
    if source in SCENE_STYLES:
        return list(world.load_scenes("train", SCENE_STYLES[source]).images)
    return Photographs(find_folder(source))
