import pytest
import torch
from torch import nn

from lib.networks.resnet152 import ResNetV2, Unit


@pytest.fixture(scope="module")
def network():
    with torch.device("meta"):
        return ResNetV2(classes=1000)


def test_parameters_are_as_many_as_in_keras_resnet152v2(network):
    """Keras' ResNet152V2 has TF-Slim's layers: 60,236,904 trainable numbers and 143,744 running statistics."""
    assert sum(parameter.numel() for parameter in network.parameters()) == 60_236_904
    assert sum(b.numel() for name, b in network.named_buffers() if "running" in name) == 143_744


def test_stride_is_in_the_last_unit_of_blocks_1_to_3(network):
    strides = [
        [unit.stride for unit in block] for block in (network.block1, network.block2, network.block3, network.block4)
    ]
    assert [len(units) for units in strides] == [3, 8, 36, 3]
    assert all(set(units[:-1]) == {1} for units in strides)
    assert [units[-1] for units in strides] == [2, 2, 2, 1]


def test_299_pixels_become_10_by_10_features_and_one_logit_per_class(network):
    x = torch.empty(2, 3, 299, 299, device="meta")
    x = network.pool(network.root(x))
    assert x.shape == (2, 64, 75, 75)
    assert network.block4(network.block3(network.block2(network.block1(x)))).shape == (2, 2048, 10, 10)
    assert network(torch.empty(2, 3, 299, 299, device="meta")).shape == (2, 1000)


def test_pool_pads_as_tensorflow_does(network):
    even = torch.arange(16.0).view(1, 1, 4, 4)
    assert network.pool(even)[0, 0].tolist() == [[10, 11], [14, 15]]
    odd = torch.arange(9.0).view(1, 1, 3, 3)
    assert network.pool(odd)[0, 0].tolist() == [[4, 5], [7, 8]]
    assert network.pool(-1 - odd).max() == -1


def test_strided_unit_passes_every_second_pixel_of_its_input_on():
    unit = Unit(8, 2, stride=2).eval()
    nn.init.zeros_(unit.conv3.weight)
    nn.init.zeros_(unit.conv3.bias)
    x = torch.randn(1, 8, 5, 5)
    assert torch.equal(unit(x), x[:, :, ::2, ::2])


def test_shortcut_that_changes_the_width_sees_the_activated_input():
    unit = Unit(4, 2, stride=1).eval()
    nn.init.zeros_(unit.conv3.weight)
    nn.init.zeros_(unit.conv3.bias)
    x = torch.randn(1, 4, 5, 5)
    assert torch.equal(unit(x), unit.shortcut(unit.preact(x).relu()))
