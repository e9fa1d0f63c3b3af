"""lib/stages.py: results stay until new ones are whole, and belong to what the stage read."""

import os
import resource
from pathlib import Path

import pytest
import torch
import yaml

from lib import cli, stages, timings
from lib.atomic import write_bytes
from lib.report import site, writing
from lib.settings import ROOT
from lib.training import loop, runner
from tests.conftest import companion, refused


@pytest.fixture
def scale(tmp_path):
    """The results of a scale with two stages and a neighbour."""
    folder = tmp_path / "results" / "mini"
    for name in ("a/tables/one.csv", "a/same.csv", "b/two.csv", "../sample/b/three.csv"):
        write_bytes(folder / name, b"old")
    return folder


def contents(folder):
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


def test_new_results_replace_all_old_ones_and_what_is_the_same_keeps_its_time(scale):
    before = (scale / "a" / "same.csv").stat()
    with stages.staged(scale, "a") as folder:
        assert not any(folder.iterdir())
        (folder / "same.csv").write_text("old")
        write_bytes(folder / "figures" / "new.svg", b"new")
        assert (scale / "a" / "tables" / "one.csv").read_text() == "old"
    after = (scale / "a" / "same.csv").stat()
    assert contents(scale) == {"a/same.csv": "old", "a/figures/new.svg": "new", "b/two.csv": "old"}
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    assert not (scale / "a" / "tables").exists()


def test_an_error_leaves_the_old_results_and_so_does_a_stage_that_writes_nothing(scale):
    before = contents(scale.parent)
    with pytest.raises(KeyboardInterrupt), stages.staged(scale, "a") as folder:
        (folder / "same.csv").write_text("new")
        raise KeyboardInterrupt
    with stages.staged(scale, "a"):
        pass
    assert contents(scale.parent) == before and "COMPANION_RESULTS" not in os.environ


def test_a_write_that_fails_names_the_results(scale):
    with pytest.raises(OSError, match=r"No space left on device: '.*mini/a'"), stages.staged(scale, "a"):
        raise OSError(28, "No space left on device")


def test_a_stage_sees_the_results_of_the_others_and_records_its_seconds(scale):
    left = scale.parent / "mini-a.part" / "mini" / "a" / "left.csv"  # by a run that was killed
    write_bytes(left, b"half")
    with stages.staged(scale, "a") as folder:
        view = Path(os.environ["COMPANION_RESULTS"])
        assert folder == view / "mini" / "a" and not left.exists()
        assert (view / "mini" / "b" / "two.csv").read_text() == "old"
        assert (view / "sample" / "b" / "three.csv").read_text() == "old"
        timings.recorded(view / "mini", "run of a", lambda: {"seconds": 3})
    assert timings.read(scale)["run of a"]["seconds"] == 3
    assert sorted(path.name for path in scale.parent.iterdir()) == ["mini", "sample"]


def test_a_stage_runs_once_at_a_time(scale):
    with (
        stages.staged(scale, "a"),
        pytest.raises(ValueError, match=r"^a runs already at scale mini, in another process"),
        stages.staged(scale, "a"),
    ):
        pass
    with stages.staged(scale, "a"), stages.staged(scale, "b"):
        pass


@pytest.fixture
def root(tmp_path):
    """A project with a stage that depends on a folder, a file and the scale's networks."""
    deps = ["lib", "params.yaml", "models/${scale}"]
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"a": {"deps": deps}}}))
    (tmp_path / ".dvcignore").write_text("__pycache__\n*.failed.ipynb\n")
    for name in (
        "lib/x.py",
        "lib/report/y.py",
        "lib/__pycache__/x.pyc",
        "params.yaml",
        "models/mini/n",
        "models/big/n",
    ):
        write_bytes(tmp_path / name, b"old")
    return tmp_path


