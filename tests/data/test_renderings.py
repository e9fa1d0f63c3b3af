"""lib/data/renderings.py: comics and paintings of photographs, against what can be known without them."""

import math
import time

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from lib.data.renderings import RENDERINGS, along, comic, flat_colours, ink, painting, shock, tangents

SIDE = 96
INNER = (slice(None), slice(16, -16), slice(16, -16))


def grid(side=SIDE):
    """The coordinates (x, y) from the centre."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return x, y


def image(grey):
    """Levels `[H,W]` or `[3,H,W]` as uint8 `[3,H,W]`."""
    levels = torch.from_numpy(np.asarray(grey)).clamp(0, 255).round().byte()
    return levels.expand(3, *levels.shape[-2:]).clone()


def photograph(seed=0, side=SIDE):
    """Soft shapes of many colours with a little noise: thousands of colours, edges in all directions."""
    random = np.random.default_rng(seed)
    areas = gaussian_filter(random.standard_normal((3, side, side)), (0, 5, 5), mode="nearest") * 9
    levels = 128 + 45 * np.tanh(3 * areas) + 30 * gaussian_filter(areas, (0, 9, 9))
    return image(levels + 3 * random.standard_normal((3, side, side)))


def grating(angle, period=8.0, amplitude=50):
    """Stripes at `angle` to the horizontal, `[H,W]` levels."""
    x, y = grid()
    return 128 + amplitude * np.sin(2 * math.pi / period * (y * math.cos(angle) - x * math.sin(angle)))


def step(dark=80, light=190):
    """Dark on the left, light on the right: the edge is between columns 47 and 48."""
    return image(np.where(grid()[0] < 0, dark, light))


def colours(picture):
    return len(torch.unique(picture.flatten(1), dim=1).T)


def floats(picture):
    return picture.float() / 255


@pytest.fixture(params=sorted(RENDERINGS))
def rendering(request):
    return RENDERINGS[request.param]


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (120, 32), (51, 200)])
def test_any_size_keeps_its_shape_and_every_call_its_bytes(rendering, size):
    x = photograph(side=256)[:, : size[0], : size[1]]  # not contiguous
    before = x.clone()
    y = rendering(x)
    assert y.dtype == torch.uint8 and y.shape == x.shape and y.is_contiguous()
    assert torch.equal(y, rendering(x.clone())) and torch.equal(x, before)


def test_no_random_number_is_drawn(rendering):
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    rendering(photograph())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002


def test_another_number_of_threads_changes_nothing(rendering):
    threads = torch.get_num_threads()
    try:
        results = []
        for number in (1, 2):
            torch.set_num_threads(number)
            results.append(rendering(photograph()))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


@pytest.mark.parametrize("level", [0, 1, 127, 254, 255])
def test_a_constant_grey_stays(rendering, level):
    x = torch.full((3, 40, 50), level, dtype=torch.uint8)
    assert torch.equal(rendering(x), x)


def test_a_constant_colour_stays_constant(rendering):
    x = torch.tensor([200, 90, 40], dtype=torch.uint8)[:, None, None].expand(3, 40, 50)
    y = rendering(x)
    assert colours(y) == 1
    assert (y[:, 0, 0].int() - x[:, 0, 0].int()).abs().max() <= 45  # more vivid, no other hue
    assert y[:, 0, 0].argsort().tolist() == x[:, 0, 0].argsort().tolist()


def test_a_quarter_turn_before_or_after_is_the_same(rendering):
    x = photograph()
    before, after = rendering(x.rot90(1, (1, 2))).int(), rendering(x).rot90(1, (1, 2)).int()
    change = (after - x.rot90(1, (1, 2)).int()).abs().float().mean()
    assert (before - after).abs().float().mean() < 0.1 * change


def test_the_picture_can_still_be_recognised(rendering):
    x, y = floats(photograph()), floats(rendering(photograph()))
    blurred = [gaussian_filter(each.numpy(), (0, 6, 6)).ravel() for each in (x, y)]
    assert np.corrcoef(*blurred)[0, 1] > 0.9
    assert (x - y).abs().mean() > 4 / 255


def test_256_pixels_take_a_fraction_of_a_second(rendering):
    x = photograph(side=256)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = []
        for _ in range(3):
            start = time.process_time()
            rendering(x)
            seconds.append(time.process_time() - start)
    finally:
        torch.set_num_threads(threads)
    assert min(seconds) < 1.2  # 0.15 s alone on one core; the rest is for a busy machine


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(3, 40, 40), TypeError, "must be a uint8 tensor, got torch.float32"),
        (np.zeros((3, 40, 40), np.uint8), TypeError, "must be a uint8 tensor, got ndarray"),
        (None, TypeError, "must be a uint8 tensor, got NoneType"),
        (torch.zeros(1, 3, 40, 40, dtype=torch.uint8), ValueError, r"shape \[3,H,W\], .* got \[1, 3, 40, 40\]"),
        (torch.zeros(40, 40, 3, dtype=torch.uint8), ValueError, r"shape \[3,H,W\], .* got \[40, 40, 3\]"),
        (torch.zeros(40, 40, dtype=torch.uint8), ValueError, r"got \[40, 40\]"),
        (torch.zeros(3, 31, 40, dtype=torch.uint8), ValueError, r"at least 32, got \[3, 31, 40\]"),
        (torch.zeros(3, 40, 0, dtype=torch.uint8), ValueError, r"got \[3, 40, 0\]"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(rendering, x, error, message):
    with pytest.raises(error, match=message) as raised:
        rendering(x)
    assert "\n" not in str(raised.value)


def test_a_comic_has_few_colours():
    x = photograph()
    assert colours(x) > 5000
    assert 10 < colours(comic(x)) <= 20 * 3 + 1  # each without ink and in two shades, and black


def test_a_comic_s_lines_have_few_shades():
    x, y = grid()
    edge = floats(image(128 + 90 * np.tanh((x - 0.3 * y) / 1.5)))  # oblique and soft
    line = ink(edge, tangents(edge))
    assert line.shape == (SIDE, SIDE) and (line * 3).unique().round(decimals=5).tolist() == [0, 1, 2, 3]


def test_a_comic_s_areas_have_few_specks():
    noise = 12 * np.random.default_rng(0).standard_normal((3, SIDE, SIDE))
    y = flat_colours(floats(image(grating(0.4, period=24) + noise)))
    same = torch.stack([(y == y.roll(shift, axis)).all(0) for shift in (-1, 1) for axis in (1, 2)])
    specks = ~same.any(0)  # unlike all four neighbours; half the pixels if nothing is done
    assert specks[INNER[1:]].float().mean() < 0.1 and colours(y) <= 20


def test_a_comic_has_a_line_at_an_edge_and_flat_areas_beside_it():
    y = comic(step())
    columns = y[:, 20].int()
    assert torch.equal(y, y[:, :1].expand_as(y))  # the same in all rows
    assert columns[:, 44:48].min() == 0  # ink, on the dark side
    assert (columns[:, 48:] >= 185).all()
    for area, level in ((slice(0, 42), 80), (slice(54, None), 190)):
        assert (columns[:, area] - level).abs().max() <= 2 and columns[:, area].unique().numel() == 1


def test_a_comic_has_no_line_in_a_slope_or_in_noise():
    slope = image(128 + 0.8 * grid()[0])
    noise = image(128 + 4 * np.random.default_rng(0).standard_normal((SIDE, SIDE)))
    assert comic(slope).min() > 80 and comic(noise).min() > 100


def test_a_comic_s_colours_are_more_vivid():
    x, y = photograph().int(), comic(photograph()).int()
    assert (y.amax(0) - y.amin(0)).float().mean() > 1.1 * (x.amax(0) - x.amin(0)).float().mean()


@pytest.mark.parametrize("degrees", [0, 20, 45, 90, 135])
def test_tangents_run_along_the_stripes(degrees):
    angle = math.radians(degrees)
    directions = tangents(floats(image(grating(angle))))
    across = -math.sin(angle) * directions[0] + math.cos(angle) * directions[1]
    assert across[INNER[1:]].abs().max() < 0.05
    torch.testing.assert_close(directions.norm(dim=0), torch.ones(SIDE, SIDE))


def test_tangents_see_edges_between_colours_of_one_brightness():
    across, down = (torch.from_numpy(axis).float() for axis in grid())
    red = torch.where(across < 0, 0.8, 0.3)
    x = torch.stack([red, (0.6 - 0.299 * red) / 0.587, torch.zeros_like(red)]) + down / 1000  # and a faint slope
    directions = tangents(x)
    assert directions[1, :, 47].abs().min() > 0.99


@pytest.mark.parametrize(("axis", "direction"), [(2, (1.0, 0.0)), (1, (0.0, -1.0))])
@pytest.mark.parametrize("sigma", [1, 2, 4])
def test_along_a_straight_field_is_a_gaussian_filter_of_one_dimension(axis, direction, sigma):
    x = floats(photograph())
    field = torch.tensor(direction)[:, None, None].expand(2, SIDE, SIDE)
    expected = gaussian_filter1d(x.numpy(), sigma, axis=axis, mode="nearest", truncate=2)
    np.testing.assert_allclose(along(x, field, sigma).numpy(), expected, atol=2e-5)


def test_along_follows_a_circle_whatever_the_signs_of_its_field():
    x, y = grid()
    radius = np.hypot(x, y) + 1e-9
    signs = np.random.default_rng(0).choice([-1, 1], radius.shape)
    field = torch.from_numpy(np.stack([-y / radius, x / radius]) * signs).float()
    rings = torch.from_numpy(np.sin(radius / 3))[None].float()
    smooth = along(rings, field, 4)
    far = (radius > 20) & (radius < 40)
    assert (smooth - rings)[0][far].abs().max() < 0.25  # steps of one pixel leave a ring a little
    blurred = gaussian_filter(rings[0].numpy(), 4)
    assert smooth[0][far].std() > 0.9 * rings[0][far].std() and blurred[far].std() < 0.5 * rings[0][far].std()


@pytest.mark.parametrize("degrees", [0, 20, 45, 90, 110])
def test_a_painting_keeps_stripes_that_a_blur_as_wide_takes_away(degrees):
    stripes = grating(math.radians(degrees))
    contrast = stripes[INNER[1:]].std()
    painted = painting(image(stripes))[INNER].float().std()
    assert gaussian_filter(stripes, 4)[INNER[1:]].std() < 0.05 * contrast
    assert 0.8 * contrast < painted < 1.4 * contrast


@pytest.mark.parametrize("degrees", [0, 30, 90])
def test_a_painting_has_less_noise_along_its_stripes(degrees):
    stripes = grating(math.radians(degrees), period=16)
    noise = 12 * np.random.default_rng(0).standard_normal(stripes.shape)
    clean, noisy = (painting(image(x))[INNER].float() for x in (stripes, stripes + noise))
    assert (noisy - clean).var() < 0.35 * noise.var()


def test_a_painting_has_less_noise_on_a_plane():
    noise = 12 * np.random.default_rng(0).standard_normal((SIDE, SIDE))
    assert painting(image(128 + noise))[INNER].float().var() < 0.35 * noise.var()


def test_a_painting_keeps_an_edge_sharp():
    row = painting(step())[0, 20].int()
    assert row[47] - row[0] < 15 and row[-1] - row[48] < 15


def test_a_painting_sharpens_a_soft_edge():
    x = image(gaussian_filter(step()[0].float().numpy(), (0, 3)))
    assert painting(x)[0].int().diff(dim=1).amax() > 1.3 * x[0].int().diff(dim=1).amax()


def test_shock_steepens_a_soft_edge_and_adds_no_level():
    x = floats(image(gaussian_filter(step()[0].float().numpy(), (0, 3))))
    sharp = shock(x, tangents(x))
    assert (sharp.diff(dim=2).amax()) > 1.5 * x.diff(dim=2).amax()
    assert x.min() - 1e-6 <= sharp.min() and sharp.max() <= x.max() + 1e-6
