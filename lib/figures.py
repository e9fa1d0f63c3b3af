"""Redraw a figure or print a table from the stored results, without attacking anything.

python -m lib.figures list                               # what there is, and what can be chosen of it
python -m lib.figures 6 --format pdf
python -m lib.figures 4 --style slides --images 0,2
python -m lib.figures 6 --only SSP,DIM --out talk/iterations.png
python -m lib.figures table 6 --format latex
"""

import argparse
import sys
from pathlib import Path

from lib import settings
from lib.report import published
from lib.report.figures import FIGURES, options, redraw
from lib.report.figures.style import STYLES, write
from lib.report.results import Results
from lib.report.tables import tables

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
DRAWN = {".svg": "svg", ".pdf": "pdf", ".png": "png"}
PRINTED = {".md": "markdown", ".csv": "csv", ".tex": "latex"}


def titles() -> dict[str, str]:
    """Every table by name, those of the paper first."""
    found = FACTS | {name: table.title for name, table in tables().items()}
    return {name: found.pop(name) for name in published.TABLES} | found


def stored(results: Results) -> dict[str, str]:
    """Every table by name, with those that the scale has besides: of the report, or of earlier code."""
    others = sorted(path.stem for path in (results.root / "tables").glob("*.md"))
    return titles() | {name: "stored besides" for name in others if name not in titles()}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    asked = parser().parse_args(arguments)
    try:
        print(run(Results(settings.load(asked.scale).name), asked))
    except (ValueError, OSError) as error:
        print(f"lib.figures: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="python -m lib.figures", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("item", nargs="+", help="'list', a figure (6, figure_06, transfer) or 'table 5'")
    found.add_argument("--style", choices=STYLES, help="paper (default), or slides: large type, 16:9")
    found.add_argument("--images", metavar="0,2", help="which images of a figure of pictures, in this order")
    found.add_argument("--only", metavar="A,B", help="which lines, columns, panels, victims or attacks: names or parts")
    found.add_argument(
        "--format", choices=[*DRAWN.values(), *PRINTED.values()], help="default: SVG and PNG; of a table, Markdown"
    )
    found.add_argument(
        "--out", type=Path, metavar="FILE", help="default: results/<scale>/figures; of a table, the screen"
    )
    found.add_argument("--scale", help="whose results (default: params.yaml's scale)")
    return found


def run(results: Results, asked: argparse.Namespace) -> str:
    """What to print: the list, a table, or the paths of the figure's files. ValueError for what there is not."""
    kind, *rest = asked.item
    if len(asked.item) != (2 if kind == "table" else 1):
        raise ValueError(f"'{' '.join(asked.item)}' is neither 'list' nor a figure nor 'table' and its number")
    if kind == "list":
        return listing(results)
    if kind != "table":
        return draw(results, resolve(kind, FIGURES, "figure"), asked)
    for option in ("style", "images", "only"):
        if getattr(asked, option) is not None:
            raise ValueError(f"a table has no --{option}; it has --format ({', '.join(PRINTED.values())}), --out")
    return table(results, resolve(rest[0], stored(results), "table"), asked)


def resolve(text: str, known: dict, kind: str) -> str:
    """'6' or 'figure_06' or 'transfer' -> the stored name; ValueError lists what there is."""
    name = f"{kind}_{int(text):02d}" if text.isdigit() else text
    if name not in known:
        raise ValueError(f"no {kind} '{text}'; there are {', '.join(known)}")
    return name


def draw(results: Results, name: str, asked: argparse.Namespace) -> str:
    """Redraw a figure; the paths of its files.

    Without --out, only the figure as it is committed keeps its name: others are called figure_04-slides,
    figure_04-selected or figure_04-slides-selected.
    """
    format = chosen_format(asked, DRAWN, None)
    figure = redraw(results, name, STYLES[asked.style or "paper"], asked.only, asked.images)
    if asked.out:
        return str(write(figure, asked.out))
    marks = ["slides"] if asked.style == "slides" else []
    marks += ["selected"] if asked.only or asked.images else []
    stem = "-".join([name, *marks])
    paths = [results.path("figures", f"{stem}.{ending}") for ending in ([format] if format else ["svg", "png"])]
    return "\n".join(f"results/{results.scale}/figures/{write(figure, path).name}" for path in paths)


def table(results: Results, name: str, asked: argparse.Namespace) -> str:
    """A stored table as Markdown, CSV or LaTeX; where it was written, with --out."""
    format = chosen_format(asked, PRINTED, "markdown")
    results.load_table(name)  # FileNotFoundError names the command that computes it
    text = results.path("tables", f"{name}.{'csv' if format == 'csv' else 'md'}").read_text()
    if format == "latex":
        from lib.report.latex import latex

        text = latex(text)
    if asked.out is None:
        return text.rstrip()
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(text.rstrip() + "\n")
    return str(asked.out)


def chosen_format(asked: argparse.Namespace, known: dict[str, str], default: str | None) -> str | None:
    """--format, or what the ending of --out says; ValueError for another one, or where they differ."""
    ending = known.get(asked.out.suffix) if asked.out else None
    if asked.out and ending is None:
        raise ValueError(f"--out {asked.out} must end in one of {', '.join(known)}")
    if asked.format and asked.format not in known.values():
        raise ValueError(f"no format '{asked.format}' here; there are {', '.join(known.values())}")
    if asked.out and asked.format not in (None, ending):
        raise ValueError(f"--out {asked.out} is no file of the format {asked.format}")
    return ending or asked.format or default


def listing(results: Results) -> str:
    """All figures with their options, and all tables, and whether this scale has computed them."""
    lines = [f"results of the scale '{results.scale}':"]
    for name, drawing in FIGURES.items():
        suffix = "csv" if drawing.data == "data" else "npz"
        there = (results.root / drawing.data / f"{name}.{suffix}").exists()
        lines.append(f"  {name:<16}  {'stored ' if there else 'missing'}  {drawing.item}: {drawing.title}")
        if there and (known := options(results, name)):
            lines.append(f"{'':29}{known}")
    for name, title in stored(results).items():
        there = (results.root / "tables" / f"{name}.csv").exists()
        lines.append(f"  table {name:<16}  {'stored ' if there else 'missing'}  {title}")
    lines.append(f"every figure: --style {'|'.join(STYLES)}, --format {'|'.join(DRAWN.values())}, --out FILE")
    lines.append(f"every table: --format {'|'.join(PRINTED.values())}, --out FILE")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
