"""The shape of the project: imports point one way, stages depend on what they use, source notebooks are clean."""

import ast
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from lib import settings
from lib.settings import ROOT

# Each room may import itself and what stands before it (and `settings`, which imports nothing). Training comes after
# tasks, because it scores what it has trained.
ORDER = [
    {"settings", "linf", "machine", "rng", "store", "networks"},
    {"zoo", "data", "own"},
    {"attacks", "defenses"},
    {"tasks"},
    {"frames"},
    {"training"},
    {"experiment"},
    {"report", "run"},
    {"figures"},
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


@pytest.mark.parametrize("path", [path for path in MODULES if room(path) in ORDER[0] - {"networks"}])
def test_the_ground_floor_imports_nothing_of_lib_but_itself(path):
    assert {name.split(".")[0] for name in imported(path)} <= {room(path)} & {"settings"}


def file_of(name: str) -> Path | None:
    """The source file of a dotted name below lib; a name inside a module gives the module."""
    parts = name.split(".")
    while parts:
        base = ROOT / "lib" / Path(*parts)
        if base.with_suffix(".py").exists():
            return base.with_suffix(".py")
        if (base / "__init__.py").exists():
            return base / "__init__.py"
        parts.pop()
    return None


def closure(start: set[Path]) -> set[Path]:
    """All files of lib that running `start` imports, package __init__ files included."""
    found, queue = set(), set(start)
    while queue:
        path = queue.pop()
        found.add(path)
        parents = [
            folder / "__init__.py"
            for folder in path.parents
            if folder != ROOT / "lib" and folder.is_relative_to(ROOT / "lib")
        ]
        queue |= ({file for name in imported(path) if (file := file_of(name))} | set(parents)) - found
    return {path for path in found if path.is_relative_to(ROOT / "lib")}


def stages() -> dict[str, dict]:
    """Stage name -> definition, one of each foreach."""
    return {
        name: stage.get("do", stage)
        for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items()
    }


def entry_points(command: str, folder: Path) -> set[Path]:
    module = re.search(r"python -m lib\.([\w.]+)", command).group(1)
    base = ROOT / "lib" / Path(*module.split("."))
    files = {base / "__main__.py", base / "__init__.py"} if base.is_dir() else {base.with_suffix(".py")}
    for name in re.findall(r"lib\.run (\w+)", command):
        book = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())
        source = "\n".join("".join(c["source"]) for c in book["cells"] if c["cell_type"] == "code")
        script = folder / f"{name}_imports.py"
        script.write_text(source)
        files.add(script)
    return files


@pytest.mark.parametrize("name", stages())
def test_a_stage_depends_on_all_the_code_that_it_imports(name, tmp_path):
    stage = stages()[name]
    listed = [ROOT / dep for dep in stage["deps"] if dep.startswith("lib/")]
    needed = closure(entry_points(stage["cmd"], tmp_path))
    if name.startswith("train"):
        # A new section for another appendix must not train all networks again: mini.yaml spells out every field of a
        # stand-in, and that is tracked as the stage's params.
        needed = {path for path in needed if room(path) != "settings"}
    missing = {
        path
        for path in needed
        if path.stat().st_size and not any(path == dep or path.is_relative_to(dep) for dep in listed)
    }
    assert not missing, f"stage {name} uses {sorted(str(p.relative_to(ROOT)) for p in missing)} without depending on it"
    idle = {dep for dep in listed if not any(path == dep or path.is_relative_to(dep) for path in needed)}
    assert not idle, f"stage {name} depends on {sorted(str(p.relative_to(ROOT)) for p in idle)} without using it"


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_a_source_notebook_has_no_outputs_and_defines_nothing(path):
    for cell in json.loads(path.read_text())["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None
        if cell["cell_type"] == "code":
            tree = ast.parse("".join(cell["source"]))
            assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in ast.walk(tree))


def test_every_stand_in_has_its_stage_and_every_stage_its_stand_in():
    document = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    mini = yaml.safe_load((ROOT / "scales" / "mini.yaml").read_text())
    sections = {
        "stand_ins": ("train", "train_ensemble"),
        "segmenters": ("train_segmenter",),
        "detectors": ("train_detector",),
        "purifiers": ("train_purifier",),
        "generators": ("train_generator",),
    }
    trained = {
        key: sorted(name for stage in names for name in document[stage]["foreach"]) for key, names in sections.items()
    }
    assert trained == {key: sorted(mini[key]) for key in sections}
    assert sorted(name for names in trained.values() for name in names) == sorted(mini["networks"])


def test_the_lock_file_has_hashes_and_no_addresses():
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    pins = re.findall(r"^(\S+)==", text, re.M)
    assert len(pins) > 100 and text.count("--hash=sha256:") >= len(pins)


@pytest.mark.parametrize("name", ["SegNet-Basic", "NRP", "CDA-ImageNet", "CDA-Comics", "CDA-Paintings"])
def test_the_weights_trained_on_real_data_are_those_that_were_judged(name):
    record = json.loads((ROOT / "results" / "sample" / "metrics" / "networks" / f"{name}.json").read_text())
    spec = settings.load("sample").networks[name]
    content = (ROOT / "models" / "sample" / f"{name}.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() == record["sha256"] == spec.sha256
    assert len(content) <= 6_000_000


@pytest.mark.parametrize("number", range(1, 8))
def test_every_table_of_the_paper_is_in_the_results(number):
    folder = ROOT / "results" / "mini" / "tables"
    rows = (folder / f"table_{number:02}.csv").read_text().splitlines()
    shown = (folder / f"table_{number:02}.md").read_text()
    assert len(rows) > 2 and "paper" in shown and "nan" not in shown


@pytest.mark.parametrize("number", range(1, 11))
def test_every_figure_of_the_paper_is_in_the_results(number):
    with Image.open(ROOT / "results" / "mini" / "figures" / f"figure_{number:02}.png") as picture:
        assert min(picture.size) > 300 and len(picture.convert("RGB").getcolors(2**24)) > 10


def test_nothing_committed_is_large_or_names_this_machine():
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
    assert f"results/{scale}/figures/figure_06.svg" in listed.stdout
