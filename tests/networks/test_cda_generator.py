"""lib/networks/cda_generator.py: the released keys, shapes and sizes; a direct evaluation; files of the zoo."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from lib import zoo
from lib.networks.cda_generator import GENERATORS, CDAGenerator, InceptionGenerator
from lib.settings import NetworkSpec


def released(width=64, blocks=6) -> dict[str, tuple]:
    """Keys and shapes of a netG_*_rl.pth, read off the layers of Muzammal-Naseer/CDA, generators.py."""
    shapes = {}

    def conv(name, *shape):
        shapes[f"{name}.weight"] = shape

    def norm(name, channels):
        shapes.update({f"{name}.{key}": (channels,) for key in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{name}.num_batches_tracked"] = ()

    conv("block1.1", width, 3, 7, 7)
    norm("block1.2", width)
    conv("block2.0", 2 * width, width, 3, 3)
    norm("block2.1", 2 * width)
    conv("block3.0", 4 * width, 2 * width, 3, 3)
    norm("block3.1", 4 * width)
    for n in range(1, blocks + 1):
        for place in (1, 6):
            conv(f"resblock{n}.block.{place}", 4 * width, 4 * width, 3, 3)
            norm(f"resblock{n}.block.{place + 1}", 4 * width)
    conv("upsampl1.0", 4 * width, 2 * width, 3, 3)
    norm("upsampl1.1", 2 * width)
    conv("upsampl2.0", 2 * width, width, 3, 3)
    norm("upsampl2.1", width)
    conv("blockf.1", 3, width, 7, 7)
    shapes["blockf.1.bias"] = (3,)
    return shapes


def drawn(shapes, dtype=torch.float32) -> dict[str, torch.Tensor]:
    """A state dict in which every term matters: no statistic is 0 or 1, no weight is small."""
    g = torch.Generator().manual_seed(0)
    state = {}
    for key, shape in shapes.items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
        elif key.endswith("running_var"):
            state[key] = (0.5 + torch.rand(shape, generator=g)).to(dtype)
        else:
            scale = 1 / max(1, torch.Size(shape[1:]).numel()) ** 0.5 if len(shape) > 1 else 0.5
            state[key] = (scale * torch.randn(shape, generator=g)).to(dtype)
    return state


def filled(build, dtype=torch.float32, width=4, blocks=2) -> nn.Module:
    network = build(width, blocks).to(dtype).eval()
    network.load_state_dict(drawn(released(width, blocks), dtype))
    return network


def by_hand(state, x, blocks):
    """The generator in inference, from the numbers in its file."""

    def reflected(x, name, by):
        return F.conv2d(F.pad(x, (by,) * 4, mode="reflect"), state[f"{name}.weight"], state.get(f"{name}.bias"))

    def normed(x, name):
        shift, scale, mean, var = (
            state[f"{name}.{key}"][:, None, None] for key in ("bias", "weight", "running_mean", "running_var")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    x = normed(reflected(x, "block1.1", 3), "block1.2").clamp(min=0)
    for name in ("block2", "block3"):
        x = normed(F.conv2d(x, state[f"{name}.0.weight"], stride=2, padding=1), f"{name}.1").clamp(min=0)
    for name in (f"resblock{n}.block" for n in range(1, blocks + 1)):
        inner = normed(reflected(x, f"{name}.1", 1), f"{name}.2").clamp(min=0)
        x = x + normed(reflected(inner, f"{name}.6", 1), f"{name}.7")
    for name in ("upsampl1", "upsampl2"):
        larger = F.conv_transpose2d(x, state[f"{name}.0.weight"], stride=2, padding=1, output_padding=1)
        x = normed(larger, f"{name}.1").clamp(min=0)
    return (torch.tanh(reflected(x, "blockf.1", 3)) + 1) / 2


@pytest.mark.parametrize("build", GENERATORS.values(), ids=GENERATORS)
def test_parameters_keys_and_shapes_are_those_of_the_released_files(build):
    with torch.device("meta"):
        network = build()
    assert sum(parameter.numel() for parameter in network.parameters()) == 7_841_411
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == released()


def test_it_computes_what_its_definition_says():
    network = filled(CDAGenerator, torch.float64)
    x = torch.rand(2, 3, 24, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, expected = network(x), by_hand(network.state_dict(), x, blocks=2)
    assert found.std() > 0.05  # not all in one corner of the tanh
    assert torch.allclose(found, expected, rtol=1e-9)


def test_half_of_the_inner_features_are_dropped_in_training_alone():
    block = filled(CDAGenerator).resblock2.block
    seen = []
    block[5].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    x = torch.rand(4, 16, 12, 12, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        block(x), block(x)
        assert torch.equal(*seen)
        inner = seen.pop()
        # Batch norm keeps to its statistics, so that dropout is all that differs.
        block[4].train()
        block(x)
    positive = inner > 0
    kept = seen[-1][positive]
    assert (kept == 0).float().mean() == pytest.approx(0.5, abs=0.03)
    assert torch.allclose(kept[kept > 0], 2 * inner[positive][kept > 0])


@pytest.mark.parametrize(("sides", "expected"), [
    ((32, 32), (32, 32)), ((8, 12), (8, 12)), ((29, 30), (32, 32)), ((33, 31), (36, 32)), ((16, 17), (16, 20)),
])  # fmt: skip
def test_sides_come_out_as_the_next_multiples_of_four(sides, expected):
    with torch.no_grad():
        assert filled(CDAGenerator)(torch.rand(2, 3, *sides)).shape == (2, 3, *expected)
        cut = filled(InceptionGenerator)(torch.rand(2, 3, *sides))
    assert cut.shape == (2, 3, *(side - 1 for side in expected))


def test_inceptions_variant_cuts_the_top_row_and_the_right_column():
    x = torch.rand(1, 3, 299, 299, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        whole, cut = filled(CDAGenerator, width=2, blocks=1)(x), filled(InceptionGenerator, width=2, blocks=1)(x)
    assert whole.shape == (1, 3, 300, 300) and cut.shape == (1, 3, 299, 299)
    # The released layer is nn.ConstantPad2d((0, -1, -1, 0), 0): left, right, top, bottom.
    assert torch.equal(cut, nn.ConstantPad2d((0, -1, -1, 0), 0)(whole))
    assert not torch.equal(cut, whole[:, :, :-1, 1:])


def test_images_come_out_in_the_unit_interval_whatever_the_weights():
    network = filled(CDAGenerator)
    with torch.no_grad():
        network.blockf[1].weight.mul_(100)
        found = network(torch.rand(2, 3, 16, 16))
    assert found.min() >= 0 and found.max() <= 1
    assert found.min() < 0.01 and found.max() > 0.99


# Files.


SPEC = {"role": "CDA", "task": "generation", "family": "cda_generator", "architecture": "cda_generator"}
SPEC |= {"width": 4, "blocks": 2, "weights": "netG.pth"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "ROOT", tmp_path)
    monkeypatch.delenv("COMPANION_ASSETS", raising=False)
    return tmp_path


def load(**changes):
    return zoo.load("CDA", SimpleNamespace(name="tiny", networks={"CDA": NetworkSpec(**SPEC | changes)}))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("counted", [False, True], ids=["without num_batches_tracked", "with"])
def test_a_released_file_is_loaded_as_it_is(folder, zipped, counted):
    state = drawn(released(4, 2))
    kept = {key: value for key, value in state.items() if counted or not key.endswith("num_batches_tracked")}
    torch.save(kept, folder / "netG.pth", _use_new_zipfile_serialization=zipped)
    network, x = load(), torch.rand(2, 3, 16, 20)
    assert type(network) is CDAGenerator and not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert torch.allclose(network(x), by_hand(state, x, blocks=2), atol=1e-5)
    inception = load(architecture="cda_generator_inception")
    assert type(inception) is InceptionGenerator and torch.equal(inception(x), network(x)[:, :, 1:, :-1])


def test_a_generator_without_a_file_is_the_pipelines(folder):
    with pytest.raises(FileNotFoundError, match=r"^CDA: no weights \(models/tiny/CDA\.safetensors\); .* dvc repro$"):
        load(weights=None)
    (folder / "models" / "tiny").mkdir(parents=True)
    state = drawn(released(4, 2))
    save_file(state, folder / "models" / "tiny" / "CDA.safetensors")
    x = torch.rand(1, 3, 16, 16)
    assert torch.allclose(load(weights=None)(x), by_hand(state, x, blocks=2), atol=1e-5)


@pytest.mark.parametrize(("change", "message"), [
    ({"blocks": 3}, r"^netG\.pth: missing key 'resblock3\.block\.1\.weight' and 9 more for CDAGenerator$"),
    ({"blocks": 1}, r"^netG\.pth: unexpected key 'resblock2\.block\.1\.weight' and 9 more for CDAGenerator$"),
    ({"width": 8}, r"^netG\.pth: .* CDAGenerator: size mismatch for block1\.1\.weight: .*\[4, 3, 7, 7\].*\[8, 3, 7"),
])  # fmt: skip
def test_a_generator_of_another_size_is_refused(folder, change, message):
    torch.save(drawn(released(4, 2)), folder / "netG.pth")
    with pytest.raises(ValueError, match=message):
        load(**change)


def test_a_missing_and_an_unexpected_key_are_one_line(folder):
    state = drawn(released(4, 2))
    bias = state.pop("blockf.1.bias")
    torch.save(state, folder / "netG.pth")
    with pytest.raises(ValueError, match=r"^netG\.pth: missing key 'blockf\.1\.bias' for CDAGenerator$"):
        load()
    torch.save(state | {"blockf.1.bias": bias, "crop.weight": bias}, folder / "netG.pth")
    with pytest.raises(ValueError, match=r"^netG\.pth: unexpected key 'crop\.weight' for CDAGenerator$"):
        load()


def test_a_generator_that_is_no_generation_is_refused():
    with pytest.raises(ValueError, match="cda_generator has task generation, no other has"):
        NetworkSpec(**SPEC | {"task": "classification"})
