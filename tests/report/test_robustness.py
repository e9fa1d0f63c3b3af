"""lib/report/robustness.py: Tables 1 and 2 from outcomes that are known."""

import json

import pandas as pd
import pytest

from lib import settings
from lib.report import robustness
from lib.report.published import TABLES

HARDENED = {"Feature Denoising": "ResNet50-FD"}
# Images right out of ten, per defended network, attack and attacker; the dynamic NRP has two seeds.
RIGHT = {
    ("Original", "none", "-"): [10],
    ("Original", "targeted", "white box"): [0],
    ("Feature Denoising", "none", "-"): [7],
    ("Feature Denoising", "targeted", "white box"): [5],
    ("NRP", "none", "-"): [9],
    ("NRP", "targeted", "exact"): [3],
    ("NRP dynamic", "none", "-"): [9, 7],
    ("NRP dynamic", "targeted", "exact"): [10, 8],
    ("NRP dynamic", "targeted", "expectation"): [1, 1],
    ("NRP dynamic", "untargeted", "exact"): [0, 0],
}


def outcomes(steps=10):
    rows = [
        {"defended": defended, "attack": attack, "knowledge": knowledge, "steps": steps, "seed": seed,
         "image": f"i{image}", "top1": image < right}
        for (defended, attack, knowledge), seeds in RIGHT.items()
        for seed, right in enumerate(seeds)
        for image in range(10)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def chosen():
    return settings.load("mini").b.model_copy(update={"hardened": HARDENED})


@pytest.fixture
def frame():
    return pd.concat([outcomes(), outcomes(steps=100).assign(top1=False)], ignore_index=True)


def test_table_1_counts_ten_steps_and_averages_over_seeds(frame):
    table = robustness.table_01(frame, chosen(), settings.load("mini")).set_index("method")
    assert [table.loc[name, "clean"].value for name in table.index] == pytest.approx([100, 70, 90, 80])
    assert [table.loc[name, "adversarial"].value for name in table.index] == pytest.approx([0, 50, 30, 90])
    assert (table["n"] == 10).all()
    # Two seeds, 90 and 70 % on clean images: their standard deviation is 20 / sqrt(2).
    assert table.loc["NRP dynamic", "clean, spread"] == "± 14.1" and table.loc["NRP", "clean, spread"] == "-"


def test_table_1_stands_beside_the_paper_where_the_paper_has_a_row(frame):
    table = robustness.table_01(frame, chosen(), settings.load("mini")).set_index("method")
    assert table["clean (paper)"].tolist() == ["78.31", "65.30", "-", "73.50 ± 1.5"]
    assert table.loc["Feature Denoising", "network"] == "stand-in resnet50_denoise"
    assert table.loc["NRP", "network"].startswith("stand-in nrp_resg of width")
    assert table.loc["NRP", "network"].endswith("+ stand-in resnet50")
    assert table["adversarial (paper)"].tolist() == ["0.66", "55.70", "-", "63.00 ± 2.0"]


def test_claims_are_paired_differences_and_the_best_attacker_is_told(frame):
    claims = robustness.claims(frame, HARDENED).set_index("claim")
    changes = {claim: row["change"].value for claim, row in claims.iterrows()}
    assert changes["NRP, dynamic: clean accuracy falls (Table 1: by 4.8)"] == pytest.approx(-20)
    assert changes["NRP, dynamic: clean accuracy does not suffer (text)"] == pytest.approx(-20)
    bare = "NRP keeps more under attack than no defense (Table 1: by 62.3)"
    assert changes[bare] == pytest.approx(90)
    assert changes["NRP keeps more clean accuracy than Feature Denoising"] == pytest.approx(10)
    assert changes["NRP keeps more under attack than Feature Denoising"] == pytest.approx(40)
    lost = "Feature Denoising has less clean accuracy than no defense"
    # NRP loses 20 points and keeps 10 more than Feature Denoising, which so loses 30.
    assert changes[lost] == pytest.approx(-30)
    # Bare, nothing is left; NRP keeps 90 points more than that and 40 more than Feature Denoising.
    assert changes["Feature Denoising keeps more under attack than no defense"] == pytest.approx(50)
    held = claims.loc["NRP keeps 63.0 % under attack (Table 1), within 5 points"]
    assert held["change"].value == pytest.approx(27) and held["verdict"] == "not reproduced"
    # The untargeted attack leaves less, but Table 1 is about targeted ones.
    assert changes["the same, attacker: expectation"] == pytest.approx(-40)
    assert claims.loc["the same, attacker: expectation", "verdict"] == "not reproduced"
    assert claims.loc[bare, "verdict"] == "reproduced"


def test_the_adaptive_table_has_a_row_per_attacker_and_a_column_per_attack(frame):
    table = robustness.adaptive(frame).set_index(["defended", "attacker"])
    paper = table.pop("paper (targeted, 10 steps)")
    assert paper[("NRP dynamic", "exact")] == "63.00 ± 2.0" and paper[("Feature Denoising", "white box")] == "55.70"
    assert (paper == "-").sum() == len(paper) - 3
    assert set(table.columns) == {f"{a}, {s} steps (n 10)" for a in ("targeted", "untargeted") for s in (10, 100)}
    assert table.loc[("NRP dynamic", "exact"), "targeted, 10 steps (n 10)"].startswith("90.0 [")
    assert table.loc[("NRP dynamic", "exact"), "targeted, 100 steps (n 10)"].startswith("0.0 [")
    assert table.loc[("NRP", "exact"), "untargeted, 10 steps (n 10)"] == "-"
    assert list(dict.fromkeys(table.index.get_level_values(0))) == [
        "Original", "Feature Denoising", "NRP", "NRP dynamic"]  # fmt: skip


def test_metrics_name_every_cell(frame):
    nested = robustness.nested(robustness.estimates(frame))
    assert nested["NRP dynamic"]["targeted exact 10"] == pytest.approx(90)
    assert nested["Original"]["none - 10"] == 100


def test_table_2_prints_both_of_feature_denoisings_times_and_ours_as_recorded(tmp_path):
    scale = settings.load("mini")
    (tmp_path / "NRP.json").write_text(json.dumps({"images": 3000, "seconds": 7200, "device": "NVIDIA H100"}))
    table = robustness.table_02(chosen(), scale, tmp_path)
    printed = TABLES["table_02"]["rows"]
    times = [printed["Feature Denoising"][1], 52, 90, printed["NRP"][1], 2]
    assert table["time"].tolist() == [f"{hours} h" for hours in times]
    assert table["GPU-hours"].tolist() == ["6,656 h", "6,656 h", "11,520 h", "112 h", "2 h"]
    assert table["training images"].iloc[-1] == "3,000, no labels" and table["GPUs"].iloc[-1] == 1
    (tmp_path / "ResNet50-FD.json").write_text(json.dumps({"images": 400, "seconds": 36}))
    ours = robustness.table_02(chosen(), scale, tmp_path).iloc[-1]
    # What was judged on 400 images was trained on 3,000; on a CPU no GPU was used.
    assert (
        ours["training images"] == "3,000, labelled"
        and ours["time"] == "0.01 h"
        and ours["GPUs"] == 0
        and ours["GPU-hours"] == "-"
    )
