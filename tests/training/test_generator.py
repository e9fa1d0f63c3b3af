"""lib/training/generator.py: the loss and the updates by hand, crops, fooling, resuming, the command."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torchvision.transforms import functional as vision

from lib import settings, zoo
from lib.attacks.generators import cda
from lib.data.renderings import RENDERINGS
from lib.data.unlabelled import unlabelled
from lib.networks.precision import Bf16
from lib.settings import GeneratorSpec, NetworkSpec
from lib.training import generator as training
from lib.training import loop
from tests.conftest import tiny_network
from tests.training.conftest import SIDE, Command, picture, places, tiles


def spec(**changes) -> GeneratorSpec:
    fields = {"images": "world", "classifier": "VGG-16", "resize": None, "side": SIDE, "crops": "random", "batch": 4}
    return GeneratorSpec(**fields | {"steps": 6, "lr": 4e-3, "checkpoint_minutes": 0} | changes)


def network(**changes) -> NetworkSpec:
    fields = {"role": "CDA", "task": "generation", "family": "cda_generator", "architecture": "cda_generator"}
    return NetworkSpec(**fields | {"width": 4, "blocks": 1} | changes)


@pytest.fixture
def classifier():
    return tiny_network().requires_grad_(False)


@pytest.fixture(scope="module")
def scenes():
    return unlabelled("world")[:9]


def fit(recipe, data, classifier, folder, name="x", built=None):
    return training.fit(recipe, built or network(), data, classifier, folder / f"{name}.ckpt", folder / name)


# The loss.


def by_hand(logits, clean):
    """Minus the mean cross-entropy of the difference to the class of the clean image, in NumPy."""
    change = logits - clean
    chosen = change[np.arange(len(change)), clean.argmax(1)]
    return -np.mean(np.log(np.exp(change).sum(1)) - chosen)


def test_the_loss_is_the_cross_entropy_of_the_change_of_the_logits(count=5, classes=4):
    rng = np.random.default_rng(0)
    found, clean = rng.normal(0, 2, (2, count, classes))
    logits, reference = (torch.tensor(values, requires_grad=True) for values in (found, clean))
    loss = training.relativistic(logits, reference)
    assert loss.item() == pytest.approx(by_hand(found, clean), rel=1e-6)
    loss.backward()
    slopes = np.zeros_like(found)
    for place in np.ndindex(found.shape):
        h = np.zeros_like(found)
        h[place] = 1e-6
        slopes[place] = (by_hand(found + h, clean) - by_hand(found - h, clean)) / 2e-6
    assert logits.grad.numpy() == pytest.approx(slopes, rel=1e-4, abs=1e-7)
    # To lose the class of the clean image is better, whichever class the image has now.
    chosen = logits.grad[torch.arange(count), reference.argmax(1)]
    assert (chosen > 0).all()


def test_a_change_that_is_nothing_costs_minus_the_logarithm_of_the_classes():
    logits = torch.randn(3, 7)
    assert training.relativistic(logits, logits.clone()).item() == pytest.approx(-np.log(7), rel=1e-6)


# Updates.


class Affine(nn.Module):
    """A generator of six numbers, in whole precision whatever surrounds it."""

    remainder = 0

    def __init__(self, width=0, blocks=0):
        super().__init__()
        self.scale, self.shift = (nn.Parameter(torch.full((3, 1, 1), value)) for value in (0.9, 0.04))

    def forward(self, x):
        return self.scale * x + self.shift


def test_updates_are_adams_steps_on_the_loss_of_the_projected_images(scenes, classifier, tmp_path, monkeypatch):
    """Three steps at one rate, Adam's moments 0.5 and 0.999 (train.py)."""
    monkeypatch.setitem(training.GENERATORS, "cda_generator", Affine)
    recipe = spec(steps=3, eps=6, lr=0.02)
    made, curves, _ = training.fit(recipe, network(), scenes, classifier, tmp_path / "x.ckpt")
    values, first, second = np.array([0.9] * 3 + [0.04] * 3), np.zeros(6), np.zeros(6)
    judge, rows = Bf16(classifier), []
    for step in range(3):
        x = training.batch(recipe, scenes, step).to(memory_format=torch.channels_last)
        numbers = torch.tensor(values, dtype=torch.float32, requires_grad=True)
        proposed = numbers[:3, None, None] * x + numbers[3:, None, None]
        x_adv = torch.min(torch.max(proposed, x - 6 / 255), x + 6 / 255).clamp(0, 1)
        clean, logits = judge(x), judge(x_adv)
        change, label = logits - clean, clean.argmax(1)
        loss = -(torch.logsumexp(change, 1) - change[torch.arange(4), label]).mean()
        (slope,) = torch.autograd.grad(loss, numbers)
        slope = slope.double().numpy()
        assert np.abs(slope).max() > 1e-4
        first, second = 0.5 * first + 0.5 * slope, 0.999 * second + 0.001 * slope**2
        values = values - 0.02 * (first / (1 - 0.5 ** (step + 1))) / (
            np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-8
        )
        rows.append([step + 1, loss.item(), (logits.argmax(1) != label).float().mean().item()])
    found = torch.cat([made.scale, made.shift]).flatten().tolist()
    assert found == pytest.approx(values, rel=1e-3, abs=1e-5)
    assert np.allclose(curves.rows, rows, rtol=1e-4)


