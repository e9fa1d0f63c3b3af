import numpy as np
import pandas as pd
import pytest

from lib import settings
from lib.report import claims, published, tables
from lib.report.intervals import Estimate


def rows(attack, outcomes, steps=10, victim="V", surrogate="S"):
    """A hand-made frame: one row per image."""
    return pd.DataFrame(
        {
            "attack": attack,
            "surrogate": surrogate,
            "eps": 16.0,
            "steps": steps,
            "victim": victim,
            "image": [f"i{k}" for k in range(len(outcomes))],
            "top1": outcomes,
            "top5": True,
            "fooled": [not o for o in outcomes],
        }
    )


def test_estimates_are_means_per_group_in_order_of_appearance():
    frame = pd.concat([rows("B", [True, False, False, False]), rows("A", [True, True, True, False])])
    numbers = tables.estimates(frame, ["attack"], "top1")
    assert numbers["attack"].tolist() == ["B", "A"] and numbers["value"].tolist() == [25.0, 75.0]
    assert numbers["n"].tolist() == [4, 4]


def test_paired_differences_match_images_by_name():
    first, second = rows("A", [True, False, True, True]), rows("B", [False, False, True, False])
    frame = pd.concat([first, second.sample(frac=1, random_state=0)])
    assert tables.paired(frame, "top1", {"attack": "A"}, {"attack": "B"}).value == 50.0


def test_cells_over_different_images_are_not_compared():
    frame = pd.concat([rows("A", [True, False]), rows("B", [True, False, True])])
    with pytest.raises(ValueError, match="do not share their images"):
        tables.paired(frame, "top1", {"attack": "A"}, {"attack": "B"})


def test_table_05_stands_beside_the_paper_and_calls_a_stand_in_one():
    scale = settings.load("mini")
    frame = rows("none", [True] * 9 + [False], victim="Inc-v3")
    (row,) = tables.table_05(frame, scale).to_dict("records")
    assert row["network"] == "stand-in inception_v3" and row["n"] == 10
    assert row["T-1"].value == 90.0 and row["T-1 (paper)"] == "95.3" and row["T-5 (paper)"] == "99.8"


def test_a_network_that_the_paper_does_not_print_gets_a_dash():
    assert tables.printed("table_05", "SqueezeNet-1.1", "T-1") == "-"


def test_the_transfer_matrix_puts_each_number_in_its_cell():
    frame = pd.concat(
        [
            rows(a, [True] * k + [False] * (4 - k), victim=v)
            for a, v, k in [("A", "X", 1), ("A", "Y", 2), ("B", "X", 3), ("B", "Y", 4)]
        ]
    )
    table = tables.transfer(tables.estimates(frame, ["attack", "surrogate", "victim"], "top1")).set_index("attack")
    cells = {(a, v): table.loc[a, v].value for a in "AB" for v in "XY"}
    assert cells == {("A", "X"): 25.0, ("A", "Y"): 50.0, ("B", "X"): 75.0, ("B", "Y"): 100.0}


def test_every_parameter_is_in_the_table_and_a_changed_one_beside_the_paper_s():
    paper = settings.params().attacks
    used = paper.model_copy(update={"fff": paper.fff.model_copy(update={"iterations": 7})})
    table = tables.parameters(used, paper).set_index("attack")
    for name, chosen in used:
        shown = table.loc[name.upper().replace("_", "-"), "parameters"]
        for key, value in chosen:
            assert f"{key} {value:.4g}" in shown if isinstance(value, float) else f"{key} {value}" in shown
    assert table.loc["FFF", "paper scale"] == "iterations 10000" and table.loc["SSP", "paper scale"] == "same"


def test_white_box_accuracy_stands_beside_clean_and_noise():
    frame = pd.concat([rows("none", [True] * 4), rows("Noise", [True] * 3 + [False]), rows("FGSM", [False] * 4)])
    (row,) = tables.white_box(frame).to_dict("records")
    assert (row["clean"].value, row["noise"].value, row["own FGSM"].value, row["n"]) == (100.0, 75.0, 0.0, 4)


def test_the_matrix_ends_with_what_the_paper_prints():
    numbers = tables.estimates(
        rows("SSP", [True, False], victim="IncRes-v2ens"), ["attack", "surrogate", "victim"], "top1"
    )
    table = tables.transfer(numbers).set_index("attack")
    assert "SSP (paper)" not in tables.transfer(numbers.assign(victim="MobileNetV2"))["attack"].tolist()
    assert table.loc["none (paper)", "IncRes-v2ens"] == "97.8" and table.loc["SSP (paper)", "IncRes-v2ens"] == "58.0"


def test_the_published_numbers_are_those_of_the_supplement():
    assert published.value("table_05", "VGG-19", "T-1") == 85.5
    assert published.value("table_06", "none", "no attack") - published.value(
        "table_06", "none", "eps 16"
    ) == pytest.approx(47.11)
    assert published.value("table_07", "none", "eps 16") == 5.16
    assert published.value("table_03", "SSP", "IncRes-v2ens") == 58.0
    assert published.value("table_03", "SSP", "VGG-19") is None


def test_every_published_row_has_all_its_columns():
    for table in published.TABLES.values():
        assert all(len(row) == len(table["columns"]) for row in table["rows"].values())


@pytest.mark.parametrize(
    "low, high, expected, verdict",
    [
        (1, 5, "rises", "reproduced"),
        (-5, -1, "rises", "not reproduced"),
        (-1, 1, "rises", "inconclusive"),
        (-5, -1, "falls", "reproduced"),
        (1, 5, "falls", "not reproduced"),
        (-4, 4, "stays", "reproduced"),
        (6, 9, "stays", "not reproduced"),
        (-9, -6, "stays", "not reproduced"),
        (-7, 2, "stays", "inconclusive"),
    ],
)
def test_a_verdict_follows_from_the_interval(low, high, expected, verdict):
    assert claims.verdict(Estimate((low + high) / 2, low, high, 100), expected) == verdict


def test_more_iterations_compares_the_same_images():
    rng = np.random.default_rng(0)
    start = rng.random(200) < 0.5
    frame = pd.concat(
        [rows(a, start, steps=10) for a in claims.AFTER_TEN]
        + [rows(a, start & (rng.random(200) < 0.5), steps=100) for a in claims.AFTER_TEN]
    )
    table = claims.more_iterations(frame, 10, 100).set_index("attack")
    assert table.loc["SSP", "verdict"] == "reproduced" and table.loc["I-FGSM", "verdict"] == "not reproduced"


def test_beyond_noise_is_measured_from_noise_not_from_clean():
    frame = pd.concat(
        [rows("none", [True] * 10), rows("Noise", [True] * 8 + [False] * 2), rows("SSP", [True] * 3 + [False] * 7)]
    )
    (row,) = claims.beyond_noise(frame, "SSP").to_dict("records")
    assert row["beyond noise"].value == pytest.approx(50.0) and row["30 points"] == "yes"


def test_sources_that_were_not_run_are_not_judged():
    few = [rows("SSP", [False] * 9 + [True], steps=1).assign(source=source) for source in "AB"]
    many = [rows("SSP", [k < 1] * 9 + [True], steps=5).assign(source=s) for k, s in enumerate("BA")]
    table = claims.compare_sources(pd.concat(few + many), [("A", "B"), ("C", "B")], [1, 5])
    assert table["claim"].tolist() == ["A fools more than B"] * 2 and table["iterations"].tolist() == [1, 5]
    assert table["verdict"].tolist() == ["inconclusive", "reproduced"]
