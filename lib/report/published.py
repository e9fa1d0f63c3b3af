"""The numbers that the supplement prints (published.yaml holds them)."""

from pathlib import Path

import yaml

TABLES: dict[str, dict] = yaml.safe_load((Path(__file__).parent / "published.yaml").read_text())


def value(table: str, row: str, column: str) -> float | None:
    """The printed number, or None where the paper has no such cell (a network or setting that it does not print)."""
    printed = TABLES[table]
    if row not in printed["rows"] or column not in printed["columns"]:
        return None
    return printed["rows"][row][printed["columns"].index(column)]
