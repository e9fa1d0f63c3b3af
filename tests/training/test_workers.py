"""Training by several workers that share each batch: the same network where it can be, and else one as good."""

import functools
import json
import os
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib import keys
from lib.engine import Engine, one_thread
from lib.store import Store
from lib.training import classifiers, loop, purifier, runner
from tests.conftest import refused, tiny_network
from tests.training.conftest import begin, conv3, spec_of, tiny_world

CURVES = {"natural": ("loss", {}), "purifier": ("feature", {}), "cda_generator": ("loss", {"batch": 8})}
SEEDS = range(1, 7)
SCATTERED = {"init": "identity", "checkpoint_minutes": 9}  # the pixel loss is the size of the adversaries


def plain() -> loop.Training:
    """A training in float32 of a network without batch normalisation, whose loss is a mean over the batch."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 4), nn.GELU(), nn.Flatten(), nn.Linear(4 * 144, 2))
    optimiser = torch.optim.SGD(network.parameters(), 0.1, 0.9)
    images, labels = tiny_world(24, 0)

    def advance(step):
        chosen = loop.share(loop.shuffled(24, 8, step, 0))
        loss = F.cross_entropy(network(images[chosen] / 255), labels[chosen])
        return {"loss": loop.descend(optimiser, loss)}

    return loop.Training(plain, network, {"network": network, "optimiser": optimiser}, 9, advance, [])


def run(training: loop.Training, checkpoint, name: str = "") -> dict:
    with one_thread("cpu"):
        return loop.run_steps(training, checkpoint, name, 0)


def by_two(folder, device) -> dict:
    """What a group of two gives; the first group's second worker is killed in the middle of a training.

    A worker sees no checkpoints but its own, as on a machine of its own.
    """
    number = loop.worker()[0]
    place = folder / str(number)
    place.mkdir(exist_ok=True)
    training, steps = begin("natural")[1], []

    def advance(step):
        if number == 1 and step == 5 and not (folder / "mark").exists():
            (folder / "mark").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        steps.append(step)
        return training.advance(step)

    killed = run(training._replace(advance=advance), place / "killed.ckpt")
    found = {"killed": killed, "steps": steps, "others": sorted(path.name for path in place.iterdir())}
    found |= {kind: run(begin(kind, **short)[1], place / f"{kind}.ckpt") for kind, (_, short) in CURVES.items()}
    found["plain"] = run(plain(), place / "plain.ckpt")
    found["scattered"] = run(begin("purifier", **SCATTERED)[1], place / "scattered.ckpt")
    gathered = [None, None]
    torch.distributed.all_gather_object(gathered, found)
    return gathered


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two workers gives."""
    return Engine().group(functools.partial(by_two, tmp_path_factory.mktemp("two")), 2)


def curve(found, name: str) -> np.ndarray:
    return np.array(json.loads(found["losses"].tobytes())[name])


def weights(found) -> dict:
    return {name: value for name, value in found.items() if name not in ("losses", "seconds")}


def test_without_batch_statistics_two_workers_train_what_one_trains(two, tmp_path):
    one, several = run(plain(), tmp_path / "x.ckpt"), two[0]["plain"]
    assert np.allclose(curve(one, "loss"), curve(several, "loss"), rtol=1e-5, atol=0)
    assert curve(one, "loss")[-1] < 0.5 * curve(one, "loss")[0]
    begun = plain().network.state_dict()
    for name, value in weights(one).items():
        assert np.allclose(value, several[name], rtol=1e-4, atol=1e-6) and not np.allclose(value, begun[name])


def test_the_workers_have_the_same_network_and_losses(two):
    for name in ("plain", *CURVES):
        first, second = (found[name] for found in two)
        assert first["losses"].tobytes() == second["losses"].tobytes()
        assert all(np.array_equal(value, second[key]) for key, value in weights(first).items())


def test_after_a_kill_all_begin_again_at_the_first_worker_s_checkpoint_and_end_with_the_same_weights(two):
    first, second = two
    assert first["steps"] == second["steps"] == list(range(5, 12))
    assert all(np.array_equal(value, first["killed"][key]) for key, value in weights(first["natural"]).items())
    assert first["others"] == ["killed.ckpt"] and second["others"] == []


