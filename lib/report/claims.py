"""Every checkable claim of the supplement (claims.yaml, own/claims.yaml), judged from frames: the only judge.

A claim compares one or more pairs of cells (its cases). A case holds, is contradicted, or is open; a claim of several
says how many of each, and one that no number can decide says why. docs/method.md has the rules.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from lib import markdown, settings
from lib.frames import Frame
from lib.reading import intact, read_yaml
from lib.report import facts
from lib.report.results import Results
from lib.report.scores import Estimate, combined, derived, point
from lib.report.tables import Scored, Where, distinct, fields, label_text
from lib.settings import ROOT
from lib.settings.base import Strict, validated

if TYPE_CHECKING:
    from IPython.display import Markdown

FILES = (ROOT / "lib" / "report" / "claims.yaml", ROOT / "own" / "claims.yaml")
FINDINGS = ROOT / "lib" / "report" / "findings.yaml"
MARGIN = 5.0  # points: a change within it counts as none, and after a smaller drop there is nothing to recover
EDGE = 10.0  # points from an end of the scale: where both cells lie there, a comparison cannot tell them apart
# Where a claim expects a change, in points.
RANGES = {
    "rises": (0.0, math.inf),
    "falls": (-math.inf, 0.0),
    "stays": (-MARGIN, MARGIN),
    "at most 5 points up": (-math.inf, MARGIN),
    "at most 5 points down": (-MARGIN, math.inf),
    "at most 2 points down": (-2.0, math.inf),
    "a little up": (0.0, MARGIN),
}
NORMAL = NormalDist()
CHOOSE = {"highest": max, "lowest": min}
VERDICTS = ("reproduced", "in part", "not reproduced", "inconclusive", "underpowered", "not judged")
ABOUT = ["id", "brief", "appendix", "item", "lines", "reading", "says", "compares"]
MEASURED = ["effect", "low", "high", "unit", "n", "verdict", "p", "needs"]
COLUMNS = [*ABOUT, "expected", "source", "case", *MEASURED, "why"]
FEW = 4  # cases that the overview shows one by one

INTRODUCTION = """# What the supplement claims, and what was measured