@pytest.mark.parametrize(
    "name, change, said",
    [
        ("lib/report/y.py", lambda path: path.write_text("new"), "lib/report/y.py changed"),
        ("params.yaml", lambda path: path.unlink(), "params.yaml changed"),
        ("models/mini/new", lambda path: path.write_text("new"), "models/mini/new changed"),
        ("lib", lambda path: [(path / name).write_text("new") for name in "ab"], "lib/a and 1 more changed"),
        ("lib/x.py", lambda path: path.write_text("old"), None),  # a new time, and nothing new in it
        ("lib/__pycache__/x.pyc", lambda path: path.write_text("new"), None),
        ("models/big/n", lambda path: path.write_text("new"), None),
        ("unknown", lambda path: path.write_text("new"), None),
    ],
)
def test_a_dependency_that_changes_while_its_stage_runs_ends_it(root, name, change, said):
    if said is None:
        with stages.guarded("a", "mini", root):
            change(root / name)
        return
    expected = pytest.raises(ValueError, match=f"^{said} while a ran.*run it again")
    with expected as caught, stages.guarded("a", "mini", root):
        change(root / name)
    assert "\n" not in str(caught.value)


def test_every_stage_of_the_pipeline_has_its_dependencies_here():
    for name in timings.stages(ROOT):
        found = stages.dependencies(name, "mini")
        assert "lib/stages.py" in found and not any("__pycache__" in file for file in found), name


@pytest.mark.parametrize(
    "stage, module, function",
    [("report", writing, "report_part"), ("site", site, "build"), ("train --all", runner, "train_all")],
)
def test_each_command_of_a_stage_ends_with_one_line_where_a_file_changes(
    monkeypatch, tmp_path, stage, module, function
):
    """And what it wrote does not become a result."""
    monkeypatch.setenv("COMPANION_RESULTS", str(tmp_path))
    written = []
    known = iter([{"lib/x.py": "old"}, {"lib/x.py": "new"}])
    monkeypatch.setattr(stages, "dependencies", lambda *_: next(known))

    def write(*_, **__):
        written.append(Path(os.environ["COMPANION_RESULTS"], "mini", stage, "of_a_test.txt"))
        write_bytes(written[0], b"new")
        return ()

    monkeypatch.setattr(module, function, write)
    assert refused(*stage.split(), "--scale", "mini").startswith("lib/x.py changed while ")
    assert written and (stage == "train --all" or not list(tmp_path.rglob("*")))  # a training's files are whole alone


def raising(error):
    def fail(*_):
        raise error

    return fail


@pytest.mark.parametrize(
    "error, said",
    [
        (OSError(28, "No space left on device", "results/x"), "No space left on device: 'results/x': make room"),
        (OSError(30, "Read-only file system", "results"), "results and the store must be writable"),
        (
            ValueError("cell 5: OSError: [Errno 30] Read-only file system: '/x'; what was computed is in the store"),
            "is in the store: results and the store must be writable",
        ),
        (
            ValueError("cell 5: OSError: [Errno 28] No space left on device: '/x'"),
            "'/x': make room and run again; what",
        ),
        (MemoryError("3 workers were killed"), "not enough memory: 3 workers were killed; fewer workers"),
        (
            torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate"),
            "not enough memory: CUDA out of memory. Tried",
        ),
    ],
)
def test_what_the_machine_lacks_is_one_line(monkeypatch, error, said):
    monkeypatch.setattr(timings, "announcement", raising(error))
    assert said in refused("site", "--scale", "mini")


def test_memory_that_the_processor_has_not_is_one_line_and_an_error_of_the_code_is_not(monkeypatch):
    monkeypatch.setattr(timings, "announcement", lambda *_: torch.empty(2**46))
    assert refused("site", "--scale", "mini").startswith("not enough memory: ")
    monkeypatch.setattr(timings, "announcement", raising(RuntimeError("shapes do not fit")))
    with pytest.raises(RuntimeError, match="shapes"):
        companion("site", "--scale", "mini")


@pytest.fixture
def short_of_space():
    """No file may grow beyond 20,000 bytes, which is an OSError as a full disk is."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_without_room_names_the_file_and_leaves_the_old_one(tmp_path, short_of_space):
    path = tmp_path / "x.bin"
    write_bytes(path, b"old")
    state = {"network": torch.nn.Linear(100, 100)}
    for write in (
        lambda: write_bytes(path, bytes(30_000)),
        lambda: loop.save_checkpoint(state, path, "recipe", 1, 1.0, {}),
    ):
        with pytest.raises(OSError, match=r"File too large: '.*x\.bin'") as caught:
            write()
        assert "make room and run again" in cli.error_line(caught.value)
        assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
