"""lib/experiment/protocol.py: the harness against an oracle and against masked gradients, and what attackers know."""

import dataclasses
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lib import defenses, settings
from lib.attacks import decision
from lib.attacks.decision import bypass_nrp
from lib.attacks.inspection import gradient_facts
from lib.data.images import ImageSet
from lib.defenses.purifier import noisy
from lib.experiment import Attacker, Study, adversaries, behind, clean, predictions, protocol, traits
from lib.experiment.cells import ATTACKER, Adversaries, Through
from lib.experiment.protocol import CHOICES, CHOOSING, SEES, Traits, against
from lib.frames import join
from lib.report.protocol import checks
from lib.rng import generator
from lib.store import Store
from lib.tasks.predictions import Prediction
from lib.units import unit_images
from tests.conftest import tiny_network
from tests.experiment.test_defended import count, purifier

VICTIM, MASKED = "Inc-v3", "Res-152"  # names of the scale that the victims here go by
DEFENSES = {
    "JPEG": {"kind": "jpeg"},
    "noise": {"kind": "noise", "noise": 12.75, "eps": 16},
    "NRP": {"kind": "nrp", "network": "NRP"},
    "NRP dynamic": {"kind": "nrp", "network": "NRP", "noise": 12.75, "eps": 16},
    "oracle": {"kind": "nrp", "network": "nearest"},
    "oracle, no gradient": {"kind": "nrp", "network": "nearest, no gradient"},
    "oracle, random": {"kind": "oracle", "network": "nearest", "noise": 0.5},
    "rounding": {"kind": "nrp", "network": "rounding"},
    "blur": {"kind": "own/blur.py", "width": 3},
    "seeded": {"kind": "own/seeded.py"},
}
QUICK = {"square": {"queries": 30}, "spsa": {"steps": 2, "samples": 2}, "corners": {"queries": 30}}


class Nearest(nn.Module):
    """An oracle: the nearest of the clean images, with the gradient of the identity or none."""

    def __init__(self, images, passes=True):
        super().__init__()
        self.passes = passes
        self.register_buffer("images", unit_images(images))

    def extra_repr(self):
        return f"passes={self.passes}"  # stored results are keyed by it

    def forward(self, x):
        found = self.images[torch.cdist(x.detach().flatten(1), self.images.flatten(1)).argmin(1)]
        return found + (x - x.detach()) if self.passes else found


class Rounding(nn.Module):
    """Images of so many levels: the gradient is 0 and masks what an attacker could do."""

    def forward(self, x):
        return (16 * x).round() / 16


