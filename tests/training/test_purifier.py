"""lib/training/purifier.py: losses, updates and adversaries by hand; learning."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lib.data.unlabelled import unlabelled
from lib.networks.small import ARCHITECTURES
from lib.networks.wrappers import Tap
from lib.rng import generator
from lib.training import purifier
from tests.training.conftest import SIDE, conv3, fit, network_spec, photographs, spec_of


def spec(**changes):
    return spec_of("purifier", **changes)


@pytest.fixture
def extractor():
    return conv3()


@pytest.fixture(scope="module")
def scenes():
    """Scenes of the world that are trained on, and others."""
    images = unlabelled("world")
    return images[:64], images[100:116]


@pytest.fixture
def data(scenes):
    return scenes[0][:9]


@pytest.fixture
def pairs(data, extractor):
    """Two batches of clean crops and their adversaries."""
    found = []
    for step in range(2):
        x = purifier.batch(spec(), data, step)
        found.append((x, purifier.adversarial_crops(spec(), extractor, x, f"{step}/0")))
    return found


def parts_of(changed=None, built=None) -> SimpleNamespace:
    """What a step changes, with fresh weights."""
    built = built or network_spec("nrp_resg")
    return SimpleNamespace(**purifier.training(changed or spec(), built, photographs(), conv3()).state)


# Losses.


class First(nn.Module):
    """A critic whose logit is the first pixel, so that a test can choose it."""

    def forward(self, x):
        return x[:, 0, 0, 0]


def random_logits(count, seed):
    """Images `[count,3,1,1]` whose logits are numbers between -3 and 3, and these numbers."""
    numbers = torch.randn(count, generator=torch.Generator().manual_seed(seed)) * 1.5
    return numbers[:, None, None, None].repeat(1, 3, 1, 1).requires_grad_(True), numbers.double().numpy()


def entropy(logits, truth):
    """Binary cross-entropy from its definition, in NumPy."""
    probability = 1 / (1 + np.exp(-logits))
    return -np.mean(truth * np.log(probability) + (1 - truth) * np.log(1 - probability))


def purifiers_loss(real, fake):
    return 0.5 * (entropy(real - fake.mean(), 0) + entropy(fake - real.mean(), 1))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_the_purifier_is_told_to_look_more_real_than_the_clean_images(count=5):
    (x, real), (y, fake) = random_logits(count, 0), random_logits(count, 1)
    loss = purifier.adversarial_loss(First(), x, y)
    assert loss.item() == pytest.approx(purifiers_loss(real, fake), rel=1e-6)
    loss.backward()
    # The logits of clean images are a constant to the purifier: no gradient reaches it.
    assert x.grad is None or not x.grad.any()
    steps = 1e-6 * np.eye(count)
    slopes = [(purifiers_loss(real, fake + h) - purifiers_loss(real, fake - h)) / 2e-6 for h in steps]
    assert y.grad[:, 0, 0, 0].numpy() == pytest.approx(slopes, rel=1e-4, abs=1e-7)
    assert (y.grad[:, 0] < 0).all()  # looking more real is better


def test_the_critic_is_told_the_opposite_and_takes_both_means_as_constants(count=5):
    (x, real), (y, fake) = random_logits(count, 2), random_logits(count, 3)
    loss = purifier.critic_loss(First(), x, y)
    by_hand = 0.5 * (entropy(real - fake.mean(), 1) + entropy(fake - real.mean(), 0))
    assert loss.item() == pytest.approx(by_hand, rel=1e-6)
    loss.backward()
    assert x.grad[:, 0, 0, 0].numpy() == pytest.approx((sigmoid(real - fake.mean()) - 1) / (2 * count), rel=1e-4)
    assert y.grad[:, 0, 0, 0].numpy() == pytest.approx(sigmoid(fake - real.mean()) / (2 * count), rel=1e-4)


def test_a_critic_that_sees_no_difference_costs_both_sides_the_logarithm_of_two():
    x = torch.ones(3, 3, 2, 2)
    for loss in (purifier.adversarial_loss, purifier.critic_loss):
        assert loss(First(), x, x.clone()).item() == pytest.approx(np.log(2), rel=1e-6)


def test_the_feature_loss_is_the_distance_as_a_share_of_the_clean_features(pairs, extractor):
    x, y = pairs[0]
    clean, purified = (extractor(images).double().numpy() for images in (x, y))
    by_hand = np.abs(purified - clean).mean() / np.abs(clean).mean()
    assert by_hand > 0.05
    assert purifier.feature_loss(extractor, x, y).item() == pytest.approx(by_hand, rel=1e-5)
    assert purifier.feature_loss(extractor, x, x.clone()).item() == 0
    larger = purifier.feature_loss(conv3(factor=100), x, y)
    assert larger.item() == pytest.approx(by_hand, rel=1e-4)


def test_only_the_purified_images_get_the_gradient_of_the_feature_loss(pairs, extractor):
    x, y = (images.clone().requires_grad_(True) for images in pairs[0])
    purifier.feature_loss(extractor, x, y).backward()
    assert x.grad is None and y.grad.abs().max() > 0


# Updates.


class Affine(nn.Module):
    """A purifier of six numbers, in whole precision whatever surrounds it."""

    def __init__(self, width=0, blocks=0):
        super().__init__()
        self.scale, self.shift = (nn.Parameter(torch.full((3, 1, 1), value)) for value in (0.7, 0.2))

    def forward(self, x):
        return self.scale * x + self.shift


def test_the_purifiers_update_is_adams_step_on_the_losses(pairs, extractor, monkeypatch):
    """Three steps at different rates: the first alone would only show the gradient's sign."""
    monkeypatch.setitem(purifier.PURIFIERS, "nrp_resg", Affine)
    recipe = spec(adversarial=0, pixel=0.3, feature=2.0, init="random")
    parts, (x, x_adv) = parts_of(recipe), pairs[0]
    values, first, second = np.array([0.7] * 3 + [0.2] * 3), np.zeros(6), np.zeros(6)
    for step, rate in enumerate([0.01, 0.03, 0.02], 1):
        number = torch.tensor(values, dtype=torch.float32, requires_grad=True)
        y = number[:3, None, None] * x_adv + number[3:, None, None]
        pixel = (y - x).abs().mean()
        feature = (extractor(y) - extractor(x)).abs().mean() / extractor(x).abs().mean()
        slope = torch.autograd.grad(0.3 * pixel + 2 * feature, number)[0].double().numpy()
        first, second = 0.9 * first + 0.1 * slope, 0.99 * second + 0.01 * slope**2
        values = values - rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.99**step)) + 1e-8)
        losses = purifier.update(recipe, vars(parts), extractor, x, x_adv, rate)
        assert [losses["pixel"], losses["feature"]] == pytest.approx([pixel.item(), feature.item()], rel=1e-4)
        found = torch.cat([parts.purifier.scale, parts.purifier.shift]).flatten().tolist()
        assert found == pytest.approx(values, rel=1e-4, abs=1e-6)


