"""Every number of the supplement's tables beside ours, with its interval and n: `python -m lib.report compare`."""

from collections.abc import Callable

import pandas as pd

from lib.report import published
from lib.report.published import Printed
from lib.report.results import Results

COLUMNS = ["table", "row", "column", "unit", "line", "paper", "ours", "low", "high", "difference", "n", "note"]
INTRODUCTION = """# The paper's numbers and ours

Scale `{scale}`. The supplement's numbers are ImageNet's, CamVid's and COCO's; at a scale of stand-ins on drawn scenes
ours are not meant to agree with them, and `claims.md` says which comparisons do. Ours with 95 % bootstrap intervals
over n images; difference: ours less the paper's. Written by `python -m lib.report`, also as `tables/comparison.csv`.
"""


def compare(results: Results) -> pd.DataFrame:
    """One row per printed number, with COLUMNS; where the scale has no such number, ours is blank and note says why."""
    rows = [_printed(cell) | _found(cell, results) for cell in published.cells()]
    return pd.DataFrame(rows, columns=COLUMNS)


def _printed(cell: Printed) -> dict[str, object]:
    spread = f"the paper's ± {cell.spread}" if cell.spread is not None else ""
    facts = cell._asdict()
    return {name: facts[name] for name in ("table", "row", "column", "unit", "line")} | {
        "paper": cell.value,
        "note": spread,
    }


def _found(cell: Printed, results: Results) -> dict[str, object]:
    """Our number for a printed one, from the table as it was stored."""
    blank = {"ours": "", "low": "", "high": "", "difference": "", "n": ""}
    if cell.table == "table_02":
        return blank | {"note": "trained at another size on other hardware: see tables/table_02 for our hours"}
    try:
        stored = results.load_table(cell.table)
    except FileNotFoundError:
        return blank | {"note": "its notebook has not run at this scale"}
    rows, column = OURS[cell.table](stored, cell)
    if not len(rows):
        return blank | {"note": "this scale has no such cell"}
    row, low, high = rows.iloc[0], f"{column} low", f"{column} high"
    if column == "value":
        low, high = "low", "high"
    ours = float(row[column])
    found = {"ours": ours, "low": float(row[low]), "high": float(row[high]), "n": int(row["n"])}
    return found | {"difference": ours - cell.value}


def _table_01(stored: pd.DataFrame, cell: Printed) -> tuple[pd.DataFrame, str]:
    """The paper's NRP is the dynamic one (supplement, line 54)."""
    return stored[stored["method"] == {"NRP": "NRP dynamic"}.get(cell.row, cell.row)], cell.column


def _table_03(stored: pd.DataFrame, cell: Printed) -> tuple[pd.DataFrame, str]:
    return stored[(stored["attack"] == cell.row) & (stored["victim"] == cell.column)], "value"


def _table_05(stored: pd.DataFrame, cell: Printed) -> tuple[pd.DataFrame, str]:
    return stored[stored["victim"] == cell.row], cell.column


def _table_04(stored: pd.DataFrame, cell: Printed) -> tuple[pd.DataFrame, str]:
    where = (stored["attack"] == cell.row) & (stored["eps"] == int(cell.column.split()[1]))
    return _judged(stored[where & (stored["defense"] == "none")], stored, "mAP@0.5"), "value"


def _tables_06_07(stored: pd.DataFrame, cell: Printed) -> tuple[pd.DataFrame, str]:
    attack, eps = ("none", 0) if cell.column == "no attack" else ("SSP", int(cell.column.split()[1]))
    where = (stored["attack"] == attack) & (stored["eps"] == eps) & (stored["defense"] == cell.row)
    return _judged(stored[where], stored, "pixels" if cell.table == "table_06" else "mAP@0.5"), "value"


def _judged(rows: pd.DataFrame, stored: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Those of the table's first victim, in the paper's metric."""
    return rows[(rows["victim"] == stored["victim"].iloc[0]) & (rows["metric"] == metric)]


OURS: dict[str, Callable[[pd.DataFrame, Printed], tuple[pd.DataFrame, str]]] = {
    "table_01": _table_01,
    "table_03": _table_03,
    "table_04": _table_04,
    "table_05": _table_05,
    "table_06": _tables_06_07,
    "table_07": _tables_06_07,
}


def markdown(compared: pd.DataFrame, scale: str) -> str:
    """comparison.md: a section per table, then the numbers of the text."""
    parts = [INTRODUCTION.format(scale=scale)]
    for name, part in compared.groupby("table", sort=False):
        title = f"Table {int(name[-2:])}: {published.TABLES[name]['title']}"
        shown = pd.DataFrame([_shown(row) for row in part.to_dict("records")])
        parts.append(f"## {title}\n\n{shown.to_markdown(index=False, disable_numparse=True)}\n")
    text = pd.DataFrame(published.TEXT)[["line", "says", "value", "unit"]]
    parts.append(f"## Numbers in the text\n\n{text.to_markdown(index=False, disable_numparse=True)}\n")
    return "\n".join(parts)


def _shown(row: dict[str, object]) -> dict[str, str]:
    there = row["ours"] != ""
    return {
        "row": row["row"],
        "column": f"{row['column']}, {row['unit']}",
        "paper": f"{row['paper']:g}",
        "ours": f"{row['ours']:.1f} [{row['low']:.1f}, {row['high']:.1f}]" if there else "-",
        "difference": f"{row['difference']:+.1f}" if there else "-",
        "n": str(row["n"]) if there else "-",
        "line": str(row["line"]),
        "note": row["note"],
    }
