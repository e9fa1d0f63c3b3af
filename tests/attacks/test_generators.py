"""lib/attacks/generators.py: CDA's ball, sizes, smoothing, and a generator that is left as found."""

import copy

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from lib.attacks.generators import cda
from lib.networks.cda_generator import GENERATORS, CDAGenerator
from tests.conftest import eight_bit_images


def real(name="cda_generator") -> CDAGenerator:
    """A small generator with statistics of its own; what it proposes is far from any image."""
    torch.manual_seed(0)
    generator = GENERATORS[name](4, 1)
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 1.5)
    generator.blockf[1].weight.data.mul_(8)
    return generator.eval()


@pytest.fixture
def generator():
    return real()


class Proposing(nn.Module):
    """Proposes what it is given, whatever the images are."""

    remainder = 0

    def __init__(self, proposed):
        super().__init__()
        self.proposed = proposed

    def forward(self, x):
        return self.proposed


def levels(images) -> np.ndarray:
    return np.rint(255 * images.double().numpy()).astype(int)


def bounded(proposed, x, eps) -> np.ndarray:
    """The ball and the rounding in whole numbers: eps levels, a whole number of them."""
    clean = levels(x)
    return np.clip(np.clip(levels(proposed), clean - eps, clean + eps), 0, 255)


@pytest.mark.parametrize("eps", [0, 1, 7.5, 8, 10, 16, 40, 255])
def test_the_budget_holds_in_whole_levels(generator, eps):
    x = eight_bit_images(3, 20)
    x_adv = cda(generator, x, eps=eps / 255)
    assert x_adv.dtype == torch.float32 and torch.equal(x_adv, (x_adv * 255).round() / 255)
    moved = np.abs(levels(x_adv) - levels(x)).max((1, 2, 3))
    assert (moved == np.floor(eps)).all() if eps <= 40 else (moved > 200).all()
    assert 0 <= x_adv.min() and x_adv.max() <= 1


@pytest.mark.parametrize("eps", [8, 16])
def test_the_result_is_the_rounded_point_of_the_ball_nearest_to_the_proposal(generator, eps):
    x = eight_bit_images(3, 20)
    with torch.no_grad():
        proposed = generator(x)
    assert (levels(cda(generator, x, eps=eps / 255)) == bounded(proposed, x, eps)).all()


def test_sixteen_levels_are_the_budget_unless_another_is_given(generator, x):
    assert torch.equal(cda(generator, x), cda(generator, x, eps=16 / 255))


def test_every_image_may_have_its_own_budget(generator, x):
    eps = torch.tensor([0, 1, 3, 8, 10, 16])
    x_adv = cda(generator, x, eps=eps.view(6, 1, 1, 1) / 255)
    assert np.abs(levels(x_adv) - levels(x)).max((1, 2, 3)).tolist() == eps.tolist()
    for k in range(6):
        alone = cda(generator, x[k : k + 1], eps=eps[k].item() / 255)
        assert torch.equal(x_adv[k : k + 1], alone)


@pytest.mark.parametrize(("name", "sides", "filled"), [
    ("cda_generator", (20, 24), (20, 24)),
    ("cda_generator", (21, 23), (24, 24)),
    ("cda_generator", (22, 29), (24, 32)),
    ("cda_generator_inception", (19, 27), (19, 27)),
    ("cda_generator_inception", (20, 24), (23, 27)),
    ("cda_generator_inception", (21, 22), (23, 23)),
])  # fmt: skip
@pytest.mark.parametrize("smoothing", [False, True])
def test_other_sizes_are_filled_up_by_the_edge_below_and_on_the_right(name, sides, filled, smoothing):
    generator, (height, width) = real(name), sides
    g = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (2, 3, height, width), generator=g).float() / 255
    larger = np.pad(x.numpy(), [(0, 0), (0, 0), (0, filled[0] - height), (0, filled[1] - width)], mode="edge")
    with torch.no_grad():
        proposed = generator(torch.from_numpy(larger))
    assert proposed.shape[-2:] == filled  # a size that the generator gives back
    proposed = proposed[..., :height, :width]
    if smoothing:
        # What lies beyond the image is zero, not what was filled up.
        proposed = torch.from_numpy(gaussian_filter(proposed.numpy(), 1, radius=1, axes=(2, 3), mode="constant"))
    x_adv = cda(generator, x, smoothing=smoothing)
    assert x_adv.shape == x.shape
    difference = np.abs(levels(x_adv) - bounded(proposed, x, 16))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.001  # a rounding may fall either way