def test_the_classifier_stays_as_it_is_and_never_trains(scenes, classifier, tmp_path):
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    modes = []
    classifier.register_forward_hook(lambda module, inputs, output: modes.append(
        any(part.training for part in module.modules())))  # fmt: skip
    made, _, seconds = fit(spec(), scenes, classifier, tmp_path)
    assert modes == [False] * 12  # clean and attacked, six times
    assert all(torch.equal(value, before[key]) for key, value in classifier.state_dict().items())
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert not made.training and seconds > 0


# Upright, flat and the two diagonals, as directions (down, right) across the stripes.
ACROSS = ((0, 1), (1, 0), (1, 1), (1, -1))


class Stripes(nn.Module):
    """Tells four directions of stripes by the energy of four filters: no weights that a training made."""

    def __init__(self):
        super().__init__()
        down, right = torch.meshgrid(torch.arange(-2.0, 3), torch.arange(-2.0, 3), indexing="ij")
        waves = torch.stack([torch.sin(torch.pi / 2 * (a * down + b * right)) for a, b in ACROSS])
        kernel = waves / waves.norm(dim=(1, 2), keepdim=True)
        self.filters = nn.Parameter(kernel[:, None].expand(4, 3, 5, 5) / 3, requires_grad=False)

    def forward(self, x):
        return 40 * nn.functional.conv2d(x, self.filters).abs().mean((2, 3))


