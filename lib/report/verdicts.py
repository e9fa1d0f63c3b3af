"""Every checkable sentence of the supplement (claims.yaml) judged on a scale's stored tables; nothing is computed anew.

A sentence compares one or more pairs of cells (its cases). It is reproduced where every case is, not reproduced where
one is not, and inconclusive otherwise; one that cannot be judged at a scale says why.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import yaml

from lib.report.claims import Expected, verdict
from lib.report.intervals import Estimate
from lib.report.results import Results

FILE = Path(__file__).parent / "claims.yaml"
VERDICTS = ("reproduced", "not reproduced", "inconclusive", "not judged")
COLUMNS = [
    "id",
    "appendix",
    "item",
    "lines",
    "says",
    "compares",
    "expected",
    "source",
    "case",
    "effect",
    "low",
    "high",
    "unit",
]
COLUMNS += ["n", "verdict", "why"]
FEW = 4  # cases that the overview shows one by one

INTRODUCTION = """# What the supplement says, and what became of it

Scale `{scale}`. {counts}. Effects are differences in percentage points over the same images, with 95 % intervals of a
paired bootstrap. A sentence with several cases is *reproduced* where the whole interval of every case lies where the
sentence wants it, *not reproduced* where that of one case lies elsewhere, and *inconclusive* otherwise. Intervals are
about images, not about training the networks again, and nothing is corrected for their number. C2, E4 and E8 are
stricter readings that the supplement does not make. Computed by
`python -m lib.report` from the tables named; `tables/claims.csv` has every case.
"""


class Claim(NamedTuple):
    """A sentence of the supplement; see the head of claims.yaml for the fields."""

    id: str
    item: str
    lines: str
    says: str
    compares: str = ""
    table: str = ""
    where: dict[str, str | list[str]] = {}  # noqa: RUF012 - never changed
    case: Sequence[str] = ()
    effect: str = ""
    beyond: float = 0.0
    transferred: bool = False
    given: dict = {}  # noqa: RUF012 - never changed
    expected: Expected = "rises"
    why: str = ""


def claims() -> list[Claim]:
    """The sentences, in the order of the supplement."""
    return [Claim(**entry | {"lines": str(entry["lines"])}) for entry in yaml.safe_load(FILE.read_text())]


def judge(results: Results) -> pd.DataFrame:
    """One row per case (one for a sentence that is not judged), with COLUMNS; effects in points."""
    return pd.DataFrame([row for claim in claims() for row in cases(claim, results)], columns=COLUMNS)


def cases(claim: Claim, results: Results) -> list[dict[str, object]]:
    """The rows of one sentence."""
    shared = {
        "id": claim.id,
        "appendix": claim.id[0],
        "item": claim.item,
        "lines": claim.lines,
        "says": claim.says,
        "unit": "points",
    }
    shared |= {"compares": claim.compares, "expected": claim.expected if claim.table else "", "source": claim.table}
    blank = shared | {"case": "", "effect": "", "low": "", "high": "", "n": "", "verdict": "not judged"}
    if claim.why:
        return [blank | {"why": claim.why}]
    try:
        why = missing(claim, results)
        return [blank | {"why": why}] if why else [shared | case(claim, row) for row in rows(claim, results)]
    except FileNotFoundError:
        return [blank | {"why": f"tables/{claim.table} is not there: its notebook has not run at this scale"}]
    except KeyError as error:
        return [blank | {"why": f"tables/{claim.table} has no column {error}: older than the code; run its notebook"}]


def missing(claim: Claim, results: Results) -> str:
    """Why this scale's tables cannot judge a sentence; empty if they can."""
    if not rows(claim, results):
        return f"no such row in tables/{claim.table}: no network, attack or defense for it when the table was made"
    if claim.given:
        ground = select(results.load_table(claim.given["table"]), claim.given["where"])[claim.given["column"]].iloc[0]
        if not ground < claim.given["below"]:
            return f"the attack takes {-ground:.1f} points here (tables/{claim.given['table']}): nothing to win back"
    return ""


def rows(claim: Claim, results: Results) -> list[pd.Series]:
    """The rows of the claim's table that it speaks of."""
    chosen = select(results.load_table(claim.table), claim.where)
    found = [row for _, row in chosen.iterrows()]
    if claim.transferred:
        found = [row for row in found if row["victim"] not in row["attack"].partition(" on ")[2].split(" + ")]
    return found


def case(claim: Claim, row: pd.Series) -> dict[str, object]:
    """What one row of a table says of a sentence."""
    value, low, high = (float(row[f"{claim.effect}{end}"]) - claim.beyond for end in ("", " low", " high"))
    change = Estimate(value, low, high, int(row["n"]))
    name = ", ".join(_name(column, row[column]) for column in claim.case)
    return change._asdict() | {
        "effect": change.value,
        "case": name,
        "verdict": verdict(change, claim.expected),
        "why": "",
    }


