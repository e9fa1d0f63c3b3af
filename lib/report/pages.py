"""The pages of the static site (lib/report/site.py) as Markdown, made from what a scale has stored.

Links are relative to the page: `up` is the way from a page to the folder of the start page, "" or "../".
"""

import re
from pathlib import Path
from typing import NamedTuple

import nbformat
import pandas as pd

from lib import markdown
from lib.markdown import verbatim
from lib.reading import read_json, read_text
from lib.report import published
from lib.report.captions import caption, verdicts_shown
from lib.report.figures import FIGURES, NOTES
from lib.report.findings import findings
from lib.report.results import Results


class Site(NamedTuple):
    """What the pages are made from.

    results: of the scale.  sources: the notebooks without outputs.  appendices: the stages that run a notebook.
    runs: stage -> the record of its run.
    """

    results: Results
    sources: Path
    appendices: list[str]
    runs: dict[str, dict]

    def find(self, path: str) -> Path | None:
        """The file of a stage that a page shows as `path` (tables/table_05.md); None where there is none."""
        return next(iter(self.results.files(path)), None)

    def maker(self, path: str) -> str | None:
        """The stage that makes it."""
        found = self.find(path)
        return self.results.stage_of(found) if found else None

    def names(self, pattern: str) -> list[str]:
        """The names, without suffix, of the stages' files that match."""
        return sorted({path.stem for path in self.results.files(pattern)})


def markdown_pages(site: Site) -> dict[str, str]:
    """Path of a Markdown page -> its text, without the notebooks."""
    scale = site.results.scale
    written = {
        "index.md": start(site),
        "figures.md": gallery(site),
        "tables.md": table_list(site),
        "provenance.md": provenance(site),
    }
    for name, heading in {"claims": "Claims", "comparison": "The paper and this reproduction"}.items():
        path = site.find(f"{name}.md")
        written[f"{name}.md"] = read_text(path) if path else f"# {heading}\n\n{absent(f'{name}.md', scale)}\n"
    return written | {f"tables/{name}.md": table_page(site, name) for name in site.names("tables/*.md")}


def start(site: Site) -> str:
    """The start page: the claims, the seven tables, how to redraw."""
    scale = site.results.scale
    parts = [
        "# A Self-supervised Approach for Adversarial Robustness: the supplement, reproduced",
        "The results of the companion of the supplementary material of Naseer et al. (CVPR 2020) at the scale "
        f"`{scale}`: {NOTES.get(scale, scale)}. Where the paper prints a number, it stands beside ours; "
        "brackets hold 95 % intervals. One page per appendix, with prose, tables, figures and code; "
        "the search looks through all of it.",
        "## What was found",
        found(site),
        figure_block(site, "claims"),
    ]
    for name, printed in published.TABLES.items():
        stage = site.maker(f"tables/{name}.md")
        link = f"[{title(site, stage)}](notebooks/{stage}.md)" if stage in site.appendices else ""
        parts += [f"## {_item(name)}: {printed['title']}", link, table_block(site, name)]
    parts += [
        "## Redraw and run again",
        "From the stored results, in seconds, without attacking anything:",
        f"```text\ncompanion figures --scale {scale}\ncompanion figures 6 --scale {scale} --format pdf\n"
        f"companion table 6 --scale {scale}\n```",
        f"From the start, and only what has changed (`scale: {scale}` in `params.yaml`):",
        "```text\ndvc repro\ndvc repro c_fsa\n```",
    ]
    return "\n\n".join(parts) + "\n"


def found(site: Site) -> str:
    """The totals of the claims and those that carry most, as README has them."""
    if not site.find("tables/claims.csv"):
        return absent("tables/claims.csv", site.results.scale)
    more = "[Every claim](claims.md), [in words](guides/results.md), [how verdicts come about](guides/method.md)."
    return f"{findings([site.results])}\n{more}"


def figure_block(site: Site, name: str, up: str = "") -> str:
    """A figure with its files and how it came about. up: the way from the page to the start page's folder."""
    drawing = FIGURES.get(name)
    heading = f"{drawing.item}: {drawing.title}" if drawing else name.capitalize()
    files = [f"figures/{name}.svg", f"figures/{name}.png", f"data/{name}.csv", f"tables/{name}.csv"]
    there = [path for path in files if site.find(path)]
    if not there or not there[0].startswith("figures/"):
        return absent(f"figures/{name}.svg", site.results.scale)
    number = int(name[7:]) if re.fullmatch(r"figure_\d\d", name) else name
    stage = site.maker(f"figures/{name}.svg")
    command = f"companion figures {number} --scale {site.results.scale}" if drawing else f"dvc repro {stage}"
    links = " ".join(f"[{path.rpartition('.')[2].upper()}]({up}{path})" for path in there)
    picture = f"[![{heading}]({up}{there[0]}){{ loading=lazy }}]({up}{there[0]})"
    says = f"{caption(site.results, name)}{_judged(site, name, up)}\n\n" if drawing else ""
    return f"{picture}\n\n**{heading}.** {says}{_made(f'{links}. Redraw: `{command}`. {ran(site, stage, up)}')}"


def _judged(site: Site, name: str, up: str) -> str:
    """The verdicts on the claims that a figure shows, with a link to them."""
    found = verdicts_shown(site.results, name)
    return f" [Verdicts]({up}claims.md): {found}." if found else ""


