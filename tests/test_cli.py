"""lib/cli.py: one command for all, quick, and of one line where something is wrong."""

import os
import re
import shlex
import subprocess
import sys

import pytest
import typer

from lib import keys, settings
from lib.cli import app
from lib.training import runner
from tests.conftest import companion, refused

COMMANDS = [
    "run",
    "train",
    "attack",
    "defend",
    "figures",
    "table",
    "report",
    "site",
    "data",
    "zoo",
    "convert",
    "verify",
    "store",
]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does(name):
    status, text, _ = companion(name, "--help")
    assert status == 0 and f"companion {name}" in text and len(text.splitlines()) > 5


def test_the_list_of_commands_is_complete():
    _, text, _ = companion("--help")
    known = [command.name or command.callback.__name__ for command in app.registered_commands] + ["store"]
    assert set(COMMANDS) <= set(known) and all(f"  {name} " in text for name in known)


def test_help_imports_nothing_that_takes_long():
    """Neither torch nor what reads tables; as `python -m lib`, the name without installation."""
    script = (
        "import sys; sys.argv = ['lib', '--help']; import runpy\n"
        "try:\n    runpy.run_module('lib', run_name='__main__')\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(sorted({'torch', 'pandas', 'numpy', 'rich', 'matplotlib'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": str(settings.ROOT)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stderr


def test_what_is_wrong_is_one_line_and_the_exit_status():
    assert refused("run", "e_transform", "--scale", "mini").startswith("no notebook 'e_transform'; did you mean 'e_tr")
    assert refused("run", "notebooks/c_fsa.ipynb").startswith(
        "no notebook 'notebooks/c_fsa.ipynb'; did you mean 'c_fsa'"
    )
    assert refused("run", "e_transforms", "--scale", "nano").startswith("scales/nano.yaml not found; did you mean")
    assert refused("zoo", "Inc3", "--scale", "mini").startswith(
        "no network 'Inc3' in scales/mini.yaml; did you mean 'Inc-"
    )
    assert refused("train", "NPR", "--scale", "mini").startswith(
        "scales/mini.yaml trains no 'NPR'; did you mean 'NRP'?"
    )
    assert refused("table", "tabel_06").startswith("no table 'tabel_06'; did you mean 'table_06'?")
    assert refused("train") == "name one network to train, or give --all"
    assert refused("data", "imagnet").startswith("no data set 'imagnet'; did you mean 'imagenet_val'?")
    assert refused("data", "camvid", "--csv", "x.csv").startswith("camvid has 3 lists of images")
    assert companion("zooo")[0] == 2


def test_the_store_says_its_size_and_why(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_STORE", str(tmp_path))
    assert companion("store", "size")[1] == f"{tmp_path}: 0 results, 0.0 MB\n"
    assert refused("store", "why", "SSP*") == "no entry of the store is called 'SSP*'; there are none"
    assert keys.ROOT == settings.ROOT


def test_files_are_utf_8_whatever_the_locale():
    """PYTHONUTF8=0 and PYTHONCOERCECLOCALE=0 keep Python from helping itself, as a Latin-1 locale does."""
    told = {"PYTHONPATH": str(settings.ROOT), "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "lib", "table", "1", "--scale", "mini"]
    done = subprocess.run(command, capture_output=True, env=os.environ | told)
    assert done.returncode == 0, done.stderr
    stored = settings.ROOT / "results" / "mini" / "b_at_comparison" / "tables" / "table_01.md"
    assert done.stdout.decode("utf-8").strip() == stored.read_text(encoding="utf-8").strip()


def documented():
    """Every command of README and docs that has an argument, as it is printed: in a block, or between backquotes."""
    pages = [settings.ROOT / "README.md", *sorted((settings.ROOT / "docs").glob("*.md"))]
    shown = r"(?m)(?:^ *(?:[A-Z_]+=\S+ )*|`)(?:\.venv/bin/)?companion ([a-z][^#`\n]*)"
    return sorted({found.strip() for page in pages for found in re.findall(shown, page.read_text())})


@pytest.mark.parametrize("line", documented())
def test_every_command_of_the_pages_can_be_given(line):
    """Its options are there, and what it names."""
    context = typer.main.get_command(app)
    arguments = shlex.split(line)
    named = {"scale": None, "name": ""}
    while arguments and hasattr(context, "commands"):
        context = context.commands[arguments.pop(0)]
    if arguments:
        named |= context.make_context(line, arguments).params
    if named["scale"] not in (None, "mine", "SCALE"):
        scale = settings.load(named["scale"])
        if context.name == "train" and named["name"]:
            assert named["name"] in runner.trained_names(scale)
        if context.name == "run":
            assert (settings.ROOT / "notebooks" / f"{named['notebook']}.ipynb").is_file()
