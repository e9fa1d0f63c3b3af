"""lib/training/purifier.py: losses, updates and adversaries by hand; resuming, learning, the command."""

import copy
import hashlib
import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lib import settings, zoo
from lib.data.unlabelled import unlabelled
from lib.networks.small import ARCHITECTURES
from lib.networks.taps import Tap
from lib.rng import generator
from lib.settings import NetworkSpec, PurifierSpec
from lib.training import purifier as training
from tests.training.conftest import SIDE, Command, picture, places, tiles


def spec(**changes) -> PurifierSpec:
    fields = {"images": "world", "extractor": "VGG-16", "crop": SIDE, "batch": 4, "steps": 7, "lr": 4e-3, "pixel": 1.0}
    fields |= {"step": 10, "ssp_steps": 2, "ssp_start": "perturbed", "critic_width": 2, "init": "identity"}
    return PurifierSpec(**fields | {"checkpoint_minutes": 0} | changes)


def network(**changes) -> NetworkSpec:
    fields = {"role": "NRP", "task": "purification", "family": "purifier", "architecture": "nrp_resg"}
    return NetworkSpec(**fields | {"width": 8, "blocks": 1} | changes)


def conv3(seed=0, factor=1.0) -> nn.Module:
    """A small random extractor; its features are `factor` times as large."""
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU())
    layers[2].weight.data *= factor
    layers[2].bias.data *= factor
    return layers.eval().requires_grad_(False)


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
    for part in range(2):
        x = training.batch(spec(), data, 0, part)
        found.append((x, training.adversaries(spec(), extractor, x, f"0/{part}")))
    return found


def parts_of(changed=None, built=None) -> training.Parts:
    return training.build(changed or spec(), built or network(), torch.device("cpu"))


# Losses.


class First(nn.Module):
    """A critic that reads its verdict off the first pixel, so that a test can choose what it says."""

    def forward(self, x):
        return x[:, 0, 0, 0]


def verdicts(count, seed):
    """Images `[count,3,1,1]` of which `First` says numbers between -3 and 3, and these numbers."""
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
    (x, real), (y, fake) = verdicts(count, 0), verdicts(count, 1)
    loss = training.deceit(First(), x, y)
    assert loss.item() == pytest.approx(purifiers_loss(real, fake), rel=1e-6)
    loss.backward()
    # What is said of clean images is a constant to the purifier: no gradient reaches it.
    assert x.grad is None or not x.grad.any()
    steps = 1e-6 * np.eye(count)
    slopes = [(purifiers_loss(real, fake + h) - purifiers_loss(real, fake - h)) / 2e-6 for h in steps]
    assert y.grad[:, 0, 0, 0].numpy() == pytest.approx(slopes, rel=1e-4, abs=1e-7)
    assert (y.grad[:, 0] < 0).all()  # looking more real is better


def test_the_critic_is_told_the_opposite_and_takes_both_means_as_constants(count=5):
    (x, real), (y, fake) = verdicts(count, 2), verdicts(count, 3)
    loss = training.discernment(First(), x, y)
    by_hand = 0.5 * (entropy(real - fake.mean(), 1) + entropy(fake - real.mean(), 0))
    assert loss.item() == pytest.approx(by_hand, rel=1e-6)
    loss.backward()
    assert x.grad[:, 0, 0, 0].numpy() == pytest.approx((sigmoid(real - fake.mean()) - 1) / (2 * count), rel=1e-4)
    assert y.grad[:, 0, 0, 0].numpy() == pytest.approx(sigmoid(fake - real.mean()) / (2 * count), rel=1e-4)


def test_a_critic_that_sees_no_difference_costs_both_sides_the_logarithm_of_two():
    x = torch.ones(3, 3, 2, 2)
    for loss in (training.deceit, training.discernment):
        assert loss(First(), x, x.clone()).item() == pytest.approx(np.log(2), rel=1e-6)


