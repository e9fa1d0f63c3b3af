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
        table, cells = tables.tables().get(name), [cell for cell in published.NUMBERS.values() if cell.table == name]
        if table and not results.has_frame(table.stage) and results.files("tables/earlier_comparison.csv"):
            stored = results.load_table("earlier_comparison")
            rows += stored[stored["table"] == name].to_dict("records")
        else:
            ours, why = _ours(results, name)
            rows += [_beside(cell, ours.get((cell.row, cell.column)), why) for cell in cells]
    return pd.DataFrame(rows, columns=COLUMNS)


def _ours(results: Results, name: str) -> tuple[dict[tuple[str, str], Estimate], str]:
    """Our numbers by row and column of the paper's table, and why others are not there."""
    table = tables.tables().get(name)
    if table is None:
        return {}, f"trained at another size on other hardware: see tables/{name} for our hours"
    try:
        found = tables.table_numbers(table, results.load_frame(table.stage))
    except FileNotFoundError:
        return {}, "its notebook has not run at this scale"
    ours = {(tables.label_text(cell.row[table.rows[0]]), cell.heading): cell.estimate for cell in found}
    return ours, "this scale has no such cell"


def _beside(printed: Printed, ours: Estimate | None, why: str) -> dict[str, object]:
    """A printed number and ours, or why there is none."""
    row = printed._asdict() | {"paper": printed.value}
    if ours is None:
        return row | dict.fromkeys(["ours", "low", "high", "difference", "n"], "") | {"note": why}
    spread = f"the paper's ± {printed.spread}" if printed.spread is not None else ""
    return row | ours._asdict() | {"ours": ours.value, "difference": ours.value - printed.value, "note": spread}


def comparison_page(compared: pd.DataFrame, scale: str) -> str:
    """comparison.md: a section per table, then the numbers of the text."""
    parts = [INTRODUCTION.format(scale=scale)]
    for name, part in compared.groupby("table", sort=False):
        title = f"Table {int(name[-2:])}: {published.TABLES[name]['title']}"
        shown = pd.DataFrame([_formatted(row) for row in part.to_dict("records")])
        parts.append(f"## {title}\n\n{markdown.escaped_table(shown)}\n")
    text = pd.DataFrame(published.TEXT)[["line", "says", "value", "unit"]]
    parts.append(f"## Numbers in the text\n\n{markdown.escaped_table(text)}\n")
    return "\n".join(parts)


def _formatted(row: dict[str, object]) -> dict[str, str]:
    shown = {"row": row["row"], "column": f"{row['column']}, {row['unit']}", "paper": f"{float(row['paper']):g}"}
    shown |= dict.fromkeys(["ours", "difference", "n"], "-")
    if row["ours"] != "":
        ours = Estimate(*(float(row[name]) for name in ("ours", "low", "high")), row["n"])
        shown |= {"ours": str(ours), "difference": f"{float(row['difference']):+.1f}", "n": str(ours.n)}
    return shown | {"line": str(row["line"]), "note": row["note"]}
