"""Tables as data (tables.yaml, own/tables.yaml): built from a frame, shown as Markdown, CSV or LaTeX."""

from __future__ import annotations

import re
from dataclasses import replace
from string import Formatter
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
import pandas as pd
from pydantic import AfterValidator, Field

from lib import settings
from lib.frames import Frame, join
from lib.reading import read_yaml
from lib.report import facts, published
from lib.report.results import Results
from lib.report.scores import SCORES, Estimate, combined, estimate, point
from lib.settings import ROOT
from lib.settings.base import Strict, choices, validated

if TYPE_CHECKING:
    from IPython.display import Markdown

Where = dict[str, str | float | list[str | float]]
FILES = (ROOT / "lib" / "report" / "tables.yaml", ROOT / "own" / "tables.yaml")


def known_score(name: str) -> str:
    """One of `scores.SCORES`."""
    if name not in SCORES:
        raise ValueError(f"no score '{name}'; {choices(name, SCORES)}")
    return name


Scored = Annotated[str, AfterValidator(known_score)]


class Column(Strict):
    """What a column shows of each row.

    score: where it is not the table's.  where: the cell, beside what the table and the row say (and in place of it
    where both name a column).  less: another cell, whose score is taken off: a paired difference in points.  spread:
    adds the standard deviation over seeds.
    """

    score: Scored | None = None
    where: Where = Field(default_factory=dict)
    less: Where | None = None
    spread: bool = False


class Table(Strict):
    """A table of a frame.

    stage: the notebook whose frame it shows.  where: its cells.  rows: columns of the frame; each of their values makes
    a row.  columns: heading -> what it shows; "{victim}" in a heading makes a column per value.  paper: the table of
    published.yaml with the same headings, whose rows are called as the first of `rows`.  network: adds what plays the
    row's victim.  white_box: puts in brackets what is no transfer, as the victim is the surrogate.  best: the largest
    number of each column in bold.  headline: cells of its CSV file (column -> value), whose mean `dvc metrics` shows.
    """

    title: str
    stage: str
    where: Where = Field(default_factory=dict)
    rows: list[str] = Field(min_length=1)
    columns: dict[str, Column] = Field(default={"{victim}": Column()}, min_length=1)
    score: Scored = "accuracy"
    paper: str = ""
    network: bool = False
    white_box: bool = False
    best: bool = False
    headline: dict[str, str] = Field(default_factory=dict)


class Number(NamedTuple):
    """One number of a table, with what labels it. place: of its column in the table's entry.  paper: the number that
    the paper prints there."""

    row: dict[str, object]
    place: int
    heading: str
    estimate: Estimate
    paper: float | None
    white_box: bool
    spread: float | None

    def __str__(self) -> str:
        text = f"{self.estimate}" if self.spread is None else f"{self.estimate} ± {self.spread:.1f}"
        return f"({text})" if self.white_box else text


def tables(own: bool = False) -> dict[str, Table]:
    """Every table by name; own: only those of own/. ValueError in one line for a mistake in a file."""
    found = {}
    for path in FILES[own:]:
        for name, entry in (read_yaml(path) if path.exists() else {}).items():
            if not re.fullmatch(r"\w[\w-]*", str(name)):
                raise ValueError(
                    f"{path.parent.name}/{path.name}: '{name}' becomes a file's name: take letters, digits, _ and -"
                )
            found[name] = validated(Table, entry, f"{path.parent.name}/{path.name}: {name}")
    return found


def table_numbers(table: Table, frame: Frame) -> list[Number]:
    """The numbers of a table, row by row. A cell that the frame has not is left out, and one without a finite score."""
    found = []
    for row in distinct(frame.where(**table.where), table.rows):
        for place, (heading, column) in enumerate(table.columns.items()):
            score = column.score or table.score
            for values in distinct(frame.where(**table.where | column.where), fields(heading)):
                shared = table.where | row | values
                cell = frame.where(**shared | column.where)
                terms = [(1.0, cell)]
                if column.less is not None:
                    terms.append((-1.0, frame.where(**shared | column.less)))
                if not all(len(one) for _, one in terms):
                    continue
                if column.less is None and not np.isfinite(point(score, cell)):
                    continue
                names = {key: label_text(value) for key, value in (row | values).items()}
                title = heading.format(**names)
                printed = published.value(table.paper, names[table.rows[0]], title) if table.paper else None
                seen = {name for names in cell.cells["surrogate"] for name in names.split(" + ")}
                white_box = table.white_box and not seen.isdisjoint(cell.cells["victim"])
                seeds = [point(score, cell.at([k])) for k in range(len(cell))] if column.spread else []
                spread = float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None
                found.append(Number(row, place, title, combined(score, terms), printed, white_box, spread))
    return found


def fields(heading: str) -> list[str]:
    """The names in braces."""
    return [name for _, name, _, _ in Formatter().parse(heading) if name]


