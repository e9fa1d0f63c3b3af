"""Every checkable claim of the supplement (claims.yaml, own/claims.yaml), judged from frames: the only judge.

A claim compares one or more pairs of cells (its cases). A case holds, is contradicted, or is open; a claim of several
says how many of each, and one that no number can decide says why. docs/method.md has the rules, findings.py the words.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from lib.frames import Frame
from lib.reading import read_yaml
from lib.report.results import Results
from lib.report.scores import Estimate, combined, derived, point
from lib.report.tables import Scored, Where, distinct, fields, label_text
from lib.settings import ROOT
from lib.settings.base import Strict, validated

FILES = (ROOT / "lib" / "report" / "claims.yaml", ROOT / "own" / "claims.yaml")
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
FROM_CLAIM = ["id", "brief", "appendix", "item", "lines", "reading", "says", "compares"]
MEASURED = ["effect", "low", "high", "unit", "n", "verdict", "p", "needs"]
CASE_COLUMNS = [*FROM_CLAIM, "expected", "source", "case", *MEASURED, "why"]
FEW_CASES = 4  # that are shown, or named, one by one


class Claim(Strict):
    """A claim of the supplement; see the head of claims.yaml for the fields."""

    id: str
    brief: str = ""
    item: str
    lines: str = Field(default="", coerce_numbers_to_str=True)
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
            name = entry["id"] if isinstance(entry, dict) and "id" in entry else f"claim {number}"
            found.append(validated(Claim, entry, f"{path.parent.name}/{path.name}: {name}"))
    return found


def verdict(change: Estimate, expected: str) -> str:
    """The verdict on a case from the 95 % interval of its change; underpowered where that is too wide for the margin
    even around no change."""
    low, high = RANGES[expected]
    first, last = round(change.low, 9), round(change.high, 9)  # -1e-17 is no effect
    if low < first and last < high:
        return "reproduced"
    if last < low or high < first:
        return "not reproduced"
    return "underpowered" if needed_images(change, expected) > change.n else "inconclusive"


def needed_images(change: Estimate, expected: str) -> int:
    """From how many images on an interval fits into the margin, its width falling with the square root of n, around no
    change where the margin is on one side; 0 for a mere rise or fall, which a large effect decides at any n."""
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
    """One row per case (one for a claim that is not judged), with CASE_COLUMNS; effects in points.

    From the stages' frames; of a stage without one, from the cases of `earlier_claims`, if there are, judged anew.
    """
    earlier = results.files("tables/earlier_claims.csv")  # as they were before results had frames
    stored, rows = results.load_table("earlier_claims") if earlier else None, []
    for claim in claims():
        framed = claim.why or stored is None or results.has_frame(claim.stage)
        rows += cases(claim, results) if framed else _again(claim, stored, results.scale)
    return pd.DataFrame(rows, columns=CASE_COLUMNS)


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
    found, why = [], claim.why
    try:
        if not why:
            found = list(effects(claim, results.load_frame(claim.stage)))
            why = f"no such cell in the frame of {claim.stage}"
            why += ": no network, attack or defense for it when the notebook ran"
    except FileNotFoundError:
        why = f"{claim.stage} has not run at this scale"
    except KeyError as error:
        why = f"the frame of {claim.stage} has no column {error}: run its notebook again, or correct the claim"
    except ValueError as error:
        raise ValueError(f"claim {claim.id}: {error}") from None
    out = [case for case in found if case.out]
    if not out:
        return _rows(claim, found, why)
    why = "; ".join(dict.fromkeys(case.out for case in out))
    names = ", ".join(case.name for case in out) if len(out) <= FEW_CASES else f"{len(out)} cases"
    return _rows(claim, [case for case in found if not case.out], why, f"left out: {names}: {why}")


def _rows(claim: Claim, found: Sequence[Case], why: str, left: str = "") -> list[dict[str, object]]:
    """A row per case, or one that says why there is none. left: which cases are left out, and why."""
    shared = dict.fromkeys(CASE_COLUMNS, "") | {name: getattr(claim, name) for name in FROM_CLAIM}
    shared |= {"source": claim.stage, "expected": claim.expected if claim.stage else ""}
    shared["unit"] = "%" if claim.by == "share" else "points"
    rows = []
    for name, change, _ in found:
        row = shared | {"case": name, "effect": change.value, "low": change.low, "high": change.high, "n": change.n}
        row |= {"verdict": verdict(change, claim.expected), "p": p_value(change, claim.expected), "why": left}
        needs = needed_images(change, claim.expected) if row["verdict"] == "underpowered" else ""
        rows.append(row | {"needs": needs})
    return rows or [shared | {"verdict": "not judged", "why": why}]


def effects(claim: Claim, frame: Frame) -> Iterator[Case]:
    """Each case that the frame has the cells of, with its effect."""
    sides = {"of": claim.of} if isinstance(claim.less, float) else {"of": claim.of, "less": claim.less}
    if claim.bare is not None:
        sides |= {f"bare {name}": side | claim.bare for name, side in sides.items()}
    if claim.taken is not None:
        sides["clean"] = claim.taken
    for values in distinct(frame.where(**claim.where), fields(claim.case)):
        cells = {name: _cell(claim, frame, claim.where | values | side) for name, side in sides.items()}
        if all(map(len, cells.values())):
            name = claim.case.format(**{key: label_text(value) for key, value in values.items()})
            yield Case(name, _change(claim, cells), _left_out(claim, cells))


def _change(claim: Claim, cells: dict[str, Frame]) -> Estimate:
    """The effect of one case. cells: of, less, bare of, bare less and clean, as far as the claim has them."""
    if claim.by == "share":

        def shares(x: np.ndarray) -> np.ndarray:
            of, less, bare_of, bare_less, clean = x
            return 100 * (of - bare_of) / (clean - bare_of) - 100 * (less - bare_less) / (clean - bare_less)

        return derived(claim.score, [*cells.values()], shares)
    # share: of `less + share * (clean - less)`, the score where that share of the drop is recovered.
    weights = {"of": 1.0, "less": -1.0 + claim.share, "bare of": -1.0, "bare less": 1.0, "clean": -claim.share}
    constant = claim.beyond + (claim.less if isinstance(claim.less, float) else 0.0)
    return combined(claim.score, [(weights[name], cell) for name, cell in cells.items() if weights[name]], constant)


def _left_out(claim: Claim, cells: dict[str, Frame]) -> str:
    """Why a case cannot be judged: nothing was taken, or both cells lie at one end of the scale; "" if it can."""
    found = {name: point(claim.score, cell) for name, cell in cells.items()}
    compared = [found[name] for name in ("of", "less") if name in found]
    if "clean" in found:
        attacked = [found[name] for name in ("bare of", "bare less") if name in found] or [found["less"]]
        if found["clean"] - max(attacked) < MARGIN:
            return f"the attack takes less than {MARGIN:g} points there, so there is nothing to recover"
    if claim.edges and (max(compared) <= EDGE or min(compared) >= 100 - EDGE):
        return f"both cells lie within {EDGE:g} points of the same end of the scale"
    return ""


def _cell(claim: Claim, frame: Frame, where: Where) -> Frame:
    """The cell that is meant; of several the one that "choose" says: of the highest or of the lowest score."""
    found = frame.where(**{column: value for column, value in where.items() if column != "choose"})
    if claim.transferred:
        pairs = zip(found.cells["victim"], found.cells["surrogate"], strict=True)
        found = found.at([place for place, (victim, other) in enumerate(pairs) if victim not in other.split(" + ")])
    if "choose" not in where or not len(found):
        return found
    single = [found.at([place]) for place in range(len(found))]
    return CHOOSE[where["choose"]](single, key=lambda cell: point(claim.score, cell))


def overall(part: pd.DataFrame) -> str:
    """The verdict on a claim from those on its cases, contradictions after Holm's correction."""
    found = set(part["verdict"])
    if len(part) == 1 or found == {"reproduced"}:
        return part["verdict"].iloc[0]
    if after_holm(part)["not reproduced"]:
        return "in part" if "reproduced" in found else "not reproduced"
    return "underpowered" if found <= {"reproduced", "underpowered"} else "inconclusive"


def verdicts(judged: pd.DataFrame) -> dict[str, str]:
    """The verdict on each claim, by id."""
    return {claim: overall(part) for claim, part in judged.groupby("id", sort=False)}


def after_holm(part: pd.DataFrame) -> pd.Series:
    """How many cases hold and how many are contradicted, by verdict, after Holm's correction."""
    sure = part["verdict"][holm(part["p"].astype(float).to_numpy()) < 0.05]
    return sure.value_counts().reindex(["reproduced", "not reproduced"], fill_value=0)