def gradients(module: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in module.parameters()])


def test_the_critic_learns_from_the_images_that_the_purifier_was_judged_by(pairs, extractor):
    recipe = spec(adversarial=1.0, init="random")
    parts = parts_of(recipe)
    x, x_adv = pairs[0]
    before = copy.deepcopy(parts)
    purifier.update(recipe, vars(parts), extractor, x, x_adv, 0.05)
    with torch.autocast("cpu", torch.bfloat16):
        y = before.purifier(x_adv).float().detach()
        real, fake = (before.critic(images).float() for images in (x, y))
    softplus = nn.functional.softplus
    by_hand = 0.5 * (softplus(fake.mean().detach() - real).mean() + softplus(fake - real.mean().detach()).mean())
    by_hand.backward()
    assert torch.allclose(gradients(parts.critic), gradients(before.critic), rtol=1e-3, atol=1e-6)
    assert all(parameter.requires_grad for parameter in parts.critic.parameters())
    for name in ("purifier", "critic"):
        both = zip(getattr(parts, name).parameters(), getattr(before, name).parameters(), strict=True)
        assert any(not torch.equal(*pair) for pair in both), name


def test_the_adversarial_loss_moves_the_purifier_only_by_its_weight(pairs, extractor):
    found = []
    for weight in (0.0, 1.0, 2.0):
        recipe = spec(adversarial=weight, pixel=0, feature=0, init="random")
        parts = parts_of(recipe)
        purifier.update(recipe, vars(parts), extractor, *pairs[0], 1e-3)
        found.append(gradients(parts.purifier))
    assert not found[0].any() and found[1].abs().max() > 0
    assert torch.allclose(2 * found[1], found[2], rtol=1e-3, atol=1e-7)


# Crops and batches.


def test_a_batch_depends_on_its_step_and_seed_alone(data):
    first, again = (purifier.batch(spec(), data, 3) for _ in range(2))
    others = [purifier.batch(recipe, data, step) for recipe, step in [(spec(), 4), (spec(), 5), (spec(seed=1), 3)]]
    assert torch.equal(first, again)
    assert not any(torch.equal(first, other) for other in others)


def test_crops_of_the_same_images_differ_between_steps(scenes):
    found = [purifier.batch(spec(), scenes[0][:1] * 8, step) for step in range(4)]
    assert not any(torch.equal(found[a], found[b]) for a in range(4) for b in range(a))


def test_every_epoch_sees_each_image_once():
    images = [torch.full((3, SIDE, SIDE), k, dtype=torch.uint8) for k in range(16)]
    for epoch in range(2):
        batches = [purifier.batch(spec(), images, 4 * epoch + k) for k in range(4)]
        assert sorted((torch.cat(batches)[:, 0, 0, 0] * 255).round().int().tolist()) == list(range(16))


# Adversaries.


def levels(x, x_adv):
    return ((x_adv - x) * 255).abs().amax((1, 2, 3)).round(decimals=3)


@pytest.fixture
def x(data):
    return purifier.crops(SIDE, data.__getitem__, range(6), generator("x"))


