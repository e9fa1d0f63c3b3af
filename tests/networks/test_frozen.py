import copy
import io
from types import SimpleNamespace

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from lib import keys, zoo
from lib.networks.detectors import DETECTORS
from lib.networks.frozen import Folded, folded, is_folded
from lib.networks.small import ARCHITECTURES
from lib.networks.wrappers import Normalised, Tap, tapped_modules
from lib.settings import NetworkSpec

NETWORKS = {
    "ResNet-18": torchvision.models.resnet18,
    "MobileNetV2": torchvision.models.mobilenet_v2,
    "Inception-v3": lambda: torchvision.models.inception_v3(aux_logits=False, init_weights=False),
    "same padding, timm's norms": lambda: timm.create_model("mobilenetv2_100", pad_type="same"),
    "norms before activations and convolutions": lambda: timm.create_model("resnetv2_50"),
    "denoising blocks": lambda: ARCHITECTURES["resnet50_denoise"](12),
}


def made(build) -> nn.Module:
    """A network with statistics and weights of its norms as training might leave them."""
    torch.manual_seed(0)
    network = build().eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, -1.5, 1.5)
            for values in (module.running_mean, module.bias):
                nn.init.normal_(values, 0.0, 0.3)
    return network


def images(side: int = 80, dtype=torch.float32):
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)).to(dtype)


def norms(network):
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folded_network_gives_the_same_logits_and_gradients(name):
    plain = made(NETWORKS[name])
    fast = folded(copy.deepcopy(plain).double())
    # ResNet-v2 reads sums, not convolutions, in the first norm of each of its 16 blocks and in its last one.
    assert norms(fast) == (17 if name.startswith("norms before") else 0) < norms(plain)
    x = images(dtype=torch.float64).requires_grad_(True)
    logits, expected = fast(x), plain.double()(x)
    assert (logits - expected).abs().max() <= 1e-10 * expected.abs().max()
    slope, expected = (torch.autograd.grad(z[:, 0].sum(), x)[0] for z in (logits, expected))
    assert 0 < expected.abs().max() and (slope - expected).abs().max() <= 1e-9 * expected.abs().max()


@pytest.mark.parametrize("name", ["ResNet-18", "MobileNetV2"])
def test_in_single_precision_only_rounding_changes(name):
    plain, x = made(NETWORKS[name]), images()
    expected = plain(x)
    assert (folded(plain)(x) - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_names_stay_and_every_layer_but_a_folded_convolution_has_its_old_output():
    plain = made(NETWORKS["ResNet-18"])
    fast = folded(copy.deepcopy(plain))
    assert [name for name, _ in fast.named_modules()] == [name for name, _ in plain.named_modules()]
    x = images(64)
    for name, module in fast.named_modules():
        if is_folded(module):
            with pytest.raises(ValueError, match=f"'{name}' has a BatchNorm folded in") as caught:
                Tap(fast, name)
            assert "\n" not in str(caught.value)
        elif name:
            assert torch.allclose(Tap(fast, name)(x), Tap(plain, name)(x), rtol=1e-4, atol=1e-4), name


def test_a_convolution_that_is_kept_keeps_its_output():
    plain = made(NETWORKS["ResNet-18"])
    fast = folded(network := copy.deepcopy(plain), [network.layer1[0].conv1])
    assert torch.allclose(Tap(fast, "layer1.0.conv1")(images(64)), Tap(plain, "layer1.0.conv1")(images(64)), atol=1e-4)
    assert norms(fast) == 1


class Around(nn.Module):
    """A convolution and a norm, and a forward pass that uses them in some way."""

    def __init__(self, forward, **convolution):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1, **convolution), nn.BatchNorm2d(3)
        self.way = forward

    def forward(self, x):
        return self.way(self, x)


def squared_weight(m, x):
    return m.norm(m.conv(x)) * m.conv.weight.square().sum()


