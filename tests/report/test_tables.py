"""lib/report/tables.py: the tables of tables.yaml, built from frames whose numbers are known."""

import numpy as np
import pandas as pd
import pytest
import yaml

from lib import settings
from lib.report import published, tables
from lib.report.results import Results
from tests.conftest import companion
from tests.made import cell, found, frame, pixels, precision

MINI = settings.load("mini")
DEFENSES = ["none", "JPEG 75", "MF 3", "my own"]


def built(name, made):
    table = tables.tables()[name]
    cells = tables.table_numbers(table, made)
    return cells, tables.wide(table, cells, made, MINI)


def value(cells, heading, **row):
    (one,) = (c for c in cells if c.heading == heading and row.items() <= c.row.items())
    return one.estimate.value


def test_table_5_stands_beside_the_paper_and_calls_a_stand_in_one():
    made = frame(*[
        cell({"top1": np.arange(10) < 9, "top5": np.ones(10)}, experiment="table_05", victim=victim)
        for victim in ("Inc-v3", "VGG-16")
    ])  # fmt: skip
    _, table = built("table_05", made)
    row, other = table.to_dict("records")
    assert row["network"] == "stand-in inception_v3" and row["n"] == "10" and row["T-1"].startswith("90.0 [")
    assert (row["T-1 (paper)"], row["T-5 (paper)"]) == ("95.3", "99.8")
    assert (other["T-1 (paper)"], other["T-5 (paper)"]) == ("-", "-")  # the paper prints no such victim


VICTIMS = ["Inc-v3", "Res-152", "Inc-v4", "VGG-19", "VGG-16"]
# Images right out of a hundred, per attack and victim; VGG-16 is FSA's own surrogate, the paper prints no VGG-19.
RIGHT = {
    ("none", "", 0): [99, 98, 97, 96, 95],
    ("FSA", "VGG-16", 10): [60, 10, 52, 50, 0],
    ("SSP", "ResNet50-NT + Inc-v4", 100): [5, 90, 50, 20, 40],
}


def table_03():
    return frame(*[
        cell((right, 100), experiment="table_03", attack=attack, surrogate=surrogate, steps=steps, victim=victim)
        for (attack, surrogate, steps), counts in RIGHT.items()
        for victim, right in zip(VICTIMS, counts, strict=True)
    ])  # fmt: skip


def test_table_3_has_every_accuracy_in_its_cell_and_the_papers_below():
    _, table = built("table_03", table_03())
    assert table["attack"].tolist() == ["none", "FSA", "FSA (paper)", "SSP", "SSP (paper)"]
    for (attack, surrogate, _), counts in RIGHT.items():
        row = table.set_index("attack").loc[attack]
        for victim, count in zip(VICTIMS, counts, strict=True):
            own = victim in surrogate.split(" + ")  # in brackets: no transfer
            assert row[victim].startswith(f"({count:.1f} [" if own else f"{count:.1f} ["), (attack, victim)
            assert row[victim].endswith("])") is own
    # Table 3 prints Inc-v3, Inc-v4, Res-152 in this order, and neither VGG.
    printed = table.set_index("attack")[VICTIMS]
    assert printed.loc["FSA (paper)"].tolist() == ["60.4", "68.8", "64.2", "-", "-"]
    assert printed.loc["SSP (paper)"].tolist() == ["5.3", "16.5", "5.9", "-", "-"]


def test_the_csv_has_a_row_per_number(tmp_path):
    results = Results("mini", tmp_path)
    text = tables.show(results, "table_03", table_03()).data
    assert text == results.path("tables", "table_03.md").read_text() and "(0.0 [0.0, 3.6])" in text
    rows = results.load_table("table_03")
    names = ["attack", "surrogate", "steps", "column", "value", "low", "high", "n", "paper"]
    assert rows.columns.tolist() == names and len(rows) == 15 and (rows["n"] == 100).all()
    row = rows[(rows["attack"] == "SSP") & (rows["column"] == "Res-152")].iloc[0]
    assert row["value"] == 90 and float(row["paper"]) == 16.5 and row["low"] < 90 < row["high"]
    assert not tables.headlines(results)  # no frame: an earlier version wrote it, perhaps in other columns
    Results("mini", tmp_path, stage="c_fsa").save_frame(table_03())
    assert tables.headlines(results) == {"table_03": rows.loc[rows["attack"] == "SSP", "value"].mean()}


