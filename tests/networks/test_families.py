import pytest
import torch
import torchvision
from torch import nn

from lib.networks.families import FAMILIES, VGG16_TAPS, resnet50_stride1, vgg16_conv3_3
from lib.networks.wrappers import Tap
from lib.settings import NetworkSpec


@pytest.fixture(scope="module")
def torchvision_features():
    with torch.device("meta"):
        return torchvision.models.vgg16(weights=None).features


def test_vgg16_to_conv3_3_has_torchvisions_layers_and_keys(torchvision_features):
    ours, theirs = vgg16_conv3_3().features, torchvision_features[:16]
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert [type(layer) for layer in ours] == [type(layer) for layer in theirs]
    assert isinstance(ours[15], nn.ReLU)


def test_vgg16_to_conv3_3_equals_torchvisions_slice(torchvision_features):
    ours, theirs = vgg16_conv3_3(), torchvision_features[:16].to_empty(device="cpu")
    theirs.load_state_dict(ours.features.state_dict())
    x = torch.rand(1, 3, 17, 16)
    assert ours(x).shape == (1, 256, 4, 4)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(Tap(ours, VGG16_TAPS["relu3_3"])(x), ours(x))


def test_tap_names_point_at_torchvisions_activations_and_pools(torchvision_features):
    kinds = {name: type(torchvision_features[int(tap.removeprefix("features."))]) for name, tap in VGG16_TAPS.items()}
    assert len(kinds) == 18
    assert all(kind is (nn.ReLU if name.startswith("relu") else nn.MaxPool2d) for name, kind in kinds.items())
    assert (
        VGG16_TAPS["relu1_1"] == "features.1"
        and VGG16_TAPS["relu3_3"] == "features.15"
        and VGG16_TAPS["relu5_3"] == "features.29"
    )
    assert VGG16_TAPS["pool1"] == "features.4" and VGG16_TAPS["pool5"] == "features.30"


def test_relus_are_the_thirteen_activations_in_order():
    relus = [tap for name, tap in VGG16_TAPS.items() if name.startswith("relu")]
    assert len(relus) == 13
    assert relus == sorted(relus, key=lambda tap: int(tap.removeprefix("features.")))


def test_converted_resnet50_strides_on_its_first_convolution():
    ours, theirs = resnet50_stride1(7), torchvision.models.resnet50(num_classes=7)
    theirs.load_state_dict(ours.state_dict())
    assert [layer[0].conv1.stride for layer in (ours.layer2, ours.layer3, ours.layer4)] == [(2, 2)] * 3
    assert [layer[0].conv2.stride for layer in (ours.layer2, ours.layer3, ours.layer4)] == [(1, 1)] * 3
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert ours.eval()(x).shape == (1, 7)
        assert not torch.allclose(ours(x), theirs.eval()(x))


def test_converted_mobilenet_pads_at_the_end_only_when_the_size_is_even():
    spec = NetworkSpec(role="", family="mobilenetv2_same", architecture="mobilenetv2_100", classes=7)
    stem = FAMILIES[spec.family].build(spec).conv_stem
    with torch.no_grad():
        stem.weight.fill_(1)
    # "Same" padding of a 3x3, stride 2 convolution: right and bottom for an even size, all around for an odd one.
    assert stem(torch.ones(1, 3, 4, 4))[0, 0].tolist() == [[27, 18], [18, 12]]
    assert stem(torch.ones(1, 3, 3, 3))[0, 0].tolist() == [[12, 12], [12, 12]]
