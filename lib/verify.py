"""Everything anew, in a folder of its own and without the store, compared with the results that are committed."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

VERDICTS = ("identical", "same within rounding", "inside the intervals", "different", "missing")
ROUNDING = 0.1  # of a printed number: tables show one digit


def again(root: Path, folder: Path, store: str = "", change: Callable[[Path], object] | None = None) -> Path:
    """Run the whole pipeline of the checkout `root` in `folder` (new or empty), trainings too; the results there.

    store: where results are kept (default: one of the folder's own, so that nothing is taken from an earlier run).
    change: is given the clone before it runs.

    Uncommitted changes are not part of it. ChildProcessError in one line where a step fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; name a new folder")
    if not (root / ".git").exists():
        raise ValueError(f"{root} has no git history to compute anew from; verify in a clone, not in an archive")
    work = folder / "companion"
    environment = os.environ | {"COMPANION_STORE": store or str(folder / "store"), "PYTHONPATH": str(work)}
    python = [sys.executable, "-m"]
    for words in (
        ["git", "clone", "--quiet", str(root), str(work)],
        [*python, "dvc", "pull", "--quiet", "data.dvc"],
        [*python, "dvc", "repro", "--force"],
    ):
        place = folder if words[0] == "git" else work
        if subprocess.run(words, cwd=place, env=environment).returncode:
            raise ChildProcessError(f"{' '.join(words[:4])} failed in {place}")
        if words[0] == "git" and change:
            change(work)
    return work / "results"


def compare_folders(before: Path, after: Path) -> pd.DataFrame:
    """One row per committed table and figure: file, verdict (one of VERDICTS), the largest difference of a number."""
    kinds = ("*/tables/*.csv", "*/data/*.csv", "*/figures/*.svg")
    files = sorted(path for kind in kinds for path in before.glob(kind) if path.parts[-3] != "site")
    rows = []
    for path in files:
        name = path.relative_to(before)
        verdict, difference = _compared(path, after / name)
        rows.append({"file": str(name), "verdict": verdict, "largest difference": difference})
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

    A number with the columns "X low" and "X high" is inside the interval where the new one lies between the old ends.
    """
    if list(old) != list(new) or len(old) != len(new):
        return "different", np.nan
    largest, inside = 0.0, True
    for column in old:
        if column.endswith((" low", " high")) or column in ("low", "high"):
            continue  # ends of intervals follow their numbers
        a, b = (pd.to_numeric(table[column], errors="coerce") for table in (old, new))
        texts = a.isna() | b.isna()
        if (old[column][texts].astype(str) != new[column][texts].astype(str)).any():
            return "different", np.nan
        change = (a - b).abs()[~texts]
        largest = max(largest, change.max() if len(change) else 0.0)
        low, high = _ends(old, column)
        inside &= bool(((low <= b) & (b <= high) | (change <= ROUNDING))[~texts].all())
    if largest <= ROUNDING:
        return "same within rounding", largest
    return "inside the intervals" if inside else "different", largest


def _ends(table: pd.DataFrame, column: str) -> tuple[pd.Series, pd.Series]:
    """The interval's ends of a column, NaN where it has none."""
    prefix = "" if column == "value" else f"{column} "
    nothing = pd.Series(np.nan, table.index)
    return tuple(pd.to_numeric(table.get(f"{prefix}{end}", nothing), errors="coerce") for end in ("low", "high"))


def verify(root: Path, scale: str, folder: Path, keep: bool = False) -> tuple[str, bool]:
    """`again` and `compare`: what to print, and whether nothing differs. keep: leave the folder there."""
    table = compare_folders(root / "results" / scale, again(root, folder) / scale)
    if not keep:
        shutil.rmtree(folder)
    counts = table["verdict"].value_counts()
    total = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if verdict in counts)
    return f"{table.to_markdown(index=False)}\n\n{total}", not {"different", "missing"} & set(table["verdict"])
