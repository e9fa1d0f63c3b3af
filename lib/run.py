"""Run one notebook as a pipeline stage: companion run f_attack_parameters --scale mini

Executes notebooks/<name>.ipynb through papermill's API, shows what its cells print while they run, and writes
results/<scale>/<name>/<name>.ipynb without anything that changes from run to run (times, cell ids, progress bars),
so that the executed notebook is byte-identical when nothing changed. With what it ran goes to
results/<scale>/<name>/run.json, what changes (seconds, machine, commit) to timings.json. A failing cell ends with one
line: the cell, the line and the message.
"""

import functools
import json
import logging
import os
import re
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import nbformat
import papermill
import yaml
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from papermill.exceptions import PapermillExecutionError

from lib import settings, stages, timings
from lib.machine import output_of
from lib.settings.base import choices

KERNEL = "python3"
# What decides a result besides the data: the files whose changes a record of a run must not hide.
DECIDING = ("lib", "own", "notebooks", "params.yaml", "scales", "dvc.yaml", "requirements.lock")


def execute_notebook(
    name: str, scale: str, root: Path = settings.ROOT, results: Path | None = None, **parameters: object
) -> Path:
    """Execute a notebook at a scale; the path of the result.

    results: where that is written (default: results/ of the root).  parameters: further values for its parameters cell.
    FileNotFoundError for an unknown notebook, PapermillExecutionError for a failing cell (the notebook up to there is
    kept beside the result as *.failed.ipynb).
    """
    source = root / "notebooks" / f"{name}.ipynb"
    if not source.exists():
        known = sorted(path.stem for path in (root / "notebooks").glob("*.ipynb"))
        raise FileNotFoundError(f"no notebook '{name}'; {choices(name, known)}")
    results = results or root / "results"
    target = results / scale / name / source.name
    failed = target.with_suffix(".failed.ipynb")
    target.parent.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    # Papermill warns at every start that a parameter or a language is unknown, and of a dead kernel, said below.
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    with stages.running(name, scale, root, results) as folder:
        (profile := folder.parents[1] / "ipython").mkdir()
        papermill.execute_notebook(
            *(str(path).replace("{", "{{").replace("}", "}}") for path in (source, failed)),  # it formats both
            parameters={"scale": scale, **parameters},
            kernel_name=KERNEL,
            language="python",
            cwd=str(root),
            progress_bar=False,
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
            kernel_manager_class=ThisPython,
            # The kernel warns at every start, and when a cell fails, that its loopback connection is not encrypted.
            # A profile of its own: what the user's IPython runs at its start is no part of a result.
            extra_arguments=["--IPKernelApp.log_level=CRITICAL", f"--ipython-dir={profile}"],
        )
        nbformat.write(stable(nbformat.read(failed, as_version=4)), folder / target.name)
        record = {"stage": name, "command": f"companion run {name} --scale {scale}"}
        record |= {"parameters": deciding_parameters(name, scale, root)}
        (folder / "run.json").write_text(json.dumps(record, indent=2) + "\n")
    timings.recorded(results / scale, f"run of {name}", functools.partial(run_facts, root, time.monotonic() - begun))
    return target


