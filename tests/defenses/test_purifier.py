"""lib/defenses/purifier.py: static and dynamic purification, its noise, its gradient, its tiles."""

import pytest
import torch
from torch import nn

from lib.defenses import defense
from lib.defenses.purifier import MAX_HALO, NOISE, contents, halo, nrp
from lib.networks.purifier import NRP, NRPResG, begin_as_identity
from lib.rng import Streams
from tests.conftest import NO_BATCH, eight_bit_images

EPS = 16 / 255


def purifier(kind=NRPResG, blocks=1, seed=0):
    """A tiny one that changes images, and reaches beyond [0,1]."""
    torch.manual_seed(seed)
    network = kind(width=4, blocks=blocks)
    begin_as_identity(network)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network.eval().requires_grad_(False)


@pytest.fixture(params=[NRP, NRPResG])
def network(request):
    return purifier(request.param)


def test_static_purification_is_the_network_clamped(network, x):
    raw = network(x)
    assert raw.min() < 0 or raw.max() > 1
    assert torch.equal(nrp(x, network=network), raw.clamp(0, 1))
    assert torch.equal(defense("nrp", network=network)(x), raw.clamp(0, 1))


def test_dynamic_purification_is_the_definition_s(network, x):
    """NRP/purify.py:50-55, written out, with the noise that the seed and the images key."""
    normal = Streams(3, contents(x), "nrp").normal(3, 16, 16)
    disturbed = (x + torch.clamp(0.05 * normal, -EPS, EPS)).clamp(0, 1)
    expected = network(disturbed).clamp(0, 1)
    assert torch.allclose(nrp(x, network=network, noise=NOISE, seed=3), expected, atol=1e-6)


@pytest.mark.parametrize("noise", [0.05, 1.0])
def test_the_noise_stays_within_eps_and_the_image_within_0_and_1(x, noise):
    result = nrp(x, network=nn.Identity(), noise=noise)
    assert (result - x).abs().max() == pytest.approx(EPS, abs=1e-6)
    assert result.min() == 0 and result.max() == 1
    assert (nrp(x, network=nn.Identity(), noise=noise, eps=2 / 255) - x).abs().max() <= 2 / 255 + 1e-6


def test_the_noise_is_normal_of_the_given_deviation():
    x = torch.full((2, 3, 100, 100), 0.5)
    x[1] += 1 / 255
    noise = nrp(x, network=nn.Identity(), noise=NOISE, eps=1.0) - x
    assert noise.std(dim=(1, 2, 3)).tolist() == pytest.approx([0.05, 0.05], rel=0.02)
    assert noise.mean(dim=(1, 2, 3)).abs().max() < 1e-3
    assert (noise.abs() < NOISE).float().mean().item() == pytest.approx(0.6827, abs=0.01)
    # Projected to the paper's eps, what lies beyond 1.25 deviations is cut.
    cut = (nrp(x, network=nn.Identity(), noise=NOISE) - x).abs() > EPS - 1e-6
    assert cut.float().mean().item() == pytest.approx(0.2094, abs=0.01)
    assert abs(torch.corrcoef(noise.flatten(1))[0, 1]) < 0.03


@pytest.mark.parametrize("options", [{}, {"noise": NOISE}])
def test_an_image_s_result_does_not_depend_on_the_batch_or_its_order(network, x, options):
    x, network = x.double(), network.double()
    together = nrp(x, network=network, **options)
    alone = torch.cat([nrp(image[None], network=network, **options) for image in x])
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = nrp(x[order], network=network, **options)[order.argsort()]
    assert torch.allclose(together, alone, atol=1e-12) and torch.allclose(together, shuffled, atol=1e-12)