Scale `{scale}`. {counts}. Effects are differences in percentage points over the same images, with 95 % intervals. A
case is *reproduced* where its whole interval lies where the claim expects it, *not reproduced* where all of it lies
elsewhere, and *inconclusive* otherwise; *underpowered* where it is too wide for a margin even around no change, with
the number of images that would do by the square-root law. A claim with several cases is *reproduced* where every case
is, *not reproduced* where none is and one is contradicted, *in part* where some are and others are contradicted.
Contradictions are counted after Holm's correction for the claim's cases; both counts stand beside it. A *stricter* or
*looser* reading asks for more or less than the claim above it and is not counted as a claim. Intervals are about
images, not about training the networks again, and nothing is corrected for the number of claims: see docs/method.md.
Computed by `companion report` from the stages' frames; `tables/claims.csv` has every case.
"""


class Claim(Strict):
    """A claim of the supplement; see the head of claims.yaml for the fields."""

    id: str
    brief: str = ""
    item: str
    lines: str
    reading: Literal["", "stricter", "looser"] = ""
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
    bare: Where | None = None
    by: Literal["points", "share"] = "points"
    edges: bool = False
    transferred: bool = False
    expected: Literal[*RANGES] = "rises"
    why: str = ""

    @model_validator(mode="after")
    def whole(self) -> Claim:
        """A claim is judged from a frame, or says why it is not."""
        if bool(self.stage) == bool(self.why):
            raise ValueError("a claim needs a stage (whose frame judges it) or a why (no number can), not both")
        if self.by == "share" and (self.bare is None or self.taken is None):
            raise ValueError("by: share needs bare (the cell without the defense) and taken (that without the attack)")
        if self.share and (self.taken is None or self.bare is not None or isinstance(self.less, float)):
            raise ValueError("share needs taken (the cell without the attack), less as a cell, and no bare")
        if isinstance(self.less, float) and self.taken is not None:
            raise ValueError("taken needs less as a cell, what the attack left there")
        for side in (self.of, self.less):
            if isinstance(side, dict) and side.get("choose", "highest") not in CHOOSE:
                raise ValueError(f"choose: {side['choose']} is neither {' nor '.join(CHOOSE)}")
        return self

    @property
    def appendix(self) -> str:
        """The first letter of its id."""
        return self.id[0]


def claims() -> list[Claim]:
    """The supplement's claims in its order, then the user's own. ValueError in one line for a mistake in a file."""
    found = []
    for path in FILES:
        for number, entry in enumerate(read_yaml(path, list) if path.exists() else [], 1):
            named = entry | {"lines": str(entry.get("lines", ""))} if isinstance(entry, dict) else {}
            where = f"{path.parent.name}/{path.name}: {named.get('id', f'claim {number}')}"
            found.append(validated(Claim, named or entry, where))
    return found


def verdict(change: Estimate, expected: str) -> str:
    """reproduced, not reproduced, inconclusive or underpowered, from the 95 % interval of a change.

    Reproduced when the whole interval lies where the claim expects the change (RANGES), not reproduced when all of it
    lies elsewhere, underpowered when it is too wide for the margin even around no change.
    """
    low, high = RANGES[expected]
    first, last = round(change.low, 9), round(change.high, 9)  # -1e-17 is no effect
    if low < first and last < high:
        return "reproduced"
    if last < low or high < first:
        return "not reproduced"
    return "underpowered" if needed(change, expected) > change.n else "inconclusive"


def needed(change: Estimate, expected: str) -> int:
    """From how many images on an interval fits into the margin, its width falling with the square root of n; 0 for a
    claim of a mere rise or fall, which a large effect decides at any n.

    Of a margin on one side ("at most 5 points up") the middle that counts is no change at all.
    """
    ends = [abs(end) for end in RANGES[expected] if math.isfinite(end)]
    room = max(ends) / 2 if 0.0 in ends and len(ends) == 2 else max(ends)
    return math.ceil(change.n * ((change.high - change.low) / 2 / room) ** 2) if room else 0


def p_value(change: Estimate, expected: str) -> float:
    """Two-sided, of the direction (holds or is contradicted) that is the likelier one: below 0.05 where the interval
    decides, as it inverts that interval."""
    low, high = RANGES[expected]
    middle, error = (change.low + change.high) / 2, max((change.high - change.low) / 2 / NORMAL.inv_cdf(0.975), 1e-12)
    above_low, above_high = (NORMAL.cdf((end - middle) / error) for end in (low, high))  # p of "not above it"
    return min(2 * min(max(above_low, 1 - above_high), min(1 - above_low, above_high)), 1.0)


def holm(values: Sequence[float]) -> np.ndarray:
    """Holm's adjusted p-values: compared with 0.05 they keep the chance of any false decision below it."""
    order, adjusted = np.argsort(values), np.empty(len(values))
    adjusted[order] = np.maximum.accumulate(np.sort(values) * np.arange(len(values), 0, -1))
    return np.minimum(adjusted, 1.0)


def judge(results: Results) -> pd.DataFrame:
    """One row per case (one for a claim that is not judged), with COLUMNS; effects in points.

    From the stages' frames; of a stage without one, from the cases of `earlier_claims`, if there are, judged anew.
    """
    earlier = results.files("tables/earlier_claims.csv")  # as they were before results had frames
    stored, rows = results.load_table("earlier_claims") if earlier else None, []
    for claim in claims():
        framed = claim.why or stored is None or results.has_frame(claim.stage)
        rows += cases(claim, results) if framed else _again(claim, stored, results.scale)
    return pd.DataFrame(rows, columns=COLUMNS)


