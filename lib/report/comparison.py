"""Every number of the supplement's tables beside ours, with its interval and n: `companion report compare`."""

import pandas as pd

from lib import markdown
from lib.report import published, tables
from lib.report.published import Printed
from lib.report.results import Results
from lib.report.scores import Estimate

COLUMNS = ["table", "row", "column", "unit", "line", "paper", "ours", "low", "high", "difference", "n", "note"]
INTRODUCTION = """# The paper's numbers and ours

Scale `{scale}`. The supplement's numbers are of the paper's own networks on ImageNet, CamVid and COCO. With other
networks and images ours are not meant to agree with them; `claims.md` says which comparisons do. Ours with 95 %
intervals over n images; difference: ours less the paper's. Written by `companion report`, also as
`tables/comparison.csv`.
"""


def compare(results: Results) -> pd.DataFrame:
    """One row per printed number, with COLUMNS; where the scale has no such number, ours is blank and note says why.

    From the stages' frames; of a stage without one, as `earlier_comparison` has them, if it is there.
    """
    rows = []
    for name in published.TABLES:
        table, cells = tables.tables().get(name), [cell for cell in published.cells() if cell.table == name]
        if table and not results.has_frame(table.stage) and results.files("tables/earlier_comparison.csv"):
            stored = results.load_table("earlier_comparison")
            rows += stored[stored["table"] == name].to_dict("records")
        else:
            ours = _ours(results, name)
            rows += [_beside(cell, ours) for cell in cells]
    return pd.DataFrame(rows, columns=COLUMNS)


def _ours(results: Results, name: str) -> dict[tuple[str, str], Estimate] | str:
    """Our numbers by row and column of the paper's table, or why there are none."""
    table = tables.tables().get(name)
    if table is None:
        return f"trained at another size on other hardware: see tables/{name} for our hours"
    try:
        frame = results.load_frame(table.stage)
    except FileNotFoundError:
        return "its notebook has not run at this scale"
    found = tables.table_numbers(table, frame)
    return {(tables.label_text(cell.row[table.rows[0]]), cell.heading): cell.estimate for cell in found}


def _beside(cell: Printed, ours: dict[tuple[str, str], Estimate] | str) -> dict[str, object]:
    """A printed number and ours."""
    row = cell._asdict() | {"paper": cell.value} | dict.fromkeys(["ours", "low", "high", "difference", "n"], "")
    found = None if isinstance(ours, str) else ours.get((cell.row, cell.column))
    if found is None:
        return row | {"note": ours if isinstance(ours, str) else "this scale has no such cell"}
    spread = f"the paper's ± {cell.spread}" if cell.spread is not None else ""
    return row | found._asdict() | {"ours": found.value, "difference": found.value - cell.value, "note": spread}


def comparison_page(compared: pd.DataFrame, scale: str) -> str:
    """comparison.md: a section per table, then the numbers of the text."""
    parts = [INTRODUCTION.format(scale=scale)]
    for name, part in compared.groupby("table", sort=False):
        title = f"Table {int(name[-2:])}: {published.TABLES[name]['title']}"
        shown = pd.DataFrame([_formatted(row) for row in part.to_dict("records")])
        parts.append(f"## {title}\n\n{markdown.table(shown)}\n")
    text = pd.DataFrame(published.TEXT)[["line", "says", "value", "unit"]]
    parts.append(f"## Numbers in the text\n\n{markdown.table(text)}\n")
    return "\n".join(parts)


def _formatted(row: dict[str, object]) -> dict[str, str]:
    ours = dict.fromkeys(["ours", "difference", "n"], "-")
    if row["ours"] != "":
        value, low, high, difference = (float(row[name]) for name in ("ours", "low", "high", "difference"))
        ours = {"ours": f"{value:.1f} [{low:.1f}, {high:.1f}]", "difference": f"{difference:+.1f}", "n": str(row["n"])}
    shown = {"row": row["row"], "column": f"{row['column']}, {row['unit']}", "paper": f"{float(row['paper']):g}"}
    return shown | ours | {"line": str(row["line"]), "note": row["note"]}