def test_a_seed_keys_the_noise(network, x):
    first, again, other = (nrp(x, network=network, noise=NOISE, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert ((first - other).abs().amax((1, 2, 3)) > 0.01).all()


def test_an_attack_s_iterates_meet_fresh_noise(x):
    """One value moved by a level is another image; a float's last bits are not."""
    x = 0.25 + x / 2
    moved, same = x.clone(), x * (1 + 1e-7)
    moved[:, 0, 0, 0] += 1 / 255
    one, other, near = (nrp(image, network=nn.Identity(), noise=NOISE) - image for image in (x, moved, same))
    assert ((one - other).abs() > 1e-3).float().mean() > 0.9
    assert not torch.equal(same, x) and torch.allclose(one, near, atol=1e-6)


def test_the_caller_s_random_state_is_left_alone(network, x):
    before = torch.get_rng_state()
    nrp(x, network=network, noise=NOISE)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("options", [{}, {"tile": 36}])
def test_the_gradient_is_that_of_finite_differences(network, options):
    torch.manual_seed(0)
    network = network.double()
    x = torch.rand(2, 3, 40, 38, dtype=torch.float64).requires_grad_(True)
    weights, direction = torch.randn(2, *x.shape, dtype=torch.float64)

    def value(images):
        return (weights * nrp(images, network=network, **options)).sum()

    (grad,) = torch.autograd.grad(value(x), x)
    slope = (value(x + 1e-7 * direction) - value(x - 1e-7 * direction)) / 2e-7
    assert (grad * direction).sum().item() == pytest.approx(slope.item(), rel=1e-4)
    raw = network(x)
    assert ((raw < 0) | (raw > 1)).any()  # the clamp has its part


def test_the_gradient_passes_the_noise_as_a_constant(network, x):
    x = x.double().requires_grad_(True)
    network = network.double()
    weights = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (grad,) = torch.autograd.grad((weights * nrp(x, network=network, noise=NOISE)).sum(), x)
    noise = (NOISE * Streams(0, contents(x), "nrp").normal(*x.shape[1:]).double()).clamp(-EPS, EPS)
    (expected,) = torch.autograd.grad((weights * network((x + noise).clamp(0, 1)).clamp(0, 1)).sum(), x)
    assert torch.allclose(grad, expected, atol=1e-10) and grad.abs().max() > 0.1


@pytest.mark.parametrize(("kind", "blocks", "expected"), [(NRPResG, 1, 4), (NRPResG, 23, 48), (NRP, 1, 17)])
def test_the_halo_is_the_reach_of_the_network(kind, blocks, expected):
    assert halo(kind(width=2, blocks=blocks)) == expected


def test_the_big_purifier_s_halo_is_capped():
    assert halo(NRP(width=2, blocks=23)) == MAX_HALO


def test_an_input_pixel_reaches_as_far_as_the_halo_and_no_further():
    network = purifier(blocks=2).double()
    x = torch.rand(1, 3, 41, 41, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bumped = x.clone()
    bumped[..., 20, 20] += 0.5
    changed = (network(bumped) != network(x)).any(1)[0].nonzero()
    assert (changed.min(), changed.max()) == (20 - halo(network), 20 + halo(network))


@pytest.mark.parametrize(("kind", "tile"), [(NRPResG, 9), (NRPResG, 16), (NRPResG, 31), (NRP, 35), (NRP, 48)])
@pytest.mark.parametrize("shape", [(1, 1), (9, 10), (17, 40), (33, 31), (64, 51), (5, 77)])
def test_tiles_give_the_whole_image_s_result(kind, tile, shape):
    network = purifier(kind).double()
    x = torch.rand(2, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for options in ({}, {"noise": NOISE}):
        whole = nrp(x, network=network, **options)
        assert torch.allclose(nrp(x, network=network, tile=tile, **options), whole, atol=1e-12)


def test_no_window_is_larger_than_the_tile_and_an_image_that_fits_is_not_cut():
    seen = []
    network = purifier()
    network.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape[-2:])))
    nrp(torch.rand(1, 3, 50, 30), network=network, tile=20)
    assert max(max(sides) for sides in seen) == 20 and len(seen) == 15
    seen.clear()
    nrp(torch.rand(1, 3, 20, 17), network=network, tile=20)
    assert seen == [(20, 17)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_types_and_the_input_are_kept(network, x, dtype):
    x = x.to(dtype)
    before = x.clone()
    network = network.double() if dtype == torch.float64 else network
    result = nrp(x, network=network, noise=NOISE)
    assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32) and result.shape == x.shape
    assert torch.equal(x, before) and 0 <= result.min() and result.max() <= 1


def test_an_iterate_outside_the_range_is_purified_too(network, x):
    assert torch.equal(nrp(x + 0.05, network=network), network(x + 0.05).clamp(0, 1))


@pytest.mark.parametrize(("x", "message"), NO_BATCH)
def test_what_is_no_batch_of_images_is_refused(x, message):
    with pytest.raises((ValueError, TypeError), match=message) as error:
        nrp(x, network=purifier())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": -0.05}, "noise must be 0 or more, got -0.05"),
        ({"noise": float("nan")}, "0 or more"),
        ({"noise": 0.05, "eps": -1.0}, "eps must be 0 or more, got -1"),
        ({"tile": 8}, "more than 8 pixels for this purifier, got 8"),
        ({"tile": 0}, "more than 8 pixels"),
        ({"network": "NRP.pth"}, "must be a torch.nn.Module, got str"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises((ValueError, TypeError), match=message) as error:
        nrp(eight_bit_images(1), **{"network": purifier()} | options)
    assert "\n" not in str(error.value)


def test_the_defense_needs_its_network():
    with pytest.raises(ValueError, match=r"the defense nrp: missing a required .*argument: 'network'; "):
        defense("nrp", noise=0.05)
    with pytest.raises(ValueError, match="nrp has no option 'nois'; did you mean 'noise'"):
        defense("nrp", network=purifier(), nois=0.05)


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"noise": NOISE}, {"noise": NOISE, "tile": 36}])
def test_a_gpu_gives_the_cpu_s_result(network, options):
    levels = (eight_bit_images(2, 40) * 255).round()
    result = nrp(levels.cuda() / 255, network=network.cuda(), **options)
    assert result.is_cuda
    assert torch.allclose(result.cpu(), nrp(levels / 255, network=network.cpu(), **options), atol=2e-3)