def _name(column: str, value: object) -> str:
    """A number alone says nothing: "10 iterations", "eps 8"."""
    if isinstance(value, str):
        return value
    return f"{column.removeprefix('SSP, ')} {value}" if "eps" in column else f"{value} {column}"


def select(table: pd.DataFrame, where: dict[str, str | list[str]]) -> pd.DataFrame:
    """The rows whose columns fit a pattern (* and ?), or one of several. KeyError for a column that is not there."""
    for column, patterns in where.items():
        several = [patterns] if isinstance(patterns, str) else patterns
        table = table[[any(fnmatchcase(str(cell), one) for one in several) for cell in table[column]]]
    return table


def overall(verdicts: Sequence[str]) -> str:
    """The verdict on a sentence from those on its cases."""
    if "not judged" in verdicts:
        return "not judged"
    if "not reproduced" in verdicts:
        return "not reproduced"
    return "reproduced" if set(verdicts) == {"reproduced"} else "inconclusive"


def summary(judged: pd.DataFrame) -> pd.DataFrame:
    """One row per sentence: id, appendix, lines, says, effect (in words), n, source, verdict."""
    return pd.DataFrame([_sentence(part) for _, part in judged.groupby("id", sort=False)])


def _sentence(part: pd.DataFrame) -> dict[str, object]:
    found = overall(part["verdict"].tolist())
    first = part.iloc[0]
    row = {name: first[name] for name in ("id", "appendix", "item", "lines", "says", "compares", "source")}
    if found == "not judged":
        return row | {"effect": first["why"], "n": "-", "verdict": found}
    counts = sorted(set(part["n"]))
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return row | {"effect": _effects(part), "n": n, "verdict": found}


def _effects(part: pd.DataFrame) -> str:
    """The effects of a few cases, or how many there are of which verdict."""
    if len(part) > FEW:
        tally = ", ".join(f"{count} {name}" for name in VERDICTS if (count := (part["verdict"] == name).sum()))
        return f"{len(part)} cases, {part['effect'].min():+.1f} to {part['effect'].max():+.1f}: {tally}"
    return "; ".join(
        f"{row.effect:+.1f} [{row.low:.1f}, {row.high:.1f}]" + (f" ({row.case})" if row.case else "")
        for row in part.itertuples()
    )


def counts(judged: pd.DataFrame) -> dict[str, int]:
    """How many sentences have each verdict."""
    found = summary(judged)["verdict"]
    return {name: int((found == name).sum()) for name in VERDICTS}


def overview(scales: dict[str, pd.DataFrame]) -> str:
    """A Markdown table: what became of each table and figure, a column per scale. scales: name -> of `judge`."""
    columns = {}
    for name, judged in scales.items():
        found = summary(judged)
        words = found["id"] + " " + found["verdict"].map(lambda one: f"**{one}**" if one == "not reproduced" else one)
        columns[name] = words.groupby(found["item"], sort=False).agg(", ".join)
    table = pd.DataFrame(columns).fillna("-").rename_axis("paper").reset_index()
    return table.sort_values("paper", key=lambda names: names.map(_place)).to_markdown(index=False) + "\n"


def _place(item: str) -> tuple[str, int]:
    """Tables first, then figures by number, then the text."""
    kind, number = item.split()[:2]
    return {"Table": "1", "Figure": "2"}.get(kind, "3"), int(number) if number.isdigit() else 0


def markdown(judged: pd.DataFrame, scale: str) -> str:
    """claims.md: the counts, the figure, a table per appendix, and every case."""
    tally = ", ".join(f"{count} {name}" for name, count in counts(judged).items())
    parts = [INTRODUCTION.format(scale=scale, counts=f"{judged['id'].nunique()} sentences: {tally}")]
    parts.append(overview({"sentences": judged}))
    parts.append("![Every effect, beside where the sentence wants it](figures/claims.svg)\n")
    for appendix, part in summary(judged).groupby("appendix", sort=False):
        shown = part.assign(
            sentence=part["says"] + " (line " + part["lines"] + ")",
            measured=[_measured(row) for row in part.itertuples()],
            verdict="**" + part["verdict"] + "**",
        )[["id", "sentence", "verdict", "measured", "n"]]
        parts.append(f"## Appendix {appendix}\n\n{shown.to_markdown(index=False, disable_numparse=True)}\n")
    return "\n".join(parts)


def _measured(row) -> str:
    """What was compared and what came out, with the table that it comes from."""
    if row.verdict == "not judged":
        return row.effect
    return f"{row.compares}: {row.effect} (`tables/{row.source}`)"
