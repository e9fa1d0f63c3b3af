"""Every notebook, executed as stages are, in a copy of the project with untrained networks and a handful of images."""

import json
import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save_file

from lib import settings, zoo
from lib.settings import ROOT, Scale

STEPS = [1, 2, 10]
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The code, the embedded world, and a scale "smoke" that takes seconds."""
    root = tmp_path_factory.mktemp("project")
    for name in ("lib", "notebooks"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "params.yaml", root)
    (root / "data").mkdir()
    (root / "data" / "world").symlink_to(ROOT / "data" / "world")
    scale = yaml.safe_load((ROOT / "scales" / "mini.yaml").read_text())
    scale["data"]["count"], scale["batch"] = 12, 4
    scale["attacks"] = {"ssp": {"steps": 10}, "fff": {"iterations": 3}}
    scale["f"] |= {"images": 6, "iterations": STEPS}
    scale["a"] |= {"images": 6, "iterations": STEPS, "shown": 2, "classes": 3}
    scale["a"]["tsne_data"]["count"] = 60
    for half in ("segmentation", "detection"):
        scale["e"][half]["data"]["count"] = 6
        scale["e"][half] |= {"steps": 2, "shown": 2}
    scale["b"] |= {"images": {10: 6, 12: 4}, "seeds": 2, "draws": 2}
    scale["c"] |= {"images": 6, "varied": 4, "steps": [1, 2], "batches": [2, 4]}
    scale["d"] |= {"images": 6, "shown": 3}
    scale["d"]["detection"]["data"]["count"] = 6
    scale["d"]["detection"] |= {"steps": 2, "shown": 2}
    scale["g"] |= {"images": 6, "shown": 3}
    (root / "scales").mkdir()
    (root / "scales" / "smoke.yaml").write_text(yaml.safe_dump(scale))
    (root / "models" / "smoke").mkdir(parents=True)
    for seed, (name, spec) in enumerate(Scale.model_validate(scale).networks.items()):
        torch.manual_seed(seed)
        save_file(zoo._build(spec).state_dict(), root / "models" / "smoke" / f"{name}.safetensors")
    # Table 2 and Appendices C and D read what the trainings recorded.
    for name, facts in {
        "NRP": {"images": 3000, "seconds": 60, "device": "CPU"},
        "ResNet50-FD": {"seconds": 30},
        "ResNet50-FS": {"seconds": 30},
        "CDA-Comics": {"seconds": 20},
    }.items():
        record = root / "results" / "smoke" / "metrics" / "networks" / f"{name}.json"
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(facts))
    return root


def run(project, name):
    """One stage of the smoke scale; the files that it wrote, by their path below results/smoke."""
    command = [sys.executable, "-m", "lib.run", name, "--scale", "smoke"]
    environment = os.environ | {"PYTHONPATH": str(project)}
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = project / "results" / "smoke"
    written = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "networks"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in written}


def declared(name):
    """What dvc.yaml says the stage writes, below results/<scale>."""
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][name]
    outs = [next(iter(out)) for out in stage["outs"] + stage["metrics"]]
    return {out.removeprefix("results/${scale}/") for out in outs}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_writes_what_its_stage_declares_and_the_same_bytes_again(project, name):
    for kind in ("notebooks", "tables", "data", "figures", "pictures"):
        shutil.rmtree(project / "results" / "smoke" / kind, ignore_errors=True)
    for metrics in (project / "results" / "smoke" / "metrics").glob("*.json"):
        metrics.unlink()
    first = run(project, name)
    assert set(first) == declared(name)
    assert run(project, name) == first


def test_the_tables_cover_every_victim_attack_and_step(project):
    run(project, "f_attack_parameters")
    folder = project / "results" / "smoke"
    scale = yaml.safe_load((project / "scales" / "smoke.yaml").read_text())
    transfer = pd.read_csv(folder / "tables" / "transfer.csv", keep_default_na=False)
    assert set(transfer["victim"]) == set(scale["f"]["victims"]) and transfer["attack"].nunique() == 13
    assert (transfer["n"] == 6).all() and transfer["value"].between(transfer["low"], transfer["high"]).all()
    curve = pd.read_csv(folder / "data" / "figure_06.csv")
    assert sorted(set(curve["steps"])) == STEPS and set(curve["attack"]) == {"I-FGSM", "MI-FGSM", "DIM", "SSP"}
    metrics = json.loads((folder / "metrics" / "f_attack_parameters.json").read_text())
    same = transfer[(transfer["attack"] == "SSP") & (transfer["victim"] == "Inc-v3")]["value"].iloc[0]
    assert metrics["transfer"]["SSP"]["Inc-v3"] == pytest.approx(same, abs=0.01)


def test_tables_6_and_7_have_every_transform_and_budget(project):
    run(project, "e_transforms")
    folder = project / "results" / "smoke" / "tables"
    for name in ("table_06", "table_07"):
        numbers = pd.read_csv(folder / f"{name}.csv", keep_default_na=False)
        part = numbers[(numbers["victim"] == numbers["victim"].iloc[0]) & (numbers["attack"] != "Noise")]
        assert {(d, e) for d, e in zip(part["defense"], part["eps"], strict=True)} == {
            (d, e) for d in ["none", *settings.params().defenses] for e in (0, 2, 4, 8, 16)
        }
        assert (numbers["n"] == 6).all() and (numbers["low"] <= numbers["high"]).all()
        assert (folder / f"{name}.md").read_text().count("(paper)") == 3