def test_the_feature_loss_is_the_distance_as_a_share_of_the_clean_features(pairs, extractor):
    x, y = pairs[0]
    clean, purified = (extractor(images).double().numpy() for images in (x, y))
    by_hand = np.abs(purified - clean).mean() / np.abs(clean).mean()
    assert by_hand > 0.05
    assert training.feature_loss(extractor, x, y).item() == pytest.approx(by_hand, rel=1e-5)
    assert training.feature_loss(extractor, x, x.clone()).item() == 0
    larger = training.feature_loss(conv3(factor=100), x, y)
    assert larger.item() == pytest.approx(by_hand, rel=1e-4)


def test_only_the_purified_images_get_the_gradient_of_the_feature_loss(pairs, extractor):
    x, y = (images.clone().requires_grad_(True) for images in pairs[0])
    training.feature_loss(extractor, x, y).backward()
    assert x.grad is None and y.grad.abs().max() > 0


# Updates.


class Affine(nn.Module):
    """A purifier of six numbers, in whole precision whatever surrounds it."""

    def __init__(self, width=0, blocks=0):
        super().__init__()
        self.scale, self.shift = (nn.Parameter(torch.full((3, 1, 1), value)) for value in (0.7, 0.2))

    def forward(self, x):
        return self.scale * x + self.shift


@pytest.mark.parametrize("count", [1, 2])
def test_the_purifiers_update_is_adams_step_on_the_mean_of_the_losses(pairs, extractor, monkeypatch, count):
    """Three steps at different rates: the first alone would only show the gradient's sign."""
    monkeypatch.setitem(training.PURIFIERS, "nrp_resg", Affine)
    recipe = spec(adversarial=0, pixel=0.3, feature=2.0, init="random", accumulate=count)
    parts = parts_of(recipe)
    values, first, second = np.array([0.7] * 3 + [0.2] * 3), np.zeros(6), np.zeros(6)
    for step, rate in enumerate([0.01, 0.03, 0.02], 1):
        slopes, expected = [], []
        for x, x_adv in pairs[-count:]:
            number = torch.tensor(values, dtype=torch.float32, requires_grad=True)
            y = number[:3, None, None] * x_adv + number[3:, None, None]
            pixel = (y - x).abs().mean()
            feature = (extractor(y) - extractor(x)).abs().mean() / extractor(x).abs().mean()
            slopes += torch.autograd.grad(0.3 * pixel + 2 * feature, number)
            expected.append([pixel.item(), feature.item()])
        slope = torch.stack(slopes).mean(0).double().numpy()
        first, second = 0.9 * first + 0.1 * slope, 0.99 * second + 0.01 * slope**2
        values = values - rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.99**step)) + 1e-8)
        losses = training.update(recipe, parts, extractor, pairs[-count:], rate)
        assert losses[1:3] == pytest.approx(np.mean(expected, 0), rel=1e-4)
        found = torch.cat([parts.purifier.scale, parts.purifier.shift]).flatten().tolist()
        assert found == pytest.approx(values, rel=1e-4, abs=1e-6)


def gradients(module: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in module.parameters()])


@pytest.mark.parametrize("part", ["purifier", "critic"])
def test_accumulated_batches_give_the_mean_of_their_gradients(pairs, extractor, part):
    """All losses, the critic's too; large weights, so that no term is lost in rounding."""
    recipe = spec(adversarial=1.0, init="random")
    found = []
    for chosen in (pairs, pairs[:1], pairs[1:]):
        parts = parts_of(recipe)
        losses = training.update(recipe, parts, extractor, chosen, 1e-3)
        found.append((gradients(getattr(parts, part)), losses))
    (both, losses), (one, losses_one), (other, losses_other) = found
    mean = (one + other) / 2
    assert (one - other).abs().max() > 0.1 * mean.abs().max()
    assert torch.allclose(both, mean, atol=1e-4 * mean.abs().max().item(), rtol=1e-3)
    assert losses == pytest.approx(np.mean([losses_one, losses_other], 0), rel=1e-5)


