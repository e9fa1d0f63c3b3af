"""lib/networks/small.py: shapes, taps, families, gradients."""

import pytest
import torch
from torch import nn

from lib.networks.denoising import Denoising
from lib.networks.small import ARCHITECTURES, Parallel, Residual

TAPS = {
    "vgg16": "features.relu3_3",
    "vgg19": "features.relu3_3",
    "resnet50": "layer2",
    "resnet50_denoise": "layer2.1",
    "resnet152": "layer2",
}


@pytest.fixture(params=ARCHITECTURES)
def named(request):
    torch.manual_seed(0)
    return request.param, ARCHITECTURES[request.param](12).eval()


def test_logits_at_any_side_from_40_up(named):
    _, network = named
    with torch.no_grad():
        for side in (40, 48, 53, 64):
            assert network(torch.randn(2, 3, side, side)).shape == (2, 12)


def test_between_a_tenth_and_half_a_million_parameters(named):
    assert 0.1e6 < sum(p.numel() for p in named[1].parameters()) < 0.5e6


def test_every_parameter_takes_part(named):
    _, network = named
    for module in network.modules():
        if isinstance(module, Denoising):
            nn.init.ones_(module.bn.weight)  # it begins at zero, which lets nothing through
    network.train()(torch.randn(4, 3, 48, 48)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_an_image_is_evaluated_alone_at_inference(named):
    _, network = named
    x = torch.randn(3, 3, 48, 48)
    with torch.no_grad():
        assert torch.allclose(network(x)[:1], network(x[:1]), atol=1e-5)


@pytest.mark.parametrize(("architecture", "tap"), TAPS.items())
def test_the_tap_is_a_quarter_of_the_side(architecture, tap):
    network = ARCHITECTURES[architecture](12).eval()
    seen = []
    network.get_submodule(tap).register_forward_hook(lambda module, inputs, output: seen.append(output))
    network(torch.randn(1, 3, 48, 48))
    assert seen[0].shape[-2:] == (12, 12)
    assert seen[0].min() == 0  # after a ReLU


@pytest.mark.parametrize(("architecture", "layers"), [("vgg16", [2, 2, 3, 3]), ("vgg19", [2, 2, 4, 4])])
def test_vgg_has_its_layers_of_3x3_convolutions_in_order(architecture, layers):
    features = ARCHITECTURES[architecture](12).features
    kinds = {nn.Conv2d: "conv", nn.ReLU: "relu", nn.MaxPool2d: "pool"}
    order = [kinds[type(module)] for module in features if type(module) in kinds]
    blocks = [block.split() for block in " ".join(order).split("pool")]
    assert blocks == [["conv", "relu"] * count for count in layers]
    assert all(m.kernel_size == (3, 3) for m in features if isinstance(m, nn.Conv2d))
    assert isinstance(features.relu3_3, nn.ReLU)


@pytest.mark.parametrize(
    ("architecture", "residual", "parallel"),
    [
        ("vgg16", False, False),
        ("resnet50", True, False),
        ("resnet50_denoise", True, False),
        ("resnet152", True, False),
        ("inception_v3", False, True),
        ("inception_v4", False, True),
        ("inception_resnet_v2", True, True),
    ],
)
def test_families_differ_in_their_blocks(architecture, residual, parallel):
    kinds = {type(module) for module in ARCHITECTURES[architecture](12).modules()}
    assert (Residual in kinds, Parallel in kinds) == (residual, parallel)


def test_the_second_of_a_family_is_deeper_or_built_of_other_kernels():
    def depth(name):
        return sum(isinstance(m, nn.Conv2d) for m in ARCHITECTURES[name](12).modules())

    def kernels(name):
        return {m.kernel_size for m in ARCHITECTURES[name](12).modules() if isinstance(m, nn.Conv2d)}

    assert depth("vgg19") > depth("vgg16") and depth("resnet152") > depth("resnet50")
    assert (1, 5) in kernels("inception_v4") - kernels("inception_v3")


def test_denoising_resnet_is_resnet50_with_a_block_at_the_end_of_its_last_layers():
    plain, denoising = ARCHITECTURES["resnet50"](12).eval(), ARCHITECTURES["resnet50_denoise"](12).eval()
    assert [len(layer) for layer in (plain.layer1, plain.layer2, plain.layer3)] == [1, 2, 2]
    layers = [denoising.layer2, denoising.layer3]
    kinds = [[type(block).__name__ for block in layer] for layer in layers]
    assert kinds == [["Residual"] * count + ["Denoising"] for count in (2, 2)]
    # Without those blocks' weights it has resnet50's; with fresh ones it computes what resnet50 does.
    missing = denoising.load_state_dict(plain.state_dict(), strict=False)
    blocks = {f"layer{number}.{len(layer) - 1}" for number, layer in enumerate(layers, 2)}
    assert not missing.unexpected_keys and {key.rsplit(".", 2)[0] for key in missing.missing_keys} == blocks
    x = torch.randn(2, 3, 48, 48)
    assert torch.equal(denoising(x), plain(x))
    nn.init.ones_(denoising.layer3[-1].bn.weight)
    assert not torch.allclose(denoising(x), plain(x))
