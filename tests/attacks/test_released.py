"""lib/attacks/decision.py: the authors' bypass_nrp.py, against its description written out in plain PyTorch."""

import pytest
import torch
from torch import nn

from lib.attacks.decision import bypass_nrp
from lib.attacks.registry import Attack
from lib.rng import Streams
from tests.conftest import eight_bit_images, tiny_network

IDS = [f"i{k}" for k in range(6)]


class Pixels(nn.Module):
    """Logits that are the pixels: towards a target that one pixel gets brighter, and all others darker."""

    def forward(self, x):
        return 5 * x.flatten(1)


def aimed_at(count, seed=0, classes=12):
    """The targets of so many gray images of a classifier of 12 classes."""
    x = torch.full((count, 3, 2, classes // 6), 128 / 255)
    brighter = bypass_nrp(Pixels(), x, ids=range(count), seed=seed, steps=1).flatten(1) > x.flatten(1)
    assert (brighter.sum(1) == 1).all()
    return brighter.int().argmax(1)


def test_it_is_the_description_s_ten_lines(network, x):
    adversarial = bypass_nrp(network, x, ids=IDS, seed=3, steps=4)
    target = Streams(3, IDS, "bypass_nrp").integers(1, 10)  # of ten classes
    expected = x.clone()
    for _ in range(4):
        expected.requires_grad_(True)
        loss = nn.functional.cross_entropy(network(expected), target, reduction="sum")
        (grad,) = torch.autograd.grad(loss, expected)
        expected = (expected - 2 / 255 * grad.sign()).detach()  # towards the target
        expected = torch.max(torch.min(expected, x + 16 / 255), x - 16 / 255).clamp(0, 1)
    assert torch.equal(adversarial, (255 * expected).int().float() / 255)
    assert not torch.equal(adversarial, (255 * expected).round() / 255)  # truncated, which is not rounded


def test_the_second_step_goes_on_from_the_first_and_the_first_begins_at_the_clean_image(network, x):
    levels = 255 * (bypass_nrp(network, x, ids=IDS, steps=1) - x)
    inside = (x > 3 / 255) & (x < 252 / 255)
    assert set(levels[inside].round().int().tolist()) <= {-3, -2, 1, 2}  # two, or one lower by the truncation
    assert {-2, 2} <= set(levels[inside].round().int().tolist())


@pytest.mark.parametrize("eps", [2, 4, 16])
def test_it_leaves_the_budget_by_no_more_than_the_level_that_truncation_takes(network, eps):
    x = eight_bit_images(24)
    levels = 255 * (bypass_nrp(network, x, ids=range(24), eps=eps / 255) - x)
    assert levels.max() <= eps + 1e-3 and levels.min() >= -eps - 1 - 1e-3
    assert levels.min() < -eps + 0.5 and levels.max() > eps - 1.5  # it uses what it may


def test_targets_are_uniform_over_all_classes_but_the_first():
    targets = aimed_at(2200)
    counts = targets.bincount(minlength=12)
    assert counts[0] == 0 and len(counts) == 12
    assert ((counts[1:] - 200).abs() < 4 * 200**0.5).all()  # four standard deviations


def test_a_target_may_be_the_true_class_and_keeps_to_its_image_and_seed():
    targets = aimed_at(60)
    truth = torch.arange(60) % 12
    assert (targets == truth).any()
    assert torch.equal(aimed_at(20), targets[:20])
    assert not torch.equal(aimed_at(60, seed=1), targets)


def test_the_network_is_left_as_found_and_the_experiment_can_call_it(x):
    network = tiny_network().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    bypass_nrp(network, x, ids=IDS, steps=1)
    assert network.training and all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert {"ids", "seed", "eps", "steps"} <= Attack(bypass_nrp, "").parameters