def _again(claim: Claim, stored: pd.DataFrame, scale: str) -> list[dict[str, object]]:
    """The rows of one claim from stored cases, which answer it only where it compared and expected the same."""
    ids = stored["id"].isin([claim.id, claim.id.partition("-")[0]])  # a reading may have been the claim itself
    same = ids & (stored["compares"] == claim.compares) & (stored["expected"] == claim.expected)
    found = stored[same & (stored["verdict"] != "not judged")]
    numbers = found[["effect", "low", "high"]].astype(float).assign(n=found["n"].astype(int))
    changes = zip(found["case"], (Estimate(*row) for row in numbers.itertuples(index=False)), strict=True)
    why = stored[same]["why"].iloc[0] if same.any() else f"computed before it was read so: dvc repro (scale: {scale})"
    return _rows(claim, [Case(name, change) for name, change in changes], claim.why or why)


class Case(NamedTuple):
    """One pair of cells. out: why it cannot be judged, or ""."""

    name: str
    change: Estimate
    out: str = ""


def cases(claim: Claim, results: Results) -> list[dict[str, object]]:
    """The rows of one claim."""
    try:
        found = [] if claim.why else list(effects(claim, results.load_frame(claim.stage)))
        why = f"no such cell in the frame of {claim.stage}: no network, attack or defense for it when the notebook ran"
    except FileNotFoundError:
        found, why = [], f"{claim.stage} has not run at this scale"
    except KeyError as error:
        found, why = (
            [],
            f"the frame of {claim.stage} has no column {error}: run its notebook again, or correct the claim",
        )
    except ValueError as error:
        raise ValueError(f"claim {claim.id}: {error}") from None
    kept, out = [case for case in found if not case.out], [case for case in found if case.out]
    if out:
        why = "; ".join(dict.fromkeys(case.out for case in out))
    names = ", ".join(case.name for case in out) if len(out) <= FEW else f"{len(out)} cases"
    return _rows(claim, kept, claim.why or why, f"left out: {names}: {why}" if kept and out else "")


def _rows(claim: Claim, found: Sequence[Case], why: str, left: str = "") -> list[dict[str, object]]:
    """A row per case, or one that says why there is none. left: which cases are left out, and why."""
    shared = {name: getattr(claim, name) for name in ABOUT} | {"source": claim.stage, "why": left}
    shared |= {"expected": claim.expected if claim.stage else "", "unit": "%" if claim.by == "share" else "points"}
    rows = []
    for name, change, _ in found:
        judged, needs = verdict(change, claim.expected), needed(change, claim.expected)
        row = {"case": name, "effect": change.value, "low": change.low, "high": change.high, "n": change.n}
        row |= {"verdict": judged, "p": p_value(change, claim.expected)}
        rows.append(shared | row | {"needs": needs if judged == "underpowered" else ""})
    blank = dict.fromkeys(["case", "effect", "low", "high", "n", "p", "needs"], "")
    return rows or [shared | blank | {"verdict": "not judged", "why": why}]


def effects(claim: Claim, frame: Frame) -> Iterator[Case]:
    """Each case that the frame has the cells of, with its effect."""
    for values in distinct(frame.where(**claim.where), fields(claim.case)):
        where = claim.where | values
        sides = [claim.of] if isinstance(claim.less, float) else [claim.of, claim.less]
        compared = [_cell(claim, frame, where | side) for side in sides]
        bare = [_cell(claim, frame, where | side | claim.bare) for side in sides] if claim.bare is not None else []
        clean = [_cell(claim, frame, where | claim.taken)] if claim.taken is not None else []
        if not all(map(len, [*compared, *bare, *clean])):
            continue
        name = claim.case.format(**{key: label_text(value) for key, value in values.items()})
        yield Case(name, _change(claim, compared, bare, clean), _left_out(claim, compared, bare, clean))


