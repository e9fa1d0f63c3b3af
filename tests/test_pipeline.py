"""The shape of the project: imports point one way, stages depend on what they use, source notebooks are clean."""

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from lib import settings, verify
from lib.report.results import Results
from lib.settings import ROOT
from lib.training import runner

# Each room may import itself and what stands before it. Training comes after tasks: it scores what it has trained.
ORDER = [
    {"atomic", "machine", "markdown", "memory", "precision", "reading", "rng", "keys", "units", "verify"},
    {"checks"},
    {"engine"},
    {"linf", "settings", "store", "timings"},
    {"digests", "stages"},
    {"download"},
    {"networks"},
    {"own"},
    {"zoo", "data"},
    {"attacks", "defenses", "fetch"},
    {"tasks"},
    {"frames"},
    {"training"},
    {"experiment"},
    {"report", "plan", "folders"},
    {"costs", "archive"},
    {"run"},
    {"figures"},
    {"cli"},
    {"__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
MODULES = sorted((ROOT / "lib").rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(ROOT / "lib").parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The modules of lib that a file imports, as dotted names below lib."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "lib":
            below = node.module.split(".")[1:]
            names |= {".".join([*below, alias.name]) for alias in node.names}
        if isinstance(node, ast.Import):
            names |= {alias.name.removeprefix("lib.") for alias in node.names if alias.name.startswith("lib.")}
    return names


@pytest.mark.parametrize("path", [path for path in MODULES if room(path) != "__init__"], ids=lambda p: p.name)
def test_imports_point_one_way(path):
    for name in imported(path):
        other = name.split(".")[0]
        assert LEVEL[other] < LEVEL[room(path)] or other == room(path), f"{path.name} imports lib.{name}"


@pytest.mark.parametrize("path", [path for path in MODULES if room(path) in ORDER[0]])
def test_the_ground_floor_imports_nothing_of_lib(path):
    assert not imported(path)


def stages() -> dict[str, dict]:
    """Stage name -> definition."""
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


@pytest.mark.parametrize("name", stages())
def test_a_stage_depends_on_the_code_and_keeps_its_outputs_until_new_ones_are_written(name):
    stage = stages()[name]
    assert "lib" in stage["deps"]
    notebook = re.fullmatch(r"python -m lib run (\w+) --scale \$\{scale\}", stage["cmd"])
    if notebook:
        assert {"own", "data/world", "models/${scale}", f"notebooks/{notebook[1]}.ipynb"} <= set(stage["deps"])
    for out in stage["outs"]:
        ((path, options),) = out.items()
        assert options["persist"], path  # DVC deletes others before a stage runs, also before one that fails


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_a_source_notebook_has_no_outputs_and_defines_nothing(path):
    for cell in json.loads(path.read_text())["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None
        if cell["cell_type"] == "code":
            tree = ast.parse("".join(cell["source"]))
            assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in ast.walk(tree))


def test_every_network_of_the_mini_scale_is_trained_and_what_others_learn_from_comes_first():
    scale = settings.load("mini")
    order = list(runner.trained_names(scale))
    assert sorted(order) == sorted(scale.networks)
    needs = {name: [] for name in order}
    needs |= {name: spec.sources for name, spec in scale.stand_ins.items()}
    needs |= {name: [spec.backbone] for name, spec in scale.detectors.items()}
    needs |= {name: [spec.extractor] for name, spec in scale.purifiers.items()}
    needs |= {name: [spec.classifier] for name, spec in scale.generators.items()}
    assert all(order.index(needed) < order.index(name) for name in order for needed in needs[name])


def test_the_lock_file_has_hashes_and_no_addresses():
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    pins = re.findall(r"^(\S+)==", text, re.M)
    assert len(pins) > 100 and text.count("--hash=sha256:") >= len(pins)


@pytest.mark.parametrize("name", ["SegNet-Basic", "NRP", "CDA-ImageNet", "CDA-Comics", "CDA-Paintings"])
def test_the_weights_trained_on_real_data_are_those_that_were_judged(name):
    record = json.loads((ROOT / "results" / "sample" / "train" / "networks" / f"{name}.json").read_text())
    spec = settings.load("sample").networks[name]
    content = (ROOT / "models" / "sample" / f"{name}.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() == record["sha256"] == spec.sha256
    assert len(content) <= 7_000_000


@pytest.mark.parametrize("number", range(1, 8))
def test_every_table_of_the_paper_is_in_the_results(number):
    mini = Results("mini")
    rows = mini.find(f"tables/table_{number:02}.csv").read_text().splitlines()
    shown = mini.find(f"tables/table_{number:02}.md").read_text()
    assert len(rows) > 2 and "paper" in shown and "nan" not in shown


@pytest.mark.parametrize("number", range(1, 11))
def test_every_figure_of_the_paper_is_in_the_results(number):
    with Image.open(Results("mini").find(f"figures/figure_{number:02}.png")) as picture:
        assert min(picture.size) > 300 and len(picture.convert("RGB").getcolors(2**24)) > 10


def test_nothing_committed_is_large_or_names_this_machine():
    if not (ROOT / ".git").exists():
        pytest.skip("an archive without git")
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    for name in filter(None, files):
        path = ROOT / name
        if path.is_file():
            assert name.startswith("embedded/") or path.stat().st_size <= 5_000_000, name
            if path.suffix in {".py", ".md", ".yaml", ".toml", ".lock", ".ipynb", ".json", ".csv", ".svg"}:
                assert str(ROOT) not in path.read_text(), name


@pytest.mark.parametrize("scale", ["mini", "sample", "paper"])
def test_the_pipeline_is_valid_at_every_scale(scale, tmp_path):
    for name in ("dvc.yaml", "params.yaml", "scales"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    params = tmp_path / "params.yaml"
    params.write_text(params.read_text().replace("scale: mini", f"scale: {scale}"))
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=tmp_path, check=True)
    command = [sys.executable, "-m", "dvc", "dag", "--outs", "--dot"]
    listed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert listed.returncode == 0, listed.stderr
    assert f"results/{scale}/f_attack_parameters" in listed.stdout


def test_an_archive_of_the_source_without_git_gets_its_data(tmp_path):
    for name in ("Makefile", "params.yaml", "dvc.yaml", "data.dvc"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "scales", tmp_path / "scales")
    (tmp_path / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", tmp_path / ".dvc")
    (tmp_path / "embedded").symlink_to(ROOT / "embedded")
    bare = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    make = ["make", "-o", ".venv/installed", f"BIN={Path(sys.executable).parent}", "data/world/world.json"]
    done = subprocess.run(make, cwd=tmp_path, capture_output=True, text=True, env=bare)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "data" / "world" / "world.json").is_file()
    status = [sys.executable, "-m", "dvc", "status", "data.dvc"]
    assert "up to date" in subprocess.run(status, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    with pytest.raises(ValueError, match="no git history to compute anew from; verify in a clone"):
        verify.verify(tmp_path, "mini", tmp_path / "work")
