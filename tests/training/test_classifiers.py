"""lib/training/classifiers.py and augment.py: recipes, smoothing, learning, augmentation."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from torch import nn

from lib.attacks.transport import fsa
from lib.rng import generator
from lib.training import augment, classifiers, loop
from tests.training.conftest import fit, network_spec, spec_of, stand_in, tiny_world

EPS = 16


def spec(recipe="natural", **changes):
    return spec_of("stand_in", recipe=recipe, **changes)


def training(recipe, data, classes=2):
    return classifiers.training(recipe, network_spec("inception_resnet_v2", classes=classes), *data)


@pytest.fixture(scope="module")
def data():
    return tiny_world(96, 0)


@pytest.fixture(scope="module")
def batch(data):
    return data[0][:16].float() / 255, data[1][:16]


@pytest.fixture
def victim():
    torch.manual_seed(1)
    return stand_in("inception_v3")


def loss(network: nn.Module, x, y) -> torch.Tensor:
    with torch.no_grad():
        return nn.functional.cross_entropy(network.eval()(x), y, reduction="none")


def test_training_learns_and_its_scores_are_true(data, tmp_path):
    recipe = spec(epochs=5)
    begun = training(recipe, data)
    fit((recipe, begun), tmp_path)
    victim, (images, labels) = begun.state["victim"], tiny_world(100, 1)
    scores = classifiers.accuracies_under_attack(victim, images, labels, range(100))
    assert scores["images"] == 100 and scores["accuracy"] > 0.9
    with torch.no_grad():
        right = (victim(images.float() / 255).argmax(1) == labels).float().mean().item()
    assert right == pytest.approx(scores["accuracy"], abs=0.011)
    assert scores["accuracy_fgsm"] < scores["accuracy_noise"]


def test_the_natural_recipe_leaves_the_batch_alone(batch, victim):
    x, y = batch
    assert torch.equal(classifiers.adversarial_batch(spec(), victim, [], x, y, 0, 1.0), x)


def test_fgsm_attacks_half_of_the_batch_within_the_budget(batch, victim):
    x, y = batch
    x_adv = classifiers.adversarial_batch(spec("fgsm"), victim, [], x, y, 0, 1.0)
    moved = (x_adv - x).abs().amax((1, 2, 3)) * 255
    assert (moved[8:] == 0).all() and (moved[:8] > 0).any() and moved.max() <= EPS + 1e-3
    assert len(set(moved[:8].round().tolist())) > 3  # a budget of its own for each image
    assert loss(victim, x_adv[:8], y[:8]).mean() > loss(victim, x[:8], y[:8]).mean()


def test_pgd_attacks_the_whole_batch_with_a_rising_budget(batch, victim):
    x, y = batch
    late = classifiers.adversarial_batch(spec("pgd"), victim, [], x, y, 0, 1.0)
    early = classifiers.adversarial_batch(spec("pgd"), victim, [], x, y, 0, 0.4)
    assert ((late - x).abs().amax((1, 2, 3)) * 255).round().tolist() == [EPS] * len(x)
    assert 0 < (early - x).abs().max() * 255 < EPS / 2
    assert torch.equal(classifiers.adversarial_batch(spec("pgd"), victim, [], x, y, 0, 0.1), x)
    assert loss(victim, late, y).mean() > loss(victim, x, y).mean()


def test_scatter_attacks_the_whole_batch_with_feature_scattering_and_a_rising_budget(batch, victim):
    x, y = batch
    recipe = spec("scatter", eps=8, step=3, steps=2, seed=5)
    late = classifiers.adversarial_batch(recipe, victim, [], x, y, 4, 1.0)
    # One transport plan for the batch, whatever the labels.
    schedule = {"eps": 8 / 255, "step": 3 / 255, "steps": 2, "batch": 16}
    assert torch.equal(late, fsa(victim, x, ids=range(16), seed=9, **schedule))
    assert torch.equal(late, classifiers.adversarial_batch(recipe, victim, [], x, 1 - y, 4, 1.0))
    for change in ({"eps": 4 / 255}, {"step": 1 / 255}, {"steps": 1}, {"batch": 8}):
        assert not torch.equal(late, fsa(victim, x, ids=range(16), seed=9, **schedule | change)), change
    assert not torch.equal(late, classifiers.adversarial_batch(recipe, victim, [], x, y, 5, 1.0))  # another start
    assert ((late - x).abs().amax((1, 2, 3)) * 255).round().tolist() == [8] * 16
    early = classifiers.adversarial_batch(recipe, victim, [], x, y, 4, 0.4)
    share = (0.4 - 0.3) / (0.6 - 0.3)
    schedule |= {"eps": share * 8 / 255, "step": share * 3 / 255}
    assert torch.equal(early, fsa(victim, x, ids=range(16), seed=9, **schedule))
    assert 0 < (early - x).abs().max() * 255 < 4
    assert torch.equal(classifiers.adversarial_batch(recipe, victim, [], x, y, 4, 0.1), x)


def test_scatter_trains_on_the_adversaries_of_the_network_as_it_is_then(data, tmp_path, monkeypatch):
    calls, trained = [], []

    def spied(victim, x, **options):
        weight = victim.network.head.weight.detach().clone()
        mode = victim.training
        x_adv = fsa(victim, x, **options)
        assert victim.training == mode
        calls.append((victim, weight, options, x, x_adv))
        return x_adv

    monkeypatch.setattr(classifiers, "fsa", spied)
    recipe = spec("scatter", epochs=2, eps=8, step=8, steps=1)
    begun = training(recipe, data)
    begun.state["victim"].register_forward_hook(
        lambda module, inputs, output: trained.append(inputs[0].detach()) if module.training else None
    )
    fit((recipe, begun), tmp_path)
    # Twelve steps; the budget begins to rise at 0.3 of them and is full at 0.6.
    shares = [max(0.0, min(1.0, (step / 12 - 0.3) / 0.3)) for step in range(12)]
    assert len(trained) == 12 and len(calls) == sum(share > 0 for share in shares) == 8
    for (victim, _, options, x, x_adv), seen, share in zip(calls, trained[4:], shares[4:], strict=True):
        assert victim is begun.state["victim"] and torch.equal(seen, x_adv) and not torch.equal(x, x_adv)
        assert options["eps"] == pytest.approx(share * 8 / 255) and options["step"] == pytest.approx(share * 8 / 255)
        assert options["steps"] == 1 and options["batch"] == len(x) == 16
        assert (x_adv - x).abs().max() <= share * 8 / 255 + 1 / 255  # the clean crops are no 8-bit images
    heads = [weight for _, weight, *_ in calls]
    assert not any(torch.equal(*pair) for pair in pairwise(heads))
    assert len({options["seed"] for _, _, options, *_ in calls}) == 8


@pytest.mark.parametrize("delta", [0, 0.1, 0.5])
@pytest.mark.parametrize("classes", [2, 5])
def test_smoothing_is_feature_scatters(data, delta, classes):
    """The true class keeps 1 - delta, the others share delta (utils.py, label_smoothing)."""
    logits, begun = [], training(spec(smoothing=delta), data, classes)
    begun.state["victim"].register_forward_hook(
        lambda module, inputs, output: logits.append(output.detach().double().numpy())
    )
    losses = begun.advance(0)
    (found,) = logits
    labels = data[1][loop.shuffled(96, 16, 0, 0)].numpy()
    targets = np.full((16, classes), delta / (classes - 1))
    targets[np.arange(16), labels] = 1 - delta
    likelihood = found - np.log(np.exp(found).sum(1, keepdims=True))
    assert losses["loss"] == pytest.approx(-(targets * likelihood).sum(1).mean(), rel=1e-5)
    one_hot = np.eye(classes)[labels]
    assert np.allclose(targets, (1 - delta - delta / (classes - 1)) * one_hot + delta / (classes - 1))


@pytest.mark.parametrize("delta", [-0.1, 0.51])
def test_labels_that_give_away_more_than_half_are_refused(delta):
    with pytest.raises(ValueError, match="smoothing"):
        spec(smoothing=delta)


def test_ensemble_takes_its_networks_in_turn(batch, victim):
    x, y = batch
    torch.manual_seed(2)
    others = [stand_in(name) for name in ("vgg16", "resnet50")]
    calls = []
    for network in [victim, *others]:
        network.register_forward_hook(lambda module, inputs, output: calls.append(module))
    for step, attacked in enumerate([victim, *others, victim]):
        calls.clear()
        classifiers.adversarial_batch(spec("ensemble"), victim, others, x, y, step, 1.0)
        assert set(calls) == {attacked}


def test_kurakin_budgets_follow_the_truncated_normal_distribution():
    drawn = classifiers.kurakin_eps(20_000, 16.0, generator("test")).flatten()
    normal = torch.randn(200_000, generator=generator("reference")).abs() * 8
    normal = normal[normal <= 16]
    quantiles = torch.linspace(0.05, 0.95, 10)
    assert torch.allclose(drawn.quantile(quantiles), normal.quantile(quantiles), atol=0.3)
    assert 0 <= drawn.min() and drawn.max() <= 16


def test_augmentation_depends_on_its_generator_alone(data):
    x = data[0]
    first, again, other = (augment.augmented(x, generator("a", k)) for k in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.min() >= 0 and first.max() <= 1 and first.shape == x.shape


def test_the_cosine_transform_is_scipys():
    block = torch.rand(8, 8, generator=generator("block"))
    expected = torch.from_numpy(dctn(block.numpy(), norm="ortho"))
    assert torch.allclose(augment.COSINES @ block @ augment.COSINES.T, expected, atol=1e-5)


def test_compression_empties_cosine_coefficients_and_keeps_the_other_images():
    x = torch.rand(64, 3, 8, 8, generator=generator("images"))
    out = augment.compressed(x, generator("c"))
    changed = (out != x).flatten(1).any(1)
    assert 0.1 < changed.float().mean() < 0.4
    filled = [(np.abs(dctn(part[changed].numpy(), axes=(2, 3), norm="ortho")) > 1e-4).mean() for part in (x, out)]
    assert filled[0] > 0.99 and filled[1] < 0.8


def test_a_shift_moves_each_image_as_a_whole():
    x = torch.arange(48 * 48, dtype=torch.float32).reshape(1, 1, 48, 48).expand(8, 3, 48, 48)
    moved = augment.shifted(x, generator("s"))
    inner = moved[..., 3:-3, 3:-3] - x[..., 3:-3, 3:-3]
    offsets = inner.flatten(1)
    assert (offsets == offsets[:, :1]).all() and len(offsets[:, 0].unique()) > 1