def test_two_workers_see_the_images_and_the_adversaries_that_one_sees(two, tmp_path):
    one = run(begin("purifier", **SCATTERED)[1], tmp_path / "x.ckpt")
    first, several = curve(one, "pixel")[0], curve(two[0]["scattered"], "pixel")[0]
    assert several == pytest.approx(first, rel=1e-3) and first > 0


@pytest.mark.parametrize("kind", CURVES)
def test_with_batch_statistics_the_losses_lie_within_the_spread_of_seeds(kind, two, tmp_path):
    """The curve is no farther from the mean of one worker's seeds than one of these is from that of the others."""
    name, short = CURVES[kind]
    seeds = [curve(run(begin(kind, seed=seed, **short)[1], tmp_path / f"{seed}.ckpt"), name) for seed in SEEDS]

    def distance(one, others):
        return np.abs(one - np.mean(others, 0)).mean()

    spread = [distance(one, [other for other in seeds if other is not one]) for one in seeds]
    assert distance(curve(two[0][kind], name), seeds) <= max(spread)


def shares(monkeypatch, count, compute) -> list:
    """What each of `count` workers computes, one after the other."""
    found = []
    for number in range(count):
        monkeypatch.setattr(loop, "worker", lambda number=number: (number, count))
        found.append(compute())
    monkeypatch.undo()
    return found


@pytest.mark.parametrize("recipe", ["fgsm", "pgd"])
def test_a_worker_attacks_its_images_as_the_only_one_does(recipe, monkeypatch):
    spec = spec_of("stand_in", recipe=recipe)
    x, y, victim = torch.rand(8, 3, 16, 16), torch.arange(8), tiny_network()

    def adversaries():
        args = (loop.share(x), loop.share(y), 3, 1.0)
        return classifiers.adversarial_batch(spec, victim, [], *args)

    whole = adversaries()
    for number, part in enumerate(shares(monkeypatch, 4, adversaries)):
        assert torch.allclose(part, whole[number::4], atol=1e-6)
    attacked = 4 if recipe == "fgsm" else 8
    assert (whole != x).flatten(1).any(1).tolist() == [True] * attacked + [False] * (8 - attacked)


def test_a_worker_s_crops_have_the_budgets_that_they_have_alone(monkeypatch):
    spec, x = spec_of("purifier", budgets="uniform"), torch.rand(6, 3, 32, 32)

    def adversaries():
        return purifier.adversarial_crops(spec, conv3(), loop.share(x), "0/0", loop.share(range(6)))

    whole = adversaries()
    for number, part in enumerate(shares(monkeypatch, 3, adversaries)):
        assert torch.allclose(part, whole[number::3], atol=1e-6)


def test_the_key_says_how_many_workers_and_one_worker_s_is_as_it_was(tmp_path):
    spec, training = begin("natural")
    recipe = spec.model_dump(exclude={"images", "checkpoint_minutes"})
    asked = []

    def trained(made_from, checkpoint, identity, *how):
        asked.append((made_from, identity))
        return run(training, checkpoint, identity)

    given = (Store(tmp_path), "x", spec, training)
    for workers in (2, 2, 4, 1):
        made_from = runner.record_of(spec, training, "cpu", workers)
        shared = functools.partial(trained, made_from) if workers > 1 else None
        runner.cached_training(*given, made_from, tmp_path / "x.ckpt", None, shared)
    (first, identity), (second, _) = asked
    alone = keys.record(training.prepare, (recipe, list(training.inputs)), "cpu")
    assert first == alone | {"workers": 2} and second == alone | {"workers": 4} and identity == keys.digest(first)
    made = {path.stem for path in tmp_path.rglob("*.bin")}
    assert made == {keys.digest(record) for record in (first, second, alone)}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--all",), "--workers share the training of one network; --all trains several side by side"),
        (("SegNet-Basic",), "SegNet-Basic: only generators, purifiers, stand_ins are trained by several workers"),
        (("Inc-v3",), "Inc-v3: a batch of 64 does not come in 3 equal shares"),
    ],
)
def test_what_workers_cannot_share_is_said_in_one_line(arguments, line):
    assert refused("train", *arguments, "--workers", 3, "--scale", "mini") == line
