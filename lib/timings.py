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


def recorded(results: Path, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is recorded under `name` in the results folder of a scale, or what `measure` gives, recorded from now on.

    The entry of a run has its machine beside it.
    """
    path = results / "timings.json"
    known = read(results)
    if name not in known or os.environ.get("COMPANION_TIMINGS") == "renew":
        facts = measure() | {"machine": machine.describe()}
        known = read(results) | {name: facts}  # again: measuring takes time, and others may have written
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        part.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
        part.replace(path)
    return known[name]


def read(results: Path) -> dict[str, dict[str, Any]]:
    """All that is recorded for a scale."""
    path = results / "timings.json"
    return json.loads(path.read_text()) if path.is_file() else {}
