"""lib/networks/weights.py: what is recognised, what is refused, and the command."""

import hashlib

import numpy as np
import pytest
import safetensors.torch
import torch

from lib.networks import weights
from lib.networks.purifier import NRP, PURIFIERS, NRPResG
from lib.networks.resnet152 import ResNetDenoise
from lib.networks.weights import network_in_words, recognised, recognised_purifier
from tests.conftest import companion, refused

RESNET = {"blocks": (2, 1, 1, 3), "width": 4}


def npz(file, network):
    """The network as a file with tensorpack's keys and layout."""
    endings = {"running_mean": "mean/EMA", "running_var": "variance/EMA"}
    arrays = {}
    for key, value in network.state_dict().items():
        scope, ending = key.replace(".denoise.", "_denoise.").replace(".", "/").rsplit("/", 1)
        place, layer = scope.rsplit("/", 1) if "/" in scope else ("", scope)
        if layer.startswith("bn"):
            name = {"weight": "gamma", "bias": "beta"} | endings
            layer = f"conv{layer[2:]}/bn"
        else:
            name = {"weight": "W", "bias": "b"}
        if ending in name:
            array = value.flip(1).numpy() if scope == "conv0" else value.numpy()
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
            arrays[f"{place}/{layer}/{name[ending]}".lstrip("/")] = array
    np.savez(file, **arrays)


def same(first, second):
    """Equal weights; BatchNorm's count of steps is no weight."""
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one if "num_batch" not in key)


@pytest.mark.parametrize("architecture", PURIFIERS)
@pytest.mark.parametrize(("width", "blocks"), [(8, 1), (16, 3), (4, 11)])
def test_a_purifier_is_recognised_by_its_keys_and_shapes(architecture, width, blocks):
    network = PURIFIERS[architecture](width, blocks)
    found = recognised_purifier(network.state_dict(), "P.pth")
    assert type(found) is type(network) and same(found, network)
    assert not found.training and not any(parameter.requires_grad for parameter in found.parameters())


def _without(key):
    return lambda state: state.pop(key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.clear(), "neither NRP nor NRP_resG, it has no RRDB_trunk and no recon_trunk"),
        (_without("conv_first.weight"), "missing key 'conv_first.weight'"),
        (_without("trunk_conv.bias"), "missing key 'trunk_conv.bias' for NRP"),
        (_without("RRDB_trunk.1.RDB2.conv3.weight"), "missing key 'RRDB_trunk.1.RDB2.conv3.weight' for NRP"),
        (lambda s: s.update({"conv_first.weight": 3}), "missing key 'conv_first.weight'"),
        # ESRGAN's generator goes on where the purifier ends.
        (lambda s: s.update({"upconv1.weight": torch.zeros(1)}), "unexpected key 'upconv1.weight' for NRP"),
        (
            lambda s: s.update({"conv_first.weight": torch.zeros(8, 1, 3, 3)}),
            "Error(s) in loading state_dict for NRP: size mismatch for conv_first.weight: copying a param with shape "
            "torch.Size([8, 1, 3, 3]) from checkpoint, the shape in current model is torch.Size([8, 3, 3, 3]).",
        ),
    ],
)
def test_what_is_no_purifier_is_refused_in_one_line(change, message):
    state = NRP(8, 2).state_dict()
    change(state)
    with pytest.raises(ValueError) as error:
        recognised_purifier(state, "P.pth")
    assert str(error.value) == f"P.pth: {message}"


@pytest.mark.parametrize("denoise", [True, False])
def test_feature_denoising_is_recognised_in_tensorpacks_keys_and_in_ours(tmp_path, denoise):
    network = ResNetDenoise(6, **RESNET, denoise=denoise)
    npz(tmp_path / "R.npz", network)
    for state in (weights.read_state(tmp_path / "R.npz"), network.state_dict()):
        found = recognised(state, "R.npz")
        assert type(found) is ResNetDenoise and same(found, network)


def test_a_resnet_without_its_end_is_refused(tmp_path):
    npz(tmp_path / "R.npz", ResNetDenoise(6, **RESNET))
    state = weights.read_state(tmp_path / "R.npz")
    with pytest.raises(ValueError, match=r"^R\.npz: missing key 'linear\.bias'$"):
        recognised({key: value for key, value in state.items() if key != "linear/b"}, "R.npz")
    with pytest.raises(ValueError, match=r"^R\.npz: missing key 'group3\.denoise\.bn\.bias' and \d+ more for ResNet"):
        recognised({key: value for key, value in state.items() if "group3" not in key}, "R.npz")


def test_descriptions():
    assert network_in_words(NRPResG(8, 2)) == "NRPResG of width 8, 2 blocks, 2,779 parameters"
    count = sum(parameter.numel() for parameter in ResNetDenoise(6, **RESNET).parameters())
    text = f"ResNetDenoise of width 4, 3+2+2+4 blocks (4 of them denoising), {count:,} parameters"
    assert network_in_words(ResNetDenoise(6, **RESNET)) == text


def test_command_writes_safetensors_and_says_what_it_was(tmp_path):
    network, source, target = NRP(8, 2), tmp_path / "NRP.pth", tmp_path / "new" / "NRP.safetensors"
    torch.save(network.state_dict(), source)
    status, text, _ = companion("convert", source, target)
    assert status == 0
    count = sum(parameter.numel() for parameter in network.parameters())
    assert f"NRP.pth: NRP of width 8, 2 blocks, {count:,} parameters" in text
    for file in (source, target):
        assert f"SHA-256 of {file}: {hashlib.sha256(file.read_bytes()).hexdigest()}" in text
    state = safetensors.torch.load_file(target)
    assert state.keys() == network.state_dict().keys()
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in state.items())


@pytest.mark.parametrize(
    ("name", "target", "message"),
    [
        ("absent.pth", "o.safetensors", "absent.pth"),
        ("text.pth", "o.safetensors", "text.pth: holds more than tensors"),
        ("other.npz", "o.safetensors", "other.npz: neither NRP nor NRP_resG"),
        ("NRP.pth", "o.pth", "o.pth: must end in .safetensors"),
    ],
)
def test_command_fails_in_one_line_and_writes_nothing(tmp_path, name, target, message):
    (tmp_path / "text.pth").write_text("weights?")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    torch.save(NRP(8, 1).state_dict(), tmp_path / "NRP.pth")
    assert message in refused("convert", tmp_path / name, tmp_path / "new" / target)
    assert not (tmp_path / "new").exists()
