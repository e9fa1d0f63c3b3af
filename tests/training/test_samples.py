"""Crops (lib/training/augment.py), and what tells data apart (lib/training/loop.py)."""

import numpy as np
import pytest
import torch
from PIL import Image

from lib.data.unlabelled import Photographs
from lib.rng import generator
from lib.training import augment, loop

SIDE = 32


def places(crop, image):
    """Every (top, left, mirrored) at which the crop is a square of the image, by trying all."""
    height, width = image.shape[-2:]
    side = crop.shape[-1]
    return [
        (top, left, mirrored)
        for top in range(height - side + 1)
        for left in range(width - side + 1)
        for mirrored in (False, True)
        if torch.equal(crop.flip(-1) if mirrored else crop, image[:, top : top + side, left : left + side])
    ]


def test_crops_are_squares_of_their_images_everywhere_and_mirrored_half_of_the_time():
    shapes = [(32, 32), (33, 32), (32, 35), (40, 34)]
    source = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, *shape), generator=source, dtype=torch.uint8) for shape in shapes]
    chosen = [3, 0, 2, 1] * 30
    found = augment.crops(SIDE, images.__getitem__, chosen, generator("crops"))
    assert found.shape == (120, 3, SIDE, SIDE) and found.dtype == torch.float32
    assert 0 <= found.min() and found.max() <= 1
    seen = {index: set() for index in range(4)}
    for crop, index in zip((found * 255).round().to(torch.uint8), chosen, strict=True):
        (place,) = places(crop, images[index])
        seen[index].add(place)
    assert seen[0] == {(0, 0, False), (0, 0, True)}
    assert {place[:2] for place in seen[1]} == {(0, 0), (1, 0)}
    assert {place[:2] for place in seen[2]} == {(0, left) for left in range(4)}
    assert len(seen[3]) > 10 and max(place[0] for place in seen[3]) == 8
    mirrored = [place[2] for index in seen for place in seen[index]]
    assert 0.3 < np.mean(mirrored) < 0.7


def test_crops_depend_on_their_generator_alone():
    images = list(torch.randint(0, 256, (4, 3, 48, 48), dtype=torch.uint8))
    first, again, other = (augment.crops(SIDE, images.__getitem__, [2, 0, 3], generator("crops", k)) for k in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("shape", [(31, 48), (48, 31)])
def test_an_image_smaller_than_a_crop_is_refused_in_one_line(shape):
    height, width = shape
    with pytest.raises(ValueError, match=rf"^an image of {width}x{height} pixels holds no crop of 32x32") as error:
        augment.crops(SIDE, [torch.zeros(3, *shape, dtype=torch.uint8)].__getitem__, [0], generator("crops"))
    assert "\n" not in str(error.value)


def picture(path, seed, side=SIDE):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def test_files_are_told_apart_by_name_and_size_and_other_images_by_their_pixels(tmp_path):
    for k, name in enumerate(["a.png", "b.png"]):
        picture(tmp_path / name, k)
    *before, first = loop.fingerprint(Photographs(tmp_path))
    assert before == [f"{name} {(tmp_path / name).stat().st_size}" for name in ("a.png", "b.png")]
    assert torch.equal(first, Photographs(tmp_path)[0])  # how files are read
    picture(tmp_path / "b.png", 2, 40)
    assert loop.fingerprint(Photographs(tmp_path))[:-1] != before
    (tmp_path / "b.png").rename(tmp_path / "c.png")
    assert [entry.split()[0] for entry in loop.fingerprint(Photographs(tmp_path))[:-1]] == ["a.png", "c.png"]
    images = list(torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8))
    assert all(torch.equal(*pair) for pair in zip(loop.fingerprint(images), images, strict=True))
