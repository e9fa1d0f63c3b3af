import json
import subprocess
import sys
from datetime import datetime

import nbformat
import pytest
import torch
import yaml
from papermill.exceptions import PapermillExecutionError

from lib import machine, run, settings, timings
from lib.networks.purifier import NRPResG
from tests.conftest import refused


@pytest.fixture
def root(tmp_path):
    """A project folder to put notebooks in."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "params.yaml").write_text("seed: 3\nscale: mini\n")
    (tmp_path / "scales").mkdir()
    for scale in ("mini", "paper"):
        (tmp_path / "scales" / f"{scale}.yaml").write_text("batch: 50\n")
    return tmp_path


def notebook(root, name, *cells):
    book = nbformat.v4.new_notebook()
    book.cells = [nbformat.v4.new_code_cell("scale = None\nn = 1", metadata={"tags": ["parameters"]})]
    book.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(book, root / "notebooks" / f"{name}.ipynb")


def test_parameters_reach_the_cells_and_output_is_kept(root, capfd):
    notebook(root, "a", "print(scale, n + 1)")
    path = run.execute_notebook("a", "mini", root, n=4)
    assert path == root / "results" / "mini" / "a" / "a.ipynb"
    texts = [o.text for c in nbformat.read(path, 4).cells if c.cell_type == "code" for o in c.outputs]
    assert texts == ["mini 5\n"]
    assert "mini 5" in capfd.readouterr().out


def test_two_runs_are_byte_identical(root):
    notebook(root, "a", "import sys, time\nprint('x')\nprint(time.time(), file=sys.stderr)", "{'a': [1, 2]}")
    first = run.execute_notebook("a", "mini", root).read_bytes()
    assert run.execute_notebook("a", "mini", root).read_bytes() == first
    assert str(root).encode() not in first


def test_a_failing_cell_ends_with_its_line_and_message(root):
    notebook(root, "bad", "pass\n" * 9 + "x = 1\ny = x / 0\nz = 3")
    with pytest.raises(PapermillExecutionError) as caught:
        run.execute_notebook("bad", "mini", root)
    line = run.explain(caught.value)
    assert line == "cell 2, line 11: y = x / 0: ZeroDivisionError: division by zero"


def test_a_failure_inside_a_function_is_placed_in_the_cell_that_called_it(root):
    notebook(root, "bad", "import json\n\njson.loads('{')")
    with pytest.raises(PapermillExecutionError) as caught:
        run.execute_notebook("bad", "mini", root)
    assert run.explain(caught.value).startswith("cell 2, line 3: json.loads('{'): JSONDecodeError: ")


def test_a_failing_cell_does_not_replace_the_last_good_result(root):
    notebook(root, "a", "print('good')")
    good = run.execute_notebook("a", "mini", root).read_bytes()
    notebook(root, "a", "1 / 0")
    with pytest.raises(PapermillExecutionError):
        run.execute_notebook("a", "mini", root)
    assert (root / "results" / "mini" / "a" / "a.ipynb").read_bytes() == good


def test_a_failing_cell_leaves_all_results_as_they_were(root):
    """Also what its cells wrote before; the next good run leaves nothing of an older one."""
    write = "import os, pathlib\nfolder = pathlib.Path(os.environ['COMPANION_RESULTS'], scale, 'a')\n"
    write += "(folder / 'table.csv').write_text({!r})"
    notebook(root, "a", write.format("old"), write.replace("table", "gone").format("x"))
    run.execute_notebook("a", "mini", root)
    old = written(root)
    notebook(root, "a", write.format("new"), "1 / 0")
    with pytest.raises(PapermillExecutionError):
        run.execute_notebook("a", "mini", root)
    failed = written(root)
    assert failed.pop("a/a.failed.ipynb") and failed == old and set(old) >= {"a/table.csv", "a/gone.csv"}
    notebook(root, "a", write.format("new"))
    run.execute_notebook("a", "mini", root)
    new = written(root)
    assert new["a/table.csv"] == b"new" and set(new) == set(old) - {"a/gone.csv"}
    assert [path.name for path in (root / "results").iterdir()] == ["mini"]


def written(root):
    """The results, by name."""
    results = root / "results" / "mini"
    return {str(file.relative_to(results)): file.read_bytes() for file in results.rglob("*") if file.is_file()}


def test_a_notebook_edited_while_it_runs_keeps_the_old_results(root):
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"a": {"deps": ["notebooks/a.ipynb"]}}}))
    notebook(root, "a", "print('old')")
    good = run.execute_notebook("a", "mini", root).read_bytes()
    notebook(root, "a", "open('notebooks/a.ipynb', 'a').write(' ')")
    with pytest.raises(ValueError, match=r"^notebooks/a\.ipynb changed while a ran, .*: run it again [^\n]+$"):
        run.execute_notebook("a", "mini", root)
    assert written(root)["a/a.ipynb"] == good


def test_a_kernel_that_is_killed_is_one_line(root, monkeypatch):
    notebook(root, "a", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    monkeypatch.setattr(settings, "ROOT", root)
    monkeypatch.setattr(run.execute_notebook, "__defaults__", (root, None))
    with pytest.raises(ValueError, match=r"^notebooks/a\.ipynb: the kernel ended .*was it killed") as caught:
        run.stage("a", "mini")
    assert "\n" not in str(caught.value)


def test_what_the_users_ipython_does_at_its_start_is_no_part_of_a_result(root, monkeypatch, tmp_path_factory):
    """Nor does a home without room end a kernel, which writes its profile elsewhere."""
    theirs = tmp_path_factory.mktemp("ipython")
    (theirs / "profile_default" / "startup").mkdir(parents=True)
    (theirs / "profile_default" / "startup" / "mine.py").write_text("sum = max")
    monkeypatch.setenv("IPYTHONDIR", str(theirs))
    notebook(root, "a", "print(sum([1, 2]))")
    assert nbformat.read(run.execute_notebook("a", "mini", root), 4).cells[-1].outputs[0].text == "3\n"
    assert [path.name for path in theirs.rglob("*.*")] == ["mine.py"]


def test_a_checkout_may_lie_in_a_folder_of_any_name(tmp_path):
    """Papermill fills in what stands in braces in a path."""
    root = tmp_path / "50% {scale} [x] é"
    (root / "notebooks").mkdir(parents=True)
    (root / "scales").mkdir()
    (root / "params.yaml").write_text("scale: mini")
    (root / "scales" / "mini.yaml").write_text("a: 1")
    notebook(root, "a", "print('good')")
    assert run.execute_notebook("a", "mini", root) == root / "results" / "mini" / "a" / "a.ipynb"


def test_the_kernel_is_this_python_with_this_lib_whatever_the_user_has(root, monkeypatch, tmp_path_factory):
    foreign = tmp_path_factory.mktemp("jupyter")
    (foreign / "kernels" / "python3").mkdir(parents=True)
    spec = {"argv": ["false"], "display_name": "another Python", "language": "python"}
    (foreign / "kernels" / "python3" / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(foreign))
    (root / "lib").mkdir()
    (root / "lib" / "__init__.py").write_text("here = 'of the root'")
    notebook(root, "a", "import sys, lib\nprint(sys.executable, lib.here)")
    executed = nbformat.read(run.execute_notebook("a", "mini", root), 4)
    assert executed.cells[-1].outputs[0].text == f"{sys.executable} of the root\n"


def test_an_unknown_notebook_lists_those_there_are(root):
    notebook(root, "a")
    with pytest.raises(FileNotFoundError, match="no notebook 'b'; there are: a"):
        run.execute_notebook("b", "mini", root)


def record(root, name="a"):
    return json.loads((root / "results" / "mini" / name / "run.json").read_text())


def test_a_run_says_with_what_and_on_what_it_ran(root):
    (root / "scales" / "mini.yaml").write_text("batch: 50\na: {images: 9}\nf: {images: 7}\nnetworks: {A: {}}\n")
    notebook(root, "a", "import time; time.sleep(0.3)")
    run.execute_notebook("a", "mini", root)
    found = record(root)
    assert found["stage"] == "a" and found["command"] == "companion run a --scale mini"
    assert found["parameters"] == {
        "params.yaml": {"seed": 3, "scale": "mini"},
        "scales/mini.yaml": {"batch": 50, "a": {"images": 9}},
    }
    took = timings.read(root / "results" / "mini")["run of a"]
    assert took["machine"] == machine.describe() and took["commit"] == "unknown" and not took["changed"]
    assert 0.3 <= took["seconds"] < 600
    assert datetime.fromisoformat(took["finished"]).tzinfo


def test_seconds_of_another_recipe_do_not_count(tmp_path):
    def recorded(recipe, seconds):
        return timings.recorded(tmp_path, "training of A", lambda: {"seconds": seconds}, recipe)["seconds"]

    assert [recorded("x", 1), recorded("x", 2), recorded("y", 3)] == [1, 1, 3]


def test_what_a_run_took_is_recorded_once_and_renewed_when_asked(root, monkeypatch):
    notebook(root, "a", "1")
    file = root / "results" / "mini" / "timings.json"
    run.execute_notebook("a", "mini", root)
    first = file.read_bytes()
    run.execute_notebook("a", "mini", root)
    assert file.read_bytes() == first
    monkeypatch.setenv("COMPANION_TIMINGS", "renew")
    run.execute_notebook("a", "mini", root)
    assert file.read_bytes() != first


def test_a_run_says_whether_the_code_was_that_of_the_commit(root, monkeypatch):
    notebook(root, "a", "1")

    def git(*command):
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        done = subprocess.run(["git", *identity, *command], cwd=root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "--quiet")
    git("add", "notebooks", "params.yaml", "scales")
    git("commit", "--quiet", "-m", "a notebook")
    run.execute_notebook("a", "mini", root)
    took = timings.read(root / "results" / "mini")["run of a"]
    assert took["commit"] == git("rev-parse", "HEAD") and not took["changed"]
    notebook(root, "a", "2")
    monkeypatch.setenv("COMPANION_TIMINGS", "renew")
    run.execute_notebook("a", "mini", root)
    assert timings.read(root / "results" / "mini")["run of a"]["changed"]


def test_a_stage_says_its_place_and_its_recorded_seconds(root, monkeypatch):
    monkeypatch.setattr(machine, "describe", lambda: "a machine")
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"train": {}, "a": {}, "site": {}}}, sort_keys=False))
    for name, seconds in (("training of x", 10.2), ("training of y", 5.1), ("run of a", 7.4), ("run of ab", 90.0)):
        timings.recorded(root / "results" / "mini", name, lambda seconds=seconds: {"seconds": seconds})
    assert timings.announcement("train", "mini", root) == "stage 1 of 3, train: about 15 s when recorded on a machine"
    assert timings.announcement("a", "mini", root) == "stage 2 of 3, a: about 7 s when recorded on a machine"
    assert timings.announcement("site", "mini", root) == "stage 3 of 3, site"
    assert timings.announcement("explore", "mini", root) == "explore"
    (root / "dvc.yaml").unlink()
    assert timings.announcement("site", "mini", root) == "site"


# The protocol on one defense: companion evaluate.


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """The calls of `execute`, which runs no notebook but leaves the page of a defense."""
    calls = []

    def execute(name, scale, root=None, results=None, **parameters):
        calls.append((name, scale, results.relative_to(tmp_path).as_posix(), parameters))
        path = results / scale / name / f"{name}.ipynb"
        (path.parent / "tables").mkdir(parents=True)
        for page in ("jpeg_75", "noise_alone", "mine", "mine_dynamic"):
            (path.parent / "tables" / f"protocol_{page}.md").write_text(f"the page {page}\n")
        return path

    monkeypatch.setattr(settings, "ROOT", tmp_path)
    monkeypatch.setattr(run, "execute_notebook", execute)
    return calls


def purifier_file(folder):
    torch.manual_seed(0)
    torch.save(NRPResG(4, 1).state_dict(), folder / "mine.pth")
    return folder / "mine.pth"


@pytest.mark.parametrize(
    ("defense", "victim", "place"),
    [
        ("JPEG 75", None, "jpeg_75_on_resnet50_nt"),
        ("noise alone", "Inc-v3", "noise_alone_on_inc_v3"),  # a control of the scale
    ],
)
def test_evaluate_runs_the_protocol_on_a_defense_by_name(executed, defense, victim, place):
    said = run.evaluate_defense(defense, victim, "mini")
    (call,) = executed
    parameters = {"defense": defense, "victim": victim or "ResNet50-NT"}
    assert call == ("h_protocol", "mini", f"results/evaluations/{place}", parameters)
    page = place.partition("_on_")[0]
    assert said == f"the page {page}\n\nwrote results/evaluations/{place}/mini/h_protocol/h_protocol.ipynb"


def test_evaluate_takes_a_purifier_s_file_from_any_folder_and_shows_the_dynamic_one(executed, tmp_path, monkeypatch):
    (tmp_path / "weights").mkdir()
    file = purifier_file(tmp_path / "weights")
    monkeypatch.chdir(file.parent)
    assert run.evaluate_defense("mine.pth", scale="mini").startswith("the page mine_dynamic\n")
    ((_, _, place, parameters),) = executed
    assert place == "results/evaluations/mine_on_resnet50_nt"
    assert parameters == {"defense": str(file), "victim": "ResNet50-NT"}  # whose notebook runs elsewhere
    extra, names = settings.load("mini").h.evaluated(parameters["defense"])
    static = {"kind": "nrp", "weights": str(file)}
    assert extra == {"mine": static, "mine dynamic": static | {"noise": 12.75, "eps": 16}}
    assert names == ["mine", "mine dynamic"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["JPEG 57"], "no defense 'JPEG 57', nor such a file of weights; did you mean 'JPEG 75'"),
        (["none"], "no defense 'none', nor such a file"),
        (["absent.pth"], "no defense 'absent.pth', nor such a file of weights;"),
        (["JPEG 75", "--victim", "Inc-v33"], "no classifier 'Inc-v33' at the scale mini; did you mean 'Inc-v3'"),
        (["JPEG 75", "--victim", "NRP"], "no classifier 'NRP' at the scale mini"),
        (["letter.txt"], "letter.txt: cannot be read"),
        (["program.pth"], "program.pth: holds more than tensors"),
        (["classifier.pth"], "classifier.pth: neither NRP nor NRP_resG"),
    ],
)
def test_evaluate_refuses_what_it_cannot_evaluate_in_one_line(executed, tmp_path, monkeypatch, arguments, message):
    (tmp_path / "letter.txt").write_text("hello")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "program.pth")
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "classifier.pth")
    monkeypatch.chdir(tmp_path)
    assert message in refused("evaluate", *arguments, "--scale", "mini")
    assert executed == [] and not (tmp_path / "results").exists()


def test_evaluate_says_in_one_line_what_its_notebook_dies_of(executed, monkeypatch):
    def execute(*_, **__):
        raise RuntimeError("Kernel died")

    monkeypatch.setattr(run, "execute_notebook", execute)
    with pytest.raises(ValueError, match=r"^notebooks/h_protocol.ipynb: the kernel ended") as caught:
        run.evaluate_defense("JPEG 75", scale="mini")
    assert "\n" not in str(caught.value)
