"""lib/report/published.py and comparison.py: every printed number, and ours beside it."""

import numpy as np
import pandas as pd
import pytest

from lib import settings
from lib.report import comparison, published
from lib.report.results import Results
from tests.conftest import companion, refused
from tests.made import cell as one_cell
from tests.made import found as made
from tests.made import frame, precision


@pytest.fixture
def results(tmp_path):
    return Results("mini", tmp_path)


def test_every_table_has_all_its_numbers_with_unit_and_line():
    cells = published.NUMBERS.values()
    counts = pd.Series([cell.table for cell in cells]).value_counts().to_dict()
    assert counts == {
        "table_01": 6,
        "table_02": 4,
        "table_03": 12,
        "table_04": 8,
        "table_05": 16,
        "table_06": 21,
        "table_07": 21,
    }
    assert all(cell.unit and 56 <= cell.line <= 172 for cell in cells)
    assert published.value("table_06", "MF 3", "eps 16") == 30.52
    assert published.NUMBERS["table_05", "Res-152", "T-5"].line == 148
    assert published.NUMBERS["table_01", "NRP", "adversarial"].spread == 2.0
    assert published.NUMBERS["table_02", "NRP", "hours"].unit == "h"


def test_numbers_of_the_text_agree_with_the_tables_and_with_params():
    params = settings.params().model_dump()
    for entry in published.TEXT:
        if "cell" in entry:
            assert published.value(*entry["cell"]) == entry["value"]
        if "parameter" in entry:
            found = params
            for key in entry["parameter"].split("."):
                found = found[key]
            assert found == pytest.approx(entry["value"])
    (taken,) = (entry["value"] for entry in published.TEXT if entry["value"] == 47.11)
    assert taken == pytest.approx(
        published.value("table_06", "none", "no attack") - published.value("table_06", "none", "eps 16")
    )


def test_ours_stands_beside_the_papers_with_interval_count_and_difference(results):
    hits = {("none", 0, "none"): 8, ("SSP", 8, "none"): 5, ("SSP", 16, "none"): 2, ("SSP", 16, "NRP"): 6}
    cells = [
        one_cell(made(count), attack=attack, eps=float(eps), defense=defense, experiment="table_07", victim="R")
        for (attack, eps, defense), count in hits.items()
    ]
    others = [one_cell(made(1), attack="none", eps=0.0, experiment="other detectors", victim="other")]
    Results(results.scale, results.root.parent, stage="e_transforms").save_frame(frame(*cells, *others))
    found = comparison.compare(results).set_index(["table", "row", "column"])
    ours = found.loc[("table_07", "none", "eps 16")]
    assert (ours["ours"], ours["n"]) == (pytest.approx(precision(2)), 8) and ours["low"] < precision(2) < ours["high"]
    assert ours["difference"] == pytest.approx(precision(2) - 5.16)
    assert found.loc[("table_07", "none", "no attack"), "ours"] == pytest.approx(100)
    assert found.loc[("table_07", "JPEG 75", "eps 8"), "note"] == "this scale has no such cell"
    assert found.loc[("table_03", "SSP", "Inc-v3"), "note"] == "its notebook has not run at this scale"
    assert "at another size" in found.loc[("table_02", "NRP", "hours"), "note"]


def test_the_committed_comparison_agrees_with_the_committed_tables():
    """Cells picked by hand from the Markdown tables, which another function writes."""
    results = Results("mini")
    found = comparison.compare(results).set_index(["table", "row", "column"])
    assert (found["ours"] == "").sum() == 4  # Table 2's
    for name, row, column, cell in [
        ("table_03", "FSA", "Inc-v4", ("FSA", "Inc-v4")),
        ("table_05", "VGG-19", "T-1", ("VGG-19", "T-1")),
    ]:
        lines = [line for line in results.find(f"tables/{name}.md").read_text().splitlines() if line.startswith("|")]
        heads = [text.strip() for text in lines[0].split("|")]
        (line,) = (line for line in lines if line.split("|")[1].strip() == cell[0])
        printed = line.split("|")[heads.index(cell[1])].strip()
        ours = found.loc[(name, row, column)]
        assert printed.startswith(f"{ours['ours']:.1f} [{ours['low']:.1f}, {ours['high']:.1f}]"[: len(printed)])
    assert np.allclose(
        [row["ours"] - row["paper"] - row["difference"] for _, row in found.iterrows() if row["ours"] != ""], 0
    )


def test_the_command_prints_markdown_or_csv():
    text = companion("report", "compare", "--scale", "mini")[1]
    assert text.count("\n## Table ") == 7 and "| 53.78" in text and "Numbers in the text" in text
    table = companion("report", "compare", "--scale", "mini", "--csv")[1]
    assert table.startswith("table,row,column,unit,line,paper,ours,low,high,difference,n,note\n")
    assert "## Appendix G" in companion("report", "claims", "--scale", "mini")[1]


def test_a_scale_without_results_names_the_command_and_another_part_the_parts(monkeypatch, tmp_path):
    monkeypatch.setattr("lib.report.writing.Results", lambda name: Results(name, tmp_path))
    message = "tables/*.md is not there yet in results/mini; compute it with: dvc repro (scale: mini)"
    assert refused("report", "compare", "--scale", "mini") == message
    assert (
        refused("report", "verdicts")
        == "no part 'verdicts' of the report; did you mean 'overview'? There are: all, claims, compare, overview, docs"
    )
