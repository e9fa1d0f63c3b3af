"""lib/training/classifiers.py and augment.py: recipes, resuming, records."""

import hashlib
import json
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.fft import dctn
from torch import nn

from lib import settings
from lib.attacks.transport import fsa
from lib.data.world import World
from lib.rng import generator
from lib.settings import StandIn
from lib.training import __main__ as command_line
from lib.training import augment, classifiers, loop

EPS = 16


def tiny_world(count: int, seed: int) -> World:
    """Two classes: bright above, or bright below; with coarse noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = rng.integers(60, 120, (count, 48, 48, 3))
    for image, label in zip(images, labels, strict=True):
        image[24 * label : 24 * label + 24] += 70
    nothing = np.zeros((count, 48, 48), np.uint8)
    ids = [f"tiny-{seed}-{k}" for k in range(count)]
    return World(images.astype(np.uint8), labels, ids, [], [], nothing, nothing)


def spec(recipe="natural", **changes) -> StandIn:
    fields = {"architecture": "inception_resnet_v2", "recipe": recipe, "epochs": 3, "batch": 16, "lr": 4e-3}
    return StandIn(**fields | {"eps": EPS, "step": 8, "steps": 2} | changes)


@pytest.fixture(scope="module")
def data():
    return tiny_world(96, 0)


@pytest.fixture(scope="module")
def batch(data):
    return classifiers.images(data)[:16].float() / 255, torch.from_numpy(data.labels)[:16]


@pytest.fixture
def victim():
    torch.manual_seed(1)
    return classifiers.build("inception_v3", 2)


def loss(network: nn.Module, x, y) -> torch.Tensor:
    with torch.no_grad():
        return nn.functional.cross_entropy(network.eval()(x), y, reduction="none")


def weights(fitted: tuple[nn.Module, float]) -> dict:
    return {name: value.clone() for name, value in fitted[0].state_dict().items()}


def test_training_learns_and_the_record_is_true(data, tmp_path):
    out = tmp_path / "mini" / "Tiny.safetensors"
    path = tmp_path / "records" / "Tiny.json"
    record = classifiers.train(spec(epochs=5), data, tiny_world(100, 1), 2, out, path)
    assert record["accuracy"] > 0.9
    assert record == json.loads(path.read_text())
    assert record["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert sorted(path.name for path in out.parent.iterdir()) == ["Tiny.safetensors"]
    restored = classifiers.restore("inception_resnet_v2", 2, out)
    assert set(load_file(out)) == set(restored.network.state_dict())
    test = tiny_world(100, 1)
    x, y = classifiers.images(test).float() / 255, torch.from_numpy(test.labels)
    with torch.no_grad():
        right = (restored(x).argmax(1) == y).float().mean().item()
    assert right == pytest.approx(record["accuracy"], abs=0.011)


@pytest.mark.parametrize("recipe", ["natural", "ensemble", "scatter"])
def test_a_killed_run_ends_with_the_same_weights(data, tmp_path, interruptions, recipe, victim):
    sources = [victim] if recipe == "ensemble" else []

    def train(name):
        return classifiers.fit(spec(recipe, epochs=2), data, 2, tmp_path / f"{name}.ckpt", sources)

    whole = train("whole")
    interruptions.stop(7, lambda: train("killed"))
    resumed, steps = interruptions.steps(lambda: train("killed"))
    assert steps == list(range(7, 12))  # it did go on, and did not start again
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name


@pytest.mark.parametrize("changed", ["recipe", "smoothing", "data"])
def test_a_checkpoint_of_another_recipe_or_data_is_not_continued(data, tmp_path, interruptions, changed):
    path = tmp_path / "x.ckpt"
    interruptions.stop(7, lambda: classifiers.fit(spec(epochs=2), data, 2, path))
    changes = {"recipe": {"lr": 1e-3}, "smoothing": {"smoothing": 0.1}}
    recipe = spec(epochs=2, **changes.get(changed, {}))
    scenes = tiny_world(96, 5) if changed == "data" else data
    assert interruptions.steps(lambda: classifiers.fit(recipe, scenes, 2, path))[1][0] == 0


def test_a_checkpoint_that_does_not_fit_is_said_to_be_left_alone_and_written_over_later(tmp_path, capsys):
    path, layer = tmp_path / "x.ckpt", nn.Linear(2, 2)
    loop.save({"layer": layer}, path, "one recipe", 7, 1.5)
    kept, other = path.read_bytes(), nn.Linear(2, 2)
    before = other.weight.clone()
    assert loop.resume({"layer": other}, path, "another") == (0, 0.0)
    said = "x.ckpt: 7 steps of another recipe, other data or other code; begins anew\n"
    assert capsys.readouterr() == ("", said)
    assert path.read_bytes() == kept and torch.equal(other.weight, before)
    assert loop.resume({"layer": other}, path, "one recipe") == (7, 1.5)
    assert torch.equal(other.weight, layer.weight) and capsys.readouterr().err == ""
    assert loop.resume({"layer": other}, tmp_path / "none.ckpt", "another") == (0, 0.0)
    assert capsys.readouterr().err == ""
    loop.run(lambda step: 0.0, {"layer": other}, 2, path, "another", every=0)
    assert loop.resume({"layer": other}, path, "another")[0] == 2


def test_seeds_decide_the_weights(data, tmp_path):
    runs = [classifiers.fit(spec(epochs=1, seed=s), data, 2, tmp_path / "none.ckpt") for s in (3, 3, 4)]
    first, again, other = (weights(run)["network.head.weight"] for run in runs)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_natural_recipe_leaves_the_batch_alone(batch, victim):
    x, y = batch
    assert torch.equal(classifiers.adversaries(spec(), victim, [], x, y, 0, 1.0), x)


def test_fgsm_attacks_half_of_the_batch_within_the_budget(batch, victim):
    x, y = batch
    x_adv = classifiers.adversaries(spec("fgsm"), victim, [], x, y, 0, 1.0)
    moved = (x_adv - x).abs().amax((1, 2, 3)) * 255
    assert (moved[8:] == 0).all() and (moved[:8] > 0).any() and moved.max() <= EPS + 1e-3
    assert len(set(moved[:8].round().tolist())) > 3  # a budget of its own for each image
    assert loss(victim, x_adv[:8], y[:8]).mean() > loss(victim, x[:8], y[:8]).mean()


def test_pgd_attacks_the_whole_batch_with_a_rising_budget(batch, victim):
    x, y = batch
    late = classifiers.adversaries(spec("pgd"), victim, [], x, y, 0, 1.0)
    early = classifiers.adversaries(spec("pgd"), victim, [], x, y, 0, 0.4)
    assert ((late - x).abs().amax((1, 2, 3)) * 255).round().tolist() == [EPS] * len(x)
    assert 0 < (early - x).abs().max() * 255 < EPS / 2
    assert torch.equal(classifiers.adversaries(spec("pgd"), victim, [], x, y, 0, 0.1), x)
    assert loss(victim, late, y).mean() > loss(victim, x, y).mean()


def test_scatter_attacks_the_whole_batch_with_feature_scattering_and_a_rising_budget(batch, victim):
    x, y = batch
    recipe = spec("scatter", eps=8, step=3, steps=2, seed=5)
    late = classifiers.adversaries(recipe, victim, [], x, y, 4, 1.0)
    # One transport plan for the batch, whatever the labels.
    schedule = {"eps": 8 / 255, "step": 3 / 255, "steps": 2, "batch": 16}
    assert torch.equal(late, fsa(victim, x, ids=range(16), seed=9, **schedule))
    assert torch.equal(late, classifiers.adversaries(recipe, victim, [], x, 1 - y, 4, 1.0))
    for change in ({"eps": 4 / 255}, {"step": 1 / 255}, {"steps": 1}, {"batch": 8}):
        assert not torch.equal(late, fsa(victim, x, ids=range(16), seed=9, **schedule | change)), change
    assert not torch.equal(late, classifiers.adversaries(recipe, victim, [], x, y, 5, 1.0))  # another start
    assert ((late - x).abs().amax((1, 2, 3)) * 255).round().tolist() == [8] * 16
    early = classifiers.adversaries(recipe, victim, [], x, y, 4, 0.4)
    share = (0.4 - 0.3) / (0.6 - 0.3)
    schedule |= {"eps": share * 8 / 255, "step": share * 3 / 255}
    assert torch.equal(early, fsa(victim, x, ids=range(16), seed=9, **schedule))
    assert 0 < (early - x).abs().max() * 255 < 4
    assert torch.equal(classifiers.adversaries(recipe, victim, [], x, y, 4, 0.1), x)


def test_scatter_trains_on_the_adversaries_of_the_network_as_it_is_then(data, tmp_path, monkeypatch):
    calls, trained = [], []
    build = classifiers.build

    def watched(*arguments):
        victim = build(*arguments)
        victim.register_forward_hook(
            lambda module, inputs, output: trained.append(inputs[0].detach()) if module.training else None
        )
        return victim

    def spied(victim, x, **options):
        weight = victim.network.head.weight.detach().clone()
        mode = victim.training
        x_adv = fsa(victim, x, **options)
        assert victim.training == mode
        calls.append((victim, weight, options, x, x_adv))
        return x_adv

    monkeypatch.setattr(classifiers, "build", watched)
    monkeypatch.setattr(classifiers, "fsa", spied)
    recipe = spec("scatter", epochs=2, eps=8, step=8, steps=1)
    fitted, _ = classifiers.fit(recipe, data, 2, tmp_path / "x.ckpt")
    # Twelve steps; the budget begins to rise at 0.3 of them and is full at 0.6.
    shares = [max(0.0, min(1.0, (step / 12 - 0.3) / 0.3)) for step in range(12)]
    assert len(trained) == 12 and len(calls) == sum(share > 0 for share in shares) == 8
    for (victim, _, options, x, x_adv), seen, share in zip(calls, trained[4:], shares[4:], strict=True):
        assert victim is fitted and torch.equal(seen, x_adv) and not torch.equal(x, x_adv)
        assert options["eps"] == pytest.approx(share * 8 / 255) and options["step"] == pytest.approx(share * 8 / 255)
        assert options["steps"] == 1 and options["batch"] == len(x) == 16
        assert (x_adv - x).abs().max() <= share * 8 / 255 + 1 / 255  # the clean crops are no 8-bit images
    heads = [weight for _, weight, *_ in calls]
    assert not any(torch.equal(*pair) for pair in pairwise(heads))
    assert len({options["seed"] for _, _, options, *_ in calls}) == 8


@pytest.mark.parametrize("delta", [0, 0.1, 0.5])
@pytest.mark.parametrize("classes", [2, 5])
def test_smoothing_is_feature_scatters(data, tmp_path, monkeypatch, delta, classes):
    """The true class keeps 1 - delta, the others share delta (utils.py, label_smoothing)."""
    logits, losses = [], []
    build, run = classifiers.build, loop.run

    def watched(*arguments):
        victim = build(*arguments)
        victim.register_forward_hook(lambda module, inputs, output: logits.append(output.detach().double().numpy()))
        return victim

    def first(advance, *rest):
        losses.append(advance(0))
        return 1.0

    monkeypatch.setattr(classifiers, "build", watched)
    monkeypatch.setattr(loop, "run", first)
    classifiers.fit(spec(smoothing=delta), data, classes, tmp_path / "x.ckpt")
    monkeypatch.setattr(loop, "run", run)
    (found,) = logits
    labels = data.labels[loop.shuffled(96, 16, 0, 0).numpy()]
    targets = np.full((16, classes), delta / (classes - 1))
    targets[np.arange(16), labels] = 1 - delta
    likelihood = found - np.log(np.exp(found).sum(1, keepdims=True))
    assert losses[0] == pytest.approx(-(targets * likelihood).sum(1).mean(), rel=1e-5)
    one_hot = np.eye(classes)[labels]
    assert np.allclose(targets, (1 - delta - delta / (classes - 1)) * one_hot + delta / (classes - 1))


@pytest.mark.parametrize("delta", [-0.1, 0.51])
def test_labels_that_give_away_more_than_half_are_refused(delta):
    with pytest.raises(ValueError, match="smoothing"):
        spec(smoothing=delta)


def test_ensemble_takes_its_networks_in_turn(batch, victim):
    x, y = batch
    torch.manual_seed(2)
    others = [classifiers.build(name, 2) for name in ("vgg16", "resnet50")]
    calls = []
    for network in [victim, *others]:
        network.register_forward_hook(lambda module, inputs, output: calls.append(module))
    for step, attacked in enumerate([victim, *others, victim]):
        calls.clear()
        classifiers.adversaries(spec("ensemble"), victim, others, x, y, step, 1.0)
        assert set(calls) == {attacked}


def test_kurakin_budgets_follow_the_truncated_normal_distribution():
    drawn = classifiers.kurakin_eps(20_000, 16.0, generator("test")).flatten()
    normal = torch.randn(200_000, generator=generator("reference")).abs() * 8
    normal = normal[normal <= 16]
    quantiles = torch.linspace(0.05, 0.95, 10)
    assert torch.allclose(drawn.quantile(quantiles), normal.quantile(quantiles), atol=0.3)
    assert 0 <= drawn.min() and drawn.max() <= 16


def test_the_learning_rate_rises_then_falls_to_nothing():
    rates = [loop.rise_and_fall(1.0, k / 100) for k in range(101)]
    assert max(rates) == pytest.approx(1.0) and rates[-1] == pytest.approx(0) and rates[0] > 0
    peak = rates.index(max(rates))
    assert all(a < b for a, b in pairwise(rates[: peak + 1])) and all(a > b for a, b in pairwise(rates[peak:]))


def test_every_epoch_sees_each_image_once():
    for epoch in range(2):
        seen = torch.cat([loop.shuffled(96, 16, 6 * epoch + place, 0) for place in range(6)])
        assert sorted(seen.tolist()) == list(range(96))


def test_augmentation_depends_on_its_generator_alone(data):
    x = classifiers.images(data)
    first, again, other = (augment.augmented(x, generator("a", k), 16 / 255) for k in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.min() >= 0 and first.max() <= 1 and first.shape == x.shape


def test_the_cosine_transform_is_scipys():
    block = torch.rand(8, 8, generator=generator("block"))
    matrix = augment._cosines()
    expected = torch.from_numpy(dctn(block.numpy(), norm="ortho"))
    assert torch.allclose(matrix @ block @ matrix.T, expected, atol=1e-5)


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


def test_unknown_architectures_and_missing_weights_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"unknown architecture 'vgg17'.*vgg16"):
        classifiers.build("vgg17", 2)
    with pytest.raises(FileNotFoundError, match=r"python -m lib.training Inc-v3"):
        classifiers.restore("inception_v3", 2, tmp_path / "Inc-v3.safetensors")


def test_the_command_trains_by_name_and_takes_its_sources_from_the_models(data, tmp_path, monkeypatch):
    stand_ins = {"First": spec(epochs=1), "Second": spec("ensemble", epochs=1, sources=["First"])}
    monkeypatch.setattr(settings, "load", lambda scale: SimpleNamespace(name=scale, stand_ins=stand_ins))
    monkeypatch.setattr(
        command_line.world, "load", lambda root, split: data if split == "train" else tiny_world(100, 1)
    )
    with pytest.raises(FileNotFoundError, match=r"python -m lib.training First"):
        command_line.run("Second", "mini", tmp_path / "models", tmp_path / "results")
    with pytest.raises(KeyError, match=r"unknown stand-in 'Third'.*First, Second"):
        command_line.run("Third", "mini", tmp_path / "models", tmp_path / "results")
    for name in stand_ins:
        command_line.run(name, "mini", tmp_path / "models", tmp_path / "results")
        assert (tmp_path / "models" / "mini" / f"{name}.safetensors").is_file()
        assert (tmp_path / "results" / "mini" / "metrics" / "networks" / f"{name}.json").is_file()
