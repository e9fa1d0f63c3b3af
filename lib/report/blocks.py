"""Numbers in README and docs/: blocks between markers, taken from results, so that none is typed by hand.

<!-- report: overview mini sample -->     what became of each table and figure, a column per scale
<!-- report: findings sample mini -->     the totals, and the claims that carry most (findings.yaml), with numbers
<!-- report: claims mini AC -->           the claims of these appendices with what was measured
<!-- report: table sample purification SSP FFF -->   a stored table; its rows that begin so (default: all)
<!-- report: protocol mini NRP_dynamic JPEG_20 -->   these defenses of the protocol, a line each
<!-- report: grid sample nrp_waterfall_h200 none JPEG_20 -->   a stored list of accuracies, some defenses as columns

Each ends with <!-- end -->; what stands between is written by `companion report docs`.
"""

import re
from collections.abc import Callable
from pathlib import Path

from lib import markdown
from lib.reading import read_text
from lib.report import findings, protocol
from lib.report.claims import judge
from lib.report.results import Results
from lib.settings import ROOT
from lib.settings.base import choices

MARKED = re.compile(r"(<!-- report: (.+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def documents() -> list[Path]:
    """The pages that may have blocks."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def renewed(text: str, root: Path = ROOT / "results") -> str:
    """The page with its blocks as the results below `root` have them. ValueError for a block that is not known."""

    def written(found: re.Match) -> str:
        kind, *words = found[2].split()
        if kind not in WRITERS:
            raise ValueError(f"no block 'report: {found[2]}'; {choices(kind, WRITERS)}")
        return f"{found[1]}{WRITERS[kind](root, *words).strip()}\n{found[4]}"

    return MARKED.sub(written, text)


def renew() -> list[str]:
    """Bring every page up to date; the names of those that changed."""
    changed = []
    for path in documents():
        before = path.read_text()
        if (after := renewed(before)) != before:
            path.write_text(after)
            changed.append(str(path.relative_to(ROOT)))
    return changed


def _claims(root: Path, scale: str, letters: str) -> str:
    found = findings.summary(judge(Results(scale, root)))
    shown = found[found["appendix"].isin(list(letters)) & (found["verdict"] != "not judged")]
    effects = shown.assign(**{"effect in points": shown["compares"] + ": " + shown["effect"]})
    return markdown.escaped_table(effects[["id", "effect in points", "n", "verdict"]])


def _stored(root: Path, scale: str, name: str, *starts: str) -> str:
    lines = read_text(Results(scale, root).find(f"tables/{name}.md")).splitlines()
    return "\n".join(lines[:2] + [line for line in lines[2:] if not starts or line[2:].startswith(starts)])


def _accuracies(root: Path, scale: str, name: str, *defenses: str) -> str:
    """A row per attack and knowledge, a column per defense; "37 to 38" for several seeds."""
    cells = Results(scale, root).load_table(name)
    found = cells.groupby(["attack", "knowledge", "steps", "defense"], sort=False)["accuracy"].agg(
        findings.least_to_most
    )
    table = found.unstack("defense", sort=False).fillna("")[[one.replace("_", " ") for one in defenses]]
    return markdown.escaped_table(table.reset_index())


def _protocol(root: Path, scale: str, *names: str) -> str:
    frame = Results(scale, root).load_frame("h_protocol").where(experiment="waterfall")
    return "\n".join(protocol.said(frame, name.replace("_", " ")) for name in names)


WRITERS: dict[str, Callable[..., str]] = {
    "overview": lambda root, *scales: findings.overview({scale: judge(Results(scale, root)) for scale in scales}),
    "findings": lambda root, *scales: findings.findings([Results(scale, root) for scale in scales]),
    "claims": _claims,
    "table": _stored,
    "protocol": _protocol,
    "grid": _accuracies,
}