def test_what_a_scale_does_otherwise_stands_below_the_table(tmp_path):
    results = Results("sample", tmp_path)
    labels = {"experiment": "table_07", "task": "detection", "victim": "YOLOX-nano"}
    shown = frame(cell(found(5), attack="none", eps=0.0, **labels), cell(found(2), attack="SSP", steps=10, **labels))
    text = tables.show(results, "table_07", shown).data
    assert text == results.path("tables", "table_07.md").read_text()
    assert "Not as in the paper: SSP runs 10 of 100 steps in detection; YOLOX-nano, not RetinaNet" in text


def test_a_table_whose_cells_a_frame_has_not_is_empty(tmp_path):
    results = Results("mini", tmp_path)
    tables.show(results, "cda_recovered", frame(cell((1, 4), experiment="transfer")))
    assert results.path("tables", "cda_recovered.csv").read_text().strip() == "column,value,low,high,n"
    assert results.load_table("cda_recovered").empty


def test_rows_and_columns_come_in_the_order_of_the_frame():
    made = frame(*[
        cell((1, 4), experiment="transfer", attack=attack, victim=victim)
        for victim in ("B", "A") for attack in ("SSP", "DIM")
    ])  # fmt: skip
    _, table = built("transfer", made)
    assert table["attack"].tolist() == ["SSP", "DIM"] and table.columns.tolist()[2:4] == ["B", "A"]


def test_beyond_noise_is_measured_from_noise_not_from_clean():
    made = frame(
        cell((10, 10), attack="none", eps=0.0, experiment="transfer"),
        cell((8, 10), attack="Noise", experiment="transfer"),
        cell((3, 10), attack="SSP", surrogate="VGG-16", experiment="transfer"),
    )
    cells, _ = built("beyond_noise", made)
    assert [c.estimate.value for c in cells] == pytest.approx([100, 80, 30, 50])


def test_white_box_accuracy_stands_beside_clean_and_noise():
    attacks = {"none": 4, "Noise": 3, "FGSM": 0}
    cells, _ = built("white_box", frame(*[cell((k, 4), attack=a, experiment="white_box") for a, k in attacks.items()]))
    assert {c.heading: c.estimate.value for c in cells} == {"clean": 100, "noise": 75, "own FGSM": 0}


def transformed(part, experiment):
    """Every transform costs 2 pixels of 40 on clean images and wins 4 under SSP, except MF 3, which loses 4 there."""
    made = []
    for defense in DEFENSES:
        for eps in (0, 2, 8, 16):
            change = 0 if defense == "none" else -2 if eps == 0 else -4 if defense == "MF 3" else 4
            labels = {"attack": "SSP" if eps else "none", "eps": float(eps), "defense": defense}
            made.append(cell(part(max(36 - 2 * eps + change, 0)), experiment=experiment, **labels))
    noise = [cell(part(35), attack="Noise", eps=float(eps), experiment=experiment) for eps in (2, 8, 16)]
    return frame(*made, *noise)


def test_table_6_puts_ours_beside_the_papers_and_the_best_in_bold():
    """All twelve images are alike, so each interval is the exact bound."""
    made = transformed(pixels, "table_06")
    _, table = built("table_06", made)
    table = table.set_index("defense")
    assert list(table.index) == DEFENSES and (table["n"] == "12").all()
    assert table.loc["none", "no attack"] == "**90.0 [63.5, 100.0]**"
    assert table.loc["JPEG 75", "no attack"] == "85.0 [58.5, 100.0]"
    assert table.loc["MF 3", "no attack (paper)"] == "75.65" and table.loc["MF 3", "eps 8"] == "40.0 [13.5, 66.5]"
    assert table.loc["my own", "no attack (paper)"] == "-" and table.loc["my own", "no attack"].startswith("85.0")


def test_effects_and_collapse_are_paired_differences():
    made = transformed(pixels, "table_06")
    effects, _ = built("table_06_effects", made)
    assert value(effects, "no attack", defense="JPEG 75") == pytest.approx(-5)
    assert value(effects, "eps 16", defense="JPEG 75") == pytest.approx(10)
    assert value(effects, "eps 16", defense="MF 3") == pytest.approx(-10)
    assert {c.row["defense"] for c in effects} == set(DEFENSES[1:])
    collapse, _ = built("table_06_collapse", made)
    # 4 of 40 pixels are left of 36 on clean images and 35 under noise.
    assert value(collapse, "against clean", eps=16.0) == pytest.approx(-80)
    assert value(collapse, "against noise", eps=16.0) == pytest.approx(-77.5)


