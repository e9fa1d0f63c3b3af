import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from lib import experiment, settings
from lib.attacks import decision
from lib.data.images import ImageSet
from lib.experiment import Study, adversaries, all_attacks, clean, frame, judge, outputs
from lib.networks.normalised import Normalised
from lib.networks.small import ARCHITECTURES
from lib.store import Store
from lib.tasks.classification import unit_images


def small(name: str, seed: int) -> Normalised:
    """An untrained stand-in."""
    torch.manual_seed(seed)
    return Normalised(ARCHITECTURES[name](12), (0.5,) * 3, (0.25,) * 3).eval().requires_grad_(False)


@pytest.fixture
def study(tmp_path):
    """Seven random images in shards of three, two untrained networks, an empty store."""
    scale = settings.load("mini").model_copy(update={"batch": 3}, deep=True)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (7, 3, 48, 48), generator=generator, dtype=torch.uint8)
    data = ImageSet(images, torch.arange(7), [f"i{k}" for k in range(7)])
    networks = {"VGG-16": small("vgg16", 0), "Inc-v3": small("inception_v3", 1)}
    return Study(settings.params(), scale, data, Store(tmp_path), "cpu", networks)


def entries(study):
    return sorted(study.store.root.rglob("*.bin"))


def test_adversaries_are_those_of_the_attack_itself(study):
    (cell,) = adversaries(study, "MI-FGSM", "VGG-16", steps=3, eps=8)
    x = unit_images(study.images.images)
    direct = decision.mi_fgsm(study.networks["VGG-16"], x, study.images.labels, steps=3, eps=8 / 255)
    assert (cell.images != (direct * 255).round().to(torch.uint8)).float().mean() <= 0.001
    assert (cell.attack, cell.surrogate, cell.eps, cell.steps) == ("MI-FGSM", "VGG-16", 8, 3)


def test_every_attack_runs_with_the_parameters_of_params_yaml(study):
    study.params = settings.Params(attacks=settings.Attacks(ssp=settings.Ssp(steps=2), fff=settings.Fff(iterations=2)))
    cells = all_attacks(study, "VGG-16", "VGG-16")
    assert [cell.attack for cell in cells] == ["none", *experiment.attacks.ATTACKS]
    clean_images = study.images.images.int()
    for cell in cells[1:]:
        assert (cell.images.int() - clean_images).abs().max() <= cell.eps == 16
        assert cell.images.dtype == torch.uint8 and cell.images.shape == clean_images.shape
    # The cells can be taken from a run with snapshots, but only where every setting agrees.
    longer = adversaries(study, "SSP", "VGG-16", snapshots=[2, 3])
    again = all_attacks(study, "VGG-16", "VGG-16", done=longer)
    assert again[-1] is longer[0] and torch.equal(again[-1].images, cells[-1].images)
    assert all_attacks(study, "VGG-16", "VGG-16", done=longer[1:])[-1].steps == 2


def test_snapshots_become_one_cell_each(study):
    cells = adversaries(study, "SSP", "VGG-16", snapshots=[1, 3])
    assert [cell.steps for cell in cells] == [1, 3]
    assert torch.equal(cells[0].images, adversaries(study, "SSP", "VGG-16", steps=1)[0].images)


@pytest.mark.parametrize(
    "attack, changed, message",
    [
        ("SPP", {}, "no attack 'SPP'; there are Noise, FGSM"),
        ("SSP", {"stepps": 3}, "SSP: top level: unknown key 'stepps'; did you mean 'steps'"),
        ("SSP", {"tap": "features.relu9_9"}, "no tap 'features.relu9_9'; close names: features.relu"),
    ],
)
def test_what_does_not_exist_is_named_in_one_line(study, attack, changed, message):
    with pytest.raises(ValueError, match=message) as caught:
        adversaries(study, attack, "VGG-16", **changed)
    assert "\n" not in str(caught.value)


def test_an_ensemble_is_named_after_its_members(study):
    (cell,) = adversaries(study, "I-FGSM", ["VGG-16", "Inc-v3"], steps=1)
    assert cell.surrogate == "VGG-16 + Inc-v3"


