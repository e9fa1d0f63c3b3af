"""Every checkable claim of the supplement (claims.yaml, own/claims.yaml), judged from frames: the only judge.

A claim compares one or more pairs of cells (its cases). It is reproduced where every case is, not reproduced where one
is not, and inconclusive otherwise; one that cannot be judged at a scale says why.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import pandas as pd
import yaml
from pydantic import Field, model_validator

from lib import markdown
from lib.frames import Frame
from lib.report.results import Results
from lib.report.scores import Estimate, combined, point
from lib.report.tables import Scored, Where, distinct, fields, label_text
from lib.settings import ROOT
from lib.settings.base import Strict, validated

if TYPE_CHECKING:
    from IPython.display import Markdown

FILES = (ROOT / "lib" / "report" / "claims.yaml", ROOT / "own" / "claims.yaml")
MARGIN = 5.0  # points: a change within it counts as none, and an attack that takes less has left nothing to win back
# Where a claim expects a change, in points.
RANGES = {
    "rises": (0.0, math.inf),
    "falls": (-math.inf, 0.0),
    "stays": (-MARGIN, MARGIN),
    "at most 5 points up": (-math.inf, MARGIN),
    "a little up": (0.0, MARGIN),
}
VERDICTS = ("reproduced", "not reproduced", "inconclusive", "not judged")
ABOUT = ["id", "appendix", "item", "lines", "says", "compares"]
COLUMNS = [*ABOUT, "expected", "source", "case", "effect", "low", "high", "unit", "n", "verdict", "why"]
FEW = 4  # cases that the overview shows one by one

INTRODUCTION = """# What the supplement claims, and what was measured