def _change(claim: Claim, compared: list[Frame], bare: list[Frame], clean: list[Frame]) -> Estimate:
    """The effect of one case."""
    if claim.by == "share":

        def shares(x: np.ndarray) -> np.ndarray:
            of, less, bare_of, bare_less, unattacked = x
            return 100 * (of - bare_of) / (unattacked - bare_of) - 100 * (less - bare_less) / (unattacked - bare_less)

        return derived(claim.score, [*compared, *bare, *clean], shares)
    constant = claim.beyond + (claim.less if isinstance(claim.less, float) else 0.0)
    terms = list(zip((1.0, -1.0), compared, strict=False)) + list(zip((-1.0, 1.0), bare, strict=False))
    if claim.share:  # of less + share * (clean - less), the accuracy where that share is recovered
        (_, of), (_, less) = terms
        terms = [(1.0, of), (-1.0 + claim.share, less), (-claim.share, *clean)]
    return combined(claim.score, terms, constant)


def _left_out(claim: Claim, compared: list[Frame], bare: list[Frame], clean: list[Frame]) -> str:
    """Why a case cannot be judged: nothing was taken, or both cells lie at one end of the scale; "" if it can."""
    if clean:
        left = max(point(claim.score, cell) for cell in bare or compared[1:])
        if point(claim.score, clean[0]) - left < MARGIN:
            return f"the attack takes less than {MARGIN:g} points there, so there is nothing to recover"
    found = [point(claim.score, cell) for cell in compared]
    if claim.edges and (max(found) <= EDGE or min(found) >= 100 - EDGE):
        return f"both cells lie within {EDGE:g} points of the same end of the scale"
    return ""


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
    return CHOOSE[choose](single, key=lambda cell: point(claim.score, cell))


def overall(part: pd.DataFrame) -> str:
    """The verdict on a claim from those on its cases, contradictions after Holm's correction."""
    if len(part) == 1:
        return part["verdict"].iloc[0]
    holds, _, _, contradicted = tally(part)
    if holds == len(part):
        return "reproduced"
    if contradicted:
        return "in part" if holds else "not reproduced"
    return "underpowered" if set(part["verdict"]) <= {"reproduced", "underpowered"} else "inconclusive"


def verdicts(judged: pd.DataFrame) -> dict[str, str]:
    """The verdict on each claim, by id."""
    return {claim: overall(part) for claim, part in judged.groupby("id", sort=False)}


def tally(part: pd.DataFrame) -> tuple[int, int, int, int]:
    """How many cases hold and are contradicted, and how many of each are left by Holm's correction."""
    holds, against = part["verdict"] == "reproduced", part["verdict"] == "not reproduced"
    sure = holm(pd.to_numeric(part["p"], errors="coerce").fillna(0).to_numpy()) < 0.05
    return int(holds.sum()), int(against.sum()), int((holds & sure).sum()), int((against & sure).sum())


def summary(judged: pd.DataFrame) -> pd.DataFrame:
    """One row per claim: of ABOUT, source, effect (in words), n, verdict."""
    rows = []
    for _, part in judged.groupby("id", sort=False):
        first, found = part.iloc[0], overall(part)
        effect, n = first["why"], "-"
        if found != "not judged":
            effect, n = _effects(part), _images(part)
        rows.append(first[[*ABOUT, "source"]].to_dict() | {"effect": effect, "n": n, "verdict": found})
    return pd.DataFrame(rows, columns=[*ABOUT, "source", "effect", "n", "verdict"])


def _images(part: pd.DataFrame) -> str:
    """How many images the cases have: "60", or "12 to 60"."""
    counts = part["n"].astype(int)
    return " to ".join(str(n) for n in dict.fromkeys([counts.min(), counts.max()]))


