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
from lib.units import unit_images
from tests.conftest import tiny_network

N = 100
VICTIMS = ["Inc-v3", "Res-152", "Inc-v4", "VGG-19", "VGG-16"]
# Images right out of a hundred, per attack and victim; VGG-16 is FSA's own surrogate, the paper prints no VGG-19.
RIGHT = {
    ("none", "", 0): [99, 98, 97, 96, 95],
    ("Noise", "", 1): [90, 90, 90, 90, 90],
    ("FSA", "VGG-16", 10): [60, 10, 52, 50, 0],
    ("SSP", "ResNet50-NT", 100): [5, 90, 50, 20, 40],
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
    table = scattering.table_03(judged, 60).set_index("attack")
    assert list(table.index) == ["no attack", "Noise", "FSA", "FSA (paper)", "SSP", "SSP (paper)"]
    for (attack, surrogate, _), counts in RIGHT.items():
        row = table.loc["no attack" if attack == "none" else attack]
        for victim, count in zip(VICTIMS, counts, strict=True):
            # In brackets: no transfer.
            assert row[victim].startswith(f"({count:.1f} [" if victim == surrogate else f"{count:.1f} ["), attack
    # Table 3 prints Inc-v3, Inc-v4, Res-152 in this order, and neither VGG.
    assert table.loc["FSA (paper)", VICTIMS].tolist() == ["60.4", "68.8", "64.2", "-", "-"]
    assert table.loc["SSP (paper)", VICTIMS].tolist() == ["5.3", "16.5", "5.9", "-", "-"]


def test_table_3_says_what_was_attacked_and_how(judged):
    table = scattering.table_03(judged, 7)
    assert table["surrogate"].tolist() == ["-", "-", "VGG-16", "not stated", "ResNet50-NT", "VGG-16"]
    assert table["schedule"].tolist() == ["-", "-", "10 steps, batch 7", "-", "100 steps", "-"]
    assert table["n"].tolist() == [N, N, N, 1000, N, 1000]


def test_the_claims_are_what_fsa_leaves_less_what_ssp_leaves(judged):
    claims = scattering.claims(judged).set_index("victim")
    assert list(claims.index) == VICTIMS[:-1]  # FSA on its own surrogate is no transfer; nor is SSP
    assert [cell.value for cell in claims["FSA less SSP"]] == pytest.approx([55, -80, 2, 30])
    # 60.4 - 5.3, 68.8 - 16.5, 64.2 - 5.9
    assert claims["paper"].tolist() == ["+55.1", "+52.3", "+58.3", "-"]
    # Two images of a hundred may be none of another hundred.
    assert claims["SSP leaves less"].tolist() == ["reproduced", "not reproduced", "inconclusive", "reproduced"]
    assert (claims["n"] == N).all()


def test_a_victim_whose_features_ssp_attacks_makes_no_claim(judged):
    own = judged.replace({"surrogate": {"ResNet50-NT": "Inc-v4"}})
    assert scattering.claims(own)["victim"].tolist() == ["Inc-v3", "Res-152", "VGG-19"]


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
            "batches": [1, 20, 60],
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


def some(count):
    """What the variations ask of a study: its parameters and number of images."""
    return SimpleNamespace(params=settings.params(), images=[None] * count, scale=settings.load("mini"))


def test_every_open_choice_of_fsa_is_run_once(chosen, asked):
    choices = [tuple(choice.values()) for choice, _ in scattering.variations(some(N), chosen)]
    # Batches and the envelope gradient only for Table 3's surrogate and steps; a batch of 60 is among the first six.
    assert choices == [
        *((surrogate, steps, 60, "unrolled") for surrogate in ("VGG-16", "Inc-v3") for steps in (1, 10, 100)),
        ("VGG-16", 10, 1, "unrolled"),
        ("VGG-16", 10, 20, "unrolled"),
        ("VGG-16", 10, 60, "envelope"),
    ]
    keys = ("surrogate", "steps", "batch", "gradient")
    assert [tuple(call[key] for key in keys) for call in asked] == choices
    assert {call["attack"] for call in asked} == {"FSA"}


def test_a_batch_of_more_images_than_there_are_is_all_of_them(chosen, asked):
    batches = [choice["batch"] for choice, _ in scattering.variations(some(20), chosen)]
    assert batches == [20] * 6 + [1] + [20]


def test_a_step_is_the_budget_shared_out_but_at_least_a_level(chosen, asked):
    study = some(N)
    list(scattering.variations(study, chosen))
    assert {(call["steps"], call["step"]) for call in asked} == {(1, 16), (10, 1.6), (100, 1)}
    asked.clear()
    study.params = settings.params().with_attacks(fsa={"eps": 8})  # FSA's own budget, and no other's
    list(scattering.variations(study, chosen))
    assert {(call["steps"], call["step"]) for call in asked} == {(1, 8), (10, 1), (100, 1)}


# Right of a hundred on Inc-v3 and Res-152. FSA on Inc-v3 leaves Res-152 less than SSP does, and on VGG-16 more.
FSA = {("VGG-16", 1): (65, 95), ("Inc-v3", 1): (0, 10), ("VGG-16", 10): (70, 80), ("VGG-16", 100): (75, 30)}


@pytest.fixture
def varied():
    def judged(attack, surrogate, steps, right):
        victims = zip(("Inc-v3", "Res-152"), right, strict=True)
        return pd.concat([rows(attack, surrogate, steps, victim, count) for victim, count in victims])

    choices = [
        ({"surrogate": surrogate, "steps": steps, "batch": 60, "gradient": "unrolled"}, right)
        for (surrogate, steps), right in FSA.items()
    ]
    return scattering.Varied(
        judged("none", "", 0, (99, 98)),
        {"VGG-16": judged("SSP", "VGG-16", 50, (20, 30)), "Inc-v3": judged("SSP", "Inc-v3", 50, (1, 40))},
        [(choice, judged("FSA", choice["surrogate"], choice["steps"], right)) for choice, right in choices],
    )


def test_what_varies_stands_below_ssp_with_white_box_cells_in_brackets(varied):
    table = scattering.variation_table(varied)
    assert table["attack"].tolist() == ["no attack", "SSP", "SSP", *["FSA"] * 4] and set(table["n"]) == {str(N)}
    settings_of = ["surrogate", "steps", "batch", "gradient"]
    assert table.loc[0, settings_of].tolist() == ["-"] * 4
    assert table.loc[1, settings_of].tolist() == ["VGG-16", "50", "-", "-"]
    assert table.loc[4, settings_of].tolist() == ["Inc-v3", "1", "60", "unrolled"]
    expected = [(99, 98), (20, 30), (1, 40), *FSA.values()]
    for row, (first, second) in zip(table.to_dict("records"), expected, strict=True):
        assert row["Inc-v3"].startswith("(" * (row["surrogate"] == "Inc-v3") + f"{first:.1f} [")
        assert row["Inc-v3"].endswith("])") is (row["surrogate"] == "Inc-v3")
        assert row["Res-152"].startswith(f"{second:.1f} [")


def test_ssp_is_held_against_the_variation_that_leaves_each_victim_least(varied):
    own, other = scattering.strongest(varied).to_dict("records")
    # On Inc-v3 what was made on Inc-v3 does not count, although it leaves nothing.
    assert (
        own["victim"] == "Inc-v3" and own["strongest FSA"] == "surrogate VGG-16, steps 1, batch 60, gradient unrolled"
    )
    values = [own[column].value for column in ("FSA", "SSP", "FSA less SSP")]
    assert values == pytest.approx([65, 20, 45]) and own["n"] == N
    assert own["SSP leaves less"] == "reproduced" and own["in all"] == "less in 3, more in 0 of 3"
    assert other["victim"] == "Res-152" and other["strongest FSA"].startswith("surrogate Inc-v3, steps 1,")
    values = [other[column].value for column in ("FSA", "SSP", "FSA less SSP")]
    assert values == pytest.approx([10, 30, -20])
    # Against 95, 10, 80 and 30: less, more, less, and the same.
    assert other["SSP leaves less"] == "not reproduced" and other["in all"] == "less in 2, more in 1 of 4"


def test_the_networks_that_ssp_looks_at_make_no_claim(varied):
    turned = varied._replace(ssp=dict(reversed(varied.ssp.items())))
    assert scattering.strongest(turned)["victim"].tolist() == ["Res-152"]


def test_ssp_stands_there_in_the_features_of_both_networks_where_they_differ(chosen, asked, monkeypatch):
    monkeypatch.setattr(scattering, "frame", lambda study, cells, victims: (cells[0].surrogate, victims))
    monkeypatch.setattr(scattering, "clean", lambda study: Adversaries("none", "", 0, 0, None))
    found = scattering.vary(some(N), chosen.model_copy(update={"surrogate": "ResNet50-NT"}))
    assert found.ssp == {name: (name, chosen.victims) for name in ("VGG-16", "ResNet50-NT")}
    assert found.clean == ("", chosen.victims) and len(found.fsa) == 9
    # The same network, or one without a tap: SSP once.
    assert list(scattering.vary(some(N), chosen).ssp) == ["VGG-16"]
    assert list(scattering.vary(some(N), chosen.model_copy(update={"surrogate": "Inc-v3"})).ssp) == ["VGG-16"]


class Reads(torch.nn.Module):
    """A classifier: the class is the value of the first pixel in one channel."""

    def __init__(self, channel):
        super().__init__()
        self.register_buffer("channel", torch.tensor(channel))

    def forward(self, x):
        return -(255 * x[:, self.channel, 0, :1] - torch.arange(12)).abs()


READERS = {"ResNet50-FS": 0, "ResNet50-NT": 1, "Inc-v3": 2}


def readable(*right):
    """Twelve images of classes 0 to 11: a channel tells the first `right[channel]`, of the rest it says 0."""
    images = torch.zeros(12, 3, 8, 8, dtype=torch.uint8)
    for channel, count in enumerate(right):
        images[:count, channel, 0, 0] = torch.arange(count)
    return images


@pytest.fixture
def study(tmp_path):
    """Networks that read one channel each, and a purifier that makes everything black: class 0."""
    black = torch.nn.Conv2d(3, 3, 1)
    torch.nn.init.zeros_(black.weight)
    torch.nn.init.zeros_(black.bias)
    networks = {name: Reads(channel) for name, channel in READERS.items()}
    data = ImageSet(readable(12, 11, 10), torch.arange(12), [f"i{k:02}" for k in range(12)])
    return Study(settings.params(), settings.load("mini"), data, Store(tmp_path), "cpu", networks | {"NRP": black})


@pytest.fixture
def own_attacks(monkeypatch):
    """White-box PGD leaves its own network two images, and all to the others."""

    def made(study, attack, network):
        left = [2 if network == name else 12 for name in READERS]
        return [Adversaries(attack, network, 16, 10, readable(*left))]

    monkeypatch.setattr(scattering, "adversaries", made)


def test_each_network_is_judged_with_and_without_nrp_and_under_its_own_pgd(study, own_attacks):
    chosen = settings.load("mini").c.model_copy(update={"victims": ["Inc-v3"]})
    cells = [clean(study), Adversaries("SSP", "VGG-16", 16, 2, readable(9, 6, 3))]
    table = scattering.defended(study, chosen, cells)
    columns = ["network", "protection", "clean", "SSP on VGG-16", "PGD on the bare network", "n"]
    assert list(table.columns) == columns
    shares = {
        tuple(row[:2]): [round(12 * float(cell.split()[0]) / 100) for cell in row[2:5]] for row in table.values.tolist()
    }  # fmt: skip
    assert list(shares.items()) == [
        (("ResNet50-FS", "FS training"), [12, 9, 2]),
        (("ResNet50-FS", "FS training + NRP"), [1, 1, 1]),
        (("ResNet50-NT", "none"), [11, 6, 2]),
        (("ResNet50-NT", "NRP"), [1, 1, 1]),
        (("Inc-v3", "none"), [10, 3, 2]),
        (("Inc-v3", "NRP"), [1, 1, 1]),
    ]
    assert (table["n"] == 12).all()


def test_adversaries_of_a_network_itself_stand_in_brackets(study, own_attacks):
    chosen = settings.load("mini").c.model_copy(update={"victims": ["Inc-v3"], "scattered": None})
    table = scattering.defended(study, chosen, [Adversaries("SSP", "Inc-v3", 16, 2, readable(9, 6, 3))])
    cells = table["SSP on Inc-v3"].tolist()
    assert [cell.startswith("(") for cell in cells] == [False, False, True, True]
    assert cells[0].startswith("50.0 [") and cells[2].startswith("(25.0 [") and cells[2].endswith("])")


def test_pgd_is_the_project_s_attack_on_the_network_itself(study):
    study.networks["Inc-v3"] = tiny_network(0, 12)
    chosen = settings.load("mini").c.model_copy(update={"victims": [], "scattered": None, "natural": "Inc-v3"})
    (own,) = adversaries(study, "PGD", "Inc-v3")
    with torch.no_grad():
        right = study.networks["Inc-v3"](unit_images(own.images)).argmax(1) == study.images.labels
    table = scattering.defended(study, chosen, [clean(study)])
    expected = 100 * right.double().mean().item()
    assert table["PGD on the bare network"].iloc[0].startswith(f"{expected:.1f} [")


def test_without_a_scattered_network_there_is_no_row_of_its_training(study, own_attacks):
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
    assert table.loc["NRP", "protects"].startswith("the 7 networks")


def test_what_was_not_trained_here_has_dashes(tmp_path):
    scale = settings.load("mini")
    chosen = scale.c.model_copy(update={"scattered": None})
    table = scattering.needs(chosen, scale, tmp_path).set_index("defense")
    assert table["training"].tolist() == table["training images"].tolist() == ["-", "-"]
    assert table.loc["feature-scattering training", "network"] == "none at this scale"


def test_a_network_that_plays_two_parts_is_counted_once(tmp_path):
    scale = settings.load("sample")
    assert scale.c.natural in scale.c.victims
    assert scattering.needs(scale.c, scale, tmp_path)["protects"].iloc[1].startswith("the 3 networks")
