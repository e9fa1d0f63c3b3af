"""lib/report/verdicts.py: the sentences as data, what becomes of them on made-up and on the committed tables."""

import subprocess

import pandas as pd
import pytest
import yaml

from lib.report import forest, verdicts
from lib.report.claims import ranges
from lib.report.intervals import Estimate
from lib.report.results import Results
from lib.report.style import SLIDES
from lib.report.verdicts import Claim
from lib.settings import ROOT

CLAIM = Claim(
    id="C1",
    item="Table 3",
    lines="78",
    says="A moves more than B.",
    compares="A less B",
    table="moves",
    case=["victim"],
    effect="more",
)
BUILT = Claim(id="B6", item="Table 2", lines="66", says="So it is.", why="true by construction")


@pytest.fixture
def results(tmp_path):
    return Results("mini", tmp_path)


def store(results, *effects, **columns):
    table = pd.DataFrame({"victim": [f"V{k}" for k in range(len(effects))], "more": effects} | columns)
    results.save_table("moves", table.assign(n=50))


def judged(results, claim=CLAIM):
    return pd.DataFrame(verdicts.cases(claim, results), columns=verdicts.COLUMNS)


@pytest.mark.parametrize(
    ("effects", "found"),
    [
        ([(5, 1, 9), (30, 20, 40)], "reproduced"),
        ([(5, 1, 9), (-5, -9, -1)], "not reproduced"),
        ([(5, 1, 9), (1, -3, 5)], "inconclusive"),
        ([(1, -3, 5), (-5, -9, -1)], "not reproduced"),
    ],
)
def test_a_sentence_holds_where_every_case_does(results, effects, found):
    store(results, *(Estimate(*values, 50) for values in effects))
    assert verdicts.summary(judged(results))["verdict"].tolist() == [found]


def test_a_case_keeps_its_effect_its_interval_and_its_count(results):
    store(results, Estimate(5.0, 1.0, 9.0, 50))
    (row,) = judged(results).to_dict("records")
    assert (row["effect"], row["low"], row["high"], row["n"], row["case"]) == (5.0, 1.0, 9.0, 50, "V0")
    assert (row["id"], row["appendix"], row["lines"], row["unit"], row["why"]) == ("C1", "C", "78", "points", "")


def test_a_change_must_go_beyond_what_the_sentence_asks_for(results):
    store(results, Estimate(-2.0, -3.0, -1.0, 50), Estimate(-60.0, -70.0, -50.0, 50))
    rows = judged(results, CLAIM._replace(expected="falls", beyond=-25.0))
    assert rows["effect"].tolist() == [23.0, -35.0] and rows["low"].tolist() == [22.0, -45.0]
    assert rows["verdict"].tolist() == ["not reproduced", "reproduced"]


def test_rows_are_chosen_by_pattern(results):
    store(results, *[Estimate(5, 1, 9, 50)] * 4, attack=["DIM on A", "DIM-TI on A", "SSP on A-AT", "SSP on A"], eps=8)
    for pattern, victims in {
        "DIM on *": ["V0"],
        "SSP on *-AT": ["V2"],
        ("DIM on *", "DIM-TI on *"): ["V0", "V1"],
    }.items():
        chosen = judged(
            results, CLAIM._replace(where={"attack": list(pattern) if isinstance(pattern, tuple) else pattern})
        )
        assert chosen["case"].tolist() == victims
    assert len(judged(results, CLAIM._replace(where={"eps": "8"}))) == 4


@pytest.mark.parametrize(
    ("claim", "why"),
    [
        (CLAIM._replace(table="nothing"), "tables/nothing is not there: its notebook has not run at this scale"),
        (CLAIM._replace(where={"victim": "V9"}), "no such row in tables/moves"),
        (
            Claim(id="B6", item="Table 2", lines="66", says="So it is.", why="true by construction"),
            "true by construction",
        ),
    ],
)
def test_what_cannot_be_judged_says_why(results, claim, why):
    store(results, Estimate(5, 1, 9, 50))
    rows = judged(results, claim)
    assert rows["verdict"].tolist() == ["not judged"] and why in rows["why"].iloc[0]
    assert why in verdicts.markdown(rows, "mini") and verdicts.counts(rows)["not judged"] == 1


def test_a_defense_is_not_judged_where_the_attack_takes_nothing(results):
    store(results, Estimate(1.0, 0.5, 2.0, 50))
    given = {"table": "taken", "where": {"eps": "16"}, "column": "against clean", "below": -5}
    for taken, found in [(-2.0, "not judged"), (-40.0, "reproduced")]:
        results.save_table("taken", pd.DataFrame({"eps": [8, 16], "against clean": [-50.0, taken]}))
        rows = judged(results, CLAIM._replace(given=given))
        assert rows["verdict"].tolist() == [found]
    results.save_table("taken", pd.DataFrame({"eps": [16], "against clean": [-2.0]}))
    (why,) = judged(results, CLAIM._replace(given=given))["why"]
    assert why == "the attack takes 2.0 points here (tables/taken): nothing to win back"


def test_an_attack_on_the_victim_itself_is_no_transfer(results):
    attacks = ["DIM on V0 + V5", "DIM on V0 + V5", "DIM on V22"]
    store(results, *[Estimate(5, 1, 9, 50)] * 3, attack=attacks)
    assert judged(results, CLAIM._replace(transferred=True))["case"].tolist() == ["V1", "V2"]