def _effects(part: pd.DataFrame) -> str:
    """The effects of a few cases, or their range; of several how many there are of which verdict."""
    part = part.astype(dict.fromkeys(["effect", "low", "high"], float))
    shown = f"{part['effect'].min():+.1f} to {part['effect'].max():+.1f}"
    if len(part) <= FEW:
        shown = "; ".join(
            f"{row.effect:+.1f} [{row.low:.1f}, {row.high:.1f}]"
            + (f" ({row.case})" if row.case else "")
            + (f", would take {row.needs} images" if row.needs else "")
            for row in part.itertuples()
        )
    elif (needs := pd.to_numeric(part["needs"]).max()) > 0:
        shown += f", would take up to {needs:.0f} images"
    left = f"; {why}" if (why := part["why"].iloc[0]) else ""
    if len(part) == 1:
        return shown + left
    counted = ", ".join(f"{count} {name}" for name in VERDICTS if (count := (part["verdict"] == name).sum()))
    *_, holds, contradicted = tally(part)
    return f"{shown}: {len(part)} cases, {counted} (after Holm {holds} hold, {contradicted} contradicted){left}"


def counts(judged: pd.DataFrame, readings: bool = False) -> dict[str, int]:
    """How many claims have each verdict; readings: how many of their stricter and looser readings."""
    chosen = judged[(judged["reading"] != "") == readings]
    found = [*verdicts(chosen).values()]
    return {name: found.count(name) for name in VERDICTS}


def _counted(judged: pd.DataFrame, readings: bool = False) -> str:
    found = counts(judged, readings)
    kind = "stricter or looser readings" if readings else "claims"
    return f"{sum(found.values())} {kind}: " + ", ".join(f"{count} {name}" for name, count in found.items() if count)


def overview(scales: dict[str, pd.DataFrame]) -> str:
    """A Markdown table: what became of each table and figure, a column per scale. scales: name -> of `judge`.

    Without the stricter and looser readings, and without the claims that no number can decide: claims.md has both.
    """
    columns = {}
    for name, judged in scales.items():
        found = summary(judged[(judged["reading"] == "") & (judged["source"] != "")])
        words = found["id"] + " " + found["verdict"].replace("not reproduced", "**not reproduced**")
        columns[name] = words.groupby(found["item"], sort=False).agg(", ".join)
    table = pd.DataFrame(columns).fillna("-").rename_axis("paper").reset_index()
    return table.sort_values("paper", key=lambda names: names.map(_place)).to_markdown(index=False) + "\n"


def findings(scales: Sequence[Results]) -> str:
    """How many claims came to what, and a table of those of findings.yaml, a column per scale."""
    briefs = {claim: f"{says} ({claim})" for claim, says in read_yaml(FINDINGS).items()}
    columns, totals = {}, ""
    for results in scales:
        judged, others = judge(results), with_other_seeds(results)
        shown = judged[judged["id"].isin(briefs)].groupby("id", sort=False)
        columns[results.scale] = {briefs[claim]: _found(part, others) for claim, part in shown}
        totals += f"- `{results.scale}`: {_counted(judged)}{_unsteady(judged, others)}.\n"
    table = pd.DataFrame(columns).reindex(briefs.values()).fillna("-").rename_axis("the supplement says").reset_index()
    return f"{totals}\n{table.to_markdown(index=False)}\n"


def _unsteady(judged: pd.DataFrame, others: dict[str, list[str]]) -> str:
    """How many verdicts are others where the networks were trained from other seeds."""
    found = summary(judged[judged["reading"] == ""])
    found = found[(found["verdict"] != "not judged") & found["id"].isin(others)]
    changed = sum(_changes(*pair, others) for pair in zip(found["id"], found["verdict"], strict=True))
    said = f"; of the {len(found)} judged again with networks of other training seeds {changed} come out otherwise (*)"
    return said if others else ""


