"""SegNet-Basic against the prototxt's arithmetic and a NumPy evaluation of its own layers."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from lib.networks.segnet_basic import SegNetBasic


@pytest.fixture(scope="module")
def small() -> SegNetBasic:
    torch.manual_seed(0)
    return SegNetBasic(classes=5, maps=4).eval()


def test_the_published_network_has_1416587_parameters():
    first, others = 7 * 7 * 3 * 64 + 64, 7 * (7 * 7 * 64 * 64 + 64)
    norms, classifier = 8 * 2 * 64, 64 * 11 + 11
    assert first + others + norms + classifier == 1_416_587
    assert sum(parameter.numel() for parameter in SegNetBasic(11).parameters()) == 1_416_587


@pytest.mark.parametrize("sides", [(360, 480), (45, 60), (33, 19), (16, 16)])
def test_logits_have_the_size_of_the_image_also_where_sides_are_odd(small, sides):
    with torch.no_grad():
        assert small(torch.rand(1, 3, *sides)).shape == (1, 5, *sides)


def test_pooling_rounds_up_as_caffe_does(small, monkeypatch):
    pooled = []
    pool = functional.max_pool2d

    def watched(*arguments, **options):
        x, places = pool(*arguments, **options)
        pooled.append(tuple(x.shape[2:]))
        return x, places

    monkeypatch.setattr(functional, "max_pool2d", watched)
    with torch.no_grad():
        small(torch.rand(1, 3, 360, 480))
    assert pooled == [(180, 240), (90, 120), (45, 60), (23, 30)]


def test_the_image_is_read_as_raw_bgr_and_normalised_across_channels():
    torch.manual_seed(0)
    network = SegNetBasic(2, 4).eval()
    seen = []
    network.encoders[0].register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        network(x)
    levels = 255 * x.numpy()[:, ::-1].astype(np.float64)
    # Caffe's LRN: 5 channels around each, alpha over their number. Of 3 channels each sees all.
    expected = levels / (1 + 1e-4 / 5 * (levels**2).sum(1, keepdims=True)) ** 0.75
    assert np.abs(seen[0].numpy() - expected).max() < 1e-3


def test_unpooling_puts_each_maximum_back_where_it_was():
    network = SegNetBasic(2, 1).eval()
    with torch.no_grad():
        for block in [*network.encoders, *network.decoders]:
            conv = block[0]
            conv.weight.zero_()
            conv.weight[:, 0, 3, 3] = 1.0  # the identity
            block[1].bias.zero_()
        network.classifier.weight.fill_(1.0)
        network.classifier.bias.zero_()
        network.norm = nn.Identity()
        x = torch.zeros(1, 3, 16, 16)
        x[0, 2, 5, 9] = 1.0  # blue: the first channel that the network sees
        out = network(x)[0, 0]
    assert out.argmax() == 5 * 16 + 9
    assert (out > 1).sum() == 1  # one place, not a block of 16x16


def test_the_decoder_keeps_negative_values(small):
    negative = []
    hook = small.decoders[-1].register_forward_hook(lambda _, __, out: negative.append((out < 0).any().item()))
    with torch.no_grad():
        small(torch.rand(1, 3, 32, 32))
    hook.remove()
    assert negative == [True]
