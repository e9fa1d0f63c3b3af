"""lib/training/samples.py: random crops, what tells data apart, the table of losses, the sheets."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from lib.data.unlabelled import Photographs
from lib.rng import generator
from lib.training import samples
from tests.training.conftest import SIDE, picture, places


def test_crops_are_squares_of_their_images_everywhere_and_mirrored_half_of_the_time():
    shapes = [(32, 32), (33, 32), (32, 35), (40, 34)]
    source = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, *shape), generator=source, dtype=torch.uint8) for shape in shapes]
    chosen = [3, 0, 2, 1] * 30
    found = samples.crops(SIDE, images, chosen, generator("crops"))
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
    first, again, other = (samples.crops(SIDE, images, [2, 0, 3], generator("crops", k)) for k in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("shape", [(31, 48), (48, 31)])
def test_an_image_smaller_than_a_crop_is_refused_in_one_line(shape):
    height, width = shape
    with pytest.raises(ValueError, match=rf"^an image of {width}x{height} pixels holds no crop of 32x32") as error:
        samples.crops(SIDE, [torch.zeros(3, *shape, dtype=torch.uint8)], [0], generator("crops"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("steps", [1, 150, 200, 399, 1200])
def test_the_table_of_losses_has_at_most_two_hundred_rows(steps, tmp_path):
    curves = samples.Curves(("first", "second"), steps)
    for step in range(steps):
        curves.add(step, [step + 1.0, 7.0])
    table = curves.table()
    assert list(table.columns) == ["step", "first", "second"]
    assert min(steps, 100) <= len(table) <= 200
    # A row is the mean of the steps since the last one.
    every = table["step"].iloc[0]
    assert table["step"].tolist() == [min(every * (k + 1), steps) for k in range(len(table))]
    width = np.diff([0, *table["step"]])
    assert np.allclose(table["first"], table["step"] - (width - 1) / 2) and (table["second"] == 7).all()
    curves.save(tmp_path / "new" / "losses.csv")
    written = pd.read_csv(tmp_path / "new" / "losses.csv")
    assert list(written) == list(table) and np.allclose(written, table, rtol=1e-4)


def test_a_table_goes_on_between_two_rows(monkeypatch):
    monkeypatch.setattr(samples, "LOGGED", 2)  # a row every three steps
    whole, begun, resumed = (samples.Curves(["loss"], 6) for _ in range(3))
    for step in range(6):
        whole.add(step, [step**2])
    for step in range(4):
        begun.add(step, [step**2])
    resumed.load_state_dict(begun.state_dict())
    for step in (4, 5):
        resumed.add(step, [step**2])
    assert resumed.rows == whole.rows == [[3, pytest.approx(5 / 3)], [6, pytest.approx(50 / 3)]]


def test_a_row_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        samples.Curves(["loss", "fooled"], 3).add(0, [1.0])


def test_files_are_told_apart_by_name_and_size_and_other_images_by_their_pixels(tmp_path):
    for k, name in enumerate(["a.png", "b.png"]):
        picture(tmp_path / name, k, SIDE, SIDE)
    before = samples.contents(Photographs(tmp_path))
    assert before == [f"{name} {(tmp_path / name).stat().st_size}" for name in ("a.png", "b.png")]
    picture(tmp_path / "b.png", 2, 40, 40)
    assert samples.contents(Photographs(tmp_path)) != before
    (tmp_path / "b.png").rename(tmp_path / "c.png")
    assert [entry.split()[0] for entry in samples.contents(Photographs(tmp_path))] == ["a.png", "c.png"]
    images = list(torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8))
    assert all(np.array_equal(*pair) for pair in zip(samples.contents(images), images, strict=True))


def test_a_sheet_has_a_row_per_batch_and_a_column_per_image(tmp_path):
    batches = torch.randint(0, 256, (4, 5, 3, 6, 7), dtype=torch.uint8)
    path = tmp_path / "new" / "sheet.png"
    samples.save_sheet([batch.float() / 255 for batch in batches], path)
    with Image.open(path) as file:
        assert file.format == "PNG" and file.mode == "RGB" and file.size == (5 * 7, 4 * 6)
        found = np.array(file)
    for row in range(4):
        for column in range(5):
            tile = found[6 * row : 6 * row + 6, 7 * column : 7 * column + 7]
            assert np.array_equal(tile, batches[row, column].permute(1, 2, 0).numpy()), (row, column)