Scale `{scale}`. {counts}. Effects are differences in percentage points over the same images, with 95 % intervals of a
paired bootstrap. A claim with several cases is *reproduced* where the whole interval of every case lies where it is
expected, *not reproduced* where that of one case lies elsewhere, and *inconclusive* otherwise. Intervals are about
images, not about training the networks again, and nothing is corrected for their number. C2, E4 and E8 are stricter
readings that the supplement does not make. Computed by `companion report` from the frames named;
`tables/claims.csv` has every case.
"""


class Claim(Strict):
    """A claim of the supplement; see the head of claims.yaml for the fields."""

    id: str
    item: str
    lines: str
    says: str
    compares: str = ""
    stage: str = ""
    score: Scored = "accuracy"
    where: Where = Field(default_factory=dict)
    case: str = ""
    of: Where = Field(default_factory=dict)
    less: Where | float = Field(default_factory=dict)
    beyond: float = 0.0
    taken: Where | None = None
    share: float = 0.0
    transferred: bool = False
    expected: Literal[*RANGES] = "rises"
    why: str = ""

    @model_validator(mode="after")
    def whole(self) -> Claim:
        """A claim is judged from a frame, or says why it is not."""
        if bool(self.stage) == bool(self.why):
            raise ValueError("a claim needs a stage (whose frame judges it) or a why (no number can), not both")
        return self

    @property
    def appendix(self) -> str:
        """The first letter of its id."""
        return self.id[0]


def claims() -> list[Claim]:
    """The supplement's claims in its order, then the user's own. ValueError in one line for a mistake in a file."""
    found = []
    for path in FILES:
        for entry in (yaml.safe_load(path.read_text()) if path.exists() else None) or []:
            named = {**entry, "lines": str(entry.get("lines", ""))}
            found.append(validated(Claim, named, f"{path.parent.name}/{path.name}: {entry.get('id', 'a claim')}"))
    return found


def verdict(change: Estimate, expected: str) -> str:
    """reproduced, not reproduced, or inconclusive, from the 95 % interval of a change in percentage points.

    Reproduced when the whole interval lies where the claim expects the change (RANGES), not reproduced when all of it
    lies elsewhere.
    """
    low, high = RANGES[expected]
    first, last = round(change.low, 9), round(change.high, 9)  # -1e-17 is no effect
    if low < first and last < high:
        return "reproduced"
    return "not reproduced" if last < low or high < first else "inconclusive"


def judge(results: Results) -> pd.DataFrame:
    """One row per case (one for a claim that is not judged), with COLUMNS; effects in points.

    From the frames of the scale; where it has none, from the cases that were stored with its tables.
    """
    if not results.has_frames():
        return results.load_table("claims")
    return pd.DataFrame([row for claim in claims() for row in cases(claim, results)], columns=COLUMNS)


def cases(claim: Claim, results: Results) -> list[dict[str, object]]:
    """The rows of one claim."""
    shared = {name: getattr(claim, name) for name in ABOUT} | {"source": claim.stage, "unit": "points", "why": ""}
    shared["expected"] = claim.expected if claim.stage else ""
    try:
        found = [] if claim.why else list(effects(claim, results.load_frame(claim.stage)))
        why = (
            claim.why
            or f"no such cell in frames/{claim.stage}: no network, attack or defense for it when the notebook ran"
        )
    except FileNotFoundError:
        found, why = [], f"frames/{claim.stage} is not there: its notebook has not run at this scale"
    except KeyError as error:
        found, why = [], f"frames/{claim.stage} has no column {error}: older than the code; run its notebook"
    rows = [
        shared | {"case": name, **change._asdict(), "effect": change.value, "verdict": verdict(change, claim.expected)}
        for name, change, taken in found
        if taken >= MARGIN
    ]
    if found and not rows:
        most = max(taken for _, _, taken in found)
        why = f"the attack takes {most:.1f} points here (frames/{claim.stage}): nothing to win back"
    blank = dict.fromkeys(["case", "effect", "low", "high", "n"], "")
    return rows or [shared | blank | {"verdict": "not judged", "why": why}]


def effects(claim: Claim, frame: Frame) -> Iterator[tuple[str, Estimate, float]]:
    """Each case: its name, the effect, and how many points the attack takes (inf where the claim does not ask)."""
    for values in distinct(frame.where(**claim.where), fields(claim.case)):
        where = claim.where | values
        terms, constant, taken = [(1.0, _cell(claim, frame, where | claim.of))], claim.beyond, math.inf
        if isinstance(claim.less, float):
            constant += claim.less
        else:
            terms.append((-1.0, _cell(claim, frame, where | claim.less)))
        if not all(len(cell) for _, cell in terms):
            continue
        if claim.taken is not None:
            (_, of), (_, less) = terms
            clean = _cell(claim, frame, where | claim.taken)
            taken = combined(claim.score, [(1.0, clean), (-1.0, less)]).value
            if claim.share:  # of less + share * (clean - less), the accuracy where that share is won back
                terms = [(1.0, of), (-1.0 + claim.share, less), (-claim.share, clean)]
        name = claim.case.format(**{key: label_text(value) for key, value in values.items()})
        yield name, combined(claim.score, terms, constant), taken


def _cell(claim: Claim, frame: Frame, where: Where) -> Frame:
    """The cell that is meant; of several the one that "choose" says: of the highest or of the lowest score."""
    choose = where.get("choose")
    found = frame.where(**{column: value for column, value in where.items() if column != "choose"})
    if claim.transferred:
        pairs = zip(found.cells["victim"], found.cells["surrogate"], strict=True)
        found = found.at([place for place, (victim, other) in enumerate(pairs) if victim not in other.split(" + ")])
    if choose is None or not len(found):
        return found
    single = [found.at([place]) for place in range(len(found))]
    return (max if choose == "highest" else min)(single, key=lambda cell: point(claim.score, cell))


def overall(verdicts: Sequence[str]) -> str:
    """The verdict on a claim from those on its cases."""
    for verdict in ("not judged", "not reproduced", "inconclusive"):
        if verdict in verdicts:
            return verdict
    return "reproduced"


def summary(judged: pd.DataFrame) -> pd.DataFrame:
    """One row per claim: id, appendix, item, lines, says, compares, source, effect (in words), n, verdict."""
    rows = []
    for _, part in judged.groupby("id", sort=False):
        first, found = part.iloc[0], overall(part["verdict"].tolist())
        effect, n = first["why"], "-"
        if found != "not judged":
            counts = sorted({int(n) for n in part["n"]})
            effect, n = _effects(part), " to ".join(str(n) for n in dict.fromkeys([counts[0], counts[-1]]))
        rows.append(first[[*ABOUT, "source"]].to_dict() | {"effect": effect, "n": n, "verdict": found})
    return pd.DataFrame(rows)


def _effects(part: pd.DataFrame) -> str:
    """The effects of a few cases, or how many there are of which verdict."""
    part = part.astype(dict.fromkeys(["effect", "low", "high"], float))
    if len(part) > FEW:
        tally = ", ".join(f"{count} {name}" for name in VERDICTS if (count := (part["verdict"] == name).sum()))
        return f"{len(part)} cases, {part['effect'].min():+.1f} to {part['effect'].max():+.1f}: {tally}"
    return "; ".join(
        f"{row.effect:+.1f} [{row.low:.1f}, {row.high:.1f}]" + (f" ({row.case})" if row.case else "")
        for row in part.itertuples()
    )


def counts(judged: pd.DataFrame) -> dict[str, int]:
    """How many claims have each verdict."""
    return summary(judged)["verdict"].value_counts().reindex(VERDICTS, fill_value=0).to_dict()


def overview(scales: dict[str, pd.DataFrame]) -> str:
    """A Markdown table: what became of each table and figure, a column per scale. scales: name -> of `judge`."""
    columns = {}
    for name, judged in scales.items():
        found = summary(judged)
        words = found["id"] + " " + found["verdict"].replace("not reproduced", "**not reproduced**")
        columns[name] = words.groupby(found["item"], sort=False).agg(", ".join)
    table = pd.DataFrame(columns).fillna("-").rename_axis("paper").reset_index()
    return table.sort_values("paper", key=lambda names: names.map(_place)).to_markdown(index=False) + "\n"


def _place(item: str) -> tuple[str, int]:
    """Tables first, then figures by number, then the text."""
    kind, _, number = item.partition(" ")
    return {"Table": "1", "Figure": "2"}.get(kind, "3"), int(number) if number.isdigit() else 0


def claims_page(judged: pd.DataFrame, scale: str) -> str:
    """claims.md: the counts, the figure, a table per appendix."""
    tally = ", ".join(f"{count} {name}" for name, count in counts(judged).items())
    parts = [INTRODUCTION.format(scale=scale, counts=f"{judged['id'].nunique()} claims: {tally}")]
    parts.append(overview({"claims": judged}))
    parts.append("![Every effect, beside where the claim expects it](figures/claims.svg)\n")
    for appendix, part in summary(judged).groupby("appendix", sort=False):
        parts.append(f"## Appendix {appendix}\n\n{_table(part)}\n")
    return "\n".join(parts)


def _table(found: pd.DataFrame) -> str:
    shown = found.assign(
        claim=found["says"] + " (line " + found["lines"] + ")",
        measured=found["effect"].where(found["verdict"] == "not judged", found["compares"] + ": " + found["effect"]),
        verdict="**" + found["verdict"] + "**",
    )[["id", "claim", "verdict", "measured", "n"]]
    return markdown.table(shown)


def conclusion(results: Results, stage: str, only: str = "") -> Markdown:
    """What became of the claims that a notebook's frame judges: its last cell. only: an appendix whose claims that no
    number can judge stand there too."""
    from IPython.display import Markdown

    chosen = [claim for claim in claims() if claim.stage == stage or (claim.why and claim.appendix == only)]
    judged = pd.DataFrame([row for claim in chosen for row in cases(claim, results)], columns=COLUMNS)
    tally = ", ".join(f"{count} {name}" for name, count in counts(judged).items() if count)
    return Markdown(f"{len(chosen)} claims: {tally}.\n\n{_table(summary(judged))}")