def test_nothing_is_computed_twice(study, monkeypatch):
    first = adversaries(study, "SSP", "VGG-16", steps=2)[0].images
    assert len(entries(study)) == 3

    def fail(*arguments):
        raise AssertionError("computed again")

    monkeypatch.setattr(experiment, "_attack", fail)
    assert torch.equal(adversaries(study, "SSP", "VGG-16", steps=2)[0].images, first)


@pytest.mark.parametrize(
    "change",
    [
        lambda study: setattr(study, "params", study.params.model_copy(update={"seed": 1})),
        lambda study: study.images.images.add_(1),
        lambda study: study.networks["VGG-16"].network.head.weight.data.add_(0.1),
        lambda study: study.networks["VGG-16"].mean.add_(0.1),
        lambda study: setattr(study.networks["VGG-16"], "resize", 40),
        lambda study: setattr(study, "scale", study.scale.model_copy(update={"precision": "bf16"})),
        lambda study: study.scale.networks.update(
            {"VGG-16": study.scale.networks["VGG-16"].model_copy(update={"tap": "features.relu2_2"})}
        ),
    ],
    ids=["seed", "images", "weights", "normalisation", "resize", "precision", "tap"],
)
def test_what_a_result_depends_on_is_in_its_key(study, change):
    adversaries(study, "SSP", "VGG-16", steps=1)
    change(study)
    adversaries(study, "SSP", "VGG-16", steps=1)
    assert len(entries(study)) == 6


def test_a_killed_run_continues_from_its_last_finished_shard(tmp_path):
    script = """
import os, sys, torch
from lib import experiment, settings
from lib.data.images import ImageSet
from lib.store import Store
from tests.test_experiment import small
done = []
attack = experiment._attack
def counted(*arguments):
    if len(done) == int(sys.argv[2]):
        os.kill(os.getpid(), 9)
    done.append(1)
    return attack(*arguments)
experiment._attack = counted
data = ImageSet(torch.zeros(4, 3, 48, 48, dtype=torch.uint8), torch.arange(4), list("abcd"))
scale = settings.load("mini").model_copy(update={"batch": 1})
study = experiment.Study(settings.params(), scale, data, Store(sys.argv[1]), "cpu", {"VGG-16": small("vgg16", 0)})
experiment.adversaries(study, "SSP", "VGG-16", steps=1)
print(len(done))
"""

    def run(kill_after):
        command = [sys.executable, "-c", script, str(tmp_path), str(kill_after)]
        return subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(settings.ROOT)}
        )

    assert run(3).returncode == -9
    again = run(99)
    assert again.returncode == 0 and again.stdout.strip() == "1", again.stderr


def test_the_frame_agrees_with_counting_by_hand(study):
    (cell,) = adversaries(study, "FGSM", "VGG-16")
    rows = frame(study, [clean(study), cell], ["Inc-v3"])
    with torch.no_grad():
        before, after = (study.networks["Inc-v3"](unit_images(i)) for i in (study.images.images, cell.images))
    attacked = rows[rows["attack"] == "FGSM"]
    assert attacked["image"].tolist() == study.images.ids and len(rows) == 14
    assert attacked["top1"].tolist() == (after.argmax(1) == study.images.labels).tolist()
    assert attacked["fooled"].tolist() == (after.argmax(1) != before.argmax(1)).tolist()
    five = [
        label in row for label, row in zip(study.images.labels.tolist(), after.topk(5).indices.tolist(), strict=True)
    ]
    assert attacked["top5"].tolist() == five
    assert not rows[rows["attack"] == "none"]["fooled"].any()


def test_confidence_is_the_softmax_probability(study):
    prediction = judge(study, "Inc-v3", study.images.images)
    with torch.no_grad():
        logits = study.networks["Inc-v3"](unit_images(study.images.images)).double().numpy()
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert np.allclose(prediction.confidence[:, 0], probability.max(1), atol=1e-5)


def test_outputs_are_logits_or_features_of_the_chosen_images(study):
    logits = outputs(study, "VGG-16", [2, 5], features=False)
    maps = outputs(study, "VGG-16", [2, 5], features=True)
    assert logits.shape == (2, 12) and maps.shape == (2, 48, 12, 12) and maps.min() >= 0
