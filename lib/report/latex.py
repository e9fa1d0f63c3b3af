"""A stored table in LaTeX, for a paper: booktabs, signs escaped, bold as in the Markdown."""

import re

from tabulate import tabulate

from lib import markdown


def latex(text: str) -> str:
    """A table of pipes (header, line of dashes, rows) as a tabular environment; needs the package booktabs."""
    header, dashes, *rows = markdown.rows(text)
    sides = ["right" if cell.endswith(":") else "left" for cell in dashes]
    made = tabulate(rows, header, tablefmt="latex_booktabs", colalign=sides, disable_numparse=True)
    return re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", made)