def distinct(frame: Frame, names: list[str]) -> list[dict[str, object]]:
    """The different values of some columns, each column's in order of appearance; one without any for no column."""
    if not names:
        return [{}]
    found = frame.cells[names].drop_duplicates()
    return found.sort_values(names, key=lambda column: pd.factorize(column)[0], kind="stable").to_dict("records")


def long(found: list[Number]) -> pd.DataFrame:
    """A row per number: the row's labels, column, value, low, high, n; spread, and the paper's number, where any is."""
    rows = [{**cell.row, "column": cell.heading, **cell.estimate._asdict()} for cell in found]
    table = pd.DataFrame(rows, columns=None if rows else ["column", *Estimate._fields])
    for name, blank in {"spread": np.nan, "paper": ""}.items():
        values = [getattr(cell, name) for cell in found]
        if any(value is not None for value in values):
            table[name] = [blank if value is None else value for value in values]
    return table


def wide(table: Table, found: list[Number], frame: Frame, scale: settings.Scale) -> pd.DataFrame:
    """The table as it is shown: a row per row, text in every cell.

    The paper's numbers stand beside ours, or in a row below where a heading stands for several columns.
    """
    # By place: a first row without a number must not change the columns' order.
    order = sorted(found, key=lambda cell: cell.place)
    best = {c.heading: max(o.estimate.value for o in found if o.heading == c.heading) for c in order}
    printed = {cell.heading for cell in found if cell.paper is not None}
    rows, below = [], any(map(fields, table.columns))
    for row in distinct(frame.where(**table.where), table.rows):
        here = {cell.heading: cell for cell in found if cell.row == row}
        labels = {name: label_text(value) or "-" for name, value in row.items()}
        if table.network:
            labels["network"] = facts.played_by(scale, frame.where(**table.where | row).cells["victim"].iloc[0])
        shown, paper = {}, {}
        for name in best:
            cell = here.get(name)
            shown[name] = str(cell or "-")
            if table.best and cell and cell.estimate.value == best[name]:
                shown[name] = f"**{cell}**"
            paper[name] = "-" if cell is None or cell.paper is None else f"{cell.paper:g}"
            if name in printed and not below:
                shown[f"{name} (paper)"] = paper[name]
        n = sorted({cell.estimate.n for cell in here.values()})
        rows.append(labels | shown | {"n": ", ".join(map(str, n))})
        if below and set(paper.values()) != {"-"}:
            first, *others = labels
            rows.append({first: f"{labels[first]} (paper)", **dict.fromkeys(others, "-"), **paper, "n": "-"})
    return pd.DataFrame(rows)


def label_text(value: object) -> str:
    """A label as it is shown: 8.0 is "8"."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def show(results: Results, name: str, frame: Frame) -> Markdown:
    """Build a table of tables.yaml, write it as Markdown and CSV, and return it for a notebook to show."""
    table = tables()[name]
    scale, found = settings.load(results.scale), table_numbers(table, frame)
    shown = [frame.where(**table.where | column.where) for column in table.columns.values()]
    differ = facts.concerning(facts.paper_differences(scale, [table.stage]), join(shown))
    return results.save_table(name, wide(table, found, frame, scale), long(found), note=facts.listed(differ))


def mark_not_fetched(chosen: settings.Scale, stage: str) -> str:
    """In one line, that a stage's images are not here, which need an account; its tables then say so. Else nothing.

    Tables that were computed stay as they are.
    """
    from lib.data import sets

    data, results = getattr(getattr(chosen, stage.split("_")[0], None), "data", None), Results(chosen.name, stage=stage)
    if data is None or data.name != "imagenet_val" or results.path("", "frame.npz").is_file():
        return ""
    if line := sets.not_fetched(data):
        line += f", then: companion run {stage} --scale {chosen.name}"
        for name in [name for name, table in tables().items() if table.stage == stage]:
            results.path("tables", f"{name}.md").write_text(f"{line}\n")
    return line


def headlines(results: Results) -> dict[str, float]:
    """One number a table, for `dvc metrics`: the mean of the stored cells that the table's `headline` names; none of a
    stage without a frame, whose tables an earlier version wrote."""
    found = {}
    for name, table in tables().items():
        if table.headline and results.has_frame(table.stage) and results.files(f"tables/{name}.csv"):
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
    lines = {"no defense" if name == "none" else name: (name, "!Noise") for name in frame.cells["defense"].unique()}
    lines["random sign noise"] = ("none", ["none", "Noise"])
    parts = []
    for line, (defense, attack) in lines.items():
        found = estimates(frame.where(attack=attack, defense=defense), ["victim", "eps"], score)
        labels = {"task": task, "victim": found.pop("victim"), "metric": score, "line": line}
        parts.append(pd.concat([pd.DataFrame(labels), found], axis=1).sort_values("eps", kind="stable"))
    return pd.concat(parts, ignore_index=True)
