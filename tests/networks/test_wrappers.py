import pytest
import torch
from torch import nn

from lib.networks.wrappers import Normalised, Tap
from tests.conftest import Counting


@pytest.fixture
def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), Counting(), nn.Conv2d(4, 2, 3)]
    return nn.Sequential(*layers).eval()


@pytest.fixture
def x():
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_output_is_that_of_the_named_module(network, x):
    assert torch.equal(Tap(network, "2")(x), network[2](network[1](network[0](x))))


def test_in_place_activation_after_the_tap_does_not_touch_the_features(network, x):
    features = Tap(network, "1")(x)
    assert features.min() < 0
    assert torch.equal(features, network[1](network[0](x)))


def test_nothing_after_the_tap_runs(network, x):
    Tap(network, "2")(x)
    assert network[3].calls == 0
    Tap(network, "3")(x)
    assert network[3].calls == 1


def test_gradient_equals_that_of_the_layers_before_the_tap(network, x):
    x.requires_grad_()
    (through_tap,) = torch.autograd.grad(Tap(network, "2")(x).square().sum(), x)
    (direct,) = torch.autograd.grad(network[:3](x).square().sum(), x)
    assert direct.abs().max() > 0
    assert torch.equal(through_tap, direct)


def test_normalised_keeps_its_preprocessing_and_tap_names_are_the_inner_networks(network, x):
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1), torch.tensor([0.2, 0.3, 0.1]).view(1, 3, 1, 1)
    victim = Normalised(network, (0.4, 0.5, 0.6), (0.2, 0.3, 0.1), background=True)
    assert torch.equal(Tap(victim, "0")(x), network[0]((x - mean) / std))
    with pytest.raises(ValueError, match=r"network\.0"):
        Tap(victim, "network.0")


def test_nested_names(x):
    network = nn.Sequential(nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU()), nn.Flatten())
    assert torch.equal(Tap(network, "0.1")(x), network[0](x))


def test_network_is_left_as_found(network, x):
    hooks = [len(module._forward_hooks) for module in network.modules()]
    clean = network(x)
    tap = Tap(network, "2")
    tap(x)
    assert [len(module._forward_hooks) for module in network.modules()] == hooks
    assert torch.equal(network(x), clean)
    assert not tap.training and not network.training


def test_hook_is_removed_when_the_network_fails(network):
    with pytest.raises(RuntimeError, match="channels"):
        Tap(network, "4")(torch.zeros(1, 5, 8, 8))
    assert not network[4]._forward_hooks


def test_module_called_twice_gives_its_first_output(x):
    shared = nn.Conv2d(3, 3, 1)
    assert torch.equal(Tap(nn.Sequential(shared, shared), "0")(x), shared(x))


@pytest.mark.parametrize("tap", ["features.16", "", "network"])
def test_unknown_tap_is_named_with_its_neighbours(tap):
    network = nn.Sequential()
    network.add_module("features", nn.Sequential(nn.ReLU(), nn.ReLU()))
    with pytest.raises(ValueError, match=rf"^Sequential has no tap '{tap}'; close names: .*features\.1") as error:
        Tap(network, tap)
    assert "\n" not in str(error.value)


def test_module_that_never_runs_is_an_error(x):
    network = nn.Sequential(nn.Conv2d(3, 3, 1))
    network[0].unused = nn.ReLU()
    with pytest.raises(RuntimeError, match=r"never reached tap '0\.unused'"):
        Tap(network, "0.unused")(x)
