"""Redraw one figure or table from the stored results, without attacking anything.

python -m lib.figures list
python -m lib.figures 6 --format pdf
python -m lib.figures table 5
"""

import argparse
import sys

from lib import settings
from lib.report.figures import FIGURES, redraw
from lib.report.results import Results

TABLES = {
    "table_01": "NRP and adversarial training under targeted PGD",
    "table_02": "training cost",
    "table_03": "FSA and SSP on six victims",
    "table_04": "CDA and SSP against a detector",
    "table_05": "clean accuracy of the victims",
    "table_06": "SegNet-Basic under SSP, behind every transform",
    "table_07": "detection under SSP, behind every transform",
    "fsa_variations": "FSA from other surrogates, with other steps and batches",
    "fsa_strongest": "SSP against the strongest of these",
    "cda_cost": "what a generator costs per image, and SSP",
    "adaptive": "NRP under attackers who know of it",
    "purification": "every attack before and after purification",
    "parameters": "attack parameters",
    "transfer": "attacks x victims",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lib.figures", description=__doc__.splitlines()[0])
    parser.add_argument("item", nargs="+", help="'list', a figure (6, figure_06, transfer) or 'table 5'")
    parser.add_argument("--format", choices=["svg", "pdf", "png"], help="one format instead of SVG and PNG")
    parser.add_argument("--scale", help="whose results (default: params.yaml's scale)")
    chosen = parser.parse_args(arguments)
    try:
        results = Results(settings.load(chosen.scale).name)
        print(run(results, chosen.item, chosen.format))
    except (ValueError, FileNotFoundError) as error:
        print(f"lib.figures: {error}", file=sys.stderr)
        return 2
    return 0


def run(results: Results, item: list[str], format: str | None) -> str:
    """What to print: the list, a table's Markdown, or the paths of the redrawn figure."""
    if item == ["list"]:
        return listing(results)
    if item[0] == "table":
        name = resolve(item[-1], TABLES, "table")
        results.load_table(name)
        return results.path("tables", f"{name}.md").read_text().rstrip()
    name = resolve(item[0], FIGURES, "figure")
    formats = (format,) if format else ("svg", "png")
    return "\n".join(
        f"results/{results.scale}/figures/{path.name}"
        for path in results.save_figure(name, redraw(results, name), formats)
    )


def resolve(text: str, known: dict, kind: str) -> str:
    """'6' or 'figure_06' or 'transfer' -> the stored name; ValueError lists what there is."""
    name = f"{kind}_{int(text):02d}" if text.isdigit() else text
    if name not in known:
        raise ValueError(f"no {kind} '{text}'; there are {', '.join(known)}")
    return name


def listing(results: Results) -> str:
    """All figures and tables, and whether this scale has computed them."""
    lines = [f"results of the scale '{results.scale}':"]
    for name, drawing in FIGURES.items():
        suffix = "csv" if drawing.data == "data" else "npz"
        there = (results.root / drawing.data / f"{name}.{suffix}").exists()
        lines.append(f"  {name:<16}  {'stored ' if there else 'missing'}  {drawing.item}: {drawing.title}")
    for name, title in TABLES.items():
        there = (results.root / "tables" / f"{name}.csv").exists()
        lines.append(f"  table {name:<16}  {'stored ' if there else 'missing'}  {title}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
