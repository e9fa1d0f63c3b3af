"""lib/networks/denoising.py and resnet152.py: each piece against its definition, and tensorpack's files."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame, create_conv2d, pad_same
from torch import nn

from lib.networks import weights
from lib.networks.denoising import Denoising
from lib.networks.resnet152 import TENSORPACK, Bottleneck, ResNetDenoise
from lib.networks.weights import from_tensorpack

SMALL = {"blocks": (1, 2, 1, 1), "width": 4}


def variables(blocks=(3, 8, 36, 3), width=64, classes=1000, denoise=True):
    """Names and shapes of a released file, in tensorpack's layout, written down from FD's and tensorpack's code."""
    shapes = {}

    def add(scope, kernel, inputs, outputs, norm=True):
        shapes[f"{scope}/W"] = (kernel, kernel, inputs, outputs)
        for name in ("gamma", "beta", "mean/EMA", "variance/EMA") if norm else ():
            shapes[f"{scope}/bn/{name}"] = (outputs,)

    add("conv0", 7, 3, width)
    inputs = width
    for group, count in enumerate(blocks):
        inner = width * 2**group
        for block in range(count):
            scope = f"group{group}/block{block}"
            add(f"{scope}/conv1", 1, inputs, inner)
            add(f"{scope}/conv2", 3, inner, inner)
            add(f"{scope}/conv3", 1, inner, 4 * inner)
            if block == 0:
                add(f"{scope}/convshortcut", 1, inputs, 4 * inner)
            inputs = 4 * inner
        if denoise:
            add(f"group{group}_denoise/embedding_theta", 1, inputs, inputs // 2, norm=False)
            add(f"group{group}_denoise/embedding_phi", 1, inputs, inputs // 2, norm=False)
            add(f"group{group}_denoise/conv", 1, inputs, inputs)
    return shapes | {"linear/W": (inputs, classes), "linear/b": (classes,)}


def arrays(**options):
    """A made-up file of random numbers; variances are positive."""
    draw = np.random.default_rng(0)
    return {
        name: (draw.uniform(0.5, 2, shape) if "variance" in name else draw.normal(0, 0.3, shape)).astype(np.float32)
        for name, shape in variables(**options).items()
    }


def same_conv(x, kernel, stride):
    """TensorFlow's convolution with "same" padding by its definition, in loops: x `[H,W,I]`, kernel `[k,k,I,O]`."""
    size = kernel.shape[0]
    outputs = [-(-side // stride) for side in x.shape[:2]]
    before = [max((out - 1) * stride + size - side, 0) // 2 for out, side in zip(outputs, x.shape[:2], strict=True)]
    y = np.zeros((*outputs, kernel.shape[3]))
    for row in range(outputs[0]):
        for column in range(outputs[1]):
            for i in range(size):
                for j in range(size):
                    at = row * stride + i - before[0], column * stride + j - before[1]
                    if 0 <= at[0] < x.shape[0] and 0 <= at[1] < x.shape[1]:
                        y[row, column] += x[at] @ kernel[i, j]
    return y


def test_denoising_block_is_its_definition():
    torch.manual_seed(0)
    block, x = Denoising(6).double().eval(), torch.randn(2, 6, 3, 4, dtype=torch.float64)
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    block.bn.running_mean.normal_()
    block.bn.running_var.uniform_(0.5, 2)
    theta, phi, mix = (layer.weight.detach().numpy()[:, :, 0, 0] for layer in (
        block.embedding_theta, block.embedding_phi, block.conv))  # fmt: skip
    gamma, beta = block.bn.weight.detach().numpy(), block.bn.bias.detach().numpy()
    mean, variance = block.bn.running_mean.numpy(), block.bn.running_var.numpy()
    for image, found in zip(x.numpy(), block(x).detach().numpy(), strict=True):
        positions = [image[:, row, column] for row in range(3) for column in range(4)]
        for index, position in enumerate(positions):
            similar = np.array([np.exp((theta @ position) @ (phi @ other) / np.sqrt(3)) for other in positions])
            average = sum(s * other for s, other in zip(similar / similar.sum(), positions, strict=True))
            norm = (mix @ average - mean) / np.sqrt(variance + 1e-5) * gamma + beta
            assert np.allclose(found[:, index // 4, index % 4], position + norm)


def test_fresh_denoising_block_changes_nothing_and_learns_to():
    torch.manual_seed(0)
    block, x = Denoising(8), torch.randn(4, 8, 5, 5)
    target = torch.randn_like(x)
    assert torch.equal(block(x), x)
    optimizer = torch.optim.SGD(block.parameters(), 0.5)
    for _ in range(3):
        optimizer.zero_grad()
        F.mse_loss(block(x), target).backward()
        optimizer.step()
    # The norm's weight moves first, and with it everything before it.
    assert all(parameter.grad.abs().sum() > 0 for parameter in block.parameters())
    assert F.mse_loss(block(x), target) < F.mse_loss(x, target)


def test_denoising_block_has_no_biases_but_the_norms():
    shapes = {name: tuple(value.shape) for name, value in Denoising(8).named_parameters()}
    convs = {"embedding_theta.weight": (4, 8, 1, 1), "embedding_phi.weight": (4, 8, 1, 1), "conv.weight": (8, 8, 1, 1)}
    assert shapes == convs | {"bn.weight": (8,), "bn.bias": (8,)}


@pytest.mark.parametrize("sides", [(8, 8), (7, 9), (6, 11), (2, 3), (1, 1)])
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 2), (3, 1)])
def test_convolutions_pad_as_tensorflow_does(sides, kernel, stride):
    torch.manual_seed(0)
    layer, x = (
        create_conv2d(3, 4, kernel, stride=stride, padding="same").double(),
        torch.randn(1, 3, *sides, dtype=torch.float64),
    )
    direct = same_conv(x[0].permute(1, 2, 0).numpy(), layer.weight.detach().permute(2, 3, 1, 0).numpy(), stride)
    assert np.allclose(layer(x)[0].detach().permute(1, 2, 0).numpy(), direct)


def test_stride_lies_in_the_3x3_convolution():
    block = Bottleneck(8, 4, 2)
    assert [layer.stride[0] for layer in (block.conv1, block.conv2, block.conv3, block.convshortcut)] == [1, 2, 1, 2]
    assert not hasattr(Bottleneck(16, 4, 1), "convshortcut")


def test_bottleneck_is_its_definition():
    torch.manual_seed(0)
    block, x = Bottleneck(6, 4, 2).eval(), torch.randn(2, 6, 6, 6)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            module.running_mean.normal_()
    inner = block.bn1(F.conv2d(x, block.conv1.weight)).relu()
    inner = block.bn2(F.conv2d(F.pad(inner, (0, 1, 0, 1)), block.conv2.weight, stride=2)).relu()
    inner = block.bn3(F.conv2d(inner, block.conv3.weight))
    shortcut = block.bnshortcut(F.conv2d(x[:, :, ::2, ::2], block.convshortcut.weight))
    assert torch.allclose(block(x), (inner + shortcut).relu(), atol=1e-6)


@pytest.mark.parametrize(
    ("architecture", "count"), [("resnet152", 60_192_808), ("resnet152_denoise", 60_192_808 + 11_148_800)]
)
def test_the_full_networks_take_exactly_the_variables_of_the_released_files(architecture, count):
    """torchvision's ResNet-152 has 60,192,808 parameters; a block on C channels adds 2 C^2 + 2 C."""
    with torch.device("meta"):
        network = TENSORPACK[architecture](1000)
        logits = network(torch.empty(1, 3, 224, 224))
    assert sum(parameter.numel() for parameter in network.parameters()) == count
    assert logits.shape == (1, 1000)
    shapes = variables(denoise=architecture == "resnet152_denoise")
    given = from_tensorpack({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    wanted = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert {key: value.shape for key, value in given.items()} == {key: value.shape for key, value in wanted.items()}
    assert len(shapes) == len(wanted)


@pytest.mark.parametrize("denoise", [True, False])
@pytest.mark.parametrize("suffix", ["", ":0"])
def test_a_file_with_tensorpacks_keys_is_loaded_strictly(tmp_path, denoise, suffix):
    file, given = tmp_path / "R5.npz", arrays(**SMALL, classes=7, denoise=denoise)
    np.savez(file, **{name + suffix: array for name, array in given.items()})
    network = ResNetDenoise(7, **SMALL, denoise=denoise).eval()
    weights.load_state(network, from_tensorpack(weights.read_state(file)), file.name)
    middle = network.group1.block1
    assert np.array_equal(middle.conv2.weight.detach(), given["group1/block1/conv2/W"].transpose(3, 2, 0, 1))
    assert np.array_equal(middle.bn3.running_var, given["group1/block1/conv3/bn/variance/EMA"])
    assert np.array_equal(network.linear.weight.detach(), given["linear/W"].T)
    for side in (32, 33, 47):
        logits = network(torch.rand(2, 3, side, side) * 2 - 1)
        assert logits.shape == (2, 7) and logits.isfinite().all()


def test_the_whole_network_is_its_definition():
    """BGR images through tensorpack's own layout, written with functions of PyTorch from the variables' names."""
    given = arrays(**SMALL, classes=7)
    network = ResNetDenoise(7, **SMALL).double().eval()
    weights.load_state(network, {k: v.double() for k, v in from_tensorpack(given).items()}, "R5.npz")
    values = {name: torch.from_numpy(array).double() for name, array in given.items()}

    def layer(x, scope, stride=1):
        kernel = values[f"{scope}/W"].permute(3, 2, 0, 1)
        y = F.conv2d(pad_same(x, kernel.shape[-2:], (stride, stride)), kernel, stride=stride)
        if f"{scope}/bn/gamma" not in values:
            return y
        names = ("mean/EMA", "variance/EMA", "gamma", "beta")
        return F.batch_norm(y, *(values[f"{scope}/bn/{name}"] for name in names), eps=1e-5)

    rgb = torch.rand(2, 3, 43, 38, dtype=torch.float64) * 2 - 1
    x = layer(rgb.flip(1), "conv0", 2).relu()
    # Zeros do not win over what a ReLU lets through.
    x = F.max_pool2d(pad_same(x, (3, 3), (2, 2)), 3, 2)
    for group, count in enumerate(SMALL["blocks"]):
        for block in range(count):
            scope, stride = f"group{group}/block{block}", 2 if group and not block else 1
            y = layer(layer(x, f"{scope}/conv1").relu(), f"{scope}/conv2", stride).relu()
            x = x if block else layer(x, f"{scope}/convshortcut", stride)
            x = (layer(y, f"{scope}/conv3") + x).relu()
        scope = f"group{group}_denoise"
        theta, phi = layer(x, f"{scope}/embedding_theta"), layer(x, f"{scope}/embedding_phi")
        similar = torch.einsum("niab,nicd->nabcd", theta, phi) / theta.shape[1] ** 0.5
        share = similar.flatten(3).softmax(-1).view_as(similar)
        x = x + layer(torch.einsum("nabcd,nicd->niab", share, x), f"{scope}/conv")
    logits = x.mean((2, 3)) @ values["linear/W"] + values["linear/b"]
    assert torch.allclose(network(rgb), logits, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.pop("group1/block1/conv2/W"), r"missing key 'group1\.block1\.conv2\.weight' for ResNetDe"),
        (lambda file: file.update(global_step=np.zeros(())), r"unexpected key 'global_step' for ResNetDenoise$"),
        (lambda file: file.update({"group4/block0/conv1/W": np.zeros((1, 1, 2, 2))}), r"unexpected key 'group4\.bloc"),
        (
            lambda file: file.update({"conv0/W": np.zeros(3)}),
            r".* size mismatch for conv0\.weight: .*shape torch\.Size\(\[3\]\)",
        ),
        (
            lambda file: file.update({"linear/W": np.zeros((7, 9))}),
            r".* size mismatch for linear\.weight: .*Size\(\[9, 7\]\)",
        ),
    ],
)
def test_a_wrong_variable_is_refused_in_one_line(change, message):
    file = arrays(**SMALL, classes=7)
    change(file)
    with pytest.raises(ValueError, match=rf"^R5\.npz: {message}"):
        weights.load_state(ResNetDenoise(7, **SMALL), from_tensorpack(file), "R5.npz")


def test_blocks_of_the_other_kind_are_refused():
    denoising, plain = (from_tensorpack(arrays(**SMALL, denoise=denoise)) for denoise in (True, False))
    with pytest.raises(ValueError, match=r"unexpected key 'group0\.denoise\.bn\.bias' and 27 more"):
        weights.load_state(ResNetDenoise(**SMALL, denoise=False), denoising, "R5.npz")
    with pytest.raises(ValueError, match=r"missing key 'group0\.denoise\.bn\.bias' and 27 more"):
        weights.load_state(ResNetDenoise(**SMALL), plain, "R5.npz")


def test_keys_of_pytorch_are_left_alone():
    network = ResNetDenoise(7, **SMALL)
    state = network.state_dict()
    assert all(found is state[key] for key, found in from_tensorpack(state).items())


def test_only_strided_kernels_pay_for_padding():
    network = ResNetDenoise(7, **SMALL)
    strided = [name for name, module in network.named_modules() if isinstance(module, Conv2dSame)]
    assert strided == ["conv0", *(f"group{group}.block0.conv2" for group in (1, 2, 3))]


def test_the_denoising_block_is_tensorflow_s():
    """denoising_tensorflow.npz: written by denoising_tensorflow.py, whose head has the command."""
    stored = np.load(Path(__file__).with_name("denoising_tensorflow.npz"))
    block = Denoising(6).double().eval()
    names = ["conv", "embedding_theta", "embedding_phi"]
    kernels = {f"{name}.weight": torch.from_numpy(stored[name]).permute(3, 2, 0, 1) for name in names}
    norm = {"weight": "gamma", "bias": "beta", "running_mean": "mean", "running_var": "variance"}
    norms = {f"bn.{ours}": torch.from_numpy(stored[name]) for ours, name in norm.items()}
    block.load_state_dict(kernels | norms | {"bn.num_batches_tracked": torch.tensor(0)})
    with torch.no_grad():
        found = block(torch.from_numpy(stored["x"]).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert np.abs(found.numpy() - stored["11"]).max() < 1e-10
