import pytest
import torch

from lib import linf
from tests.conftest import eight_bit_images


def test_projection_is_the_nearest_point_of_ball_and_box():
    x = eight_bit_images(2, 8)
    point = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    projected = linf.project(point, x, 0.1)
    low, high = (x - 0.1).clamp(0, 1), (x + 0.1).clamp(0, 1)
    brute = torch.where(point < low, low, torch.where(point > high, high, point))
    assert torch.equal(projected, brute)


def test_projection_takes_a_budget_per_image():
    x = torch.full((2, 3, 4, 4), 0.5)
    eps = torch.tensor([0.1, 0.2]).view(2, 1, 1, 1)
    moved = linf.project(x + 1, x, eps) - x
    assert torch.allclose(moved[0], torch.tensor(0.1)) and torch.allclose(moved[1], torch.tensor(0.2))


@pytest.mark.parametrize("levels", [0, 0.5, 1, 1.6, 8, 16, 255])
def test_rounding_keeps_the_budget_as_whole_levels(levels):
    x = eight_bit_images(2, 32)
    point = linf.project(x + torch.randn(x.shape) * 0.2, x, levels / 255)
    rounded = linf.quantise(point, x, levels / 255)
    grid = rounded * 255
    assert torch.equal(grid, grid.round())
    assert (grid.round() - (x * 255).round()).abs().max() <= int(levels)
    assert rounded.min() >= 0 and rounded.max() <= 1


def test_rounding_goes_to_the_nearest_level_and_does_not_truncate():
    x = torch.full((1, 3, 1, 3), 100 / 255)
    point = torch.tensor([110.4, 110.6, 89.4]).expand(1, 3, 1, 3) / 255
    assert (linf.quantise(point, x, 16 / 255) * 255).round()[0, 0, 0].tolist() == [110, 111, 89]


@pytest.mark.parametrize("levels", [0.5, 1, 1.6, 8, 16])
def test_the_budget_holds_off_the_grid_too(levels):
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    moved = []
    for direction in (1, -1):
        rounded = linf.quantise(linf.project(x + direction, x, levels / 255), x, levels / 255)
        assert torch.allclose(rounded * 255, (rounded * 255).round(), atol=1e-4)
        moved.append((255 * (rounded.double() - x.double())).abs().max().item())
    assert max(moved) <= levels + 2e-3
    assert levels < 1 or max(moved) > levels - 0.1


def test_off_the_grid_the_nearest_level_within_the_budget_is_taken():
    x = torch.tensor([100.5, 100.5, 100.5, 100.4]).view(1, 1, 1, 4) / 255
    point = torch.tensor([116.5, 84.5, 107.4, 100.6]).view(1, 1, 1, 4) / 255
    assert (linf.quantise(point, x, 16 / 255) * 255).round().flatten().tolist() == [116, 85, 107, 101]
    # No level lies within a fifth of a level of 100.5 or 100.4: the image's own rounding.
    assert (linf.quantise(point, x, 0.2 / 255) * 255).round().flatten().tolist() == [100, 100, 100, 100]
