"""Tables as data (tables.yaml, own/tables.yaml): built from a frame, shown as Markdown, CSV or LaTeX."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from string import Formatter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import yaml
from pydantic import Field, field_validator

from lib import settings
from lib.frames import Frame
from lib.report import facts, published
from lib.report.scores import SCORES, Estimate, combined, estimate, point
from lib.settings import ROOT
from lib.settings.base import Strict, validated

if TYPE_CHECKING:
    from IPython.display import Markdown

    from lib.report.results import Results

Where = dict[str, str | float | list[str | float]]
FILES = (ROOT / "lib" / "report" / "tables.yaml", ROOT / "own" / "tables.yaml")


class Column(Strict):
    """What a column shows of each row.

    where: the cell, beside what the table and the row say (and in place of it where both name a column).
    less: another cell, whose score is taken off: a paired difference in points.  spread: adds the standard deviation
    over seeds.  paper: table, row and column of published.yaml; in these {victim} is the row's or column's.
    """

    score: str
    where: Where = Field(default_factory=dict)
    less: Where | None = None
    spread: bool = False
    paper: tuple[str, str, str] | None = None

    @field_validator("score")
    @classmethod
    def known(cls, name: str) -> str:
        """One of `scores.SCORES`."""
        if name not in SCORES:
            raise ValueError(f"no score '{name}'; there are {', '.join(SCORES)}")
        return name


class Table(Strict):
    """A table of a frame.

    stage: the notebook whose frame it shows.  where: its cells.  rows: columns of the frame; each of their values makes
    a row.  columns: heading -> what it shows; "{victim}" in a heading makes a column per value.  network: adds what
    plays the row's victim.  white_box: puts in brackets what is no transfer, as the victim is the surrogate.  best: the
    largest number of each column in bold.  headline: cells of its CSV file (column -> value), whose mean `dvc metrics`
    shows.
    """

    title: str
    stage: str
    where: Where = Field(default_factory=dict)
    rows: list[str] = Field(min_length=1)
    columns: dict[str, Column] = Field(min_length=1)
    network: bool = False
    white_box: bool = False
    best: bool = False
    headline: dict[str, str] = Field(default_factory=dict)


class Cell(NamedTuple):
    """One number of a table, with what labels it. printed: table, row and column in published.yaml, if it is there."""

    row: dict[str, object]
    heading: str
    estimate: Estimate
    printed: tuple[str, str, str] | None
    white_box: bool
    spread: float | None


def tables(own: bool = False) -> dict[str, Table]:
    """Every table by name; own: only those of own/. ValueError in one line for a mistake in a file."""
    found = {}
    for path in FILES[own:]:
        entries = yaml.safe_load(path.read_text()) if path.exists() else None
        for name, entry in (entries or {}).items():
            found[name] = validated(Table, entry, f"{path.parent.name}/{path.name}: {name}")
    return found


def cells(table: Table, frame: Frame) -> Iterator[Cell]:
    """The numbers of a table, row by row. A cell that the frame has not is left out."""
    chosen = frame.where(**table.where)
    for row in distinct(chosen, table.rows):
        for heading, column in table.columns.items():
            fields = [name for _, name, _, _ in Formatter().parse(heading) if name]
            for values in distinct(frame.where(**table.where | column.where), fields):
                found = frame.where(**table.where | row | values | column.where)
                if not len(found):
                    continue
                names = row | values
                title = heading.format(**{key: text(value) for key, value in names.items()})
                own = set(found.cells["victim"]) & {s for v in found.cells["surrogate"] for s in v.split(" + ")}
                terms = [(1.0, found)]
                if column.less is not None:
                    terms.append((-1.0, frame.where(**table.where | row | values | column.less)))
                    if not len(terms[1][1]):
                        continue
                elif not np.isfinite(point(column.score, found)):
                    continue
                number = combined(column.score, terms)
                spread = _spread(column.score, found) if column.spread and len(found) > 1 else None
                yield Cell(row, title, number, _printed(column, names), bool(own) and table.white_box, spread)


def distinct(frame: Frame, names: list[str]) -> list[dict[str, object]]:
    """The different values of some columns, each column's in order of appearance; one without any for no column."""
    if not names:
        return [{}]
    found = frame.cells[names].drop_duplicates()
    return found.sort_values(names, key=lambda column: column.map(_order(column)), kind="stable").to_dict("records")


def _order(column: pd.Series) -> dict[object, int]:
    return {value: place for place, value in enumerate(column.unique())}


def _printed(column: Column, names: dict[str, object]) -> tuple[str, str, str] | None:
    """Where the paper prints a cell, None where it does not."""
    if column.paper is None:
        return None
    place = tuple(part.format(**{key: text(value) for key, value in names.items()}) for part in column.paper)
    return None if published.value(*place) is None else place


def _spread(score: str, frame: Frame) -> float:
    """The standard deviation over the seeds of a random defense."""
    return float(np.std([point(score, frame.where(seed=seed)) for seed in frame.cells["seed"]], ddof=1))