@pytest.mark.parametrize("start", ["perturbed", "noise"])
def test_fixed_budgets_are_used_whole_and_kept(x, extractor, start):
    x_adv = purifier.adversarial_crops(spec(ssp_start=start, ssp_steps=3), extractor, x, "k")
    assert levels(x, x_adv).tolist() == [16] * 6
    assert 0 <= x_adv.min() and x_adv.max() <= 1
    smaller = purifier.adversarial_crops(spec(ssp_start=start, ssp_steps=3, eps=5), extractor, x, "k")
    assert levels(x, smaller).tolist() == [5] * 6


def test_uniform_budgets_differ_from_image_to_image(extractor):
    x = torch.full((200, 3, 8, 8), 0.5)
    recipe = spec(budgets="uniform", ssp_steps=3)
    used, later = (levels(x, purifier.adversarial_crops(recipe, extractor, x, key)) for key in ("0/0", "1/0"))
    assert used.max() <= 16 and (used != later).float().mean() > 0.8
    # Rounded down to whole levels, budgets that are uniform in 0..16 fall evenly on 0..15.
    counts = torch.bincount(used.int(), minlength=16)
    assert len(counts) == 16 and (counts > 2).all() and (counts < 30).all()


def test_steps_are_as_large_and_as_many_as_the_recipe_says(x, extractor):
    begun = purifier.adversarial_crops(spec(step=0, ssp_steps=1), extractor, x, "k")
    moved = purifier.adversarial_crops(spec(step=1.5, ssp_steps=4), extractor, x, "k")
    way = ((moved - begun) * 255).abs().round()
    assert 5 <= way.max() <= 7  # four steps of one and a half, rounded


@pytest.mark.parametrize("budgets", ["fixed", "uniform"])
def test_an_adversary_depends_on_its_image_and_key_alone(x, extractor, budgets):
    recipe = spec(budgets=budgets)
    whole, again = (purifier.adversarial_crops(recipe, extractor, x, "3/1") for _ in range(2))
    part = purifier.adversarial_crops(recipe, extractor, x[:2], "3/1")
    others = torch.cat([x[:2], x[:4].flip(-1)])
    mixed = purifier.adversarial_crops(recipe, extractor, others, "3/1")
    assert torch.equal(whole, again)
    for found in (part, mixed[:2]):
        assert (found != whole[:2]).float().mean() < 0.001
    for changed in (
        purifier.adversarial_crops(recipe, extractor, x, "4/1"),
        purifier.adversarial_crops(recipe.model_copy(update={"seed": 1}), extractor, x, "3/1"),
    ):
        assert (changed != whole).float().mean() > 0.1


def test_adversaries_are_far_in_the_features_of_the_extractor(x, extractor):
    x_adv = purifier.adversarial_crops(spec(ssp_steps=5), extractor, x, "k")
    noise = (x + 16 / 255 * torch.randn(x.shape, generator=generator("noise")).sign()).clamp(0, 1)
    far, near = (purifier.feature_loss(extractor, x, other).item() for other in (x_adv, noise))
    assert far > 1.5 * near


# The beginning.


@pytest.mark.parametrize("architecture", ["nrp", "nrp_resg"])
def test_a_purifier_begins_as_the_identity_or_with_random_weights(x, architecture):
    built = network_spec(architecture, blocks=2)
    with torch.no_grad():
        near, far = (parts_of(spec(init=init), built).purifier(x) for init in ("identity", "random"))
    assert (near - x).abs().mean() * 255 < 4 < 20 < (far - x).abs().mean() * 255


def test_seeds_decide_the_weights_of_both_networks():
    found = []
    for seed in (1, 1, 2):
        torch.rand(3)  # the state of the global generator must not matter
        parts = parts_of(spec(seed=seed, init="random"))
        found.append([parts.purifier.state_dict(), parts.critic.state_dict()])
    for first, again, other in zip(*found, strict=True):
        assert all(torch.equal(value, again[name]) for name, value in first.items())
        assert any(not torch.equal(value, other[name]) for name, value in first.items())


def test_training_brings_the_features_of_adversaries_back(scenes, tmp_path):
    torch.manual_seed(0)
    extractor = Tap(ARCHITECTURES["vgg16"](12).eval().requires_grad_(False), "features.relu3_3")
    recipe = spec(steps=60, batch=8, checkpoint_minutes=9)
    begun = recipe, purifier.training(recipe, network_spec("nrp_resg", width=16, blocks=2), scenes[0], extractor)
    network, curves, _ = fit(begun, tmp_path)
    feature = curves["feature"]
    assert len(feature) == 60 and feature[-10:].mean() < 0.7 * feature[:5].mean()
    # Of scenes that it has never seen, too.
    x = purifier.crops(recipe.crop, scenes[1].__getitem__, range(16), generator("held out"))
    x_adv = purifier.adversarial_crops(recipe, extractor, x, "held out")
    with torch.no_grad():
        before, after = (purifier.feature_loss(extractor, x, y).item() for y in (x_adv, network(x_adv)))
    assert after < 0.7 * before
