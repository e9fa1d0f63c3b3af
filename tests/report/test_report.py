"""`companion report`: the whole report, written from the committed frames of the mini scale."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from lib.report import claims, findings, tables
from lib.report.results import Results
from lib.settings import ROOT
from tests.conftest import companion


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The committed results of the mini scale, without the report."""
    folder = tmp_path_factory.mktemp("results")
    shutil.copytree(ROOT / "results" / "mini", folder / "mini", ignore=shutil.ignore_patterns("report", "site"))
    return Results("mini", folder)


def files(results):
    return {path.relative_to(results.root): path.read_bytes() for path in results.root.rglob("*") if path.is_file()}


def test_the_report_is_written_whole_and_the_same_again(results, monkeypatch):
    monkeypatch.setattr("lib.report.writing.Results", lambda name: results)
    before = files(results)
    status, said, _ = companion("report", "--scale", "mini")
    counts = findings.counts(claims.judge(results))
    assert status == 0 and said.startswith(f"results/mini/report/claims.md: {counts['reproduced']} reproduced, ")
    first = files(results)
    assert {path.parts[0] for path in first.keys() - before.keys()} == {"report"}
    assert Path("report/provenance.json") in first and Path("report/figures/claims.svg") in first
    metrics = json.loads(first[Path("report/metrics.json")])
    numbers = pd.read_csv(results.find("tables/table_05.csv"))
    top1 = numbers.loc[numbers["column"] == "T-1", "value"].mean()
    assert metrics["claims"] == counts and metrics["table_05"] == round(top1, 2)
    assert companion("report", "--scale", "mini")[0] == 0
    assert files(results) == first


def test_a_scale_without_frames_keeps_its_report(results, monkeypatch):
    for path in results.root.glob("*/frame.npz"):
        path.unlink()
    monkeypatch.setattr("lib.report.writing.Results", lambda name: results)
    before = files(results)
    assert "has no frames: its report stays as it was computed" in companion("report", "--scale", "mini")[1]
    assert files(results) == before


def test_the_page_on_own_tables_and_claims_is_right(results, monkeypatch, tmp_path):
    shutil.copytree(ROOT / "results" / "mini", results.root, dirs_exist_ok=True)
    entries = re.findall(r"```yaml\n(.+?)```", (ROOT / "docs" / "own_table.md").read_text(), re.DOTALL)
    for module, name, text in zip((tables, claims), ("tables", "claims"), entries, strict=True):
        own = tmp_path / f"{name}.yaml"
        own.write_text(text)
        monkeypatch.setattr(module, "FILES", (module.FILES[0], own))
    monkeypatch.setattr("lib.report.writing.Results", lambda name: results)
    assert companion("report", "--scale", "mini")[0] == 0
    assert "DIM-TI" in results.path("tables", "my_dim.md").read_text()
    assert "The dynamic NRP recovers more than the static one" in results.path(".", "claims.md").read_text()