def table_block(site: Site, name: str, up: str = "", shown: bool = True) -> str:
    """A table with its files and how it came about; without itself where `shown` is false."""
    stored = site.find(f"tables/{name}.md")
    if stored is None:
        return absent(f"tables/{name}.md", site.results.scale)
    text = read_text(stored) if shown else ""
    printed = name in published.TABLES
    command = f"Print: `companion table {int(name[6:])} --scale {site.results.scale}`. " if printed else ""
    origin = ran(site, site.maker(f"tables/{name}.md"), up)
    links = f"[{name}]({up}tables/{name}.md)"
    if site.find(f"tables/{name}.csv"):
        links += f" [CSV]({up}tables/{name}.csv)"
    return f"{text}\n\n{_made(f'{links}. {command}{origin}')}"


def ran(site: Site, stage: str | None, up: str) -> str:
    """One sentence: the stage that made something, when run for how long, where, at which commit, with what."""
    if stage is None:
        return "No stage of `dvc.yaml` makes it."
    record = site.runs.get(stage)
    if record is None:
        return f"Stage `{stage}`; its run is not recorded."
    commit = f"commit `{record['commit'][:7]}`" + (" with uncommitted changes" if record["changed"] else "")
    linked = f", [parameters]({up}notebooks/{stage}.md#run)" if stage in site.appendices else ""
    return f"Stage `{stage}`: {record['seconds']:.0f} s on {verbatim(record['machine'])}, {commit}{linked}."


def absent(path: str, scale: str) -> str:
    """What a page says in place of something that this scale has not computed."""
    return f"*Not there at the scale `{scale}`: `results/{scale}/{path}`. `dvc repro` (scale: {scale}) makes it.*"


def gallery(site: Site) -> str:
    """All figures; those of the paper also where they are missing."""
    others = [name for name in site.names("figures/*.*") if name not in FIGURES]
    parts = [f"## {_item(name)}\n\n{figure_block(site, name)}" for name in [*FIGURES, *others]]
    return "\n\n".join(["# Figures", *parts]) + "\n"


def table_list(site: Site) -> str:
    """All tables, by name, with the stage that makes each."""
    rows = [
        f"| [{name}](tables/{name}.md) | `{site.maker(f'tables/{name}.md')}` |" for name in site.names("tables/*.md")
    ]
    return "\n".join(["# Tables", "", "| table | stage |", "|:--|:--|", *rows]) + "\n"


def table_page(site: Site, name: str) -> str:
    """One table; in the search behind the pages that explain it."""
    heading = published.TABLES[name]["title"] if name in published.TABLES else ""
    heading = f"{_item(name)}: {heading}" if heading else _item(name)
    return f"---\nsearch: {{boost: 0.5}}\n---\n\n# {heading}\n\n{table_block(site, name, '../')}\n"


def provenance(site: Site) -> str:
    """Every recorded run, and results/<scale>/provenance.json as tables."""
    columns = ["stage", "seconds", "machine", "commit", "changed", "finished", "command"]
    rows = [{key: run[key] for key in columns} | {"commit": run["commit"][:7]} for run in site.runs.values()]
    stored = "The seconds are those of the last run, which took from the store what it had computed before."
    parts = [
        "# Provenance",
        "## Runs",
        *([stored, _plain_table(rows)] if rows else [absent("runs", site.results.scale)]),
    ]
    path = site.find("provenance.json")
    parts += outline(read_json(path)) if path else [absent("provenance.json", site.results.scale)]
    return "\n\n".join(parts) + "\n"


def outline(record: dict, level: int = 2) -> list[str]:
    """Nested values as headings and tables, in Markdown."""
    plain = {key: value for key, value in record.items() if not isinstance(value, dict | list)}
    parts = [_plain_table([{"": key, "value": value} for key, value in plain.items()])] if plain else []
    for key, value in record.items():
        if isinstance(value, dict) and value:
            parts += [f"{'#' * min(level, 6)} {verbatim(key)}", *outline(value, level + 1)]
        elif isinstance(value, list) and value:
            rows = value if all(isinstance(entry, dict) for entry in value) else [{key: entry} for entry in value]
            parts += [f"{'#' * min(level, 6)} {verbatim(key)}", _plain_table(rows)]
    return parts


def title(site: Site, stage: str) -> str:
    """An appendix's heading, as its notebook has it."""
    for path in (site.results.root / stage / f"{stage}.ipynb", site.sources / f"{stage}.ipynb"):
        if path.exists():
            found = re.search(r"^# (.+)", nbformat.read(path, as_version=4).cells[0].source, re.MULTILINE)
            if found:
                return found.group(1)
    return f"Appendix {stage[0].upper()}"


def _item(name: str) -> str:
    """figure_06 -> Figure 6; budgets -> Budgets."""
    return re.sub(r"\b(\w+) 0(\d)$", r"\1 \2", name.replace("_", " ")).capitalize()


def _made(text: str) -> str:
    """In small type, below what it is about."""
    return f'<div class="made" markdown>\n\n{text}\n\n</div>'


def _plain_table(rows: list[dict]) -> str:
    """Rows as a Markdown table, with everything as it was written."""
    return markdown.escaped_table(pd.DataFrame(rows).fillna("").astype(str))