def long(found: list[Cell]) -> pd.DataFrame:
    """A row per number: the row's labels, column, value, low, high, n, and the paper's number where it prints one."""
    rows = [
        {**cell.row, "column": cell.heading, **cell.estimate._asdict()}
        | ({"spread": cell.spread} if any(one.spread is not None for one in found) else {})
        | ({"paper": published.value(*cell.printed) if cell.printed else ""} if any(c.printed for c in found) else {})
        for cell in found
    ]
    return pd.DataFrame(rows)


def wide(table: Table, found: list[Cell], frame: Frame, scale: settings.Scale | None = None) -> pd.DataFrame:
    """The table as it is shown: a row per row, text in every cell."""
    headings = list(dict.fromkeys(cell.heading for cell in found))
    best = {name: max(c.estimate.value for c in found if c.heading == name) for name in headings if table.best}
    several = any("{" in heading for heading in table.columns)
    rows = []
    for row in distinct(frame.where(**table.where), table.rows):
        here = {cell.heading: cell for cell in found if cell.row == row}
        labels = {name: text(value) or "-" for name, value in row.items()}
        if table.network and scale:
            labels["network"] = facts.describe(scale, frame.where(**table.where | row).cells["victim"].iloc[0])
        shown = {name: _shown(table, here.get(name), best.get(name)) for name in headings}
        paper = {name: _paper(here.get(name)) for name in headings}
        if not several:  # the paper's numbers stand beside ours, or in a row below
            printed = [name for name in headings if any(c.printed for c in found if c.heading == name)]
            pairs = [
                {name: shown[name]} | ({f"{name} (paper)": paper[name]} if name in printed else {}) for name in headings
            ]
            shown = {key: value for pair in pairs for key, value in pair.items()}
        n = sorted({cell.estimate.n for cell in here.values()})
        rows.append(labels | shown | {"n": ", ".join(map(str, n))})
        if several and set(paper.values()) != {"-"}:
            first, *others = labels
            rows.append({first: f"{labels[first]} (paper)", **dict.fromkeys(others, "-"), **paper, "n": "-"})
    return pd.DataFrame(rows)


def _shown(table: Table, cell: Cell | None, best: float | None) -> str:
    if cell is None:
        return "-"
    shown = f"{cell.estimate}" + (f" ± {cell.spread:.1f}" if cell.spread is not None else "")
    shown = f"({shown})" if cell.white_box else shown
    return f"**{shown}**" if cell.estimate.value == best else shown


def _paper(cell: Cell | None) -> str:
    return "-" if cell is None or cell.printed is None else f"{published.value(*cell.printed):g}"


def text(value: object) -> str:
    """A label as it is shown: 8.0 is "8"."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def show(results: Results, name: str, frame: Frame) -> Markdown:
    """Build a table of tables.yaml, write it as Markdown and CSV, and return it for a notebook to show."""
    table = tables()[name]
    found = list(cells(table, frame))
    return results.save_table(name, wide(table, found, frame, settings.load(results.scale)), long(found))


def headlines(results: Results) -> dict[str, float]:
    """One number a table, for `dvc metrics`: the mean of the stored cells that the table's `headline` names."""
    found = {}
    for name, table in (tables() | tables(own=True)).items():
        if table.headline and results.files(f"tables/{name}.csv"):
            cells = results.load_table(name).astype({"value": float})
            found[name] = cells.loc[(cells[list(table.headline)] == table.headline).all(axis=1), "value"].mean()
    return found


def estimates(frame: Frame, by: list[str], score: str) -> pd.DataFrame:
    """The score of every cell, as a figure's data: columns `by`, value, low, high, n."""
    return pd.DataFrame([values | estimate(score, frame.where(**values))._asdict() for values in distinct(frame, by)])


def attacks_named(frame: Frame) -> Frame:
    """The frame, its attacks called "SSP on VGG-16"."""
    names = [f"{a} on {s}" if s else a for a, s in zip(frame.cells["attack"], frame.cells["surrogate"], strict=True)]
    return replace(frame, cells=frame.cells.assign(attack=names))


def trend(frame: Frame, task: str, score: str) -> pd.DataFrame:
    """What the figure of the trend over budgets shows: the score at each budget, per line.

    A line per defense, one without any, and one under random noise; the clean images begin every line.
    """
    lines = {"no defense" if name == "none" else name: {"defense": name} for name in frame.cells["defense"].unique()}
    lines["random sign noise"] = {"defense": "none"}
    parts = []
    for line, where in lines.items():
        attacks = ["none", "Noise"] if line == "random sign noise" else "!Noise"
        found = estimates(frame.where(attack=attacks, **where), ["victim", "eps"], score)
        parts.append(found.assign(task=task, metric=score, line=line).sort_values("eps", kind="stable"))
    columns = ["task", "victim", "metric", "line", "eps", "value", "low", "high", "n"]
    return pd.concat(parts, ignore_index=True)[columns]
