"""Redraw a figure or print a table from the stored results, without attacking anything."""

from pathlib import Path

from lib import markdown
from lib.reading import read_text
from lib.report import published
from lib.report.figures import FIGURES, options, redraw
from lib.report.figures.style import LOOKS, write_figure
from lib.report.results import Results
from lib.report.tables import tables
from lib.settings.base import choices

# Tables that no frame makes; the others name themselves in tables.yaml.
FACTS = {
    "table_02": "training cost",
    "networks": "which network plays which of the paper's",
    "parameters": "attack parameters",
    "figure_03_silhouettes": "how far classes lie apart in Figure 3",
    "transform_runs": "what was attacked in Appendix E",
    "scattering_needs": "what feature-scattering training and NRP ask for",
    "cda_cost": "what a generator costs per image, and SSP",
}
# Endings of files, and what --format calls them.
FIGURE_FORMATS = {".svg": "svg", ".pdf": "pdf", ".png": "png"}
TABLE_FORMATS = {".md": "markdown", ".csv": "csv", ".tex": "latex"}


def titles() -> dict[str, str]:
    """Every table by name, those of the paper first."""
    found = FACTS | {name: table.title for name, table in tables().items()}
    return {name: found.pop(name) for name in published.TABLES} | found


def stored(results: Results) -> dict[str, str]:
    """Every table by name, with those that the scale has besides: of the report, or of earlier code."""
    others = sorted(path.stem for path in results.files("tables/*.md"))
    return titles() | {name: "stored besides" for name in others if name not in titles()}


def resolve(text: str, known: dict, kind: str) -> str:
    """'6' or 'figure_06' or 'transfer' -> the stored name; ValueError lists what there is."""
    name = f"{kind}_{int(text):02d}" if text.isdigit() else text
    if name not in known:
        raise ValueError(f"no {kind} '{text}'; {choices(text, known)}")
    return name


def draw(
    results: Results,
    item: str,
    style: str = "paper",
    images: str | None = None,
    only: str | None = None,
    format: str | None = None,
    out: Path | None = None,
) -> str:
    """Redraw a figure; the paths of its files.

    item: its number or name.  style: a name of LOOKS.  images, only: see `redraw`.  Without `out`, the figure as it is
    committed goes where its stage put it; others go to results/<scale>/redrawn/, such as figure_04-slides-selected.
    ValueError for what there is not.
    """
    name, ending = resolve(item, FIGURES, "figure"), chosen_format(format, out, FIGURE_FORMATS)
    if style not in LOOKS:
        raise ValueError(f"no style '{style}'; {choices(style, LOOKS)}")
    figure = redraw(results, name, LOOKS[style], only, images)
    if out:
        return str(write_figure(figure, out))
    marks = [mark for mark, there in {"slides": style == "slides", "selected": only or images}.items() if there]
    stored = results.find(f"{FIGURES[name].data}/{name}.*")
    folder = results.root / "redrawn" if marks else stored.parents[1] / "figures"
    stem, kinds = "-".join([name, *marks]), [ending] if ending else ["svg", "png"]
    paths = [write_figure(figure, folder / f"{stem}.{kind}") for kind in kinds]
    return "\n".join(f"results/{path.relative_to(results.root.parent)}" for path in paths)


def table(results: Results, item: str, format: str | None = None, out: Path | None = None) -> str:
    """A stored table as Markdown (default), CSV or LaTeX; with `out`, where it was written."""
    name, kind = resolve(item, stored(results), "table"), chosen_format(format, out, TABLE_FORMATS) or "markdown"
    text = read_text(results.find(f"tables/{name}.{'csv' if kind == 'csv' else 'md'}")).rstrip()
    text = markdown.latex(text) if kind == "latex" else text
    if out is None:
        return text
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text + "\n")
    return str(out)


def chosen_format(format: str | None, out: Path | None, known: dict[str, str]) -> str | None:
    """The format, or what the ending of `out` says; ValueError for another one, or where they differ."""
    ending = known.get(out.suffix) if out else None
    if out and ending is None:
        raise ValueError(f"--out {out} must end in one of {', '.join(known)}")
    if format and format not in known.values():
        raise ValueError(f"no format '{format}' here; {choices(format, known.values())}")
    if out and format not in (None, ending):
        raise ValueError(f"--out {out} is no file of the format {format}")
    return ending or format


def listing(results: Results) -> str:
    """All figures with their options, and all tables, and whether this scale has computed them."""
    lines = [f"results of the scale '{results.scale}':"]
    for name, drawing in FIGURES.items():
        suffix = "csv" if drawing.data == "data" else "npz"
        there = results.files(f"{drawing.data}/{name}.{suffix}")
        lines.append(f"  {name:<16}  {'stored ' if there else 'missing'}  {drawing.item}: {drawing.title}")
        if there and (known := options(results, name)):
            lines.append(f"{'':29}{known}")
    for name, title in stored(results).items():
        there = results.files(f"tables/{name}.csv")
        lines.append(f"  table {name:<16}  {'stored ' if there else 'missing'}  {title}")
    lines.append(f"every figure: --style {'|'.join(LOOKS)}, --format {'|'.join(FIGURE_FORMATS.values())}, --out FILE")
    lines.append(f"every table: --format {'|'.join(TABLE_FORMATS.values())}, --out FILE")
    return "\n".join(lines)
