"""A stored table in LaTeX, for a paper: booktabs, signs escaped, bold as in the Markdown."""

import re

from tabulate import tabulate

from lib import markdown


def latex(text: str) -> str:
    """A table of pipes (header, line of dashes, rows) as a tabular environment; needs the package booktabs.

    What stands below the table comes below it, in small type.
    """
    lines = [line for line in text.strip().splitlines() if line.strip()]
    header, dashes, *rows = markdown.rows("\n".join(line for line in lines if line.startswith("|")))
    notes = [re.sub(r"([&%$#_{}])", r"\\\1", line) for line in lines if not line.startswith("|")]
    sides = ["right" if cell.endswith(":") else "left" for cell in dashes]
    made = tabulate(rows, header, tablefmt="latex_booktabs", colalign=sides, disable_numparse=True)
    made = re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", made)
    return "\n".join([made, *(f"\\par{{\\footnotesize {note}}}" for note in notes)])
