"""The gradient-sign attacks against references written here, from their papers' formulas."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from lib.attacks import decision
from lib.attacks.diversity import resize_and_pad, translation_kernel
from lib.rng import Streams

LEVEL = 1 / 255


@pytest.fixture
def linear():
    """A linear classifier: its cross-entropy gradient has a closed form. Float64, so that no sign is a rounding tie."""
    torch.manual_seed(3)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5)).double()
    return network


@pytest.fixture
def data():
    images = torch.randint(0, 256, (4, 3, 8, 8), generator=torch.Generator().manual_seed(5)).double() / 255
    return images, torch.tensor([0, 1, 2, 3])


def numpy_gradient(linear, x, y):
    """d cross-entropy / dx of a linear classifier: W^T (softmax(Wx + b) - onehot(y))."""
    weight, bias = (p.detach().numpy() for p in linear[1].parameters())
    logits = x.reshape(len(x), -1) @ weight.T + bias
    probability = np.exp(logits - logits.max(1, keepdims=True))
    probability /= probability.sum(1, keepdims=True)
    return ((probability - np.eye(5)[y]) @ weight).reshape(x.shape)


def on_grid(x_adv):
    return np.round(x_adv * 255) / 255


def numpy_iterate(linear, x, y, eps, step, steps, decay=None, start=None, sign=1):
    x_adv, memory = x if start is None else start, 0
    for _ in range(steps):
        g = sign * numpy_gradient(linear, x_adv, y)
        if decay is not None:
            memory = decay * memory + g / np.abs(g).mean((1, 2, 3), keepdims=True)
            g = memory
        x_adv = np.clip(np.clip(x_adv + step * np.sign(g), x - eps, x + eps), 0, 1)
    return on_grid(x_adv)


def same(result, reference):
    assert np.abs(result.numpy() - reference).max() < 1e-6


def test_fgsm(linear, data):
    x, y = data
    reference = np.clip(x.numpy() + 16 * LEVEL * np.sign(numpy_gradient(linear, x.numpy(), y.numpy())), 0, 1)
    same(decision.fgsm(linear, x, y), on_grid(reference))


@pytest.mark.parametrize("eps, step, steps", [(16, 1.6, 10), (8, 2, 3), (4, 16, 2)])
def test_i_fgsm(linear, data, eps, step, steps):
    x, y = data
    result = decision.i_fgsm(linear, x, y, eps=eps * LEVEL, step=step * LEVEL, steps=steps)
    same(result, numpy_iterate(linear, x.numpy(), y.numpy(), eps * LEVEL, step * LEVEL, steps))


@pytest.mark.parametrize("decay", [1.0, 0.5, 0.0])
def test_mi_fgsm(linear, data, decay):
    x, y = data
    result = decision.mi_fgsm(linear, x, y, decay=decay)
    same(result, numpy_iterate(linear, x.numpy(), y.numpy(), 16 * LEVEL, 1.6 * LEVEL, 10, decay=decay))


def test_momentum_is_not_forgotten(network, x, y):
    assert not torch.equal(decision.mi_fgsm(network, x, y, decay=1.0), decision.mi_fgsm(network, x, y, decay=0.0))


def test_mi_fgsm_without_memory_is_i_fgsm(network, x, y):
    assert torch.equal(decision.mi_fgsm(network, x, y, decay=0.0), decision.i_fgsm(network, x, y))


@pytest.mark.parametrize("targeted", [True, False])
def test_pgd_from_the_clean_image(linear, data, targeted):
    x, y = data
    target = (y + 1) % 5 if targeted else None
    result = decision.pgd(linear, x, y, start="clean", step=2 * LEVEL, target=target)
    label, sign = (target, -1) if targeted else (y, 1)
    same(result, numpy_iterate(linear, x.numpy(), label.numpy(), 16 * LEVEL, 2 * LEVEL, 10, sign=sign))


def test_pgd_from_a_uniform_start(linear, data):
    x, y = data
    start = x + 16 * LEVEL * (2 * Streams(0, range(4), "pgd").uniform(3, 8, 8).double() - 1)
    reference = numpy_iterate(linear, x.numpy(), y.numpy(), 16 * LEVEL, 1.6 * LEVEL, 10, start=start.numpy())
    same(decision.pgd(linear, x, y, ids=range(4)), reference)
    assert ((start - x).abs() * 255).max() > 15.9 and ((start - x) * 255).abs().mean() == pytest.approx(8, rel=0.1)


def test_r_fgsm_steps_alpha_at_random_and_then_the_rest(linear, data):
    x, y = data
    noise = Streams(0, "abcd", "r_fgsm").normal(3, 8, 8).numpy()
    start = np.clip(x.numpy() + 16 / 3 * LEVEL * np.sign(noise), 0, 1)
    moved = start + (16 - 16 / 3) * LEVEL * np.sign(numpy_gradient(linear, start, y.numpy()))
    reference = np.clip(np.clip(moved, x.numpy() - 16 * LEVEL, x.numpy() + 16 * LEVEL), 0, 1)
    same(decision.r_fgsm(linear, x, y, ids="abcd"), on_grid(reference))


def test_dim_ti_smooths_before_it_normalises_and_remembers(linear, data):
    # Without resizing DIM-TI is momentum over smoothed gradients: scipy's correlation, zeros outside, before mean|g|.
    (images, y), kernel = data, translation_kernel().double().numpy()
    x = images.numpy()
    x_adv, memory = x, 0
    for _ in range(10):
        g = numpy_gradient(linear, x_adv, y.numpy())
        g = np.stack([[ndimage.correlate(plane, kernel, mode="constant") for plane in image] for image in g])
        memory = memory + g / np.abs(g).mean((1, 2, 3), keepdims=True)
        x_adv = np.clip(np.clip(x_adv + 1.6 * LEVEL * np.sign(memory), x - 16 * LEVEL, x + 16 * LEVEL), 0, 1)
    same(decision.dim(linear, images, y, ids=range(4), probability=0.0, kernel=15), on_grid(x_adv))


def test_dim_is_momentum_over_gradients_through_the_resize(network, x, y):
    # Every image is resized here; the reference replays the same draws through autograd.
    streams = Streams(0, range(6), "dim/0")
    x_adv, memory = x, 0
    for _ in range(5):
        streams.uniform()
        image = x_adv.clone().requires_grad_(True)
        loss = F.cross_entropy(network(resize_and_pad(image, streams)), y, reduction="sum")
        (g,) = torch.autograd.grad(loss, image)
        memory = memory + g / g.abs().mean((1, 2, 3), keepdim=True)
        x_adv = torch.clamp(
            torch.min(torch.max(x_adv + 1.6 * LEVEL * memory.sign(), x - 16 * LEVEL), x + 16 * LEVEL), 0, 1
        )
    same(decision.dim(network, x, y, ids=range(6), steps=5, probability=1.0), on_grid(x_adv.numpy()))


def test_an_ensemble_averages_logits(data):
    x, y = data
    torch.manual_seed(0)
    networks = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5)).double() for _ in range(3)]
    mean = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5)).double()
    for name in ("weight", "bias"):
        getattr(mean[1], name).data = torch.stack([getattr(n[1], name).data for n in networks]).mean(0)
    assert torch.equal(decision.i_fgsm(networks, x, y), decision.i_fgsm(mean, x, y))


def test_without_labels_the_surrogate_s_own_prediction_is_attacked(network, x):
    own = network(x).argmax(1)
    assert torch.equal(decision.mi_fgsm(network, x, None), decision.mi_fgsm(network, x, own))


def test_targets_are_uniform_over_the_wrong_classes():
    y = torch.arange(6000) % 6
    targets = decision.random_targets(y, 6, ids=range(6000))
    assert (targets != y).all() and set(targets.tolist()) == set(range(6))
    shares = torch.bincount((targets - y) % 6, minlength=6).float() / len(y)
    # Four standard deviations of a share of 1/5 in 6,000 draws.
    assert shares[0] == 0 and (shares[1:] - 0.2).abs().max() < 0.021


def test_targeted_pgd_goes_towards_its_targets(network, x, y):
    targets = decision.random_targets(y, 10, ids=range(6))
    result = decision.pgd(network, x, y, ids=range(6), target="random")
    assert torch.equal(result, decision.pgd(network, x, y, ids=range(6), target=targets))
    assert (F.cross_entropy(network(result), targets) < F.cross_entropy(network(x), targets)).item()
