"""lib/report/blocks.py: README and docs hold the numbers of the results, between markers."""

import re
import subprocess
import tarfile

import pandas as pd
import pytest

from lib.report import blocks, claims, findings
from lib.report.results import Results
from lib.settings import ROOT
from tests.made import cell, frame


@pytest.fixture
def results(tmp_path):
    results = Results("mini", tmp_path)
    results.save_table("t", pd.DataFrame({"attack": ["SSP", "DIM", "DIM-TI"], "V": ["1.5", "2.5", "3.5"]}))
    cells = [cell((k, 60), attack="SSP", steps=s, experiment="figure_06") for s, k in ((10, 50), (100, 5))]
    Results("mini", tmp_path, stage="f_attack_parameters").save_frame(frame(*cells))
    return results


def block(what, root):
    text = blocks.renewed(f"Before.\n<!-- report: {what} -->\nold 99\n<!-- end -->\nAfter.\n", root)
    assert text.startswith(f"Before.\n<!-- report: {what} -->\n") and text.endswith("\n<!-- end -->\nAfter.\n")
    assert "old" not in text and blocks.renewed(text, root) == text
    return text


def test_a_table_stands_whole_or_with_the_rows_that_begin_so(results, tmp_path):
    assert all(value in block("table mini t", tmp_path) for value in ("1.5", "2.5", "3.5"))
    some = block("table mini t DIM", tmp_path)
    assert "1.5" not in some and "2.5" in some and "3.5" in some and "attack" in some


def test_claims_stand_with_their_effects(results, tmp_path):
    text = block("claims mini F", tmp_path)
    assert "| F3 " in text and "-75.0 [" in text and "| 60" in text and "| reproduced" in text and "F1" not in text
    assert "F3 reproduced" in block("overview mini", tmp_path)


def test_a_list_of_accuracies_becomes_a_grid(results, tmp_path):
    rows = [("SSP", "unaware", 10, d, a) for d, a in (("none", 5.0), ("NRP dynamic", 66.0), ("NRP dynamic", 71.0))]
    columns = ["attack", "knowledge", "steps", "defense", "accuracy"]
    pd.DataFrame(rows, columns=columns).to_csv(results.path("tables", "g.csv"), index=False)
    text = block("grid mini g none NRP_dynamic", tmp_path)
    assert re.search(r"\| SSP +\| unaware +\| 10 +\| 5 +\| 66 to 71 +\|", text)


def test_a_defense_of_the_protocol_stands_in_a_line(results, tmp_path):
    cells = [
        cell((k, 60), attacker=name, than="", defense="NRP dynamic", experiment="waterfall")
        for name, k in (("clean", 60), ("unaware, random target", 28), ("static", 0))
    ]
    Results("mini", tmp_path, stage="h_protocol").save_frame(frame(*cells))
    text = block("protocol mini NRP_dynamic", tmp_path)
    assert re.search(
        r"- \*\*NRP dynamic\*\*: 100.0 \[.*\] % on clean images, 46.7 \[.*% under \*unaware, random target", text
    )
    assert "0.0 [0.0, 6.0] % under *static*, the strongest of those with all 60 images." in text


def test_an_unknown_block_is_named(tmp_path):
    with pytest.raises(
        ValueError,
        match="no block 'report: tabel mini t'; did you mean 'table'\\? There are: overview, findings",
    ):
        block("tabel mini t", tmp_path)


def test_readme_and_docs_say_what_the_committed_results_say(tmp_path):
    """When out of date: `companion report docs`. Another machine's own results may differ from these."""
    archive = tmp_path / "results.tar"
    names = ["results/mini", "results/sample"]
    subprocess.run(["git", "archive", "-o", str(archive), "HEAD", *names], cwd=ROOT, check=True)
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    pages = {path.name: path.read_text() for path in blocks.documents()}
    assert {name for name, text in pages.items() if "<!-- report: " in text} == {"README.md", "results.md"}
    for name, text in pages.items():
        assert text.count("<!-- report: ") == len(blocks.MARKED.findall(text)), f"{name} has a block without an end"
        assert blocks.renewed(text, tmp_path / "results") == text, f"{name} is out of date"


def test_what_readme_and_docs_say_was_found_is_what_the_verdicts_are():
    """<!-- found: mini C1 reproduced --> beside a sentence names the verdicts that it puts into words."""
    verdicts = {}
    for scale in ("mini", "sample"):
        found = findings.summary(claims.judge(Results(scale)))
        verdicts |= {f"{scale} {name}": verdict for name, verdict in zip(found["id"], found["verdict"], strict=True)}
    stated = 0
    for page in blocks.documents():
        for marker in re.findall(r"<!-- found: (.+?) -->", page.read_text(), re.DOTALL):
            for scale, name, verdict in (one.split(maxsplit=2) for one in " ".join(marker.split()).split(", ")):
                assert verdicts[f"{scale} {name}"] == verdict, f"{page.name}: {scale} {name}"
                stated += 1
    assert stated > 40