def test_smoothing_is_a_gaussian_of_three_pixels_with_zeros_beyond_the_edge():
    proposed = torch.rand(2, 3, 9, 14, generator=torch.Generator().manual_seed(2))
    x = torch.full_like(proposed, 128 / 255)
    found = cda(Proposing(proposed), x, eps=1.0, smoothing=True)
    density = np.exp(-(np.array([-1, 0, 1]) ** 2) / 2)
    kernel = np.outer(density, density) / density.sum() ** 2
    padded = np.pad(proposed.double().numpy(), [(0, 0), (0, 0), (1, 1), (1, 1)])
    expected = sum(kernel[i, j] * padded[..., i : i + 9, j : j + 14] for i in range(3) for j in range(3))
    assert (np.abs(255 * found.double().numpy() - 255 * expected) <= 0.5 + 1e-3).all()
    scipys = gaussian_filter(proposed.double().numpy(), 1, radius=1, axes=(2, 3), mode="constant")
    assert np.allclose(expected, scipys)
    plain = cda(Proposing(proposed), x, eps=1.0)
    assert (levels(plain) == levels(proposed)).all()  # off unless asked for


def test_smoothing_comes_before_the_projection():
    x = torch.full((1, 3, 7, 7), 100 / 255)
    proposed = x.clone()
    proposed[..., 3, 3] = 1.0
    moved = levels(cda(Proposing(proposed), x, smoothing=True) - x)[0, 0]
    # 155 levels times 0.204, 0.124 and 0.075, then the ball of 16; the other way round, 16 times these.
    assert moved[2:5, 2:5].tolist() == [[12, 16, 12], [16, 16, 16], [12, 16, 12]]
    assert (moved[1, 1:6] == 0).all()
    assert (moved[0] == -16).all() and (moved[:, 6] == -16).all()  # the zeros beyond the edge darken it


@pytest.mark.parametrize("smoothing", [False, True])
def test_an_adversary_depends_on_its_image_alone(generator, smoothing):
    x = eight_bit_images(6, 21)
    whole = cda(generator, x, smoothing=smoothing)
    single = torch.cat([cda(generator, x[k : k + 1], smoothing=smoothing) for k in range(6)])
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = cda(generator, x[order], smoothing=smoothing)[order.argsort()]
    for other in (single, shuffled):
        assert (other != whole).float().mean() <= 0.001


def test_a_generator_in_training_is_used_in_inference_and_left_as_found(generator, x):
    generator.train()
    generator.block2.eval()
    generator.blockf[1].bias.requires_grad_(False)
    with torch.no_grad():
        assert not torch.equal(generator(x), generator(x))  # dropout is at work, and so are the statistics
    expected = cda(copy.deepcopy(generator).eval(), x)
    before = {key: value.clone() for key, value in generator.state_dict().items()}
    modes = [module.training for module in generator.modules()]
    frozen = [parameter.requires_grad for parameter in generator.parameters()]
    images = x.clone().requires_grad_(True)
    x_adv = cda(generator, images)
    assert torch.equal(x_adv, expected) and not x_adv.requires_grad and images.grad is None
    assert [module.training for module in generator.modules()] == modes
    assert [parameter.requires_grad for parameter in generator.parameters()] == frozen
    assert all(parameter.grad is None for parameter in generator.parameters())
    assert all(torch.equal(value, before[key]) for key, value in generator.state_dict().items())


def test_a_generator_is_left_as_found_by_an_error_too(generator):
    generator.train()
    generator.blockf[1] = torch.nn.Conv2d(1, 3, 7)  # of other channels than there are
    with pytest.raises(RuntimeError):
        cda(generator, torch.rand(1, 3, 16, 16))
    assert all(module.training for module in generator.modules())


@pytest.mark.parametrize(("change", "error", "message"), [
    (lambda x: (x * 255).byte(), TypeError, "divide 8-bit images by 255"),
    (lambda x: x[0], ValueError, r"shape \[B,3,H,W\]"),
    (lambda x: x * 2 - 1, ValueError, r"lie in \[0,1\]"),
    (lambda x: x * float("nan"), ValueError, r"lie in \[0,1\]"),
])  # fmt: skip
def test_what_is_no_batch_of_images_is_refused_in_one_line(generator, x, change, error, message):
    with pytest.raises(error, match=message) as raised:
        cda(generator, change(x))
    assert "\n" not in str(raised.value)


def test_a_negative_budget_is_refused(generator, x):
    with pytest.raises(ValueError, match=r"^eps must be 0 or more"):
        cda(generator, x, eps=-1 / 255)