def _found(part: pd.DataFrame, others: dict[str, list[str]]) -> str:
    """The verdict on a claim with its effect in points; of several cases how many hold, and their range. A star where
    other training seeds change it."""
    found = overall(part)
    if found == "not judged":
        return found
    effect = part["effect"].astype(float)
    low, high = (round(float(part[end].iloc[0])) for end in ("low", "high"))
    shown = f"{_brief(effect.iloc[0])} [{low}, {high}]"
    if len(part) > 1:
        shown = f"{tally(part)[0]} of {len(part)} cases, {_brief(effect.min())} to {_brief(effect.max())}"
    star = " (*)" if _changes(part["id"].iloc[0], found, others) else ""
    return f"**{found}**{star}: {shown}, n {_images(part)}"


def _brief(points: float) -> str:
    """Points with their sign: whole ones, below one a digit more."""
    return f"{points:+.{int(abs(points) < 1)}f}"


def _place(item: str) -> tuple[str, int, str]:
    """Tables first, then figures by number, then the text by appendix."""
    kind, _, number = item.partition(" ")
    return {"Table": "1", "Figure": "2"}.get(kind, "3"), int(number) if number.isdigit() else 0, item


def claims_page(judged: pd.DataFrame, scale: str) -> str:
    """claims.md: the counts, the figure, a table per appendix, and what has no verdict."""
    said = "; ".join(_counted(judged, readings) for readings in (False, True))
    parts = [INTRODUCTION.format(scale=scale, counts=said), overview({"claims": judged})]
    parts.append("![Every effect, beside where the claim expects it](figures/claims.svg)\n")
    found = summary(judged)
    unjudged, others = found["verdict"] == "not judged", with_other_seeds(Results(scale))
    for appendix, part in found[~unjudged].groupby("appendix", sort=False):
        notes = facts.paper_differences(settings.load(scale), sorted(set(part["source"])))
        parts.append(f"## Appendix {appendix}\n\n{_table(part, others)}\n\n{facts.listed(notes)}\n")
    if unjudged.any():
        parts.append(f"## Claims without a verdict here, and why\n\n{_table(found[unjudged], others)}\n")
    return "\n".join(parts)


def with_other_seeds(results: Results) -> dict[str, list[str]]:
    """The verdicts on each claim with networks that other seeds trained, as far as tools/seeds.py judged them."""
    path = results.root / "seeds.csv"
    if not path.is_file():
        return {}
    with intact(path):
        table = pd.read_csv(path, keep_default_na=False).set_index("id")
    found = table.filter(regex="^verdict [1-9]").agg(list, axis=1)
    return {claim: verdicts for claim, verdicts in found.items() if "not judged" not in verdicts}


def _changes(claim: str, found: str, others: dict[str, list[str]]) -> bool:
    """Does another training seed give another verdict?"""
    return bool(set(others.get(claim, [])) - {found})


def _table(found: pd.DataFrame, others: dict[str, list[str]]) -> str:
    reading = found["reading"].map(lambda word: f"{word} reading: " if word else "")
    shown = found.assign(
        claim=reading + found["says"] + " (line " + found["lines"] + ")",
        measured=found["effect"].where(found["verdict"] == "not judged", found["compares"] + ": " + found["effect"]),
        verdict=[_verdict(*pair, others) for pair in zip(found["id"], found["verdict"], strict=True)],
    )[["id", "claim", "verdict", "measured", "n"]]
    return markdown.table(shown)


def _verdict(claim: str, found: str, others: dict[str, list[str]]) -> str:
    """A verdict, and those of other seeds where one differs."""
    seeds = f"{found}; with other training seeds {', '.join(others.get(claim, []))}"
    return seeds if _changes(claim, found, others) else f"**{found}**"


def conclusion(results: Results, stage: str, only: str = "") -> Markdown:
    """What became of the claims that a notebook's frame judges: its last cell. only: an appendix whose claims that no
    number can judge stand there too."""
    from IPython.display import Markdown

    chosen = [claim for claim in claims() if claim.stage == stage or (claim.why and claim.appendix == only)]
    judged = pd.DataFrame([row for claim in chosen for row in cases(claim, results)], columns=COLUMNS)
    return Markdown(f"{_counted(judged)}.\n\n{_table(summary(judged), {})}")
