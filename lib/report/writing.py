"""The report of a scale, from its stored frames: `companion report` writes all of it.

results/<scale>/report/
  claims.md, tables/claims.csv, figures/claims.svg   every claim of the supplement, judged
  comparison.md, tables/comparison.csv               every number of its tables beside ours
  tables/<name>.md, .csv                             the tables of own/tables.yaml
  provenance.json                                    versions, devices, seeds, digests

`companion report compare` prints the comparison, `claims` the verdicts, `overview` those by table and figure for every
scale that has results; these write nothing. `docs` brings the blocks of README and docs/ up to date.
"""

from lib import settings
from lib.report import blocks, claims, comparison, provenance, tables
from lib.report.figures import redraw
from lib.report.results import Results
from lib.settings.base import choices

PARTS = ("all", "claims", "compare", "overview", "docs")


def report_part(scale: settings.Scale, part: str = "all", csv: bool = False) -> str:
    """What to print. ValueError for another part than those of PARTS, FileNotFoundError (with the command) for a scale
    without results."""
    if part not in PARTS:
        raise ValueError(f"no part '{part}' of the report; {choices(part, PARTS)}")
    if part == "docs":
        return "\n".join(blocks.renew()) or "README and docs are up to date"
    if part == "overview":
        here = [name for name in settings.SCALES if Results(name).files("tables/*.md")]
        return claims.overview({name: claims.judge(Results(name)) for name in here}).rstrip()
    results = Results(scale.name)
    results.find("tables/*.md")
    if part == "all" and not results.has_frame():
        return f"results/{scale.name} has no frames: its report stays as it was computed"
    judged, compared = claims.judge(results), comparison.compare(results)
    if part == "all":
        return write(scale, results, judged, compared)
    table = judged if part == "claims" else compared
    if csv:
        return table.to_csv(index=False, float_format="%.4g").rstrip()
    return (
        claims.claims_page(judged, scale.name) if part == "claims" else comparison.comparison_page(compared, scale.name)
    )


def write(scale: settings.Scale, results: Results, judged, compared) -> str:
    """Write the whole report; how many claims have which verdict."""
    found = ", ".join(f"{count} {name}" for name, count in claims.counts(judged).items())
    for name, table in tables.tables(own=True).items():
        tables.show(results, name, results.load_frame(table.stage))
    results.save_table("claims", judged)
    results.save_table("comparison", compared)
    results.save_data("claims", judged)
    results.save_figure("claims", redraw(results, "claims"))
    results.path("", "claims.md").write_text(results.noted(claims.claims_page(judged, scale.name)))
    results.path("", "comparison.md").write_text(results.noted(comparison.comparison_page(compared, scale.name)))
    results.path("", "provenance.json").write_text(provenance.provenance_json(scale, results))
    results.save_metrics(tables.headlines(results) | {"claims": claims.counts(judged)})
    return f"results/{scale.name}/report/claims.md: {found}"
