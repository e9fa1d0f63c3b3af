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

SITE_FILES = Path(__file__).parent / "site_files"  # the start page, the settings of MkDocs and the look


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
    found, tables = absent("tables/claims.csv", scale), []
    if site.find("tables/claims.csv"):
        more = "[Every claim](claims.md), [in words](guides/results.md), [how verdicts come about](guides/method.md)."
        found = f"{findings([site.results])}\n{more}"
    for name, printed in published.TABLES.items():
        stage = site.maker(f"tables/{name}.md")
        link = f"[{title(site, stage)}](notebooks/{stage}.md)" if stage in site.appendices else ""
        tables += [f"## {_item(name)}: {printed['title']}", link, table_block(site, name)]
    parts = {"found": found, "figure": figure_block(site, "claims"), "tables": "\n\n".join(tables)}
    return read_text(SITE_FILES / "start.md").format(scale=scale, note=NOTES.get(scale, scale), **parts)


def figure_block(site: Site, name: str, up: str = "") -> str:
    """A figure with its files and how it came about. up: the way from the page to the start page's folder."""
    files = [f"figures/{name}.svg", f"figures/{name}.png", f"data/{name}.csv", f"tables/{name}.csv"]
    there = [path for path in files if site.find(path)]
    if not there or not there[0].startswith("figures/"):
        return absent(f"figures/{name}.svg", site.results.scale)
    stage = site.maker(there[0])
    heading, command, says = name.capitalize(), f"dvc repro {stage}", ""
    if drawing := FIGURES.get(name):
        number = int(name[7:]) if re.fullmatch(r"figure_\d\d", name) else name
        heading = f"{drawing.item}: {drawing.title}"
        command = f"companion figures {number} --scale {site.results.scale}"
        judged = verdicts_shown(site.results, name)
        says = caption(site.results, name) + (f" [Verdicts]({up}claims.md): {judged}." if judged else "") + "\n\n"
    links = " ".join(f"[{path.rpartition('.')[2].upper()}]({up}{path})" for path in there)
    picture = f"[![{heading}]({up}{there[0]}){{ loading=lazy }}]({up}{there[0]})"
    return f"{picture}\n\n**{heading}.** {says}{_made(f'{links}. Redraw: `{command}`. {ran(site, stage, up)}')}"


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


def ran(site: Site, stage: str, up: str) -> str:
    """One sentence: the stage that made something, when run for how long, where, at which commit, with what."""
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
    names = site.names("tables/*.md")
    rows = [f"| [{name}](tables/{name}.md) | `{site.maker(f'tables/{name}.md')}` |" for name in names]
    return "\n".join(["# Tables", "", "| table | stage |", "|:--|:--|", *rows]) + "\n"


def table_page(site: Site, name: str) -> str:
    """One table; in the search behind the pages that explain it."""
    heading = f"{_item(name)}: {published.TABLES[name]['title']}" if name in published.TABLES else _item(name)
    return f"---\nsearch: {{boost: 0.5}}\n---\n\n# {heading}\n\n{table_block(site, name, '../')}\n"


def provenance(site: Site) -> str:
    """Every recorded run, and results/<scale>/provenance.json as tables."""
    columns = ["stage", "seconds", "machine", "commit", "changed", "finished", "command"]
    rows = [{key: run[key] for key in columns} | {"commit": run["commit"][:7]} for run in site.runs.values()]
    stored = "The seconds are those of the last run, which took from the store what it had computed before."
    runs = [stored, _plain_table(rows)] if rows else [absent("runs", site.results.scale)]
    path = site.find("provenance.json")
    facts = outline(read_json(path)) if path else [absent("provenance.json", site.results.scale)]
    return "\n\n".join(["# Provenance", "## Runs", *runs, *facts]) + "\n"


def outline(record: dict, level: int = 2) -> list[str]:
    """Nested values as headings and tables, in Markdown."""
    plain = {key: value for key, value in record.items() if not isinstance(value, dict | list)}
    parts = [_plain_table([{"": key, "value": value} for key, value in plain.items()])] if plain else []
    for key, value in record.items():
        if isinstance(value, dict | list) and value:
            parts.append(f"{'#' * min(level, 6)} {verbatim(key)}")
            plain = [] if isinstance(value, dict) else [{key: entry} for entry in value]
            parts += [_plain_table(plain)] if plain else outline(value, level + 1)
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
