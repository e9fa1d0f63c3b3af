import pytest
import torch
from torch import nn

from lib.attacks import features
from lib.networks.wrappers import Normalised, Tap
from lib.rng import Streams
from tests.conftest import Counting, eight_bit_images, tiny_network


@pytest.mark.parametrize("start", ["noise", "perturbed"])
def test_on_identity_features_every_pixel_ends_in_the_far_corner(start):
    # With features = pixels, the farthest point of the ball is a corner on the side where the start fell.
    x = torch.randint(20, 236, (4, 3, 16, 16), generator=torch.Generator().manual_seed(0)).float() / 255
    x_adv = features.ssp(Counting(), x, ids="abcd", start=start, steps=20)
    moved = ((x_adv - x) * 255).round()
    assert set(moved.unique().tolist()) == {-16.0, 16.0}


def test_the_released_start_is_a_normal_image_without_the_clean_one():
    # One step from N(0,1), then projection: facts known in closed form for a pixel of value v:
    # P(pixel at +16) = P(noise moved up or down one step > v + 16/255), and likewise at -16.
    v = 0.75
    x = torch.full((1, 3, 200, 200), round(v * 255) / 255)
    x_adv = features.ssp(Counting(), x, ids="a", steps=1)
    moved = ((x_adv - x) * 255).round()
    up, down = (moved == 16).float().mean().item(), (moved == -16).float().mean().item()
    # Identity features push away from x, so the step adds 0.01 to what lies above and takes it from what lies below.
    normal = torch.distributions.Normal(0.0, 1.0)
    level = x[0, 0, 0, 0]
    expected_up = 1 - normal.cdf(level + 16 / 255 - 0.01)
    expected_down = normal.cdf(level - 16 / 255 + 0.01)
    # Four standard deviations in 120,000 pixels.
    assert up == pytest.approx(expected_up.item(), abs=0.006) and down == pytest.approx(expected_down.item(), abs=0.006)
    assert down > 3 * up


def test_the_other_start_lies_in_the_ball_around_the_image():
    x = torch.full((1, 3, 100, 100), 0.5)
    seen = []

    class Watching(nn.Module):
        def forward(self, images):
            seen.append(images.detach().clone())
            return images

    features.ssp(Watching(), x, ids="a", start="perturbed", steps=1)
    first = (seen[1] - x) * 255
    assert first.abs().max() <= 16.001 and first.abs().mean() == pytest.approx(8, rel=0.02)


def test_clean_features_are_computed_once():
    extractor = Counting()
    features.ssp(extractor, eight_bit_images(2), ids="ab", steps=7)
    assert extractor.calls == 1 + 7


def test_ssp_moves_features_farther_than_random_signs_do(network, x):
    extractor = Tap(network, "2")
    x_adv = features.ssp(extractor, x, ids="abcdef", steps=10)
    random = (x + 16 / 255 * Streams(0, "abcdef", "n").normal(*x.shape[1:]).sign()).clamp(0, 1)
    distance = features.feature_distance(extractor, x)
    assert (distance(x_adv) > 1.5 * distance(random)).all()


def test_distance_is_the_mean_square_over_each_image_s_features(network, x):
    extractor = Tap(network, "2")
    value = features.feature_distance(extractor, x)(x.flip(0))
    difference = (extractor(x.flip(0)) - extractor(x)).detach().numpy()
    assert value.tolist() == pytest.approx((difference**2).mean((1, 2, 3)).tolist(), rel=1e-5)


def test_an_unknown_tap_names_the_near_ones(network):
    with pytest.raises(ValueError, match="22"):
        Tap(network, "22")


def test_an_unknown_start_is_refused(network, x):
    with pytest.raises(ValueError, match="'noise' or 'perturbed'"):
        features.ssp(Tap(network, "2"), x, ids="abcdef", start="zeros")


@pytest.fixture
def normalised():
    return Normalised(tiny_network(), (0.4, 0.5, 0.6), (0.2, 0.2, 0.2)).eval()


def response(network, delta, taps):
    """sum log mean|activation| with the network seeing the perturbation around its mean image, layer by layer."""
    h, total = delta / network.std, 0.0
    for name, layer in network.network.named_children():
        h = layer(h)
        if name in taps:
            total += h.abs().mean().log().item()
    return total


def test_fff_raises_the_response_of_its_layers(normalised):
    def trained(iterations):
        return features.fff(normalised, ["2", "4"], (3, 16, 16), iterations=iterations, lr=1.0)

    assert response(normalised, trained(200), ["2", "4"]) > response(normalised, trained(1), ["2", "4"]) + 0.2


def test_fff_stays_within_its_budget_on_the_8_bit_grid(normalised):
    delta = features.fff(normalised, ["2"], (3, 16, 16), iterations=50, lr=5.0, eps=10 / 255)
    assert delta.shape == (1, 3, 16, 16) and (delta * 255).round().abs().max() == 10
    assert torch.allclose(delta * 255, (delta * 255).round(), atol=1e-4)


def test_fff_first_step_is_adam_s(normalised):
    # Adam's first step has length lr along the sign of the gradient, so one iteration from the start is known.
    start = 16 * (2 * torch.rand(1, 3, 16, 16, generator=features.generator(0, "fff")) - 1)
    one = features.fff(normalised, ["2", "4"], (3, 16, 16), iterations=1, lr=1.0) * 255
    levels = start.clone().requires_grad_(True)
    layers = normalised.network[:3]((levels.clamp(-16, 16) / 255) / normalised.std), None
    loss = -(layers[0].abs().mean().log() + normalised.network[3:5](layers[0]).abs().mean().log())
    (grad,) = torch.autograd.grad(loss, levels)
    assert (one - (start - grad.sign()).clamp(-16, 16).round()).abs().max() <= 1 and torch.equal(
        one.round(), (start - grad.sign() * (grad != 0)).clamp(-16, 16).round()
    )


def test_halving_frees_what_is_stuck_at_the_clip_bound(normalised):
    # Pixels pass the bound, where the clipped gradient is zero, and stay there unless they are halved.
    def stuck(halve_every):
        delta = features.fff(normalised, ["2"], (3, 16, 16), iterations=41, lr=1.0, halve_every=halve_every)
        return (delta.abs() * 255 > 15.5).float().mean()

    assert stuck(1000) > 0.9 and stuck(40) < 0.1


def test_the_last_iteration_does_not_halve_the_result(normalised):
    delta = features.fff(normalised, ["2"], (3, 16, 16), iterations=80, lr=1.0, halve_every=40)
    assert (delta.abs() * 255).mean() > 14


def test_fff_depends_on_its_seed(normalised):
    first, second = (features.fff(normalised, ["2"], (3, 16, 16), iterations=3, seed=seed) for seed in (0, 1))
    assert not torch.equal(first, second)


def test_a_perturbation_of_another_size_is_refused(x):
    with pytest.raises(ValueError, match="does not fit"):
        features.add_perturbation(x, torch.zeros(1, 3, 8, 8), 16 / 255)