@pytest.mark.parametrize(
    "way, alike",
    [
        (lambda m, x: m.norm(m.conv(x)), True),
        (lambda m, x: m.norm(m.conv(x) * 1), False),
        (lambda m, x: m.norm(z := m.conv(x)) + z, False),
        (lambda m, x: m.conv(m.norm(m.conv(x))), False),
        (lambda m, x: m.norm(m.conv(m.norm(x))), False),
        (lambda m, x: m.conv(m.norm(x)), False),
        (squared_weight, False),
        (lambda m, x: m.norm(m.conv(x)) if x.sum() > 0 else x, False),
    ],
)
def test_only_a_norm_that_alone_reads_a_convolution_is_folded(way, alike):
    plain = made(lambda: Around(way))
    fast = folded(copy.deepcopy(plain))
    assert isinstance(fast.norm, Folded) == alike == is_folded(fast.conv)
    assert torch.allclose(fast(images()), plain(images()), atol=1e-5)


def test_what_two_parts_share_is_not_folded_and_parts_of_what_cannot_be_traced_are():
    def branching(m, x):
        return m.inner(x) if x.sum() > 0 else x

    plain = made(lambda: Around(branching))
    plain.inner = made(lambda: Around(lambda m, x: m.norm(m.conv(x))))
    assert norms(folded(copy.deepcopy(plain))) == 1  # its own, which nothing calls
    plain.other = copy.deepcopy(plain.inner)
    plain.other.conv = plain.inner.conv
    assert norms(folded(copy.deepcopy(plain))) == 3


@pytest.mark.parametrize("change", [{"padding_mode": "reflect"}, {"bias": False}, {"groups": 3}])
def test_every_kind_of_convolution(change):
    plain = made(lambda: Around(lambda m, x: m.norm(m.conv(x)), **change))
    fast = folded(copy.deepcopy(plain))
    assert isinstance(fast.norm, Folded) and torch.allclose(fast(images()), plain(images()), atol=1e-5)


@pytest.mark.parametrize("name", ["retinanet", "mask_rcnn"])
def test_a_detector_is_folded_part_by_part(name):
    plain = made(lambda: DETECTORS[name](4))
    plain.score_thresh = 0.0
    fast = folded(copy.deepcopy(plain))
    torch.save(fast, io.BytesIO())  # nothing of the tracing is left in it
    assert norms(fast) < norms(plain)
    here, there = (network([images()[0]])[0] for network in (plain, fast))
    assert len(here["scores"]) and torch.allclose(here["scores"], there["scores"], atol=1e-4)


def test_a_folded_network_is_another_one_to_the_store_and_travels_to_a_worker():
    plain = made(NETWORKS["ResNet-18"])
    fast = folded(copy.deepcopy(plain))
    record, reached = keys.network_record(fast)
    assert record != keys.network_record(plain)[0]
    assert "lib/networks/frozen.py" in {keys.label(file) for each in reached for file in keys.imports_of(each)[0]}
    torch.save(fast, file := io.BytesIO())
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert torch.equal(again(images(64)), fast(images(64)))
    with pytest.raises(ValueError, match="folded in"):
        tapped_modules(again, ["conv1"])


def test_the_zoo_s_fast_networks_keep_the_layers_that_the_scale_taps(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "ROOT", tmp_path)
    network = made(lambda: ARCHITECTURES["vgg16"](12))
    save_file(network.state_dict(), tmp_path / "V.safetensors")
    taps = {"tap": "features.conv2_1", "activations": ["features.relu1_1", "features.conv1_2"]}
    common = {"family": "small", "architecture": "vgg16", "role": "r", "weights": "V.safetensors", "classes": 12}
    spec = NetworkSpec(**common, task="classification", **taps)
    scale = SimpleNamespace(name="tiny", networks={"V": spec})
    fast, plain, x = zoo.load("V", scale, fast=True), zoo.load("V", scale), images(48)
    assert isinstance(fast, Normalised) and torch.allclose(fast(x), plain(x), atol=1e-4)
    assert norms(fast) == 2 and norms(plain) > 4
    for tap in ("features.conv2_1", "features.conv1_2", "features.conv3_1", "features.norm3_1"):
        cut = zoo.cut(fast, "V", scale, tap)
        assert torch.allclose(cut(x), Tap(plain, tap)(x), atol=1e-4), tap
