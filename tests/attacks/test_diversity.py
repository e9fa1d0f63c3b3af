import math

import pytest
import torch
import torch.nn.functional as F

from lib.attacks import decision
from lib.attacks.ascent import convolved
from lib.attacks.diversity import diverse, placed, placed_at_once, resize_and_pad, selection, translation_kernel
from lib.rng import Streams
from tests.conftest import eight_bit_images


def test_the_kernel_is_the_definition_of_the_released_code():
    kernel = translation_kernel()
    points = [-3 + 6 * i / 14 for i in range(15)]
    density = [math.exp(-p * p / 2) / math.sqrt(2 * math.pi) for p in points]
    total = sum(a * b for a in density for b in density)
    for i in range(15):
        for j in range(15):
            assert kernel[i, j].item() == pytest.approx(density[i] * density[j] / total, rel=1e-5)
    assert kernel[7, 7].item() == pytest.approx(0.029303, abs=5e-7)
    assert kernel[0, 0].item() == pytest.approx(3.6163e-06, rel=1e-4)


def test_the_kernel_s_sigma_is_seven_thirds_of_a_pixel():
    kernel = translation_kernel()[7]
    assert (kernel[8] / kernel[7]).item() == pytest.approx(math.exp(-1 / (2 * (7 / 3) ** 2)), rel=1e-5)


def test_smoothing_is_a_depthwise_zero_padded_convolution():
    gradient = torch.zeros(1, 3, 20, 20)
    gradient[0, 1, 10, 10] = 1
    gradient[0, 2, 0, 0] = 1
    result = convolved(gradient, translation_kernel())
    assert result[0, 0].abs().max() == 0
    assert torch.allclose(result[0, 1, 3:18, 3:18], translation_kernel(), atol=1e-9)
    assert torch.allclose(result[0, 2, :8, :8], translation_kernel()[7:, 7:], atol=1e-9)


def test_a_kernel_of_one_pixel_changes_nothing(network, x, y):
    plain = decision.dim(network, x, y, ids=range(6), probability=0.0)
    assert torch.equal(plain, decision.dim(network, x, y, ids=range(6), probability=0.0, kernel=1, edge=0.0))


@pytest.mark.parametrize("side, enlarged", [(299, 330), (224, 247), (48, 53)])
def test_images_are_enlarged_by_the_released_ratio(side, enlarged):
    result = resize_and_pad(torch.rand(1, 3, side, side), Streams(0, ["a"], "d"))
    assert result.shape[-2:] == (enlarged, enlarged)


def test_the_resize_is_pytorch_s_nearest_and_the_padding_mid_grey():
    x = eight_bit_images(40, 48)
    result = resize_and_pad(x, Streams(0, range(40), "d"))
    sizes = set()
    for image, moved in zip(x, result, strict=True):
        placed = [_find(image, moved, size) for size in range(48, 53)]
        # An enlarged copy contains the smaller ones, so the largest match is the copy.
        size, (top, left) = [(size, place) for size, place in zip(range(48, 53), placed, strict=True) if place][-1]
        sizes.add(size)
        outside = torch.ones(53, 53, dtype=torch.bool)
        outside[top : top + size, left : left + size] = False
        assert (moved[:, outside] == 0.5).all()
    assert sizes == {48, 49, 50, 51, 52}


def _find(image, moved, size):
    """Where F.interpolate's nearest-neighbour copy of `image` stands in `moved`, or None."""
    copy = F.interpolate(image[None], (size, size), mode="nearest")[0]
    for top in range(53 - size):
        for left in range(53 - size):
            if torch.equal(moved[:, top : top + size, left : left + size], copy):
                return top, left
    return None


def test_offsets_reach_every_place_that_the_released_code_reaches():
    rows = selection(4, torch.tensor([4, 4]), torch.tensor([0, 2]), 6)
    assert rows[0].argmax(1).tolist()[:4] == [0, 1, 2, 3] and rows[1].argmax(1).tolist()[2:] == [0, 1, 2, 3]
    assert rows[1, :2].sum() == 0


def test_a_gpu_s_way_to_resize_gives_the_same_pixels_and_gradients():
    x, drawn = eight_bit_images(20, 48).requires_grad_(True), torch.tensor([[48, 52, 0, 1], [50, 49, 3, 2]] * 10)
    here, there = placed(x, drawn, 53, 53), placed_at_once(x, drawn, 53, 53)
    assert torch.equal(here, there)
    weights = torch.rand(here.shape, generator=torch.Generator().manual_seed(1))
    here, there = (torch.autograd.grad(images, x, weights)[0] for images in (here, there))
    assert torch.allclose(here, there, atol=1e-6) and here.std() > 0.1


def test_the_gradient_through_the_resize_is_exact():
    x = torch.rand(1, 1, 12, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda image: resize_and_pad(image, Streams(0, ["a"], "d")), x)


def test_each_image_is_diversified_with_the_probability_and_keeps_its_place():
    seen = []

    def network(images):
        seen.append((images.shape[-1], len(images)))
        return images.amax((1, 2, 3))[:, None].expand(-1, 2)

    x = torch.arange(500).float().view(500, 1, 1, 1).expand(500, 1, 16, 16) + 1
    result = diverse(network, Streams(0, range(500), "d"), 0.7)(x)
    assert torch.equal(result[:, 0], torch.arange(500).float() + 1)
    counts = dict(seen)
    # Four standard deviations of a share of 0.7 in 500 draws.
    assert abs(counts[18] / 500 - 0.7) < 0.082 and counts[16] + counts[18] == 500


def test_each_network_of_an_ensemble_draws_for_itself(network, x, y):
    class Recorder(torch.nn.Module):
        def __init__(self, log):
            super().__init__()
            self.inner, self.log = network, log

        def forward(self, images):
            self.log.append(images.detach().clone())
            return self.inner(images)

    first, second = [], []
    decision.dim([Recorder(first), Recorder(second)], x, y, ids=range(6), steps=1, probability=1.0)
    assert first[0].shape == second[0].shape and not torch.equal(first[0], second[0])


def test_probability_zero_is_mi_fgsm(network, x, y):
    assert torch.equal(decision.dim(network, x, y, ids=range(6), probability=0.0), decision.mi_fgsm(network, x, y))


def test_images_too_small_to_enlarge_are_refused():
    with pytest.raises(ValueError, match="4x4 are too small"):
        resize_and_pad(torch.rand(1, 3, 4, 4), Streams(0, ["a"], "d"))