def test_details_have_a_row_per_attack_and_a_column_per_score():
    cells, table = built("table_06_scores", transformed(pixels, "table_06"))
    assert table[["attack", "eps"]].values.tolist()[:2] == [["none", "0"], ["SSP", "2"]] and len(table) == 7
    # Class 0: 36 of 40; class 1 was predicted of 4 pixels and is nowhere.
    assert value(cells, "pixels", eps=0.0) == 90 and value(cells, "mean IoU", eps=0.0) == pytest.approx(45)


def test_the_trend_begins_with_the_clean_images_in_every_line():
    trend = tables.trend(transformed(pixels, "table_06"), "segmentation", "pixels")
    assert set(trend["line"]) == {"no defense", *DEFENSES[1:], "random sign noise"}
    for line, part in trend.groupby("line"):
        assert part["eps"].tolist() == [0, 2, 8, 16], line
    assert trend[trend["line"] == "random sign noise"]["value"].tolist() == [90.0, 87.5, 87.5, 87.5]


HITS = {("none", 0): 8, ("CDA-ImageNet", 8): 6, ("CDA-ImageNet", 16): 4, ("my own", 16): 3, ("SSP", 16): 0}


def test_table_4_stands_beside_the_paper_at_both_budgets_and_the_clean_row_in_both():
    made = frame(*[
        cell(found(hits if defense == "none" else 7), attack=attack, eps=float(eps), defense=defense,
             experiment="table_04", victim="Mask-R-CNN")
        for (attack, eps), hits in HITS.items() for defense in ("none", "NRP")
    ])  # fmt: skip
    cells, table = built("table_04", made)
    table = table.set_index("attack")
    assert table.loc["none", "eps 8"] == table.loc["none", "eps 16"] and table.loc["none", "eps 8"].startswith("100.0")
    assert table["eps 8 (paper)"].tolist() == ["-", "35.2", "-", "-"] and table.loc["SSP", "eps 8"] == "-"
    assert value(cells, "eps 16", attack="CDA-ImageNet") == pytest.approx(precision(4))
    nrp, _ = built("table_04_nrp", made)
    assert value(nrp, "change", attack="my own") == pytest.approx(precision(7) - precision(3))


def test_smoothing_is_paired_with_what_was_proposed():
    shared = {"attack": "CDA", "surrogate": "VGG-16", "victim": "A"}
    made = frame(
        cell((2, 10), experiment="classifiers", **shared),
        cell((9, 10), experiment="classifiers", defense="NRP", **shared),
        cell((9, 10), experiment="smoothed", **shared),
    )
    cells, _ = built("cda_smoothing", made)
    assert [c.estimate.value for c in cells] == pytest.approx([20, 90, 70])


def hardened():
    """Table 1's frame: right of ten; the dynamic NRP has two seeds, and one of a hundred steps is no row of it."""
    right = {
        ("Original", "none", "unaware", 0): [10],
        ("Original", "PGD (targeted)", "white-box", 0): [0],
        ("Feature Denoising", "none", "unaware", 0): [7],
        ("Feature Denoising", "PGD (targeted)", "white-box", 0): [5],
        ("NRP", "none", "unaware", 0): [9, 7],
        ("NRP", "PGD (targeted)", "unaware", 0): [10, 10],
        ("NRP", "PGD (targeted)", "exact", 0): [10, 8],
    }
    networks = {"Feature Denoising": "ResNet50-FD"}
    return [
        cell((count, 10), method=method, attack=attack, knowledge=knowledge, seed=seed, experiment=run,
             victim=networks.get(method, "ResNet50-NT"))
        for run in ("10 steps", "100 steps")
        for (method, attack, knowledge, _), counts in right.items()
        for seed, count in enumerate(counts if run == "10 steps" else [0] * len(counts))
    ]  # fmt: skip


def test_table_1_counts_ten_steps_averages_over_seeds_and_stands_beside_the_paper():
    cells, table = built("table_01", frame(*hardened()))
    table = table.set_index("method")
    assert [value(cells, "clean", method=name) for name in table.index] == pytest.approx([100, 70, 80])
    assert [value(cells, "adversarial", method=name) for name in table.index] == pytest.approx([0, 50, 90])
    # Two seeds, 90 and 70 % on clean images: their standard deviation is 20 / sqrt(2).
    assert table.loc["NRP", "clean"].endswith("] ± 14.1") and "±" not in table.loc["Original", "clean"]
    assert table["clean (paper)"].tolist() == ["78.31", "65.3", "73.5"] and table["n"].tolist() == ["10"] * 3
    assert table.loc["Feature Denoising", "network"] == "stand-in resnet50_denoise"


