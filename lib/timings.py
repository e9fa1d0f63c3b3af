"""Measured seconds, in a file that git keeps and no stage makes: results are the same bytes from run to run.

results/<scale>/timings.json holds what the recording run took, with its machine; COMPANION_TIMINGS=renew measures
again.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib import machine
from lib.atomic import lock, write_bytes
from lib.reading import read_json, read_yaml


def recorded(
    results: Path, name: str, measure: Callable[[], dict[str, Any]], recipe: str | None = None
) -> dict[str, Any]:
    """What is recorded under `name` in the results folder of a scale, or what `measure` gives, recorded from now on
    with its machine.  recipe: of what was measured; seconds of another one do not count."""
    path = (results / "timings.json").resolve()  # a stage sees it through a link (`lib.stages.staged`)
    known = read(results)
    other = known.get(name, {}).get("recipe", recipe) != recipe
    if name not in known or other or os.environ.get("COMPANION_TIMINGS") == "renew":
        facts = measure() | {"machine": machine.describe()} | ({"recipe": recipe} if recipe else {})
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock(path):  # trainings run side by side
            known = read(results) | {name: facts}
            write_bytes(path, (json.dumps(known, indent=2, sort_keys=True) + "\n").encode())
    return known[name]


def read(results: Path) -> dict[str, dict[str, Any]]:
    """All that is recorded for a scale."""
    path = results / "timings.json"
    return read_json(path) if path.is_file() else {}


def stages(root: Path) -> dict[str, dict]:
    """The stages of dvc.yaml; none in a project folder without one."""
    path = root / "dvc.yaml"
    return read_yaml(path).get("stages", {}) if path.exists() else {}


def announcement(name: str, scale: str, root: Path) -> str:
    """Which stage of dvc.yaml this is, of how many, and what it took when recorded: "stage 4 of 10, ... about 91 s".

    Training is the sum of its networks; a stage without a record (report, site) takes seconds and says nothing of it.
    """
    known = list(stages(root))
    place = f"stage {known.index(name) + 1} of {len(known)}, {name}" if name in known else name
    entries = read(root / "results" / scale)
    wanted = [key for key in entries if key.startswith("training of ")] if name == "train" else [f"run of {name}"]
    took = [entries[key] for key in wanted if key in entries]
    if not took:
        return place
    return f"{place}: about {sum(entry['seconds'] for entry in took):.0f} s when recorded on {took[0]['machine']}"