def test_a_table_from_before_a_column_is_said_to_be_old(results):
    store(results, Estimate(5, 1, 9, 50))
    (why,) = judged(results, CLAIM._replace(effect="gain"))["why"]
    assert why == "tables/moves has no column 'gain': older than the code; run its notebook"


def test_many_cases_are_counted_and_few_are_shown(results):
    store(results, *[Estimate(k, k - 1.5, k + 1.5, 50) for k in range(-1, 6)])
    (text,) = verdicts.summary(judged(results))["effect"]
    assert text == "7 cases, -1.0 to +5.0: 4 reproduced, 3 inconclusive"
    store(results, Estimate(5, 1, 9, 50))
    assert verdicts.summary(judged(results))["effect"].tolist() == ["+5.0 [1.0, 9.0] (V0)"]


def test_every_sentence_is_well_formed():
    found = verdicts.claims()
    assert len({claim.id for claim in found}) == len(found)
    assert {claim.id[0] for claim in found} == set("ABCDEFG")
    for claim in found:
        assert claim.lines and claim.says.endswith(".")
        assert bool(claim.table) != bool(claim.why), f"{claim.id} needs a table or a reason"
        if claim.table:
            assert claim.compares and claim.effect and ranges(claim.expected)


def test_the_report_stage_depends_on_every_table_that_it_reads():
    listed = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["report"]["deps"]
    for claim in verdicts.claims():
        if claim.table:
            assert f"results/${{scale}}/tables/{claim.table}.csv" in listed


def test_every_sentence_meets_its_rows_in_the_committed_results():
    """A renamed column, attack or claim would silently leave a sentence unjudged."""
    rows = verdicts.judge(Results("mini"))
    unjudged = rows[rows["verdict"] == "not judged"]
    reasons = {claim.id for claim in verdicts.claims() if claim.why}
    nothing_taken = {claim.id for claim in verdicts.claims() if claim.given}
    assert reasons <= set(unjudged["id"]) <= reasons | nothing_taken
    said = unjudged[~unjudged["id"].isin(reasons)]["why"]
    assert said.str.contains("nothing to win back").all()
    assert (pd.to_numeric(rows["n"], errors="coerce").dropna() >= 10).all()


def test_the_committed_verdicts_are_those_of_the_committed_tables():
    results = Results("mini")
    assert results.path(".", "claims.md").read_text() == verdicts.markdown(verdicts.judge(results), "mini")


def test_the_overview_has_a_row_per_table_and_figure_and_a_column_per_scale(results):
    store(results, Estimate(5, 1, 9, 50))
    mini = pd.concat([judged(results), judged(results, CLAIM._replace(id="A1", item="Figure 10", expected="falls"))])
    sample = judged(results, CLAIM._replace(table="nothing"))
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in verdicts.overview({"m": mini, "s": sample}).splitlines()
    ]
    assert rows[0] == ["paper", "m", "s"]
    assert rows[2:] == [["Table 3", "C1 reproduced", "C1 not judged"], ["Figure 10", "A1 **not reproduced**", "-"]]


def rows(markdown):
    """The rows of the table whose first column is "paper": item -> its other cells."""
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown.splitlines() if line.startswith("|")]
    start = next(k for k, row in enumerate(cells) if row[0] == "paper")
    return {row[0]: row[1:] for row in cells[start : start + 17] if not row[0].startswith(":")}


def test_the_readme_says_what_the_committed_results_say():
    """After new results: `python -m lib.report overview`. Another machine's own results may differ from these."""
    overview = rows((ROOT / "README.md").read_text())
    assert overview["paper"] == ["mini", "sample"]
    for column, scale in enumerate(overview["paper"]):
        shown = ["git", "show", f"HEAD:results/{scale}/claims.md"]
        committed = rows(subprocess.run(shown, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
        assert committed.pop("paper") == ["sentences"] and len(committed) == 15
        assert {item: cells[column] for item, cells in overview.items() if item != "paper"} == {
            item: cell for item, (cell,) in committed.items()
        }


# The figure.


def test_the_figure_has_a_dot_per_case_and_shades_what_the_sentence_wants(results):
    store(results, Estimate(5, 1, 9, 50), Estimate(-150, -160, -140, 50))
    rows = pd.concat([judged(results), judged(results, CLAIM._replace(id="C2", expected="stays"))])
    axes = forest.claims(rows).axes[0]
    dots = [line for line in axes.lines if line.get_marker() not in ("None", None, "")]
    assert [line.get_xdata()[0] for line in dots] == [5, -100, 5, -100]
    assert [line.get_marker() for line in dots] == ["o", "X", "D", "X"]
    assert [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches] == [(0, 100), (-5, 5)]
    assert [text.get_text().split()[0] for text in axes.texts] == ["C1", "C2"]


def test_a_scale_without_any_result_has_no_figure():
    rows = pd.DataFrame([{"id": "A1", "verdict": "not judged"}])
    with pytest.raises(ValueError, match=r"can be judged .* run: dvc repro"):
        forest.claims(rows)


def test_a_slide_holds_a_few_sentences(results):
    store(results, Estimate(5, 1, 9, 50))
    few = judged(results)
    many = pd.concat([judged(results, CLAIM._replace(id=f"C{k}")) for k in range(40)])
    assert forest.claims(few, SLIDES).get_size_inches()[1] <= SLIDES.height
    with pytest.raises(ValueError, match="40 sentences do not fit a slide; choose some, as in --only C0,C1,C2"):
        forest.claims(many, SLIDES)
