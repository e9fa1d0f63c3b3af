"""The transforms against Pillow, scikit-image and scipy, on photographs and on noise."""

import io
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from skimage import data
from skimage.restoration import denoise_tv_bregman

from lib.data.images import load_neurips2017
from lib.defenses import bregman, defense
from lib.defenses.transforms import elementwise_median, jpeg, median, tvm
from tests.conftest import NO_BATCH

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

# Photographs in scikit-image's wheel; odd and unequal sides.
CROPS = {"astronaut": (slice(0, 121), slice(150, 279)), "coffee": (slice(60, 157), slice(200, 351))}
RUNS = {name: defense(name) for name in ("jpeg", "tvm", "median")} | {"median 5": defense("median", window=5)}


def photograph(name):
    return torch.from_numpy(getattr(data, name)()[CROPS[name]].copy()).permute(2, 0, 1)[None].float() / 255


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


IMAGES = {**{name: photograph(name) for name in CROPS}, "noise": noise(1, 3, 64, 75)}


def rmse(a, b):
    """In grey levels."""
    return 255 * (a - b).double().square().mean().sqrt().item()


def per_plane(function, x):
    """A function of one float64 plane, on each plane alone."""
    planes = [function(plane) for plane in x.flatten(0, 1).double().numpy()]
    return torch.from_numpy(np.stack(planes)).view_as(x)


def pillow(x, quality):
    """Images written and read by Pillow, one after the other."""
    images = []
    for levels in (x * 255).round().byte().permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(levels).save(file, "JPEG", quality=quality)
        images.append(np.array(Image.open(file)))
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255


@pytest.mark.parametrize("quality", [100, 75, 50, 20, 1])
@pytest.mark.parametrize("name", IMAGES)
def test_jpeg_is_pillow_s_bit_for_bit(name, quality):
    assert torch.equal(jpeg(IMAGES[name], quality=quality), pillow(IMAGES[name], quality))


def test_jpeg_rounds_to_8_bits_and_does_not_truncate():
    x = (noise(2, 3, 16, 16) * 254).round()
    assert torch.equal(jpeg((x + 0.49) / 255), jpeg(x / 255))
    assert torch.equal(jpeg((x + 0.51) / 255), jpeg((x + 1) / 255))


def test_jpeg_of_lower_quality_is_further_from_the_image():
    distances = [rmse(jpeg(IMAGES["coffee"], quality=quality), IMAGES["coffee"]) for quality in (90, 75, 50, 20, 5)]
    assert distances == sorted(distances)


def test_jpeg_keeps_a_grey_image():
    grey = torch.full((1, 3, 17, 23), 128 / 255)
    assert torch.equal(jpeg(grey, quality=20), grey)


@pytest.mark.parametrize("weight", [30, 10, 1, 300])
@pytest.mark.parametrize("name", IMAGES)
def test_tvm_is_scikit_image_s_per_plane(name, weight):
    """The project asks for 0.5 levels; a sweep more or less would cost 0.1, so this covers the stopping rule."""
    x = IMAGES[name]
    reference = per_plane(lambda plane: denoise_tv_bregman(plane, weight=weight), x)
    result = bregman.batched(x.flatten(0, 1), weight, 100, 1e-3).view_as(x)
    assert rmse(result, reference) < 1e-3 and 255 * (result - reference).abs().max() < 5e-3


@pytest.mark.parametrize(("max_iterations", "tolerance"), [(1, 1e-3), (3, 0.0), (100, 1e-2)])
def test_batched_tvm_stops_where_scikit_image_does(max_iterations, tolerance):
    x = IMAGES["astronaut"]
    options = {"max_num_iter": max_iterations, "eps": tolerance}
    reference = per_plane(lambda plane: denoise_tv_bregman(plane, weight=10, **options), x)
    assert rmse(bregman.batched(x.flatten(0, 1), 10, max_iterations, tolerance).view_as(x), reference) < 1e-3


def test_a_plane_that_has_converged_waits_for_the_others():
    """A flat plane needs one sweep, a photograph about eight, noise about twenty."""
    x = torch.stack([torch.full((64, 64), 0.5), IMAGES["coffee"][0, 0, :64, :64], noise(64, 64)])
    together = bregman.batched(x, 30, 100, 1e-3)
    alone = torch.cat([bregman.batched(plane[None], 30, 100, 1e-3) for plane in x])
    assert 255 * (together - alone).abs().max() < 1e-3
    longer = bregman.batched(x, 30, 100, 0.0)
    assert rmse(together[1], longer[1]) > 0.1


@pytest.mark.parametrize("shape", [(2, 2), (2, 9), (40, 3), (33, 32)])
def test_batched_tvm_on_small_planes(shape):
    x = noise(1, 3, *shape)
    reference = per_plane(lambda plane: denoise_tv_bregman(plane, weight=10), x)
    assert rmse(bregman.batched(x.flatten(0, 1), 10, 100, 1e-3).view_as(x), reference) < 1e-3


def test_tvm_treats_every_channel_alone():
    x = IMAGES["astronaut"]
    assert torch.equal(tvm(x.flip(1)), tvm(x).flip(1))


def test_a_smaller_weight_smooths_more():
    def variation(x):
        return (x.diff(dim=-1).abs().sum() + x.diff(dim=-2).abs().sum()).item()

    smoothed = [variation(tvm(IMAGES["coffee"], weight=weight)) for weight in (3, 10, 30, 100)]
    assert smoothed == sorted(smoothed) and smoothed[-1] < variation(IMAGES["coffee"])


