"""lib/networks/purifier.py: the released keys and sizes, each block against a direct evaluation, the critic."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib.networks import purifier
from lib.networks.purifier import NRP, PURIFIERS, RRDB, Critic, NRPResG, ResidualBlock, begin_as_identity


@pytest.fixture(params=PURIFIERS)
def small(request):
    torch.manual_seed(0)
    return PURIFIERS[request.param](8, 3)


@pytest.mark.parametrize(("build", "count"), [(NRP, 16_550_275), (NRPResG, 1_702_211)])
def test_parameters_are_as_many_as_in_the_released_files(build, count):
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in build().parameters()) == count


def _with_endings(names):
    return [f"{name}.{ending}" for name in names for ending in ("weight", "bias")]


def test_keys_of_nrp_are_the_released_ones():
    with torch.device("meta"):
        state = NRP().state_dict()
    dense = [f"RRDB_trunk.{i}.RDB{block}.conv{n}" for i in range(23) for block in (1, 2, 3) for n in range(1, 6)]
    assert list(state) == _with_endings(["conv_first", *dense, "trunk_conv"])
    layers = [state[f"RRDB_trunk.22.RDB3.conv{n}.weight"].shape[:2] for n in range(1, 6)]
    assert layers == [(32, 64), (32, 96), (32, 128), (32, 160), (64, 192)]


def test_keys_of_nrp_resg_are_the_released_ones():
    with torch.device("meta"):
        state = NRPResG().state_dict()
    blocks = [f"recon_trunk.{i}.conv{n}" for i in range(23) for n in (1, 2)]
    assert list(state) == _with_endings(["conv_first", *blocks, "conv_last"])
    assert {tuple(state[f"{name}.weight"].shape) for name in blocks} == {(64, 64, 3, 3)}


@pytest.mark.parametrize("sides", [(1, 1), (5, 8), (17, 33), (48, 48)])
def test_every_size_is_kept(small, sides):
    with torch.no_grad():
        assert small(torch.rand(2, 3, *sides)).shape == (2, 3, *sides)


def _noisy(module):
    """The module with weights and biases so large that no term of it can be missed."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.2)
    return module


def test_rrdb_is_what_its_definition_says():
    block, x = _noisy(RRDB(6, 4)).double(), torch.randn(2, 6, 5, 7, dtype=torch.float64)
    state, y = block.state_dict(), x
    for dense in ("RDB1", "RDB2", "RDB3"):
        seen = y
        for number in range(1, 6):
            weight, bias = state[f"{dense}.conv{number}.weight"], state[f"{dense}.conv{number}.bias"]
            out = F.conv2d(seen, weight, bias, padding=1)
            seen = torch.cat([seen, torch.where(out > 0, out, 0.2 * out)], 1)
        y = y + 0.2 * out
    assert torch.allclose(block(x), x + 0.2 * y, rtol=1e-10)


def test_residual_block_is_what_its_definition_says():
    block, x = _noisy(ResidualBlock(6)).double(), torch.randn(2, 6, 5, 7, dtype=torch.float64)
    inner = F.conv2d(x, block.conv1.weight, block.conv1.bias, padding=1).clamp(min=0)
    assert torch.allclose(block(x), x + F.conv2d(inner, block.conv2.weight, block.conv2.bias, padding=1), rtol=1e-10)


def test_nothing_stands_between_trunk_and_output_and_only_resg_activates_its_first_layer():
    """No skip over the network, no activation and no clamp at the end: images far outside [0,1] come out."""
    x = 10 * torch.randn(1, 3, 6, 6)
    nrp, resg = _noisy(NRP(8, 0)), _noisy(NRPResG(8, 0))
    assert torch.equal(nrp(x), nrp.trunk_conv(nrp.conv_first(x)))
    assert torch.equal(resg(x), resg.conv_last(F.leaky_relu(resg.conv_first(x), 0.1)))
    assert nrp(x).min() < 0 and nrp(x).max() > 1


@pytest.mark.parametrize("build", PURIFIERS.values(), ids=PURIFIERS)
@pytest.mark.parametrize("blocks", [2, 8])
def test_begin_as_identity_hardly_changes_an_image(build, blocks):
    torch.manual_seed(0)
    network, x = build(16, blocks), torch.rand(2, 3, 24, 24)
    with torch.no_grad():
        before = (network(x) - x).abs().mean()
        begin_as_identity(network)
        after = (network(x) - x).abs().mean()
    assert after < 8 / 255 < before


@pytest.mark.parametrize("side", [32, 64, 128])
def test_critic_gives_one_number_per_image(side):
    assert Critic(4, side)(torch.rand(3, 3, side, side)).shape == (3,)


def test_critic_has_the_layers_of_basicsr():
    """Ten convolutions, alternately 3x3 and strided 4x4; a norm behind all but the first; bias on the first only."""
    with torch.device("meta"):
        critic = Critic()
    convs = [module for module in critic.features if isinstance(module, nn.Conv2d)]
    widths = [64, 64, 128, 128, 256, 256, 512, 512, 512, 512]
    assert [conv.out_channels for conv in convs] == widths
    assert [(conv.kernel_size[0], conv.stride[0]) for conv in convs] == [(3, 1), (4, 2)] * 5
    assert [conv.bias is not None for conv in convs] == [True] + [False] * 9
    kinds = "".join(type(module).__name__[0] for module in critic.features)  # Conv2d, BatchNorm2d, LeakyReLU
    assert kinds == "CL" + "CBL" * 9
    assert [(layer.in_features, layer.out_features) for layer in critic.head[::2]] == [(512 * 4 * 4, 100), (100, 1)]
    assert {module.negative_slope for module in critic.modules() if isinstance(module, nn.LeakyReLU)} == {0.2}


def kept(network, x):
    """The gradient of a sum of outputs, and the bytes that autograd keeps for it."""
    sizes = []
    x = x.clone().requires_grad_(True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(4 * t.numel()) or t, lambda t: t):
        total = network(x).sum()
    return torch.autograd.grad(total, x)[0], sum(sizes)


def test_a_gradient_through_a_large_frozen_purifier_is_the_same_from_a_fraction_of_the_memory(monkeypatch):
    torch.manual_seed(0)
    network = purifier.NRP(8, 4).requires_grad_(False)
    x = torch.rand(1, 3, 24, 24)
    whole, much = kept(network, x)
    monkeypatch.setattr(purifier, "MUCH", 8 * 24 * 24)
    again, little = kept(network, x)
    assert torch.equal(whole, again) and little < much / 8
    network.requires_grad_(True)
    assert kept(network, x)[1] >= much  # a training keeps all
