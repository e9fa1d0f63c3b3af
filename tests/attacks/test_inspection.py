"""lib/attacks/inspection.py: facts of a gradient on networks whose gradient is known, confidences, traits."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

from lib.attacks import decision
from lib.attacks.adaptive import Adaptive
from lib.attacks.inspection import aims, confidences, gradient_facts, traits_of
from lib.defenses import defense
from lib.units import unit_images
from tests.conftest import tiny_network

BYTES = torch.randint(0, 256, (6, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
Y = torch.tensor([0, 1, 2, 3, 4, 0])


def linear(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 5))


class Half(nn.Module):
    """Two linear networks, of which the second passes no gradient; the first sees the left half of the image alone."""

    def __init__(self):
        super().__init__()
        self.first, self.second = linear(0), linear(1)

    def forward(self, x):
        left = torch.cat([x[..., :4], torch.zeros_like(x[..., 4:])], -1)
        return self.first(left) + self.second(x.detach())


class Steep(nn.Module):
    """A network whose logits are so large that float32 rounds the probability of one class to 1."""

    def __init__(self, inner, factor=1e4):
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, x):
        return self.factor * self.inner(x)


class Rounding(nn.Module):
    """A linear network behind images of four levels, as the rounding's gradient has it: 0."""

    def __init__(self):
        super().__init__()
        self.inner = linear()

    def forward(self, x):
        return self.inner((4 * x).round() / 4)


def test_of_a_linear_network_the_gradient_is_the_difference():
    found = gradient_facts(linear(), BYTES, Y, device="cpu")
    assert {name: values.shape for name, values in found.items()} == dict.fromkeys(
        ("difference", "float32", "bfloat16", "zeros"), (6,)
    )
    assert (found["difference"] < 1e-6).all()
    assert (found["float32"] > 1 - 1e-6).all() and (found["bfloat16"] > 0.99).all()
    assert (found["zeros"] == 0).all()


def test_the_cosine_in_bfloat16_is_below_that_in_float32():
    found = gradient_facts(tiny_network(classes=5), BYTES, Y, device="cpu")
    assert (found["bfloat16"] < found["float32"]).all() and (found["float32"] > 0.999).all()


def test_a_detached_half_shows_in_the_difference_and_its_pixels_in_the_zeros():
    found = gradient_facts(Half(), BYTES, Y, device="cpu")
    assert (found["zeros"] == 0.5).all()
    assert np.median(found["difference"]) > 0.01 and (found["difference"] > 1e-3).all()
    assert (found["float32"] > 0.999).all()  # of what is left it is the same in every type


def test_the_difference_is_that_of_the_whole_loss_along_the_sign_of_its_gradient():
    """By hand, of the network with a detached half: what its gradient says of the slope, and what the loss does."""
    found = gradient_facts(Half(), BYTES, Y, device="cpu")["difference"]
    network = Half().double()
    noise = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1))
    x = unit_images(BYTES).double().clamp(0.02, 0.98) + 0.001 * noise

    def loss(x):
        return nn.functional.cross_entropy(network(x), Y, reduction="none")

    given = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(given).sum(), given)
    with torch.no_grad():
        true = (loss(x + 1e-6 * grad.sign()) - loss(x - 1e-6 * grad.sign())) / 2e-6
    # At other points near the images, so about the same.
    by_hand = ((grad.abs().flatten(1).sum(1) - true) / true).abs().numpy()
    assert found == pytest.approx(by_hand, rel=0.25)


def test_a_saturated_network_and_a_rounding_have_no_gradient():
    network = linear()
    right = network(unit_images(BYTES)).argmax(1)
    steep = gradient_facts(Steep(network), BYTES, right, device="cpu")
    assert (steep["zeros"] == 1).sum() >= 5 and np.median(steep["float32"]) == 0
    rounding = gradient_facts(Rounding(), BYTES, Y, device="cpu")
    assert (rounding["zeros"] == 1).all() and (rounding["float32"] == 0).all()


def test_a_network_comes_as_it_is_or_as_what_makes_it_and_is_left_as_found():
    network = tiny_network(classes=5).train()
    made = functools.partial(Adaptive, network, defense("nrp", network=nn.Identity()))
    one, other = (gradient_facts(seen, BYTES, Y, device="cpu") for seen in (network, made))
    assert all(np.allclose(one[name], other[name], atol=1e-6) for name in ("float32", "zeros"))
    assert network.training and next(network.parameters()).dtype == torch.float32
    assert all(parameter.grad is None for parameter in network.parameters())


def test_confidences_are_the_softmax_s():
    network = linear()
    logits = network(unit_images(BYTES)).detach().double().numpy()
    exponents = np.exp(logits - logits.max(1, keepdims=True))
    by_hand = (exponents / exponents.sum(1, keepdims=True))[np.arange(6), Y]
    found = confidences(network, BYTES, Y, device="cpu")["confidence"]
    assert found.shape == (6,) and found.dtype == np.float32
    assert found == pytest.approx(by_hand, rel=1e-5)


def test_confidences_are_of_what_the_defense_makes():
    network, purify = linear(), defense("median")
    logits = network(purify(unit_images(BYTES)))
    found = confidences(functools.partial(Adaptive, network, purify, bpda=True), BYTES, Y, device="cpu")["confidence"]
    assert found == pytest.approx(logits.softmax(1)[torch.arange(6), Y].detach().numpy(), rel=1e-5)


@pytest.mark.parametrize("which", decision.TARGETS)
def test_the_aims_are_where_the_attack_goes(which):
    network = linear()
    ids = [f"i{k}" for k in range(6)]
    found = torch.from_numpy(aims(network, BYTES, Y, which, ids, 3, device="cpu")["targets"])
    assert (found != Y).all()
    x = unit_images(BYTES)
    logits = network(x).detach()
    others = logits.clone()
    if which == "least likely":
        others[torch.arange(6), Y] = np.inf
        assert found.tolist() == others.argmin(1).tolist()
    if which == "runner-up":
        others[torch.arange(6), Y] = -np.inf
        assert found.tolist() == others.argmax(1).tolist()
    named, given = (decision.pgd(network, x, Y, ids=ids, seed=3, target=target) for target in (which, found))
    assert torch.equal(named, given)


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("jpeg", {}, (False, False)),
        ("median", {}, (False, False)),
        ("nrp", {}, (True, False)),
        ("nrp", {"noise": 0.05}, (True, True)),
        ("noise", {}, (True, True)),
        ("noise", {"noise": 0.0}, (True, False)),
    ],
)
def test_traits_of_defenses(kind, options, expected):
    options |= {"network": nn.Conv2d(3, 3, 1).requires_grad_(False)} if kind == "nrp" else {}
    one = defense(kind, **options)
    other = defense(kind, **options, seed=1000) if kind in ("nrp", "noise") else one
    assert tuple(traits_of(one, other, BYTES[:1], device="cpu")["traits"]) == expected