@pytest.mark.parametrize("window", [3, 5])
@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (2, 2), (3, 1), (31, 64)])
def test_median_is_scipy_s(window, shape):
    x = noise(2, 3, *shape)
    reference = per_plane(lambda plane: ndimage.median_filter(plane, size=window, mode="reflect"), x)
    assert torch.equal(median(x, window=window).double(), reference)


@pytest.mark.parametrize("window", [3, 5])
def test_median_of_photographs_is_scipy_s(window):
    for x in IMAGES.values():
        reference = per_plane(lambda plane: ndimage.median_filter(plane, size=window, mode="reflect"), x)
        assert torch.equal(median(x, window=window).double(), reference)


def test_median_removes_single_pixels_and_keeps_edges():
    x = torch.zeros(1, 3, 12, 12)
    x[..., 6:] = 1
    dotted = x.clone()
    dotted[..., 3, 3], dotted[..., 8, 9] = 1, 0
    assert torch.equal(median(dotted), x) and torch.equal(median(x), x)


@pytest.mark.parametrize("n", range(1, 16, 2))
def test_the_middle_is_the_median(n):
    """Minima and maxima that are right for all sequences of zeros and ones are right for everything."""
    bits = torch.tensor(list(itertools.product([0, 1], repeat=n))).T
    assert torch.equal(elementwise_median(list(bits)), bits.sort(0).values[n // 2])


@pytest.mark.parametrize("name", RUNS)
def test_an_image_s_result_does_not_depend_on_the_batch(name):
    x = torch.cat([photograph("coffee")[..., :64, :75], IMAGES["noise"], torch.full((1, 3, 64, 75), 0.3)])
    together = RUNS[name](x)
    assert torch.equal(together, torch.cat([RUNS[name](image[None]) for image in x]))
    assert torch.equal(together.flip(0), RUNS[name](x.flip(0)))


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_results_are_float32_images_and_the_input_is_left_alone(name, dtype):
    x = noise(2, 3, 15, 22).to(dtype).requires_grad_(True)
    before = x.detach().clone()
    result = RUNS[name](x)
    assert result.shape == x.shape and result.dtype == torch.float32 and not result.requires_grad
    assert 0 <= result.min() and result.max() <= 1
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", RUNS)
def test_images_need_not_be_contiguous(name):
    x = noise(2, 3, 20, 24)
    assert torch.equal(RUNS[name](x.to(memory_format=torch.channels_last)), RUNS[name](x))


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize(
    ("x", "message"),
    [
        *NO_BATCH,
        (torch.full((1, 3, 8, 8), 1.5), r"\[0,1\]"),
        (torch.full((1, 3, 8, 8), float("nan")), r"\[0,1\]"),
    ],
)
def test_what_is_no_batch_of_images_is_refused(name, x, message):
    with pytest.raises((ValueError, TypeError), match=message) as error:
        RUNS[name](x)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("jpeg", {"quality": 0}, "from 1 to 100, got 0"),
        ("jpeg", {"quality": 101}, "from 1 to 100"),
        ("jpeg", {"quality": 75.5}, "whole number"),
        ("tvm", {"weight": 0}, "weight must be 1e-09 or more"),
        ("tvm", {"weight": -3}, "weight must be 1e-09 or more"),
        ("tvm", {"weight": float("nan")}, "weight must be 1e-09 or more"),
        ("tvm", {"max_iterations": 0}, "max_iterations"),
        ("tvm", {"tolerance": -1.0}, "tolerance"),
        ("median", {"window": 4}, "3 or 5, got 4"),
        ("median", {"window": 7}, "3 or 5"),
    ],
)
def test_options_that_mean_nothing_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        defense(kind, **options)(noise(1, 3, 8, 8))


def test_tvm_refuses_images_of_one_pixel_s_width():
    with pytest.raises(ValueError, match="at least 2x2"):
        tvm(noise(1, 3, 8, 1))


def test_a_defense_from_its_entry_in_params():
    x = IMAGES["noise"]
    assert torch.equal(defense(**{"kind": "jpeg", "quality": 20})(x), jpeg(x, quality=20))
    assert torch.equal(defense(**{"kind": "tvm", "weight": 10})(x), tvm(x, weight=10.0))


def test_names_and_options_that_do_not_exist_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match="no defense 'jpg'; did you mean 'jpeg'"):
        defense("jpg")
    with pytest.raises(ValueError, match="jpeg has no option 'qualty'; did you mean 'quality'"):
        defense("jpeg", qualty=3)
    with pytest.raises(ValueError, match="multiple values for argument 'x'"):
        defense("median", x=3)


@pytest.mark.skipif(not os.environ.get("COMPANION_ASSETS"), reason="no assets")
@pytest.mark.parametrize("weight", [30, 10])
def test_batched_tvm_on_real_images(weight):
    images = load_neurips2017(Path(os.environ["COMPANION_ASSETS"]) / "neurips2017", side=224, count=6)
    x = images.images / 255
    reference = per_plane(lambda plane: denoise_tv_bregman(plane, weight=weight), x)
    result = bregman.batched(x.flatten(0, 1), weight, 100, 1e-3).view_as(x)
    assert all(rmse(a, b) < 0.01 for a, b in zip(result, reference, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["tvm", "median", "median 5"])
def test_a_gpu_gives_the_cpu_s_result(name):
    for x in IMAGES.values():
        result = RUNS[name](x.cuda())
        assert result.is_cuda and 255 * (result.cpu() - RUNS[name](x)).abs().max() < 0.01


@pytest.mark.gpu
def test_jpeg_on_a_gpu():
    """The CPU's levels: a division by 255 may round otherwise on a GPU."""
    x = IMAGES["coffee"]
    result = jpeg(x.cuda())
    assert result.is_cuda and torch.equal((255 * result.cpu()).round(), (255 * jpeg(x)).round())
