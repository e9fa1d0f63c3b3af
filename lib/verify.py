"""Everything anew, in a folder of its own and without the store, compared with the results that are committed."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

AGREEMENT = ("identical", "same within rounding", "inside the intervals", "different", "missing")
ROUNDING = 1e-3  # of the largest number of a column: a tenth of a percent
ESTIMATES = ("value", "ours", "effect")  # columns whose intervals are in "low" and "high"
DERIVED = ("difference", "p")  # columns that follow from those


def again(root: Path, folder: Path, store: str = "", change: Callable[[Path], object] | None = None) -> Path:
    """Run the whole pipeline of the checkout `root` in `folder` (new or empty), trainings too; the results there.

    store: where results are kept (default: one of the folder's own, so that nothing is taken from an earlier run).
    change: is given the clone before it runs.  Uncommitted changes are not part of it. ChildProcessError in one line
    where a step fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; name a new folder")
    if not (root / ".git").exists():
        raise ValueError(f"{root} has no git history to compute anew from; verify in a clone, not in an archive")
    work = folder / "companion"
    environment = os.environ | {"COMPANION_STORE": store or str(folder / "store"), "PYTHONPATH": str(work)}
    dvc = (sys.executable, "-m", "dvc")

    def run(place: Path, *words: str) -> None:
        if subprocess.run(words, cwd=place, env=environment).returncode:
            raise ChildProcessError(f"{' '.join(words[:4])} failed in {place}")

    run(folder, "git", "clone", "--quiet", str(root), str(work))
    if change:
        change(work)
    run(work, *dvc, "pull", "--quiet", "data.dvc")
    run(work, *dvc, "repro", "--force")
    return work / "results"


def compare_folders(before: Path, after: Path) -> pd.DataFrame:
    """One row per committed table and figure: file, verdict (one of AGREEMENT), the largest difference of a number."""
    kinds = ("*/tables/*.csv", "*/data/*.csv", "*/figures/*.svg")
    files = sorted(path.relative_to(before) for kind in kinds for path in before.glob(kind))
    rows = [(str(name), *_compared(before / name, after / name)) for name in files if name.parts[0] != "site"]
    return pd.DataFrame(rows, columns=["file", "verdict", "largest difference"])


def _compared(old: Path, new: Path) -> tuple[str, float]:
    if not new.is_file():
        return "missing", np.nan
    if old.read_bytes() == new.read_bytes():
        return "identical", 0.0
    if old.suffix != ".csv":
        return "different", np.nan
    return compare_tables(*(pd.read_csv(path, keep_default_na=False) for path in (old, new)))


def compare_tables(old: pd.DataFrame, new: pd.DataFrame) -> tuple[str, float]:
    """The verdict on two tables, and the largest difference of their numbers.

    A number of ESTIMATES is inside the interval where the new one lies between the old ends.
    """
    if list(old) != list(new) or len(old) != len(new):
        return "different", np.nan
    largest, same, inside = 0.0, True, True
    for column in old.columns.drop(["low", "high", *DERIVED], errors="ignore"):
        a, b = (pd.to_numeric(table[column], errors="coerce") for table in (old, new))
        number = a.notna() & b.notna()
        if (old[column].astype(str) != new[column].astype(str))[~number].any():
            return "different", np.nan
        change = (a - b).abs()[number]
        largest = max([largest, *change])
        rounded = change <= ROUNDING * a.abs().max()
        same &= bool(rounded.all())
        if column in ESTIMATES:
            low, high = (pd.to_numeric(old[end], errors="coerce") for end in ("low", "high"))
            rounded |= ((low <= b) & (b <= high))[number]
        inside &= bool(rounded.all())
    if same:
        return "same within rounding", largest
    return "inside the intervals" if inside else "different", largest


def verify(root: Path, scale: str, folder: Path, keep: bool = False) -> tuple[str, bool]:
    """`again` and `compare_folders`: what to print, and whether nothing differs.

    scale: that of params.yaml, which alone is computed.  keep: leave the folder there.
    """
    table = compare_folders(root / "results" / scale, again(root, folder) / scale)
    if not keep:
        shutil.rmtree(folder)
    counts = table["verdict"].value_counts()
    total = ", ".join(f"{counts[verdict]} {verdict}" for verdict in AGREEMENT if verdict in counts)
    return f"{table.to_markdown(index=False)}\n\n{total}", not {"different", "missing"} & set(table["verdict"])
