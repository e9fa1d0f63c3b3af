"""lib/report/scattering.py: Table 3, FSA's open choices and FS training beside NRP, from outcomes that are known."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from lib import settings
from lib.data.images import ImageSet
from lib.experiment import Adversaries, Study, adversaries, clean
from lib.report import scattering
from lib.store import Store
from lib.tasks.classification import unit_images
from tests.conftest import tiny_network

N = 100
VICTIMS = ["Inc-v3", "Res-152", "Inc-v4", "VGG-19", "VGG-16"]
# Images right out of a hundred, per attack and victim; VGG-16 is FSA's own surrogate, the paper prints no VGG-19.
RIGHT = {
    ("none", "", 0): [99, 98, 97, 96, 95],
    ("Noise", "", 1): [90, 90, 90, 90, 90],
    ("FSA", "VGG-16", 10): [60, 10, 52, 50, 0],
    ("SSP", "VGG-16", 100): [5, 90, 50, 20, 40],
}


def rows(attack, surrogate, steps, victim, right):
    columns = {"attack": attack, "surrogate": surrogate, "eps": 16.0, "steps": steps, "victim": victim}
    images = [f"i{image:03}" for image in range(N)]
    return pd.DataFrame(columns | {"image": images, "top1": [image < right for image in range(N)]})


@pytest.fixture
def judged():
    return pd.concat(
        [rows(*cell, victim, n) for cell, counts in RIGHT.items() for victim, n in zip(VICTIMS, counts, strict=True)],
        ignore_index=True,
    )


def test_table_3_has_every_accuracy_in_its_cell_and_the_papers_below(judged):
    table = scattering.table_03(judged).set_index("attack")
    assert list(table.index) == ["no attack", "Noise", "FSA", "FSA (paper)", "SSP", "SSP (paper)"]
    for (attack, _, _), counts in RIGHT.items():
        row = table.loc["no attack" if attack == "none" else attack]
        assert [row[victim].value for victim in VICTIMS] == pytest.approx(counts) and row["n"] == N
    # Table 3 prints Inc-v3, Inc-v4, Res-152 in this order, and neither VGG.
    assert table.loc["FSA (paper)", VICTIMS].tolist() == ["60.4", "68.8", "64.2", "-", "-"]
    assert table.loc["SSP (paper)", VICTIMS].tolist() == ["5.3", "16.5", "5.9", "-", "-"]


def test_table_3_says_what_was_attacked_with_how_many_steps(judged):
    table = scattering.table_03(judged).set_index("attack")
    assert table["surrogate"].tolist() == ["-", "-", "VGG-16", "not stated", "VGG-16", "VGG-16"]
    assert table["steps"].tolist() == ["-", "-", "10 steps", "-", "100 steps", "-"]
    assert table["n"].tolist() == [N, N, N, 1000, N, 1000]


def test_the_claims_are_what_fsa_leaves_less_what_ssp_leaves(judged):
    claims = scattering.claims(judged).set_index("victim")
    assert list(claims.index) == VICTIMS[:-1]  # FSA on its own surrogate is no transfer
    assert [cell.value for cell in claims["FSA less SSP"]] == pytest.approx([55, -80, 2, 30])
    # 60.4 - 5.3, 68.8 - 16.5, 64.2 - 5.9
    assert claims["paper"].tolist() == ["+55.1", "+52.3", "+58.3", "-"]
    # Two images of a hundred may be none of another hundred.
    assert claims["SSP leaves less"].tolist() == ["reproduced", "not reproduced", "inconclusive", "reproduced"]
    assert (claims["n"] == N).all()


def test_the_claims_compare_the_same_images_whatever_their_order(judged):
    same = judged.copy()
    same.loc[same["attack"].isin(["FSA", "SSP"]), "top1"] = same["image"] < "i050"
    more = scattering.claims(same.sample(frac=1, random_state=0)).iloc[0]["FSA less SSP"]
    # All hundred images agree, so at most 1 - 0.025^(1/100) of all differ: 3.6 %. Unpaired it would be about 14 points.
    assert more.value == 0 and more.high == pytest.approx(3.62, abs=0.01)


@pytest.fixture
def chosen():
    return settings.load("mini").c.model_copy(
        update={
            "victims": ["Inc-v3", "Res-152"],
            "surrogate": "VGG-16",
            "surrogates": ["VGG-16", "Inc-v3"],
            "steps": [1, 10, 100],
            "batches": [1, 60],
        }
    )


@pytest.fixture
def asked(monkeypatch):
    """What `lib.report.scattering` asks attacks for; nothing is attacked."""
    asked = []

    def record(study, attack, surrogate=None, **changed):
        asked.append({"attack": attack, "surrogate": surrogate, **changed})
        return [Adversaries(attack, surrogate or "", 16, changed.get("steps", 100), len(asked))]

    monkeypatch.setattr(scattering, "adversaries", record)
    return asked


def test_every_open_choice_of_fsa_is_run_once(chosen, asked):
    study = SimpleNamespace(params=settings.params())
    choices = [tuple(choice.values()) for choice, _ in scattering.variations(study, chosen)]
    # Batches and the envelope gradient only for Table 3's surrogate and steps; a batch of 60 is among the first six.
    assert choices == [
        *((surrogate, steps, 60, "unrolled") for surrogate in ("VGG-16", "Inc-v3") for steps in (1, 10, 100)),
        ("VGG-16", 10, 1, "unrolled"),
        ("VGG-16", 10, 60, "envelope"),
    ]
    keys = ("surrogate", "steps", "batch", "gradient")
    assert [tuple(call[key] for key in keys) for call in asked] == choices
    assert {call["attack"] for call in asked} == {"FSA"}


def test_a_step_is_the_budget_shared_out_but_at_least_a_level(chosen, asked):
    list(scattering.variations(SimpleNamespace(params=settings.params()), chosen))
    assert {(call["steps"], call["step"]) for call in asked} == {(1, 16), (10, 1.6), (100, 1)}


def test_what_varies_stands_below_ssp_and_white_box_cells_in_brackets_do_not_count(chosen, asked, monkeypatch):
    study = SimpleNamespace(params=settings.params(), images=SimpleNamespace(images=None, ids=[0] * N))
    study.images = type("Images", (), {"images": None, "__len__": lambda self: N})()

    def frame(study, cells, victims):
        (cell,) = cells
        # FSA on Inc-v3: nothing left on itself, less than under SSP on Res-152. On VGG-16: more than under SSP on both.
        right = {
            "none": [99, 98],
            "SSP": [20, 30],
            "FSA": [0, 10] if cell.surrogate == "Inc-v3" else [70, 80],
        }[cell.attack]
        return pd.concat(
            [rows(cell.attack, cell.surrogate, cell.steps, v, n) for v, n in zip(victims, right, strict=True)]
        )

    monkeypatch.setattr(scattering, "frame", frame)
    table = scattering.varied(study, chosen)
    assert table["attack"].tolist() == ["no attack", "SSP", *["FSA"] * 8]
    assert table.loc[1, ["surrogate", "steps", "batch", "gradient"]].tolist() == ["VGG-16", "100", "-", "-"]
    assert table["SSP leaves less"].tolist()[:2] == ["-", "-"] and (table["n"] == N).all()
    transferred, own = (table[(table["attack"] == "FSA") & (table["surrogate"] == s)] for s in ("VGG-16", "Inc-v3"))
    assert (len(transferred), len(own)) == (5, 3)
    assert all(cell.startswith("70.0 [") for cell in transferred["Inc-v3"])
    assert (transferred["SSP leaves less"] == "2 of 2 victims").all()
    assert all(cell.startswith("(0.0 [") and cell.endswith("])") for cell in own["Inc-v3"])
    assert all(cell.startswith("10.0 [") for cell in own["Res-152"])
    assert (own["SSP leaves less"] == "0 of 1 victims, more on 1").all()


@pytest.fixture
def study(tmp_path):
    """Twelve random images, three untrained networks, and a purifier that makes everything black."""
    images = torch.randint(0, 256, (12, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    networks = {name: tiny_network(seed, 12) for seed, name in enumerate(("ResNet50-NT", "ResNet50-FS", "Inc-v3"))}
    black = torch.nn.Conv2d(3, 3, 1)
    torch.nn.init.zeros_(black.weight)
    torch.nn.init.zeros_(black.bias)
    with torch.no_grad():
        labels = networks["ResNet50-NT"](unit_images(images)).argmax(1)
    # Untrained networks see one class nearly everywhere: half of the labels are something else.
    labels[::2] = (labels[::2] + 1) % 12
    data = ImageSet(images, labels, [f"i{k:02}" for k in range(12)])
    params = settings.params()
    params = params.model_copy(update={"attacks": settings.Attacks(ssp=settings.Ssp(steps=2))})
    return Study(params, settings.load("mini"), data, Store(tmp_path), "cpu", networks | {"NRP": black})


def accuracy(study, network, images):
    with torch.no_grad():
        said = study.networks[network](unit_images(images)).argmax(1)
    return 100 * (said == study.images.labels).float().mean().item()


def test_each_network_is_judged_with_and_without_nrp_and_under_its_own_pgd(study):
    chosen = settings.load("mini").c.model_copy(update={"victims": ["Inc-v3"]})
    noise = Adversaries("SSP", "VGG-16", 16, 2, (255 - study.images.images.int()).to(torch.uint8))
    table = scattering.defended(study, chosen, [clean(study), noise])
    protections = {"ResNet50-FS": "FS training", "ResNet50-NT": "none", "Inc-v3": "none"}
    shown = list(zip(table["network"], table["protection"], strict=True))
    assert shown == [
        ("ResNet50-FS", "FS training"), ("ResNet50-FS", "FS training + NRP"),
        ("ResNet50-NT", "none"), ("ResNet50-NT", "NRP"), ("Inc-v3", "none"), ("Inc-v3", "NRP"),
    ]  # fmt: skip
    assert list(table.columns) == ["network", "protection", "clean", "SSP on VGG-16", "own PGD", "n"]
    table = table.set_index(["network", "protection"])
    black = torch.zeros_like(study.images.images)
    for network, protection in protections.items():
        (own,) = adversaries(study, "PGD", network)
        bare = table.loc[(network, protection)]
        images = (study.images.images, noise.images, own.images)
        expected = [accuracy(study, network, several) for several in images]
        assert [bare[title].value for title in table.columns[:-1]] == pytest.approx(expected, abs=1e-4), network
        behind = table.loc[(network, f"{protection} + NRP" if protection != "none" else "NRP")]
        expected = accuracy(study, network, black)
        assert [behind[title].value for title in table.columns[:-1]] == pytest.approx([expected] * 3, abs=1e-4)
    assert table.loc[("ResNet50-NT", "none"), "clean"].value == 50 and (table["n"] == 12).all()


def test_without_a_scattered_network_there_is_no_row_of_its_training(study):
    chosen = settings.load("mini").c.model_copy(update={"victims": ["Inc-v3", "ResNet50-NT"], "scattered": None})
    table = scattering.defended(study, chosen, [clean(study)])
    assert table["network"].tolist() == ["ResNet50-NT"] * 2 + ["Inc-v3"] * 2
    assert table["protection"].tolist() == ["none", "NRP"] * 2


def test_what_the_two_defenses_need_is_what_their_trainings_recorded(tmp_path):
    scale = settings.load("mini")
    (tmp_path / "NRP.json").write_text(json.dumps({"images": 1234, "seconds": 347.4, "device": "NVIDIA H100"}))
    (tmp_path / "ResNet50-FS.json").write_text(json.dumps({"images": 400, "seconds": 77.0}))
    table = scattering.needs(scale.c, scale, tmp_path).set_index("defense")
    assert table["training"].tolist() == ["77 s on CPU", "347 s on NVIDIA H100"]
    # What was judged on 400 images was trained on the world's 3,000.
    assert table["training images"].tolist() == ["3,000", "1,234"] and table["labels"].tolist() == ["yes", "no"]
    assert table.loc["feature-scattering training", "network"] == "stand-in resnet50"
    assert table.loc["NRP", "network"].startswith("stand-in nrp_resg of width")
    assert table.loc["NRP", "protects"].startswith("all 7 networks")


def test_what_was_not_trained_here_has_dashes(tmp_path):
    scale = settings.load("mini")
    chosen = scale.c.model_copy(update={"scattered": None})
    table = scattering.needs(chosen, scale, tmp_path).set_index("defense")
    assert table["training"].tolist() == table["training images"].tolist() == ["-", "-"]
    assert table.loc["feature-scattering training", "network"] == "none at this scale"
