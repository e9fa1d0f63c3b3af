"""The numbers that the supplement prints (published.yaml holds them)."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

TABLES: dict[str, dict] = yaml.safe_load((Path(__file__).parent / "published.yaml").read_text())
# Numbers outside the tables: line, value, unit, says, and where the project or a table has the same number.
TEXT: list[dict] = TABLES.pop("text")


class Printed(NamedTuple):
    """One number of a table. line: of the supplement's text.  spread: what stands behind its "±", or None."""

    table: str
    row: str
    column: str
    value: float
    spread: float | None
    unit: str
    line: int


def _printed() -> Iterator[Printed]:
    for name, table in TABLES.items():
        for row, numbers in table["rows"].items():
            spreads = table.get("spread", {}).get(row, [None] * len(numbers))
            for column, number, spread in zip(table["columns"], numbers, spreads, strict=True):
                unit = table["units"][column] if "units" in table else table["unit"]
                line = table["lines"][column if column in table["lines"] else row]
                yield Printed(name, row, column, number, spread, unit, line)


# Every number of every table by table, row and column, in the paper's order.
NUMBERS = {number[:3]: number for number in _printed()}


def value(table: str, row: str, column: str) -> float | None:
    """The printed number, or None where the paper has no such cell (a network or setting that it does not print)."""
    found = NUMBERS.get((table, row, column))
    return found.value if found else None