def test_the_critic_learns_from_the_images_that_the_purifier_was_judged_by(pairs, extractor):
    recipe = spec(adversarial=1.0, init="random")
    parts = parts_of(recipe)
    x, x_adv = pairs[0]
    before = copy.deepcopy(parts)
    training.update(recipe, parts, extractor, pairs[:1], 0.05)
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
        training.update(recipe, parts, extractor, pairs[:1], 1e-3)
        found.append(gradients(parts.purifier))
    assert not found[0].any() and found[1].abs().max() > 0
    assert torch.allclose(2 * found[1], found[2], rtol=1e-3, atol=1e-7)


# Crops and batches.


def test_a_batch_depends_on_its_step_and_part_alone(data):
    first, again = (training.batch(spec(), data, 3, 1) for _ in range(2))
    others = [training.batch(recipe, data, *at) for recipe, at in
              [(spec(), (3, 0)), (spec(), (4, 1)), (spec(accumulate=2), (3, 1)), (spec(seed=1), (3, 1))]]  # fmt: skip
    assert torch.equal(first, again)
    assert not any(torch.equal(first, other) for other in others)


def test_crops_of_the_same_images_differ_between_steps_and_parts(scenes):
    alike = scenes[0][:1] * 8
    found = [training.batch(spec(accumulate=2), alike, step, part) for step in (0, 1) for part in (0, 1)]
    assert not any(torch.equal(found[a], found[b]) for a in range(4) for b in range(a))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_epoch_sees_each_image_once(accumulate):
    images = [torch.full((3, SIDE, SIDE), k, dtype=torch.uint8) for k in range(16)]
    recipe = spec(accumulate=accumulate)
    for epoch in range(2):
        steps = range(epoch * 4 // accumulate, (epoch + 1) * 4 // accumulate)
        batches = [training.batch(recipe, images, step, part) for step in steps for part in range(accumulate)]
        assert sorted((torch.cat(batches)[:, 0, 0, 0] * 255).round().int().tolist()) == list(range(16))


@pytest.mark.parametrize("shape", [(31, 48), (48, 31)])
def test_an_image_smaller_than_a_crop_is_refused_in_one_line(shape):
    images = [torch.zeros(3, *shape, dtype=torch.uint8)] * 4
    height, width = shape
    with pytest.raises(ValueError, match=rf"^an image of {width}x{height} pixels holds no crop of 32x32") as error:
        training.batch(spec(), images, 0, 0)
    assert "\n" not in str(error.value)


# Adversaries.


def levels(x, x_adv):
    return ((x_adv - x) * 255).abs().amax((1, 2, 3)).round(decimals=3)


@pytest.fixture
def x(data):
    return training.crops(SIDE, data, range(6), generator("x"))


@pytest.mark.parametrize("start", ["perturbed", "noise"])
def test_fixed_budgets_are_used_whole_and_kept(x, extractor, start):
    x_adv = training.adversaries(spec(ssp_start=start, ssp_steps=3), extractor, x, "k")
    assert levels(x, x_adv).tolist() == [16] * 6
    assert 0 <= x_adv.min() and x_adv.max() <= 1
    smaller = training.adversaries(spec(ssp_start=start, ssp_steps=3, eps=5), extractor, x, "k")
    assert levels(x, smaller).tolist() == [5] * 6


def test_uniform_budgets_differ_from_image_to_image(extractor):
    x = torch.full((200, 3, 8, 8), 0.5)
    recipe = spec(budgets="uniform", ssp_steps=3)
    used, later = (levels(x, training.adversaries(recipe, extractor, x, key)) for key in ("0/0", "1/0"))
    assert used.max() <= 16 and (used != later).float().mean() > 0.8
    # Rounded down to whole levels, budgets that are uniform in 0..16 fall evenly on 0..15.
    counts = torch.bincount(used.int(), minlength=16)
    assert len(counts) == 16 and (counts > 2).all() and (counts < 30).all()


def test_steps_are_as_large_and_as_many_as_the_recipe_says(x, extractor):
    begun = training.adversaries(spec(step=0, ssp_steps=1), extractor, x, "k")
    moved = training.adversaries(spec(step=1.5, ssp_steps=4), extractor, x, "k")
    way = ((moved - begun) * 255).abs().round()
    assert 5 <= way.max() <= 7  # four steps of one and a half, rounded


@pytest.mark.parametrize("budgets", ["fixed", "uniform"])
def test_an_adversary_depends_on_its_image_and_key_alone(x, extractor, budgets):
    recipe = spec(budgets=budgets)
    whole, again = (training.adversaries(recipe, extractor, x, "3/1") for _ in range(2))
    part = training.adversaries(recipe, extractor, x[:2], "3/1")
    others = torch.cat([x[:2], x[:4].flip(-1)])
    mixed = training.adversaries(recipe, extractor, others, "3/1")
    assert torch.equal(whole, again)
    for found in (part, mixed[:2]):
        assert (found != whole[:2]).float().mean() < 0.001
    for changed in (
        training.adversaries(recipe, extractor, x, "4/1"),
        training.adversaries(recipe.model_copy(update={"seed": 1}), extractor, x, "3/1"),
    ):
        assert (changed != whole).float().mean() > 0.1


def test_adversaries_are_far_in_the_features_of_the_extractor(x, extractor):
    x_adv = training.adversaries(spec(ssp_steps=5), extractor, x, "k")
    noise = (x + 16 / 255 * torch.randn(x.shape, generator=generator("noise")).sign()).clamp(0, 1)
    far, near = (training.feature_loss(extractor, x, other).item() for other in (x_adv, noise))
    assert far > 1.5 * near


# The beginning.


@pytest.mark.parametrize("architecture", ["nrp", "nrp_resg"])
def test_a_purifier_begins_as_the_identity_or_with_random_weights(x, architecture):
    built = network(architecture=architecture, blocks=2)
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


# Whole trainings.


def fit(recipe, data, extractor, folder, name="x", built=None):
    return training.fit(recipe, built or network(), data, extractor, folder / f"{name}.ckpt", folder / name)


def test_training_brings_the_features_of_adversaries_back(scenes, tmp_path):
    torch.manual_seed(0)
    extractor = Tap(ARCHITECTURES["vgg16"](12).eval().requires_grad_(False), "features.relu3_3")
    recipe = spec(steps=60, batch=8)
    purifier, curves, seconds = fit(recipe, scenes[0], extractor, tmp_path, built=network(width=16, blocks=2))
    feature = curves.table()["feature"]
    assert len(feature) == 60 and feature[-10:].mean() < 0.7 * feature[:5].mean()
    assert not purifier.training and seconds > 0
    # Of scenes that it has never seen, too.
    x = training.crops(recipe.crop, scenes[1], range(16), generator("held out"))
    x_adv = training.adversaries(recipe, extractor, x, "held out")
    with torch.no_grad():
        before, after = (training.feature_loss(extractor, x, y).item() for y in (x_adv, purifier(x_adv)))
    assert after < 0.7 * before


def test_a_stopped_run_ends_with_the_same_weights_losses_and_sheets(
    data, extractor, tmp_path, interruptions, monkeypatch
):
    monkeypatch.setattr(training.samples, "LOGGED", 2)  # a row every three steps, so the stop falls between two
    recipe = spec(steps=6, accumulate=2, budgets="uniform", init="random")

    def train(name):
        torch.rand(1)  # the state of the global generator must not matter
        return fit(recipe, data, extractor, tmp_path, name)

    whole, curves, _ = train("whole")
    interruptions.stop(4, lambda: train("stopped"))
    (resumed, continued, seconds), steps = interruptions.steps(lambda: train("stopped"))
    assert steps == [4, 5]  # it did go on, and did not start again
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert continued.rows == curves.rows and [row[0] for row in curves.rows] == [3, 6]
    sheets = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert sheets == [f"epoch_000{k}.png" for k in range(1, 7)]
    for name in sheets:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()
    state = torch.load(tmp_path / "stopped.ckpt", weights_only=True)
    assert 0 < state["seconds"] <= seconds


def test_a_run_that_lost_steps_makes_them_again(data, extractor, tmp_path, interruptions, monkeypatch):
    """As after a kill between two checkpoints."""
    whole, curves, _ = fit(spec(), data, extractor, tmp_path, "whole")
    keep = training.loop.save
    monkeypatch.setattr(training.loop, "save", lambda *state: keep(*state) if state[3] == 2 else None)
    interruptions.stop(5, lambda: fit(spec(), data, extractor, tmp_path))
    (resumed, continued, _), steps = interruptions.steps(lambda: fit(spec(), data, extractor, tmp_path))
    assert steps == [2, 3, 4, 5, 6] and continued.rows == curves.rows
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_checkpoints_are_as_rare_as_the_recipe_says(data, extractor, tmp_path, monkeypatch):
    monkeypatch.setattr(training.loop, "CHECKPOINT_SECONDS", 0.0)
    fit(spec(steps=3, checkpoint_minutes=5), data, extractor, tmp_path, "rare")
    fit(spec(steps=3, checkpoint_minutes=0), data, extractor, tmp_path, "often")
    assert not (tmp_path / "rare.ckpt").exists() and (tmp_path / "often.ckpt").exists()


@pytest.mark.parametrize("changed", ["nothing", "recipe", "network", "extractor", "images", "code"])
def test_a_checkpoint_of_something_else_is_not_continued(
    changed, data, extractor, tmp_path, interruptions, monkeypatch
):
    interruptions.stop(3, lambda: fit(spec(steps=4), data, extractor, tmp_path))
    if changed == "code":
        monkeypatch.setattr(training, "CODE", "other code")
    recipe = spec(steps=4, **({"pixel": 0.5} if changed == "recipe" else {}))
    built = network(width=4) if changed == "network" else network()
    seen = conv3(seed=1) if changed == "extractor" else extractor
    images = [*data[:-1], data[-1].flip(-1)] if changed == "images" else data
    _, steps = interruptions.steps(lambda: fit(recipe, images, seen, tmp_path, built=built))
    assert steps[0] == (3 if changed == "nothing" else 0)


# The command.


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The command, whose scale trains a tiny NRP for six steps."""
    made = Command(monkeypatch, tmp_path / "project", training, "purifiers", "NRP")
    made.scale["networks"]["NRP"] |= {"width": 4, "blocks": 1}
    made.change(steps=6, batch=2, ssp_steps=1, critic_width=2, checkpoint_minutes=0)
    return made


def test_the_command_trains_on_any_folder_and_writes_all_that_it_promises(command, photographs, capsys):
    command("NRP", "--images", photographs)
    said = capsys.readouterr().out
    assert said.startswith("NRP: 6 steps on 7 images, ") and said.count("\n") == 1
    results, weights = command.root / "results" / "mini", command.root / "models" / "mini" / "NRP.safetensors"
    record = json.loads((results / "metrics" / "networks" / "NRP.json").read_text())
    assert set(record) == {
        *("images", "steps", "crops", "crops_per_second", "device", "device_hours", "seconds", "parameters", "sha256")
    }
    assert (record["images"], record["steps"], record["crops"]) == (7, 6, 12)
    assert record["crops_per_second"] == pytest.approx(12 / record["seconds"], rel=0.5)
    assert record["device_hours"] == pytest.approx(record["seconds"] / 3600, abs=6e-4)
    assert record["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    # Two 3x3 convolutions between 3 and 4 channels, two among 4, each with a bias.
    assert record["parameters"] == (3 * 4 * 9 + 4) + 2 * (4 * 4 * 9 + 4) + (4 * 3 * 9 + 3)
    assert sum(value.numel() for value in load_file(weights).values()) == record["parameters"]
    losses = pd.read_csv(results / "data" / "NRP_losses.csv")
    assert list(losses) == ["step", *training.LOSSES] and losses["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert np.isfinite(losses).all(axis=None) and (losses > 0).all(axis=None)
    # Seven images make three batches of two: an epoch is three steps.
    sheets = sorted((results / "sheets" / "NRP").iterdir())
    assert [path.name for path in sheets] == ["epoch_0001.png", "epoch_0002.png"]
    written = {path.name for path in (command.root / "models" / "mini").iterdir()}
    assert written == {"VGG-16.safetensors", "NRP.safetensors"}  # no checkpoint is left
    purifier = zoo.load("NRP", settings.load("mini"))
    assert all(torch.equal(value, purifier.state_dict()[name]) for name, value in load_file(weights).items())


def test_a_sheet_shows_clean_adversary_purified_and_what_was_taken_away(command, photographs):
    command("NRP", "--images", photographs)
    sheet = tiles(command.results / "sheets" / "NRP" / "epoch_0002.png")
    images = unlabelled(str(photographs))
    for column in range(6):
        assert places(sheet[0, column], images[column])
    clean, attacked, purified, difference = sheet.int()
    moved = (attacked - clean).abs().flatten(1).amax(1)
    assert moved.max() <= 16 and len(set(moved.tolist())) > 1  # uniform budgets at this scale
    assert (purified != attacked).any()
    expected = (127.5 + 10 * (attacked - purified)).clamp(0, 255)
    assert (difference - expected).abs().max() <= 6  # the purified images were rounded: half a level, ten times


def test_the_images_of_the_scale_are_taken_unless_others_are_named(command, photographs, monkeypatch):
    asked = []

    def small(source):
        asked.append(source)
        return unlabelled(str(photographs))

    monkeypatch.setattr(training, "unlabelled", small)
    command("NRP")
    assert asked == ["world"]


def test_a_killed_command_goes_on_and_counts_the_time_of_both_runs(command, photographs, interruptions):
    interruptions.stop(4, lambda: command("NRP", "--images", photographs))
    weights = command.root / "models" / "mini" / "NRP.safetensors"
    assert not weights.exists()
    before = torch.load(weights.with_suffix(".ckpt"), weights_only=True)["seconds"]
    _, steps = interruptions.steps(lambda: command("NRP", "--images", photographs))
    assert steps == [4, 5] and not weights.with_suffix(".ckpt").exists()
    resumed = weights.read_bytes()
    record = json.loads((command.root / "results" / "mini" / "metrics" / "networks" / "NRP.json").read_text())
    assert record["seconds"] >= round(before, 1)
    command("NRP", "--images", photographs)
    assert weights.read_bytes() == resumed


def test_errors_are_one_line_that_says_what_to_do(command, photographs, tmp_path):
    assert "no purifier 'NPR' in scales/mini.yaml, only NRP" in command.failure("NPR")
    assert "none: neither here nor in the repository nor in $COMPANION_ASSETS" in command.failure(
        "NRP", "--images", "none"
    )
    (tmp_path / "empty").mkdir()
    assert "no images here" in command.failure("NRP", "--images", tmp_path / "empty")
    picture(photographs / "tiny.png", 0, 20, 90)
    assert "90x20 pixels hold no crop of 32x32" in command.failure("NRP", "--images", photographs)
    (photographs / "tiny.png").write_bytes(b"<html>")
    assert "tiny.png: corrupt image" in command.failure("NRP", "--images", photographs)
    (photographs / "tiny.png").unlink()
    picture(tmp_path / "empty" / "one.png", 0, 40, 40)
    assert "1 training images do not fill a batch of 2" in command.failure("NRP", "--images", tmp_path / "empty")
    (command.root / "models" / "mini" / "VGG-16.safetensors").unlink()
    said = command.failure("NRP", "--images", photographs)
    assert "VGG-16: no weights (models/mini/VGG-16.safetensors); to get them: " in said and "dvc repro" in said
