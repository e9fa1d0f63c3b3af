"""Every notebook, executed as stages are, in a copy of the project with untrained networks and a handful of images."""

import functools
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from lib import run as stage_runner
from lib import settings
from lib.report.tables import tables
from lib.settings import ROOT
from tests.conftest import STEPS

# explore.ipynb is no stage: tests/test_lab.py runs it.
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb") if path.stem != "explore")


def files(project):
    """The results of the smoke scale, by their path below results/smoke."""
    folder = project / "results" / "smoke"
    written = [path for path in folder.rglob("*") if path.is_file() and "train" not in path.parts]
    written = [path for path in written if path.name != "timings.json"]  # what no stage makes
    return {str(path.relative_to(folder)): path.read_bytes() for path in written}


@pytest.fixture(scope="module")
def written(project):
    """What a stage of the smoke scale writes into a project without other results: name -> files. Each runs once."""

    @functools.cache
    def first(name):
        for file in files(project):
            (project / "results" / "smoke" / file).unlink()
        command = [sys.executable, "-m", "lib", "run", name, "--scale", "smoke"]
        environment = os.environ | {"PYTHONPATH": str(project)}
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-2000:]
        return files(project)

    return first


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_writes_into_its_stage_s_folder_only_and_the_same_bytes_again(project, written, name, monkeypatch):
    first = dict(written(name))
    made = {f"{name}.ipynb", "run.json", "frame.npz"}
    made |= {f"tables/{one}.{kind}" for one, entry in tables().items() if entry.stage == name for kind in ("md", "csv")}
    assert {f"{name}/{file}" for file in made} <= set(first) and {Path(file).parts[0] for file in first} == {name}
    monkeypatch.setenv("PYTHONPATH", str(project))  # of the kernel
    stage_runner.execute_notebook(name, "smoke", project)
    again = files(project)
    assert again == first


def test_without_imagenet_figure_3_says_not_fetched_and_the_rest_runs(project, tmp_path):
    """ImageNet needs an account: who has none still gets Figures 1 and 2."""
    root = shutil.copytree(project, tmp_path / "project", symlinks=True, ignore=shutil.ignore_patterns("results"))
    scale = yaml.safe_load((root / "scales" / "smoke.yaml").read_text())
    scale["a"]["tsne_data"] = {"name": "imagenet_val", "side": 48}
    (root / "scales" / "smoke.yaml").write_text(yaml.safe_dump(scale))
    environment = {key: value for key, value in os.environ.items() if key != "COMPANION_ASSETS"}
    command = [sys.executable, "-m", "lib", "run", "a_why_ssp_works", "--scale", "smoke"]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, env=environment | {"PYTHONPATH": str(root)}, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    written = {Path(name).name: content for name, content in files(root).items()}
    assert "figure_01.csv" in written and "figure_03.csv" not in written
    assert b"not fetched: data/imagenet_val" in written["figure_03_silhouettes.md"]


def table(content):
    return pd.read_csv(io.BytesIO(content), keep_default_na=False)


def test_the_tables_cover_every_victim_attack_and_step(project, written):
    results = written("f_attack_parameters")
    scale = yaml.safe_load((project / "scales" / "smoke.yaml").read_text())
    transfer = table(results["f_attack_parameters/tables/transfer.csv"])
    own = len(settings.params().own_attacks)
    assert set(transfer["column"]) == set(scale["f"]["victims"]) and transfer["attack"].nunique() == 13 + own
    assert (transfer["n"] == 6).all() and transfer["value"].between(transfer["low"], transfer["high"]).all()
    curve = table(results["f_attack_parameters/data/figure_06.csv"])
    assert sorted(set(curve["steps"])) == STEPS and set(curve["attack"]) == {"I-FGSM", "MI-FGSM", "DIM", "SSP"}


def test_tables_6_and_7_have_every_transform_and_budget(written):
    results = written("e_transforms")
    for name in ("table_06", "table_07"):
        numbers = table(results[f"e_transforms/tables/{name}.csv"])
        assert {(d, c) for d, c in zip(numbers["defense"], numbers["column"], strict=True)} == {
            (d, c) for d in ["none", *settings.params().defenses] for c in ("no attack", "eps 8", "eps 16")
        }
        assert (numbers["n"] == 6).all() and (numbers["low"] <= numbers["high"]).all()
        assert results[f"e_transforms/tables/{name}.md"].decode().count("(paper)") == 3
    trend = table(results["e_transforms/data/budgets.csv"])
    for task, part in trend.groupby("task"):
        lines = {"no defense", *list(settings.params().defenses), "random sign noise"}
        assert {(line, e) for line, e in zip(part["line"], part["eps"], strict=True)} == {
            (line, e) for line in lines for e in (0, 2, 4, 8, 16)
        }, task
