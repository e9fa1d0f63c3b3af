"""A defense on every image of a folder."""

import os
import sys
from collections import Counter
from pathlib import Path

from PIL import Image
from torch import Tensor
from tqdm import tqdm

from lib.data.images import image_files, read_image
from lib.defenses import Defense


def defend_folder(defense: Defense, source: Path, target: Path) -> int:
    """Defended copies of the images in `source`, of any size, as lossless `target`/STEM.png; returns their number.

    Only the folder itself is read, not what lies in folders below; on stderr a progress bar and what was left out.
    A file appears under its name only when it is complete; one of that name is replaced. OSError or ValueError in one
    line for a folder that is missing, empty or the same as the other, for two images of one stem, and at the first file
    that cannot be read; what was written before stays.
    """
    paths = find_images(source)
    if target.exists() and target.samefile(source):
        raise ValueError(f"{target}: the results would mix with the images they come from; name another folder")
    target.mkdir(parents=True, exist_ok=True)
    for path in tqdm(paths, unit="image"):
        x = read_image(path)[None] / 255
        save(defense(x)[0], target / f"{path.stem}.png")
    return len(paths)


def find_images(folder: Path) -> list[Path]:
    """The image files of a folder, sorted; says on stderr which other files and folders it leaves out."""
    images = image_files(folder)
    others = sorted(path.name for path in set(folder.iterdir()).difference(images))
    if others:
        print(f"{folder}: left out, no images: {', '.join(others)}", file=sys.stderr)
    stem, count = Counter(path.stem for path in images).most_common(1)[0]
    if count > 1:
        names = " and ".join(path.name for path in images if path.stem == stem)
        raise ValueError(f"{folder}: {names} would both become {stem}.png; rename one")
    return images


def save(image: Tensor, path: Path) -> None:
    """One image `[3,H,W]` in [0,1] as an 8-bit PNG, written beside its place and then renamed."""
    levels = (image * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        Image.fromarray(levels).save(partial, format="PNG")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
