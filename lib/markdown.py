"""Tables of pipes whose cells show what they hold, whatever somebody calls an attack or a file, and the same in LaTeX
(imports nothing of lib)."""

import html
import re

import pandas as pd
from tabulate import tabulate


def escaped_table(frame: pd.DataFrame, **how: object) -> str:
    """A frame as a table of pipes, without its index; how: of `DataFrame.to_markdown`, numbers as they are."""
    shown = frame.rename(columns=verbatim).map(verbatim)
    return shown.to_markdown(index=False, **{"disable_numparse": True} | how)


def verbatim(text: object) -> object:
    """A text with Markdown's and HTML's signs escaped, but for the two stars around a text that is bold as a whole."""
    if not isinstance(text, str):
        return text
    bold, inner = re.fullmatch(r"(?s)(\*\*)?(.*?)(?(1)\*\*)", text).groups(default="")
    inner = html.escape(" ".join(inner.split("\n")), quote=False)
    inner = re.sub(r"[\\`*|]|(?<![^\W_])_|_(?![^\W_])|(?<=\])(?=\()", r"\\\g<0>", inner)
    return f"{bold}{inner}{bold}"


def latex(text: str) -> str:
    """A table of `escaped_table` as a tabular environment, cells as they were before and bold as bold; needs the
    package booktabs. What stands below the table comes below it, in small type."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    header, dashes, *rows = [
        [html.unescape(re.sub(r"\\([\\`*|_(])", r"\1", cell.strip())) for cell in row] for row in cells
    ]
    sides = ["right" if cell.endswith(":") else "left" for cell in dashes]
    made = tabulate(rows, header, tablefmt="latex_booktabs", colalign=sides, disable_numparse=True)
    notes = [re.sub(r"([&%$#_{}])", r"\\\1", line) for line in lines if not line.startswith("|")]
    made = re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", made)
    return "\n".join([made, *(f"\\par{{\\footnotesize {note}}}" for note in notes)])