class ThisPython(AsyncKernelManager):
    """A kernel of the Python that runs this, whatever the user's machine calls python3, with the `lib` of its folder: a
    workspace of `dvc exp run --temp` has its own."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """As ipykernel writes it; not looked up."""
        path = os.pathsep.join([os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])])
        return KernelSpec(**get_kernel_dict(), env={"PYTHONPATH": path})


def run_facts(root: Path, seconds: float) -> dict[str, object]:
    """How long a notebook ran, with which code, and when; what the store had already was not computed again."""
    git, now = ("git", "-C", str(root)), datetime.now(UTC).isoformat(timespec="seconds")
    changed = bool(output_of(*git, "status", "--porcelain", "--", *DECIDING))
    commit = output_of(*git, "rev-parse", "HEAD") or "unknown"
    return {"seconds": round(seconds, 1), "commit": commit, "changed": changed, "finished": now}


def deciding_parameters(name: str, scale: str, root: Path) -> dict[str, dict]:
    """What decides the run: params.yaml, and of the scale's file what all notebooks read and this one's own."""
    kept = ["like", "precision", "batch", "attacks", "data", name.split("_")[0]]
    constants, chosen = (yaml.safe_load((root / file).read_text()) for file in ("params.yaml", f"scales/{scale}.yaml"))
    return {"params.yaml": constants, f"scales/{scale}.yaml": {key: chosen[key] for key in kept if key in chosen}}


def stable(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The executed notebook without times, random cell ids, progress bars and paths."""
    notebook.metadata = {
        "kernelspec": {"name": KERNEL, "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        cell["id"] = f"cell-{number}"
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def explain(error: PapermillExecutionError) -> str:
    """One line: the cell, the line of the cell and the message."""
    *frames, value = (re.sub(r"\x1b\[[0-9;]*m", "", text) for text in (*error.traceback, error.evalue))  # no colours
    # The first frame in a cell is the line of the notebook itself; later ones are functions that it called.
    frame = next((frame for frame in frames if frame.startswith("Cell In")), "")
    marked = re.search(r"(?m)^-+> *(\d+) ?(.*)$", frame)  # IPython's arrow is shorter where the number is longer
    place = f"cell {error.cell_index}" + (f", line {marked[1]}: {marked[2].strip()}" if marked else "")
    return f"{place}: {error.ename}: {' '.join(value.split())}"


def check_needs(name: str, scale: str) -> None:
    """ValueError with a line for all that a stage needs and that is not here; mini's the pipeline trains itself."""
    if scale != "mini":
        from lib.plan import missing  # imports torch

        if lines := missing(scale, name):
            raise ValueError("\n".join([f"{name} at the scale {scale} needs what is not here:", *lines]))


def execute_stage(name: str, scale: str, **how: object) -> Path:
    """`execute_notebook`. ValueError as of `check_needs`, and in one line for what a cell or the kernel dies of."""
    check_needs(name, scale)
    left = f"results/{scale}/{name} is as before, but for {name}.failed.ipynb; what was computed is in the store"
    try:
        return execute_notebook(name, scale, **how)
    except PapermillExecutionError as error:
        raise ValueError(f"notebooks/{name}.ipynb: {explain(error)}; {left}") from None
    except RuntimeError as error:  # of nbclient and jupyter_client; not of a cell
        died = f"the kernel ended before its cells ({error}): was it killed, is memory short?"
        raise ValueError(f"notebooks/{name}.ipynb: {died} {left}") from None


def stage(name: str, scale: str | None = None, part: str | None = None) -> str:
    """Execute one notebook; what was done, in words. ValueError as of `execute_stage`.

    part: such as "3/8", one of eight processes that share the store and the work; it keeps no results but those in the
    store, from which a run without `part` takes them.
    """
    scale = settings.load(scale).name
    if part is None:
        return f"wrote {execute_stage(name, scale).relative_to(settings.ROOT)}"
    if not re.fullmatch(r"[1-9]\d*/[1-9]\d*", part) or int(part.split("/")[0]) > int(part.split("/")[1]):
        raise ValueError(f"--part {part}: give it as in 3/8, the third of eight")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["COMPANION_PART"] = part
        execute_stage(name, scale, results=Path(folder))
    return f"part {part} of {name} is in the store; collect with: companion run {name} --scale {scale}"


def evaluate_defense(defense: str, victim: str | None = None, scale: str | None = None) -> str:
    """Execute the protocol (notebooks/h_protocol.ipynb) on one defense; its page, and where the rest is.

    defense: a name of params.yaml or of the scale's protocol, or a purifier's file of weights.  victim: a classifier of
    the scale (default: the protocol's). ValueError in one line for others, and as of `stage`.
    """
    from lib.networks import weights
    from lib.report.protocol import slug

    chosen = settings.load(scale)
    file, victim = Path(defense).resolve() if Path(defense).is_file() else None, victim or chosen.h.victim
    defense = str(file or defense)
    classifiers = [name for name, spec in chosen.networks.items() if spec.task == "classification"]
    extra, names = chosen.h.evaluated(defense)
    known = [*settings.params().defenses, *extra]
    if names[0] not in known:
        raise ValueError(f"no defense '{defense}', nor such a file of weights; {choices(defense, known)}")
    if victim not in classifiers:
        raise ValueError(f"no classifier '{victim}' at the scale {chosen.name}; {choices(victim, classifiers)}")
    if file:
        weights.read_purifier(file)
    results = settings.ROOT / "results" / "evaluations" / slug(f"{names[0]} on {victim}")
    path = execute_stage("h_protocol", chosen.name, results=results, defense=defense, victim=victim)
    page = path.parent / "tables" / f"protocol_{slug(names[-1])}.md"
    return f"{page.read_text()}\nwrote {path.relative_to(settings.ROOT)}"
