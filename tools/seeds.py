"""Trains every network of the mini scale with other seeds and judges the supplement's claims again.

    python tools/seeds.py 1 2        make seeds: an hour on two cores, resumed from the store after a kill

For each number a clone of the last commit whose trainings have other seeds, and the whole pipeline in it. What the
claims came to goes to results/mini/seeds.csv, which `companion report` reads: a row per claim, and for the committed
run (seed 0) and each other one the effect and the verdict.
"""

import os
import re
import tempfile
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from lib.report.findings import summary
from lib.settings import ROOT
from lib.store import folder
from lib.verify import again

SCALE = "mini"
APART = 100  # between the seeds of two numbers; networks of one number have neighbouring ones


def reseeded(text: str, number: int) -> str:
    """A scale file whose trainings have the seeds of this number."""
    return re.sub(r"\bseed: (\d+)", lambda found: f"seed: {int(found[1]) + APART * number}", text)


def repeated(number: int, place: Path) -> Path:
    """The claims as judged in a clone below `place` with other seeds. ChildProcessError where a step fails."""

    def reseed(clone: Path) -> None:
        scale = clone / "scales" / f"{SCALE}.yaml"
        scale.write_text(reseeded(scale.read_text(), number))

    store = os.environ.get("COMPANION_STORE") or str(folder(ROOT))
    results = again(ROOT, place / f"seed-{number}", store, reseed)
    return results / SCALE / "report" / "tables" / "claims.csv"


def together(judged: dict[int, pd.DataFrame]) -> pd.DataFrame:
    """One row per claim with the effect and the verdict of each number; by number: what `companion report` judged."""
    parts = [
        summary(table).set_index("id")[["effect", "verdict"]].add_suffix(f" {number}")
        for number, table in judged.items()
    ]
    return pd.concat(parts, axis=1).reset_index()


def main(numbers: Annotated[list[int], typer.Argument(help="1 or more, each another set of seeds")]) -> None:
    """Judge the claims with networks of other seeds."""
    path = f"results/{SCALE}/report/tables/claims.csv"
    judged = {0: pd.read_csv(ROOT / path, keep_default_na=False)}
    with tempfile.TemporaryDirectory(prefix="companion-") as place:
        for number in numbers:
            judged[number] = pd.read_csv(repeated(number, Path(place)), keep_default_na=False)
    table = together(judged)
    table.to_csv(ROOT / "results" / SCALE / "seeds.csv", index=False, float_format="%.4g")
    same = table.filter(like="verdict ").nunique(axis=1) == 1
    print(f"results/{SCALE}/seeds.csv: {same.sum()} of {len(table)} claims have one verdict under all seeds")


if __name__ == "__main__":
    typer.run(main)