class Steep(nn.Module):
    """A victim whose logits are so large that float32 rounds the probability of its first class to 1."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return 1e4 * self.inner(x)


def oracle(x, *, network, noise=0.0, eps=16 / 255, seed=0):
    """The nearest clean image, and noise on that."""
    return noisy(network(x), noise, eps, seed).clamp(0, 1)


# Custom ones, as docs/own_defense.md has them.


def blur(x, *, width):
    return nn.functional.avg_pool2d(x, width, stride=1, padding=width // 2, count_include_pad=False)


def single(x):
    return x @ torch.eye(16)  # float32, whatever the images are


def seeded(x, *, seed=0):
    """Random numbers of a seed, and no option to do without."""
    return (x + 0.02 * torch.randn(x.shape[1:], generator=generator(seed, "seeded")).to(x)).clamp(0, 1)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Six random images in shards of four, of which a victim gets four right, alone and with large logits."""
    monkeypatch.setitem(defenses.DEFENSES, "oracle", oracle)
    files = {"own/blur.py": blur, "own/single.py": single, "own/seeded.py": seeded}
    monkeypatch.setattr(defenses, "function_in", lambda file, name: files[file])
    scale = settings.load("mini").model_copy(update={"batch": 4}, deep=True)
    images = torch.randint(0, 256, (6, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    victim = tiny_network(classes=12).requires_grad_(False)
    victim[-1].bias -= victim(unit_images(images)).mean(0)  # so that images differ in their class
    victim[-1].weight *= 300  # so that it is sure of some
    victim[-1].bias *= 300
    labels = victim(unit_images(images)).argmax(1)
    labels[4:] = (labels[4:] + 1) % 12
    networks = {VICTIM: victim, MASKED: Steep(victim), "NRP": purifier(), "rounding": Rounding()}
    networks |= {"nearest": Nearest(images), "nearest, no gradient": Nearest(images, passes=False)}
    params = settings.params().with_attacks(**QUICK).model_copy(update={"seed": 3, "defenses": dict(DEFENSES)})
    data = ImageSet(images, labels, [f"i{k}" for k in range(6)])
    return Study(params, scale, data, Store(tmp_path), "cpu", networks)


def of_notebook(draws=(2,)):
    """The attackers of the notebook, as its cell defines them."""
    cells = json.loads((settings.ROOT / "notebooks" / "h_protocol.ipynb").read_text())["cells"]
    (source,) = (s for cell in cells if "attackers = first" in (s := "".join(cell["source"])))
    names = {"Attacker": Attacker, "chosen": SimpleNamespace(draws=list(draws), steps=20)}
    exec(source, names)
    return names["attackers"]


def aware(study, defense, label="aware", **changed):
    """The one that knows all."""
    return protocol.aware(defense, traits(study, defense), label, **changed)


def top1(frame):
    """What every cell came to, `[cells,n]`."""
    return np.array([part["top1"] for part in frame.parts])


def right(study, x, victim=VICTIM, defense=lambda x: x):
    """Which images a victim gets right, without the study."""
    with torch.no_grad():
        return (study.networks[victim](defense(unit_images(x))).argmax(1) == study.images.labels).numpy()


# An oracle holds against everybody, whoever attacks.

ORACLES = ["oracle", "oracle, no gradient", "oracle, random"]


@pytest.mark.filterwarnings("ignore:.*the gradient is zero at the first step")  # of SPSA
@pytest.mark.parametrize("defense", ORACLES)
def test_against_an_oracle_every_attacker_leaves_the_clean_accuracy_image_by_image(study, defense):
    bare = right(study, study.images.images)
    assert 0 < bare.sum() < len(bare)
    can = traits(study, defense)
    tried = [one for one in of_notebook() if one.applies(defense, can)]
    best = aware(study, defense)
    tried += [best, aware(study, defense, "restarts", restarts=2), Attacker("one step", "FGSM", best.sees, 2)]
    assert len(tried) > 8
    cells = {one.name: protocol.attacked(study, VICTIM, defense, one) for one in tried}
    (cells["transfer"],), (cells["noise"],) = adversaries(study, "MI-FGSM", VICTIM), adversaries(study, "Noise")
    for name, cell in cells.items():
        moved = (cell.images.int() - study.images.images.int()).abs().amax((1, 2, 3))
        # What asks for answers alone finds nothing to go by.
        assert moved.max() <= 17 and (moved.min() > 0 or name in ("random corners", "SPSA")), name
        found = top1(behind(study, VICTIM, defense, cell, 2, name))
        assert len(found) == (2 if can.random else 1)
        assert (found == bare).all(), name


def test_the_three_oracles_meet_every_attacker_of_the_notebook_and_each_can_be_told_apart(study):
    met = {name: [one.name for one in of_notebook() if one.applies(name, traits(study, name))] for name in ORACLES}
    assert set().union(*met.values()) == {one.name for one in of_notebook()}
    assert len({tuple(names) for names in met.values()}) == 3


def test_without_an_oracle_the_same_attackers_do_break_the_victim(study):
    """So the oracle's accuracy is the oracle's, not that of attackers that do nothing."""
    bare = right(study, study.images.images)
    for one in of_notebook():
        if one.applies("none", traits(study, "none")) and one.attack in ("PGD", "Square", "Random corners"):
            (found,) = top1(against(study, VICTIM, "none", one, 2))
            assert found.sum() < bare.sum(), one.name
    (found,) = top1(against(study, VICTIM, "NRP", Attacker("static", "PGD", "static"), 2))
    assert found.sum() == 0 and right(study, study.images.images, defense=study.defense("NRP")).any()


# A masked gradient shows in the table of checks.


def checked(study, victim, defense):
    """The table of checks, of the cells that it needs."""
    best, made = aware(study, defense), [behind(study, victim, defense, clean(study), 2, "clean")]
    for eps in (0, 16, 64):
        made += [against(study, victim, defense, best, 2, eps=eps, step=max(1.0, eps / 10))]
    made += [against(study, victim, defense, Attacker(name, attack, "queries"), 2) for name, attack in (
        ("Square", "Square"), ("random corners", "Random corners"))]  # fmt: skip
    facts = protocol.gradients_of(study, victim, defense)
    sure = protocol.confidences_of(study, victim, defense, best, [1, 20, 40], step=1)
    found = checks(join(made), defense, facts, sure, protocol.reread(study, victim, defense, best))
    return found.set_index("check")["verdict"]


OF_MASKS = [
    "float32 follows float64",
    "no vanishing gradient",
    "Square wins nowhere where gradients fail",
    "random corners wins nowhere where gradients fail",
    "budget 64 leaves nothing",
]
FILES = "saved as PNG and read again, budget and accuracy are the same"


def test_of_an_honest_victim_no_check_fails(study):
    found = checked(study, VICTIM, "none")
    assert found[[*OF_MASKS, FILES, "the loss is flat at the end"]].eq("pass").all()
    assert not found.eq("FAIL").any()


@pytest.mark.filterwarnings("ignore:.*the gradient is zero at the first step")
@pytest.mark.parametrize(("victim", "defense"), [(MASKED, "none"), (VICTIM, "rounding")])
def test_a_masked_gradient_fails_where_it_should(study, victim, defense):
    found = checked(study, victim, defense)
    assert found[OF_MASKS].eq("FAIL").all()
    assert found[["budget 0 changes no prediction, image by image", FILES]].eq("pass").all()  # no fault of these


def test_gradients_of_are_the_facts_of_the_victim_with_the_static_defense(study):
    images, labels = study.images.images, study.images.labels
    for defense, network in (
        ("none", study.networks[VICTIM]),
        ("NRP dynamic", nn.Sequential(study.networks["NRP"], nn.Hardtanh(0, 1), study.networks[VICTIM])),
    ):
        found = protocol.gradients_of(study, VICTIM, defense)
        by_hand = gradient_facts(network, images, labels, device="cpu")
        assert found["zeros"] == pytest.approx(by_hand["zeros"]) and found["zeros"].shape == (6,)
        assert found["float32"] == pytest.approx(by_hand["float32"], abs=1e-5)
        assert (found["difference"] < 1e-3).all()
    assert protocol.gradients_of(study, VICTIM, "JPEG") is None  # passes none


# What a defense lets an attacker do.


@pytest.mark.parametrize(
    ("defense", "expected"),
    [
        ("none", (False, False, True)),
        ("JPEG", (False, False, False)),
        ("noise", (True, True, True)),
        ("NRP", (True, False, True)),
        ("NRP dynamic", (True, True, True)),
        ("rounding", (True, False, True)),
        ("oracle, no gradient", (False, False, True)),
        ("oracle, random", (True, True, True)),
        ("blur", (True, False, False)),
        ("seeded", (True, True, False)),
    ],
)
def test_traits(study, defense, expected):
    assert tuple(traits(study, defense)) == expected


# By what it sees: whether it applies to a defense that passes no gradient and is not random, is random, passes a
# gradient, both; and then the mode and whether the noise is left out of a random one.
TABLE = {
    "nothing": ((1, 1, 1, 1), None),
    "queries": ((1, 1, 1, 1), ("exact", False)),
    "BPDA": ((1, 1, 1, 1), ("BPDA", True)),
    "BPDA, noise": ((0, 1, 0, 1), ("BPDA", False)),
    "static": ((0, 0, 1, 1), ("exact", True)),
    "fresh draw": ((0, 0, 0, 1), ("exact", False)),
    "mean of losses": ((0, 0, 0, 1), ("EOT of losses", False)),
    "mean of logits": ((0, 0, 0, 1), ("EOT", False)),
}


@pytest.mark.parametrize("sees", SEES)
def test_who_applies_to_what_and_sees_what_of_it(sees):
    attacker, (applies, seen) = Attacker("a", "PGD", sees, draws=4), TABLE[sees]
    for expected, (gradient, random) in zip(applies, itertools.product([False, True], repeat=2), strict=True):
        for quiet in (True, False):
            can = Traits(gradient, random, quiet)
            assert attacker.applies("D", can) == bool(expected)
            static = bool(seen) and seen[1] and random and quiet
            own = ATTACKER if random and not static else None  # a draw that the defender never makes
            assert protocol.through(attacker, "D", can) == (seen and Through("D", seen[0], 4, static, own))
    can = Traits(False, False)
    assert attacker.applies("none", can) == (sees in ("nothing", "queries"))
    assert protocol.through(attacker, "none", can) is None


@pytest.mark.filterwarnings("ignore:.*the gradient is zero at the first step")
@pytest.mark.parametrize(("defense", "draws"), [("blur", 1), ("seeded", 2)])
def test_a_custom_defense_meets_all_its_attackers_and_checks(study, defense, draws):
    can, met = traits(study, defense), set()
    for one in of_notebook():
        if one.applies(defense, can):
            assert len(against(study, VICTIM, defense, one, 2)) == draws
            met.add(one.name)
    assert {"static", "BPDA", "Square"} <= met and ({"BPDA, noise", "fresh draw"} <= met) == (draws == 2)
    found = protocol.gradients_of(study, VICTIM, defense)
    assert (found["difference"] < 1e-3).all() and (found["float32"] > 0.99).all()


def test_a_custom_defense_that_takes_no_float64_is_told_how_in_one_line(study):
    study.params.defenses["single"] = {"kind": "own/single.py"}
    with pytest.raises(
        ValueError, match=r"test_protocol.py: the defense fails on float64 images, .*\.to\(x\)"
    ) as caught:
        protocol.gradients_of(study, VICTIM, "single")
    assert "\n" not in str(caught.value)


def test_the_static_dynamic_nrp_is_stored_as_nrp(study):
    static, before = Attacker("static", "PGD", "static"), count(study)
    one = protocol.attacked(study, VICTIM, "NRP", static, steps=2)
    first = count(study)
    assert first > before
    traits(study, "NRP dynamic")
    known = count(study)
    other = protocol.attacked(study, VICTIM, "NRP dynamic", static, steps=2)
    assert count(study) == known and torch.equal(one.images, other.images)
    bpda = Attacker("BPDA", "PGD", "BPDA")
    one = protocol.attacked(study, VICTIM, "NRP", bpda, steps=2)
    known = count(study)
    assert known > first and torch.equal(
        protocol.attacked(study, VICTIM, "NRP dynamic", bpda, steps=2).images, one.images
    )
    assert count(study) == known
    # With noise it is another attacker.
    fresh = protocol.attacked(study, VICTIM, "NRP dynamic", Attacker("fresh draw", "PGD", "fresh draw"), steps=2)
    assert count(study) > known and not torch.equal(fresh.images, other.images)


# Restarts: what an attacker chooses by.


def planned(monkeypatch, plan):
    """Predictions as planned, by the first pixel of the images: classes `[n]` and confidences `[n]` per seed; the seeds
    that are asked for."""
    seeds = []

    def predicted(study, victim, images, defense, **changed):
        seeds.append(changed.get("seed"))
        classes, sure = plan[int(images[0, 0, 0, 0])]
        place = changed.get("seed", CHOOSING) - CHOOSING
        first = np.array(classes[place])
        # Five classes of each image: the first, and four others that are nobody's label.
        others = 90 + np.arange(4) + np.zeros((len(first), 1))
        return Prediction(np.column_stack([first, others]), np.column_stack([sure[place], np.zeros((len(first), 4))]))

    monkeypatch.setattr(protocol, "predictions", predicted)
    return seeds


def runs(study, count):
    """Runs whose images are of one gray each, 0, 1, ..."""
    return [Adversaries("PGD", VICTIM, 16, 10, torch.full_like(study.images.images, k)) for k in range(count)]


def test_of_several_runs_an_image_takes_the_one_right_in_fewest_of_the_attacker_s_draws(study, monkeypatch):
    y = study.images.labels.tolist()
    rng = np.random.default_rng(0)
    held = rng.random((3, CHOICES, 6)) < 0.5  # run, draw, image
    sure = rng.random((3, CHOICES, 6))
    classes = np.where(held, y, 99)
    seeds = planned(monkeypatch, {k: (classes[k], sure[k]) for k in range(3)})
    found = protocol.best_of(study, VICTIM, "noise", runs(study, 3)).images[:, 0, 0, 0].tolist()
    for image in range(6):
        scores = [(held[k, :, image].sum(), (held * sure)[k, :, image].sum()) for k in range(3)]
        assert found[image] == min(range(3), key=scores.__getitem__)
    assert seeds == 3 * [CHOOSING, CHOOSING + 1, CHOOSING + 2]
    assert len(set(found)) > 1


def test_right_in_fewer_draws_counts_before_confidence_which_decides_between_equals(study, monkeypatch):
    y = study.images.labels.numpy()
    always, twice = np.array([y, y, y]), np.array([y, y, np.full(6, 99)])
    planned(monkeypatch, {0: (always, np.full((3, 6), 0.01)), 1: (twice, np.full((3, 6), 1.0))})
    assert (protocol.best_of(study, VICTIM, "noise", runs(study, 2)).images == 1).all()
    planned(monkeypatch, {0: (always, np.full((3, 6), 0.5)), 1: (always, np.full((3, 6), 0.4))})
    assert (protocol.best_of(study, VICTIM, "noise", runs(study, 2)).images == 1).all()
    planned(monkeypatch, {0: (always, np.full((3, 6), 0.4)), 1: (always, np.full((3, 6), 0.5))})
    assert (protocol.best_of(study, VICTIM, "noise", runs(study, 2)).images == 0).all()


def test_where_nothing_is_random_there_is_one_draw(study, monkeypatch):
    y = study.images.labels.numpy()
    seeds = planned(monkeypatch, {0: ([y], np.ones((1, 6))), 1: ([np.full(6, 99)], np.ones((1, 6)))})
    assert (protocol.best_of(study, VICTIM, "NRP", runs(study, 2)).images == 1).all()
    assert seeds == [None, None]


def test_restarts_are_runs_of_other_seeds_chosen_without_the_defender_s_draws(study, monkeypatch):
    seeds, real = [], protocol.predictions

    def watched(*arguments, **changed):
        seeds.append(changed.get("seed"))
        return real(*arguments, **changed)

    monkeypatch.setattr(protocol, "predictions", watched)
    attacker = Attacker("restarts", "PGD", "nothing", restarts=3)
    cell = protocol.attacked(study, VICTIM, "noise", attacker, eps=4, steps=2)
    defenders, averaged = range(settings.load("paper").h.seeds), range(ATTACKER, ATTACKER + 32)
    assert seeds and not set(seeds) & {*defenders, *averaged, None}
    made = []
    for seed in (3, 4, 5):
        params = study.params.model_copy(update={"seed": seed})
        made += adversaries(dataclasses.replace(study, params=params), "PGD", VICTIM, eps=4, steps=2)
    assert len({one.images.numpy().tobytes() for one in made}) == 3
    for image in range(6):
        own = [torch.equal(cell.images[image], one.images[image]) for one in made]
        held = []
        for one in made:
            found = [predictions(study, VICTIM, one.images, "noise", seed=CHOOSING + k) for k in range(CHOICES)]
            fits = [part.classes[image] == study.images.labels[image].item() for part in found]
            sure = sum(part.confidence[image][fit].sum() for part, fit in zip(found, fits, strict=True))
            held.append((sum(fit[0] for fit in fits), sure))
        assert own.index(True) == min(range(3), key=held.__getitem__)
    (alone,) = adversaries(study, "PGD", VICTIM, eps=4, steps=2)
    once = protocol.attacked(study, VICTIM, "noise", Attacker("a"), eps=4, steps=2)
    assert torch.equal(once.images, alone.images)


class Luck(nn.Module):
    """A victim that is right where the first pixel is odd in levels: each draw of a noise has its own luck."""

    def forward(self, x):
        odd = (255 * x[:, 0, 0, 0]).round().long() % 2
        return nn.functional.one_hot(1 - odd, 12).float()


def test_who_queries_finds_a_draw_that_fails_but_not_the_defender_s(study):
    """It chooses the images that its own draw breaks; to the defender's draws they are as any others."""
    count = 80
    gray = torch.full((count, 3, 4, 4), 100, dtype=torch.uint8)
    gray[:, 1, 0, 0] = torch.arange(count, dtype=torch.uint8)  # no two alike
    study.networks[VICTIM] = Luck()
    study.images = ImageSet(gray, torch.zeros(count, dtype=torch.long), [f"g{k}" for k in range(count)])
    queried = Attacker("a", "Random corners", "queries", changes={"queries": 12})
    cell = protocol.attacked(study, VICTIM, "noise", queried)
    own = predictions(study, VICTIM, cell.images, "noise", seed=ATTACKER).classes[:, 0] == 0
    assert own.mean() < 0.05
    for right in top1(behind(study, VICTIM, "noise", cell, 3, "a")):
        assert 0.3 < right.mean() < 0.7


# Cells and frames.


def test_an_attacker_s_changes_and_a_budget_replace_params_yaml(study):
    attacker = Attacker("a", changes={"loss": "margin", "steps": 3, "eps": 2})
    cell = protocol.attacked(study, VICTIM, "none", attacker, eps=8, step=1)
    x, y = unit_images(study.images.images), study.images.labels
    given = {"ids": study.images.ids, "seed": 3, "eps": 8 / 255, "step": 1 / 255, "steps": 3, "loss": "margin"}
    direct = decision.pgd(study.networks[VICTIM], x, y, **given)
    assert torch.equal(cell.images, (direct * 255).round().byte())
    assert (cell.attack, cell.eps, cell.steps) == ("PGD", 8, 3)


def test_the_released_script_is_bypass_nrp(study):
    (one,) = (one for one in of_notebook() if one.name == "bypass_nrp.py")
    cell = protocol.attacked(study, VICTIM, "NRP dynamic", one)
    network = nn.Sequential(study.networks["NRP"], nn.Hardtanh(0, 1), study.networks[VICTIM])
    direct = bypass_nrp(network, unit_images(study.images.images), ids=study.images.ids, seed=3)
    assert (cell.images != (direct * 255).round().byte()).float().mean() <= 0.001
    assert (cell.attack, cell.eps, cell.steps, cell.targets) == ("bypass_nrp.py", 16, 10, None)


@pytest.mark.parametrize("which", decision.TARGETS)
def test_hits_are_predictions_of_the_class_that_was_aimed_at(study, which):
    attacker = Attacker("a", "PGD (targeted)", "static", changes={"target": which})
    cell = protocol.attacked(study, VICTIM, "NRP dynamic", attacker)
    network = nn.Sequential(study.networks["NRP"], nn.Hardtanh(0, 1), study.networks[VICTIM])
    x, y, ids = unit_images(study.images.images), study.images.labels, study.images.ids
    targets = decision.wrong_classes(network, x, y, which, ids=ids, seed=3)
    assert cell.targets.tolist() == targets.tolist() and (targets != y).all()
    frame = against(study, VICTIM, "NRP dynamic", attacker, 2)
    for seed, part in enumerate(frame.parts):
        with torch.no_grad():
            purified = study.defense("NRP dynamic", seed=seed)(unit_images(cell.images))
            found = study.networks[VICTIM](purified).argmax(1)
        assert part["hit"].tolist() == (found == targets).tolist()
        assert part["top1"].tolist() == (found == y).tolist()
    (bare,) = against(study, VICTIM, "none", Attacker("a", "PGD (targeted)", changes={"target": which}), 2).parts
    assert bare["hit"].any()
    assert "hit" not in against(study, VICTIM, "none", Attacker("a"), 2).parts[0]


@pytest.mark.parametrize(("defense", "seeds"), [("none", 1), ("JPEG", 1), ("NRP", 1), ("NRP dynamic", 3), ("noise", 3)])
def test_a_frame_has_a_cell_per_seed_of_a_random_defense_and_says_who_attacks(study, defense, seeds):
    frame = against(study, VICTIM, defense, Attacker("mine", than="clean"), 3, steps=1)
    assert frame.cells["seed"].tolist() == list(range(seeds))
    assert set(frame.cells["attacker"]) == {"mine"} and set(frame.cells["than"]) == {"clean"}
    bare = behind(study, VICTIM, defense, clean(study), 3, "clean")
    assert set(bare.cells["attacker"]) == {"clean"} and set(bare.cells["than"]) == {""}
    found = top1(bare)
    for seed in range(seeds):
        kind = study.defense(defense, **({"seed": seed} if seeds > 1 else {})) or (lambda x: x)
        assert (found[seed] == right(study, study.images.images, defense=kind)).all()


def test_confidences_are_the_softmax_s_after_so_many_steps(study):
    attacker = Attacker("a", "PGD", "static")
    found = protocol.confidences_of(study, VICTIM, "NRP dynamic", attacker, [1, 2, 4], step=1)
    assert found.shape == (3, 6)
    for steps, values in zip((1, 2, 4), found, strict=True):
        cell = protocol.attacked(study, VICTIM, "NRP", attacker, steps=steps, step=1)
        with torch.no_grad():
            logits = study.networks[VICTIM](study.networks["NRP"](unit_images(cell.images)).clamp(0, 1))
        by_hand = logits.softmax(1)[torch.arange(6), study.images.labels].numpy()
        assert values == pytest.approx(by_hand, rel=1e-3, abs=1e-6)
    assert (found[-1] < found[0]).all()


@pytest.mark.parametrize("defense", ["none", "JPEG", "NRP dynamic"])
def test_files_read_again_have_the_budget_and_the_accuracy_of_the_frame(study, monkeypatch, defense):
    attacker, seeds, real = aware(study, defense), [], protocol.predictions

    def watched(*arguments, **changed):
        seeds.append(changed.get("seed"))
        return real(*arguments, **changed)

    monkeypatch.setattr(protocol, "predictions", watched)
    found = protocol.reread(study, VICTIM, defense, attacker)
    assert seeds == [0 if defense == "NRP dynamic" else None]  # the draw of the frame that it is compared with
    frame = against(study, VICTIM, defense, attacker, 2)
    assert found == {"moved": 16.0, "accuracy": pytest.approx(100 * top1(frame)[0].mean())}


def test_files_that_do_not_keep_an_image_are_noticed(study, monkeypatch):
    real = protocol.read_image
    monkeypatch.setattr(protocol, "read_image", lambda path: real(path).flip(-1))
    assert protocol.reread(study, VICTIM, "none", Attacker("a"))["moved"] > 100