def striped(count, seed):
    """Weak stripes in one of four directions on random grey, with a little noise, and which of the four they are."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    down, right = np.mgrid[:SIDE, :SIDE]
    images = np.empty((count, 3, SIDE, SIDE))
    for image, label in zip(images, labels, strict=True):
        a, b = ACROSS[label]
        image[:] = rng.uniform(80, 170) + 8 * np.sin(np.pi / 2 * (a * down + b * right) + rng.uniform(0, 2 * np.pi))
        image += rng.normal(0, 2, image.shape)
    return list(torch.from_numpy(images.round().astype(np.uint8))), torch.from_numpy(labels)


def test_a_few_dozen_steps_fool_the_classifier_on_images_never_seen_as_noise_cannot(tmp_path):
    classifier = Stripes().eval()
    recipe = spec(steps=40, batch=8, crops="centre", lr=1e-2, checkpoint_minutes=1)
    made, curves, _ = training.fit(recipe, network(), striped(64, 0)[0], classifier, tmp_path / "x.ckpt")
    images, labels = striped(40, 1)
    x = torch.stack(images).float() / 255
    assert (classifier(x).argmax(1) == labels).all()
    noise = (x + 10 / 255 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).sign()).clamp(0, 1)
    fooled, confused = (
        (classifier(other).argmax(1) != labels).float().mean().item() for other in (cda(made, x, eps=10 / 255), noise)
    )
    assert fooled >= 0.5 and confused <= 0.1
    table = curves.table()
    assert table["loss"].iloc[-10:].mean() < table["loss"].iloc[:3].mean() - 0.5
    assert table["fooled"].iloc[-10:].mean() > table["fooled"].iloc[:3].mean() + 0.3


# Images.


def random_image(height, width, seed=0):
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 6, generator=g)
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    return (255 * smooth + 8 * torch.rand(3, height, width, generator=g)).clamp(0, 255).byte()


@pytest.mark.parametrize(("sides", "expected"), [
    ((60, 90), (40, 60)), ((90, 60), (60, 40)), ((20, 30), (40, 60)), ((80, 80), (40, 40)), ((50, 333), (40, 266)),
])  # fmt: skip
def test_the_shorter_side_is_resized_as_pillow_does(sides, expected):
    image = random_image(*sides)
    found = training.resized(image, 40)
    assert found.shape == (3, *expected) and found.dtype == torch.uint8
    picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(expected[::-1], Image.Resampling.BILINEAR)
    assert (found.int() - torch.from_numpy(np.array(picture)).permute(2, 0, 1).int()).abs().max() <= 1


@pytest.mark.parametrize("side", [None, 40])
def test_images_that_fit_are_left_as_they_are(side):
    image = random_image(40, 55)
    assert torch.equal(training.Prepared([image], side, "none")[0], image)


def test_images_are_rendered_at_the_size_that_is_trained_on():
    image = random_image(80, 110)
    found = training.Prepared([image], 40, "comic")[0]
    assert found.shape == (3, 40, 55)
    assert torch.equal(found, RENDERINGS["comic"](training.resized(image, 40)))
    assert not torch.equal(found, training.resized(RENDERINGS["comic"](image), 40))


def test_images_are_read_once_as_long_as_memory_is_kept_for_them(monkeypatch):
    read = []

    class Watched(list):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    images = Watched(random_image(20, 30, seed) for seed in range(4))
    prepared = training.Prepared(images, 10, "none")
    passes = [[prepared[index] for index in range(4)] for _ in range(2)]
    assert len(prepared) == 4 and read == [0, 1, 2, 3]
    assert all(torch.equal(*pair) for pair in zip(*passes, strict=True))
    read.clear()
    monkeypatch.setattr(training, "KEPT", 2)
    prepared = training.Prepared(images, 10, "none")
    for index in (0, 1, 2, 2, 1, 0):
        prepared[index]
    assert read == [0, 1, 2, 0]  # the last two are kept


@pytest.mark.parametrize("sides", [(32, 32), (48, 60), (60, 32), (34, 50)])
def test_the_centre_is_torchvisions(sides):
    image = random_image(*sides)
    assert torch.equal(training.centre(image, SIDE), vision.center_crop(image, SIDE))


@pytest.mark.parametrize("crops", ["centre", "random"])
def test_images_smaller_than_a_crop_are_refused_in_one_line(crops):
    data = [random_image(48, 31)] * 4
    with pytest.raises(ValueError, match=r"31x48 pixels holds no crop of 32x32") as error:
        training.batch(spec(crops=crops), data, 0)
    assert "\n" not in str(error.value)


def test_centre_crops_are_the_same_in_every_epoch_and_random_ones_are_not():
    data = [random_image(48, 60, seed) for seed in range(4)]
    for crops in ("centre", "random"):
        recipe, found = spec(crops=crops), []
        for step in (0, 1):
            chosen = loop.shuffled(4, 4, step, 0)
            found.append(training.batch(recipe, data, step)[chosen.argsort()])
        assert torch.equal(*found) == (crops == "centre")
        for epoch in found:
            spots = [places((crop * 255).round().byte(), image) for crop, image in zip(epoch, data, strict=True)]
            assert all(len(spot) == 1 for spot in spots)
            assert ({spot[0] for spot in spots} == {(8, 14, False)}) == (crops == "centre")


def test_every_epoch_sees_each_image_once_and_a_batch_depends_on_its_step_alone():
    data = [torch.full((3, SIDE, SIDE), k, dtype=torch.uint8) for k in range(16)]
    for epoch in range(2):
        batches = [training.batch(spec(), data, 4 * epoch + k) for k in range(4)]
        assert sorted((torch.cat(batches)[:, 0, 0, 0] * 255).round().int().tolist()) == list(range(16))
    assert torch.equal(batches[3], training.batch(spec(), data, 7))
    assert not torch.equal(batches[3], training.batch(spec(seed=1), data, 7))


# Resuming.


@pytest.mark.parametrize("architecture", ["cda_generator", "cda_generator_inception"])
def test_a_stopped_run_ends_with_the_same_weights_losses_and_sheets(
    scenes, classifier, tmp_path, interruptions, monkeypatch, architecture
):
    monkeypatch.setattr(training.samples, "LOGGED", 2)  # a row every three steps, so the stop falls between two

    def train(name):
        torch.rand(1)  # the state of the global generator must not matter
        return fit(spec(), scenes, classifier, tmp_path, name, network(architecture=architecture))

    whole, curves, _ = train("whole")
    interruptions.stop(4, lambda: train("stopped"))
    (resumed, continued, seconds), steps = interruptions.steps(lambda: train("stopped"))
    assert steps == [4, 5]  # it did go on, and did not start again
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert continued.rows == curves.rows and [row[0] for row in curves.rows] == [3, 6]
    sheets = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert sheets == ["epoch_0001.png", "epoch_0002.png", "epoch_0003.png"]  # nine images are two batches of four
    for name in sheets:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()
    assert 0 < torch.load(tmp_path / "stopped.ckpt", weights_only=True)["seconds"] <= seconds


def test_the_last_step_has_a_sheet_too(scenes, classifier, tmp_path):
    fit(spec(steps=5), scenes, classifier, tmp_path, "cut")  # two epochs of two steps, and one more
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == [f"epoch_000{k}.png" for k in (1, 2, 3)]


def test_dropout_draws_anew_in_every_step(scenes, classifier, tmp_path, monkeypatch):
    masks = []
    build = training.GENERATORS["cda_generator"]

    def watched(width, blocks):
        made = build(width, blocks)
        made.resblock1.block[4].register_forward_hook(
            lambda module, inputs, output: masks.append(output == 0) if module.training else None
        )
        return made

    monkeypatch.setitem(training.GENERATORS, "cda_generator", watched)
    # The same images in the same order, so that only dropout and the weights differ.
    fit(spec(batch=2, steps=3, lr=1e-9, crops="centre"), scenes[:1] * 2, classifier, tmp_path)
    assert len(masks) == 3 and not any(torch.equal(masks[a], masks[b]) for a in range(3) for b in range(a))


def test_seeds_decide_the_weights(scenes, classifier, tmp_path):
    runs = [fit(spec(steps=1, seed=seed), scenes, classifier, tmp_path, str(k))[0] for k, seed in enumerate((3, 3, 4))]
    first, again, other = (run.block1[1].weight for run in runs)
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("changed", ["nothing", "recipe", "network", "classifier", "images", "code"])
def test_a_checkpoint_of_something_else_is_not_continued_and_that_is_said(
    changed, scenes, classifier, tmp_path, interruptions, monkeypatch, capsys
):
    interruptions.stop(3, lambda: fit(spec(steps=4), scenes, classifier, tmp_path))
    capsys.readouterr()
    if changed == "code":
        monkeypatch.setattr(training, "CODE", "other code")
    recipe = spec(steps=4, **({"eps": 9} if changed == "recipe" else {}))
    built = network(width=2) if changed == "network" else network()
    judge = tiny_network(seed=1).requires_grad_(False) if changed == "classifier" else classifier
    images = [*scenes[:-1], scenes[-1].flip(-1)] if changed == "images" else scenes
    _, steps = interruptions.steps(lambda: fit(recipe, images, judge, tmp_path, built=built))
    assert steps[0] == (3 if changed == "nothing" else 0)
    said = "x.ckpt: 3 steps of another recipe, other data or other code; begins anew\n"
    assert (said in capsys.readouterr().err) == (changed != "nothing")


# The command.


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The command, whose scale trains a tiny generator for six steps."""
    made = Command(monkeypatch, tmp_path / "project", training, "generators", "CDA-ImageNet")
    made.scale["networks"]["CDA-ImageNet"] |= {"width": 4, "blocks": 1}
    made.change(steps=6, batch=2, side=SIDE, checkpoint_minutes=0)
    return made


