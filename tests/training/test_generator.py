"""lib/training/generator.py: the loss and the updates by hand, crops, learning."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import functional as vision

from lib.attacks.generators import cda
from lib.data.renderings import RENDERINGS
from lib.networks.wrappers import Bf16
from lib.training import augment, generator, loop
from tests.conftest import tiny_network
from tests.training.conftest import SIDE, fit, network_spec, photographs, spec_of
from tests.training.test_samples import places


def spec(**changes):
    return spec_of("generator", **changes)


def batch(recipe, data, step):
    """The clean crops of a step."""
    chosen = loop.shuffled(len(data), recipe.batch, step, recipe.seed).tolist()
    return generator.keyed_crops(recipe, data.__getitem__, chosen, "crops", step)


@pytest.fixture
def classifier():
    return tiny_network().requires_grad_(False)


@pytest.fixture(scope="module")
def scenes():
    return photographs()


def train(recipe, data, classifier, folder):
    return fit((recipe, generator.training(recipe, network_spec("cda_generator"), data, classifier)), folder)


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
    loss = generator.relativistic(logits, reference)
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
    assert generator.relativistic(logits, logits.clone()).item() == pytest.approx(-np.log(7), rel=1e-6)


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
    monkeypatch.setitem(generator.GENERATORS, "cda_generator", Affine)
    recipe = spec(steps=3, eps=6, lr=0.02)
    made, curves, _ = train(recipe, scenes, classifier, tmp_path)
    values, first, second = np.array([0.9] * 3 + [0.04] * 3), np.zeros(6), np.zeros(6)
    judge, rows = Bf16(classifier), []
    for step in range(3):
        x = batch(recipe, scenes, step).to(memory_format=torch.channels_last)
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
    assert np.allclose(curves, rows, rtol=1e-4)


def test_the_classifier_stays_as_it_is_and_never_trains(scenes, classifier, tmp_path):
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    modes = []
    classifier.register_forward_hook(lambda module, inputs, output: modes.append(
        any(part.training for part in module.modules())))  # fmt: skip
    train(spec(), scenes, classifier, tmp_path)
    assert modes == [False] * 12  # clean and attacked, six times
    assert all(torch.equal(value, before[key]) for key, value in classifier.state_dict().items())
    assert all(parameter.grad is None for parameter in classifier.parameters())


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
    made, table, _ = train(recipe, striped(64, 0)[0], classifier, tmp_path)
    images, labels = striped(40, 1)
    x = torch.stack(images).float() / 255
    assert (classifier(x).argmax(1) == labels).all()
    noise = (x + 10 / 255 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).sign()).clamp(0, 1)
    fooled, confused = (
        (classifier(other).argmax(1) != labels).float().mean().item() for other in (cda(made, x, eps=10 / 255), noise)
    )
    assert fooled >= 0.5 and confused <= 0.1
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
    found = generator.resized(image, 40)
    assert found.shape == (3, *expected) and found.dtype == torch.uint8
    picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(expected[::-1], Image.Resampling.BILINEAR)
    assert (found.int() - torch.from_numpy(np.array(picture)).permute(2, 0, 1).int()).abs().max() <= 1


@pytest.mark.parametrize("side", [None, 40])
def test_images_that_fit_are_left_as_they_are(side):
    image = random_image(40, 55)
    assert torch.equal(generator.reader([image], side, "none")(0), image)


def test_images_are_rendered_at_the_size_that_is_trained_on():
    image = random_image(80, 110)
    found = generator.reader([image], 40, "comic")(0)
    assert found.shape == (3, 40, 55)
    assert torch.equal(found, RENDERINGS["comic"](generator.resized(image, 40)))
    assert not torch.equal(found, generator.resized(RENDERINGS["comic"](image), 40))


def test_images_are_read_once_as_long_as_memory_is_kept_for_them(monkeypatch):
    read = []

    class Watched(list):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    images = Watched(random_image(20, 30, seed) for seed in range(4))
    prepared = generator.reader(images, 10, "none")
    passes = [[prepared(index) for index in range(4)] for _ in range(2)]
    assert read == [0, 1, 2, 3]
    assert all(torch.equal(*pair) for pair in zip(*passes, strict=True))
    read.clear()
    monkeypatch.setattr(generator, "IN_MEMORY", 2)
    prepared = generator.reader(images, 10, "none")
    for index in (0, 1, 2, 2, 1, 0):
        prepared(index)
    assert read == [0, 1, 2, 0]  # the last two are kept


@pytest.mark.parametrize("sides", [(32, 32), (48, 60), (60, 32), (34, 50)])
def test_the_centre_is_torchvisions(sides):
    image = random_image(*sides)
    assert torch.equal(augment.crops(SIDE, [image].__getitem__, [0])[0], vision.center_crop(image, SIDE).float() / 255)


@pytest.mark.parametrize("crops", ["centre", "random"])
def test_images_smaller_than_a_crop_are_refused_in_one_line(crops):
    data = [random_image(48, 31)] * 4
    with pytest.raises(ValueError, match=r"31x48 pixels holds no crop of 32x32") as error:
        batch(spec(crops=crops), data, 0)
    assert "\n" not in str(error.value)


def test_centre_crops_are_the_same_in_every_epoch_and_random_ones_are_not():
    data = [random_image(48, 60, seed) for seed in range(4)]
    for crops in ("centre", "random"):
        recipe, found = spec(crops=crops), []
        for step in (0, 1):
            chosen = loop.shuffled(4, 4, step, 0)
            found.append(batch(recipe, data, step)[chosen.argsort()])
        assert torch.equal(*found) == (crops == "centre")
        for epoch in found:
            spots = [places((crop * 255).round().byte(), image) for crop, image in zip(epoch, data, strict=True)]
            assert all(len(spot) == 1 for spot in spots)
            assert ({spot[0] for spot in spots} == {(8, 14, False)}) == (crops == "centre")


def test_every_epoch_sees_each_image_once_and_a_batch_depends_on_its_step_alone():
    data = [torch.full((3, SIDE, SIDE), k, dtype=torch.uint8) for k in range(16)]
    for epoch in range(2):
        batches = [batch(spec(), data, 4 * epoch + k) for k in range(4)]
        assert sorted((torch.cat(batches)[:, 0, 0, 0] * 255).round().int().tolist()) == list(range(16))
    assert torch.equal(batches[3], batch(spec(), data, 7))
    assert not torch.equal(batches[3], batch(spec(seed=1), data, 7))


def test_dropout_draws_anew_in_every_step(scenes, classifier, tmp_path, monkeypatch):
    masks = []
    build = generator.GENERATORS["cda_generator"]

    def watched(width, blocks):
        made = build(width, blocks)
        made.resblock1.block[4].register_forward_hook(
            lambda module, inputs, output: masks.append(output == 0) if module.training else None
        )
        return made

    monkeypatch.setitem(generator.GENERATORS, "cda_generator", watched)
    # The same images in the same order, so that only dropout and the weights differ.
    train(spec(batch=2, steps=3, lr=1e-9, crops="centre"), scenes[:1] * 2, classifier, tmp_path)
    assert len(masks) == 3 and not any(torch.equal(masks[a], masks[b]) for a in range(3) for b in range(a))
