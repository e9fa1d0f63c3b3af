"""The verdicts in words: claims.md, the tables of README and of the site, the last cell of a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from lib import markdown, settings
from lib.reading import intact, read_yaml
from lib.report import facts
from lib.report.claims import CASE_COLUMNS, FEW_CASES, FROM_CLAIM, after_holm, cases, claims, judge, overall, verdicts
from lib.report.results import Results

if TYPE_CHECKING:
    from IPython.display import Markdown

FINDINGS = Path(__file__).with_suffix(".yaml")
VERDICTS = ("reproduced", "in part", "not reproduced", "inconclusive", "underpowered", "not judged")

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


def summary(judged: pd.DataFrame, others: dict[str, list[str]] | None = None) -> pd.DataFrame:
    """One row per claim: of FROM_CLAIM, source, effect (in words), short (the same as README has it), n, verdict.

    others: of `with_other_seeds`; seeds is then what they say otherwise, in words, or "".
    """
    rows = []
    for claim, part in judged.groupby("id", sort=False):
        first, found = part.iloc[0], overall(part)
        row = first[[*FROM_CLAIM, "source"]].to_dict() | {"effect": first["why"], "short": "", "n": "-"}
        if found != "not judged":
            row |= {"effect": _effects(part), "short": _short(part), "n": least_to_most(part["n"].astype(int))}
        seeds = (others or {}).get(claim, [])
        otherwise = f"; with other training seeds {', '.join(seeds)}" if {*seeds} - {found} else ""
        rows.append(row | {"verdict": found, "seeds": otherwise})
    return pd.DataFrame(rows, columns=[*FROM_CLAIM, "source", "effect", "short", "n", "verdict", "seeds"])


def least_to_most(values: Iterable[float]) -> str:
    """The least and the largest of some numbers: "12 to 60", or "60" where they are the same."""
    return " to ".join(f"{end:g}" for end in sorted({min(values), max(values)}))


def _effects(part: pd.DataFrame) -> str:
    """The effects of a few cases, or their range; of several how many there are of which verdict."""
    part = part.astype(dict.fromkeys(["effect", "low", "high"], float))
    if len(part) <= FEW_CASES:
        shown = "; ".join(
            f"{row.effect:+.1f} [{row.low:.1f}, {row.high:.1f}]"
            + (f" ({row.case})" if row.case else "")
            + (f", would take {row.needs} images" if row.needs else "")
            for row in part.itertuples()
        )
    else:
        shown = f"{part['effect'].min():+.1f} to {part['effect'].max():+.1f}"
        if (needs := pd.to_numeric(part["needs"]).max()) > 0:
            shown += f", would take up to {needs:.0f} images"
    left = f"; {why}" if (why := part["why"].iloc[0]) else ""
    if len(part) == 1:
        return shown + left
    counted = ", ".join(f"{count} {name}" for name in VERDICTS if (count := (part["verdict"] == name).sum()))
    sure = after_holm(part)
    after = f"after Holm {sure['reproduced']} hold, {sure['not reproduced']} contradicted"
    return f"{shown}: {len(part)} cases, {counted} ({after}){left}"


def _short(part: pd.DataFrame) -> str:
    """The effect in whole points (below one with a digit more); of several cases how many hold, and their range."""
    effect = part["effect"].astype(float)
    least, most = (f"{points:+.{int(abs(points) < 1)}f}" for points in (effect.min(), effect.max()))
    if len(part) > 1:
        return f"{(part['verdict'] == 'reproduced').sum()} of {len(part)} cases, {least} to {most}"
    low, high = (round(float(part[end].iloc[0])) for end in ("low", "high"))
    return f"{least} [{low}, {high}]"


def counts(judged: pd.DataFrame, readings: bool = False) -> dict[str, int]:
    """How many claims have each verdict; readings: how many of their stricter and looser readings."""
    found = [*verdicts(judged[(judged["reading"] != "") == readings]).values()]
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


def _place(item: str) -> tuple[str, int, str]:
    """Tables first, then figures by number, then the text by appendix."""
    kind, _, number = item.partition(" ")
    return {"Table": "1", "Figure": "2"}.get(kind, "3"), int(number) if number.isdigit() else 0, item


def findings(scales: Sequence[Results]) -> str:
    """How many claims came to what, and a table of those of findings.yaml, a column per scale. A star where other
    training seeds give another verdict."""
    briefs = {claim: f"{says} ({claim})" for claim, says in read_yaml(FINDINGS).items()}
    columns, totals = {}, ""
    for results in scales:
        judged, others = judge(results), with_other_seeds(results)
        found = summary(judged, others)
        again = found[(found["reading"] == "") & (found["verdict"] != "not judged") & found["id"].isin(others)]
        changed = f"{(again['seeds'] != '').sum()} come out otherwise (*)"
        said = f"; of the {len(again)} judged again with networks of other training seeds {changed}" if others else ""
        totals += f"- `{results.scale}`: {_counted(judged)}{said}.\n"
        stars = found["seeds"].map(lambda seeds: " (*)" if seeds else "")
        words = "**" + found["verdict"] + "**" + stars + ": " + found["short"] + ", n " + found["n"]
        words = words.where(found["verdict"] != "not judged", "not judged")
        columns[results.scale] = words.set_axis(found["id"]).reindex(briefs)
    table = pd.DataFrame(columns).rename(briefs).fillna("-").rename_axis("the supplement says").reset_index()
    return f"{totals}\n{table.to_markdown(index=False)}\n"


def with_other_seeds(results: Results) -> dict[str, list[str]]:
    """The verdicts on each claim with networks that other seeds trained, as far as tools/seeds.py judged them."""
    path = results.root / "seeds.csv"
    if not path.is_file():
        return {}
    with intact(path):
        table = pd.read_csv(path, keep_default_na=False).set_index("id")
    found = table.filter(regex="^verdict [1-9]").agg(list, axis=1)
    return {claim: verdicts for claim, verdicts in found.items() if "not judged" not in verdicts}


def claims_page(judged: pd.DataFrame, scale: str) -> str:
    """claims.md: the counts, the figure, a table per appendix, and what has no verdict."""
    said = "; ".join(_counted(judged, readings) for readings in (False, True))
    parts = [INTRODUCTION.format(scale=scale, counts=said), overview({"claims": judged})]
    parts.append("![Every effect, beside where the claim expects it](figures/claims.svg)\n")
    found = summary(judged, with_other_seeds(Results(scale)))
    unjudged = found["verdict"] == "not judged"
    for appendix, part in found[~unjudged].groupby("appendix", sort=False):
        notes = facts.paper_differences(settings.load(scale), sorted(set(part["source"])))
        parts.append(f"## Appendix {appendix}\n\n{_table(part)}\n\n{facts.listed(notes)}\n")
    if unjudged.any():
        parts.append(f"## Claims without a verdict here, and why\n\n{_table(found[unjudged])}\n")
    return "\n".join(parts)


def _table(found: pd.DataFrame) -> str:
    """A row per claim. found: of `summary`."""
    reading = found["reading"].map(lambda word: f"{word} reading: " if word else "")
    shown = found.assign(
        claim=reading + found["says"] + " (line " + found["lines"] + ")",
        measured=found["effect"].where(found["verdict"] == "not judged", found["compares"] + ": " + found["effect"]),
        verdict=(found["verdict"] + found["seeds"]).where(found["seeds"] != "", "**" + found["verdict"] + "**"),
    )
    return markdown.escaped_table(shown[["id", "claim", "verdict", "measured", "n"]])


def conclusion(results: Results, stage: str, only: str = "") -> Markdown:
    """What became of the claims that a notebook's frame judges: its last cell. only: an appendix whose claims that no
    number can judge stand there too."""
    from IPython.display import Markdown

    chosen = [claim for claim in claims() if claim.stage == stage or (claim.why and claim.appendix == only)]
    judged = pd.DataFrame([row for claim in chosen for row in cases(claim, results)], columns=CASE_COLUMNS)
    return Markdown(f"{_counted(judged)}.\n\n{_table(summary(judged))}")