def test_the_adaptive_table_has_a_row_per_attacker_and_a_column_per_attack():
    _, table = built("adaptive", frame(*hardened()))
    assert table[["method", "knowledge"]].values.tolist()[-2:] == [["NRP", "unaware"], ["NRP", "exact"]]
    assert table["PGD (targeted), 10 steps"].iloc[-1].startswith("90.0 [")
    assert table["PGD (targeted), 100 steps"].iloc[-1].startswith("0.0 [")


def test_what_does_not_differ_has_no_psnr():
    near = {"psnr": np.array([30.0, 32.0]), "features": np.array([0.5, 0.25])}
    same = {"psnr": np.array([np.inf, np.inf]), "features": np.zeros(2)}
    made = frame(*[
        cell(part, experiment="quality", attack=attack, defense=defense)
        for attack, parts in {"none": [same, near], "SSP": [near, near]}.items()
        for defense, part in zip(("none", "NRP"), parts, strict=True)
    ])  # fmt: skip
    cells, table = built("purification_quality", made)
    assert table["PSNR"].tolist()[0] == "-" and table["PSNR"].tolist()[1].startswith("31.0 [")
    assert value(cells, "features, purified", attack="SSP") == 37.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": "acuracy"}, "columns.A.score: no score 'acuracy'; did you mean 'accuracy'? There are: accuracy, "),
        ({"whre": {}}, "columns.A: unknown key 'whre'; did you mean 'where'?"),
    ],
)
def test_a_mistake_in_one_s_own_table_is_one_line(tmp_path, monkeypatch, change, message):
    own = tmp_path / "tables.yaml"
    monkeypatch.setattr(tables, "FILES", (own,))
    entry = {"title": "Mine", "stage": "c_fsa", "rows": ["victim"], "columns": {"A": {"score": "accuracy"}}}
    own.write_text(yaml.safe_dump({"mine": entry}))
    assert list(tables.tables()) == ["mine"]
    entry["columns"]["A"] |= change
    own.write_text(yaml.safe_dump({"mine": entry}))
    with pytest.raises(ValueError) as caught:
        tables.tables()
    assert str(caught.value).startswith(f"{tmp_path.name}/tables.yaml: mine: {message}")
    assert "\n" not in str(caught.value)


def test_every_table_is_built_from_the_committed_frames():
    """A column, attack or experiment that a frame no longer has would silently leave a table empty."""
    results = Results("mini")
    for name, table in tables.tables().items():
        made = results.load_frame(table.stage)
        found = tables.table_numbers(table, made)
        headings = {c.heading for c in found}
        assert found and all("{" in h or h in headings for h in table.columns), name
        rows = pd.DataFrame([c.row for c in found]).drop_duplicates()
        assert len(rows) == len(tables.distinct(made.where(**table.where), table.rows)), name


def test_the_published_numbers_are_those_of_the_supplement():
    assert published.value("table_05", "VGG-19", "T-1") == 85.5
    taken = published.value("table_06", "none", "no attack") - published.value("table_06", "none", "eps 16")
    assert taken == pytest.approx(47.11)
    assert published.value("table_07", "none", "eps 16") == 5.16
    assert published.value("table_03", "SSP", "IncRes-v2ens") == 58.0
    assert published.value("table_03", "SSP", "VGG-19") is None


def test_every_published_row_has_all_its_columns():
    for table in published.TABLES.values():
        assert all(len(row) == len(table["columns"]) for row in table["rows"].values())


def test_without_imagenet_the_tables_of_its_stage_say_so_and_a_computed_one_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("lib.data.images.ROOT", tmp_path)
    monkeypatch.delenv("COMPANION_ASSETS", raising=False)
    monkeypatch.setenv("COMPANION_RESULTS", str(tmp_path / "results"))
    status, line, _ = companion("run", "b_at_comparison", "--scale", "paper")
    assert status == 0 and line.startswith("not fetched: data/imagenet_val: ")
    assert line.endswith(", then: companion run b_at_comparison --scale paper\n")
    assert companion("table", "1", "--scale", "paper")[1] == line
    stage = tmp_path / "results" / "paper" / "b_at_comparison"
    assert (stage / "tables" / "adaptive.md").read_text() == line
    paper = settings.load("paper")
    assert not any(tables.mark_not_fetched(paper, other) for other in ("c_fsa", "e_transforms", "explore"))
    (stage / "frame.npz").touch()
    (stage / "tables" / "table_01.md").write_text("numbers")
    assert not tables.mark_not_fetched(paper, "b_at_comparison")
    (stage / "frame.npz").unlink()
    (tmp_path / "data" / "imagenet_val").mkdir(parents=True)
    assert not tables.mark_not_fetched(paper, "b_at_comparison")
    assert (stage / "tables" / "table_01.md").read_text() == "numbers"
