"""lib/verify.py: what counts as the same result."""

import subprocess
from types import SimpleNamespace

import pandas as pd
import pytest

from lib import verify
from lib.verify import compare_folders, compare_tables

OLD = {"attack": ["SSP", "FGSM"], "effect": [10.0, 40.0], "low": [5.0, 30.0], "high": [15.0, 50.0], "p": [0.5, 0.9]}
OLD |= {"n": [100, 100]}


@pytest.mark.parametrize(
    ("change", "verdict", "difference"),
    [
        ({"effect": [10.04, 40.0]}, "same within rounding", 0.04),
        ({"low": [4.0, 29.0], "p": [0.4, 0.8]}, "same within rounding", 0.0),
        ({"effect": [14.9, 40.0]}, "inside the intervals", 4.9),
        ({"effect": [15.2, 40.0]}, "different", 5.2),
        ({"n": [100, 101]}, "different", 1.0),
        ({"attack": ["SSP", "PGD"]}, "different", None),
        ({"more": [1, 2]}, "different", None),
    ],
)
def test_a_table_is_compared_number_by_number(change, verdict, difference):
    found, largest = compare_tables(pd.DataFrame(OLD), pd.DataFrame(OLD | change))
    assert found == verdict
    assert pd.isna(largest) if difference is None else largest == pytest.approx(difference)


@pytest.mark.parametrize("column", ["value", "ours", "effect"])
def test_an_estimate_has_its_interval_in_low_and_high(column):
    old = pd.DataFrame({"attack": ["SSP"], column: [10.0], "low": [5.0], "high": [15.0]})
    assert compare_tables(old, old.assign(**{column: 12.0}))[0] == "inside the intervals"
    assert compare_tables(old, old.assign(**{column: 16.0}))[0] == "different"


def test_a_small_number_is_not_rounded_away():
    old = pd.DataFrame({"silhouette": [0.69, 0.70]})
    assert compare_tables(old, old.assign(silhouette=[0.78, 0.70]))[0] == "different"


def test_every_table_and_figure_has_its_verdict(tmp_path):
    for name in ("old", "new"):
        for folder in ("c/tables", "c/figures", "site/tables"):
            (tmp_path / name / folder).mkdir(parents=True)
        for number, content in {1: "a,b\nx,1\n", 2: "a,b\nx,1\n" if name == "old" else "a,b\nx,9\n"}.items():
            (tmp_path / name / "c/tables" / f"table_{number}.csv").write_text(content)
        (tmp_path / name / "c/figures/figure.svg").write_text(name)
        (tmp_path / name / "site/tables/table_1.csv").write_text(name)  # a copy, of which nothing is said
    (tmp_path / "old" / "c/tables/only.csv").write_text("a\n1\n")
    found = compare_folders(tmp_path / "old", tmp_path / "new").set_index("file")["verdict"].to_dict()
    assert found == {
        "c/figures/figure.svg": "different",
        "c/tables/only.csv": "missing",
        "c/tables/table_1.csv": "identical",
        "c/tables/table_2.csv": "different",
    }


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match="is not empty; name a new folder"):
        verify.again(tmp_path, tmp_path)


def test_a_step_that_fails_ends_it_in_one_line(tmp_path):
    (tmp_path / "nothing" / ".git").mkdir(parents=True)
    with pytest.raises(ChildProcessError, match=r"^git clone --quiet .* failed in "):
        verify.again(tmp_path / "nothing", tmp_path / "new")


def test_a_change_is_made_in_the_clone_before_it_runs(tmp_path, monkeypatch):
    root, ran = tmp_path / "root", []
    root.mkdir()
    for words in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-mx"],
    ):
        subprocess.run(["git", *words], cwd=root, check=True)
    real = subprocess.run

    def run(words, cwd, env):
        if words[0] == "git":
            return real(words, cwd=cwd, env=env)
        ran.append(((cwd / "seed").read_text(), env["COMPANION_STORE"]))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(verify.subprocess, "run", run)
    found = verify.again(root, tmp_path / "new", "a store", lambda clone: (clone / "seed").write_text("7"))
    assert found == tmp_path / "new" / "companion" / "results" and ran == [("7", "a store")] * 2