def test_the_command_trains_on_any_folder_and_writes_all_that_it_promises(command, photographs, capsys):
    command("CDA-ImageNet", "--images", photographs)
    said = capsys.readouterr().out
    record = json.loads((command.results / "metrics" / "networks" / "CDA-ImageNet.json").read_text())
    assert said.startswith("CDA-ImageNet: 6 steps on 7 images, ") and said.count("\n") == 1
    assert f"at budget 10 it fools VGG-16 on {100 * record['fooled']:.0f} % of the last crops" in said
    weights = command.models / "CDA-ImageNet.safetensors"
    assert set(record) == {
        *("images", "rendered", "classifier", "eps", "fooled", "steps", "crops", "crops_per_second"),
        *("device", "device_hours", "seconds", "parameters", "sha256"),
    }
    assert (record["images"], record["steps"], record["crops"]) == (7, 6, 12)
    assert (record["rendered"], record["classifier"], record["eps"]) == ("none", "VGG-16", 10)
    assert record["device_hours"] == pytest.approx(record["seconds"] / 3600, abs=6e-4)
    assert record["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    # Width 4: a 7x7 convolution, two down, two within the block, two up, each with a norm; a 7x7 with a bias.
    convolutions = 3 * 4 * 49 + 9 * (4 * 8 + 8 * 16 + 16 * 16 + 16 * 16 + 16 * 8 + 8 * 4) + 4 * 3 * 49 + 3
    assert record["parameters"] == convolutions + 2 * (4 + 8 + 16 + 16 + 16 + 8 + 4)
    losses = pd.read_csv(command.results / "data" / "CDA-ImageNet_losses.csv")
    assert list(losses) == ["step", "loss", "fooled"] and losses["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert np.isfinite(losses).all(axis=None) and (losses["loss"] < 0).all() and losses["fooled"].between(0, 1).all()
    assert record["fooled"] == pytest.approx(losses["fooled"].iloc[-1], abs=1e-4)
    # Seven images make three batches of two: an epoch is three steps.
    sheets = sorted((command.results / "sheets" / "CDA-ImageNet").iterdir())
    assert [path.name for path in sheets] == ["epoch_0001.png", "epoch_0002.png"]
    written = {path.name for path in command.models.iterdir()}
    assert written == {"VGG-16.safetensors", "CDA-ImageNet.safetensors"}  # no checkpoint is left
    made = zoo.load("CDA-ImageNet", settings.load("mini"))
    kept = {name: value for name, value in load_file(weights).items() if not name.endswith("num_batches_tracked")}
    assert all(torch.equal(value, made.state_dict()[name]) for name, value in kept.items())


@pytest.mark.parametrize("render", [None, "comic"])
def test_a_sheet_shows_the_images_as_they_are_drawn_the_proposal_and_the_adversary(command, photographs, render):
    if render:
        command.change(resize=40)
    command("CDA-ImageNet", "--images", photographs, *(["--render", render] if render else []))
    clean, proposed, attacked, difference = tiles(command.results / "sheets" / "CDA-ImageNet" / "epoch_0002.png")
    for column, image in enumerate(list(unlabelled(str(photographs)))[:6]):
        assert places(clean[column], RENDERINGS[render](training.resized(image, 40)) if render else image)
    made, x = zoo.load("CDA-ImageNet", settings.load("mini")), clean.float() / 255
    assert (made(x) * 255 - proposed).abs().max() <= 0.51  # in inference, after the last step
    clean, proposed, attacked, difference = (row.int() for row in (clean, proposed, attacked, difference))
    expected = torch.minimum(torch.maximum(proposed, clean - 10), clean + 10).clamp(0, 255)
    assert torch.equal(attacked, expected)
    # The adversary of the difference was not rounded yet: half a level, ten times.
    assert (difference - (127.5 + 10 * (attacked - clean)).clamp(0, 255)).abs().max() <= 6
    record = json.loads((command.results / "metrics" / "networks" / "CDA-ImageNet.json").read_text())
    assert record["rendered"] == (render or "none")


def test_images_are_resized_before_they_are_cut(command, photographs):
    picture(photographs / "tiny.png", 9, 20, 30)
    command.change(resize=40, crops="centre")
    command("CDA-ImageNet", "--images", photographs)
    clean = tiles(command.results / "sheets" / "CDA-ImageNet" / "epoch_0001.png")[0]
    for column, image in enumerate(list(unlabelled(str(photographs)))[:6]):
        sides = [round(40 * size / min(image.shape[1:])) for size in image.shape[1:]]
        top, left = ((size - SIDE) // 2 for size in sides)
        resized = vision.resize(image, sides, antialias=True)[:, top : top + SIDE, left : left + SIDE]
        assert (clean[column].int() - resized.int()).abs().max() <= 1


def test_the_images_of_the_scale_are_taken_unless_others_are_named(command, monkeypatch):
    found = []

    def small(source):
        found.append((source, unlabelled(source)[:6]))
        return found[0][1]

    command.change(images="world/comic", resize=None)
    monkeypatch.setattr(training, "unlabelled", small)
    command("CDA-ImageNet")
    ((source, images),) = found
    assert source == "world/comic"
    clean = tiles(command.results / "sheets" / "CDA-ImageNet" / "epoch_0001.png")[0]
    assert all(places(tile, image) for tile, image in zip(clean, images, strict=True))


def test_a_killed_command_goes_on_and_counts_the_time_of_both_runs(command, photographs, interruptions):
    interruptions.stop(4, lambda: command("CDA-ImageNet", "--images", photographs))
    weights = command.models / "CDA-ImageNet.safetensors"
    assert not weights.exists()
    before = torch.load(weights.with_suffix(".ckpt"), weights_only=True)["seconds"]
    _, steps = interruptions.steps(lambda: command("CDA-ImageNet", "--images", photographs))
    assert steps == [4, 5] and not weights.with_suffix(".ckpt").exists()
    resumed = weights.read_bytes()
    record = json.loads((command.results / "metrics" / "networks" / "CDA-ImageNet.json").read_text())
    assert record["seconds"] >= round(before, 1)
    command("CDA-ImageNet", "--images", photographs)
    assert weights.read_bytes() == resumed


def test_another_rendering_begins_anew(command, photographs, interruptions, capsys):
    command.change(resize=40)
    interruptions.stop(4, lambda: command("CDA-ImageNet", "--images", photographs))
    _, steps = interruptions.steps(lambda: command("CDA-ImageNet", "--images", photographs, "--render", "comic"))
    assert steps[0] == 0 and "CDA-ImageNet.ckpt: 4 steps of another recipe" in capsys.readouterr().err


def test_errors_are_one_line_that_says_what_to_do(command, photographs, tmp_path):
    assert "no generator 'CDA' in scales/mini.yaml, only CDA-ImageNet, CDA-Comics, CDA-Paintings" in command.failure(
        "CDA"
    )
    named = ["CDA-ImageNet", "--images"]
    assert "none: neither here nor in the repository nor in $COMPANION_ASSETS" in command.failure(*named, "none")
    assert "render: Input should be 'none', 'comic' or 'painting'" in command.failure(
        *named, photographs, "--render", "oil"
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no images here" in command.failure(*named, empty)
    picture(photographs / "tiny.png", 0, 20, 90)
    assert "tiny.png: 90x20 pixels hold no crop of 32x32" in command.failure(*named, photographs)
    (photographs / "tiny.png").write_bytes(b"<html>")
    assert "tiny.png: corrupt image" in command.failure(*named, photographs)
    command.change(resize=40)
    assert "tiny.png: corrupt image" in command.failure(*named, photographs)
    command.change(resize=None)
    (photographs / "tiny.png").unlink()
    said = command.failure(*named, photographs, "--render", "comic")
    assert "images are rendered at one size: name the shorter side in resize" in said
    picture(empty / "one.png", 0, 40, 40)
    assert "1 training images do not fill a batch of 2" in command.failure(*named, empty)
    command.change(resize=34, side=36)
    assert "crops of 36 pixels do not fit images resized to 34" in command.failure(*named, photographs)
    command.change(resize=None, side=SIDE)
    (command.models / "VGG-16.safetensors").unlink()
    said = command.failure(*named, photographs)
    assert "VGG-16: no weights (models/mini/VGG-16.safetensors); to get them: " in said and "dvc repro" in said
