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
from lib.report import blocks, provenance, tables
from lib.report.claims import judge
from lib.report.comparison import compare, comparison_page
from lib.report.figures import redraw
from lib.report.findings import claims_page, counts, overview
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
        return overview({name: judge(Results(name)) for name in here}).rstrip()
    results = Results(scale.name)
    results.find("tables/*.md")
    if part == "all":
        return write_report(scale, results)
    table, page = (judge(results), claims_page) if part == "claims" else (compare(results), comparison_page)
    return table.to_csv(index=False, float_format="%.4g").rstrip() if csv else page(table, scale.name)


def write_report(scale: settings.Scale, results: Results) -> str:
    """Write the whole report; how many claims have which verdict."""
    if not results.has_frame():
        return f"results/{scale.name} has no frames: its report stays as it was computed"
    for name, table in tables.tables(own=True).items():
        tables.show(results, name, results.load_frame(table.stage))
    judged, compared = judge(results), compare(results)
    for name, table, page in (("claims", judged, claims_page), ("comparison", compared, comparison_page)):
        results.save_table(name, table)
        results.path("", f"{name}.md").write_text(results.noted(page(table, scale.name)))
    results.save_data("claims", judged)
    results.save_figure("claims", redraw(results, "claims"))
    results.path("", "provenance.json").write_text(provenance.provenance_json(scale, results))
    found = counts(judged)
    results.save_metrics(tables.headlines(results) | {"claims": found})
    said = ", ".join(f"{count} {name}" for name, count in found.items())
    return f"results/{scale.name}/report/claims.md: {said}"
