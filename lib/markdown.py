"""Tables in Markdown whose cells show what they hold, whatever somebody calls an attack or a file (imports nothing of
lib)."""

import html
import re

import pandas as pd


def escaped_table(frame: pd.DataFrame, **how: object) -> str:
    """A frame as a table of pipes, without its index; how: of `DataFrame.to_markdown`, numbers as they are."""
    shown = frame.rename(columns=verbatim).map(verbatim)
    return shown.to_markdown(index=False, **{"disable_numparse": True} | how)


def verbatim(text: object) -> object:
    """A text with Markdown's and HTML's signs escaped, but for the two stars around a text that is bold as a whole."""
    if not isinstance(text, str):
        return text
    bold, inner = re.fullmatch(r"(?s)(\*\*)?(.*?)(?(1)\*\*)", text).groups()
    inner = html.escape(" ".join(inner.split("\n")), quote=False)
    inner = re.sub(r"[\\`*|]|(?<![^\W_])_|_(?![^\W_])|(?<=\])(?=\()", r"\\\g<0>", inner)
    return f"{bold or ''}{inner}{bold or ''}"


def rows(text: str) -> list[list[str]]:
    """The cells of a table of pipes, line by line, as they were before `verbatim`; bold stays."""
    lines = [re.split(r"(?<!\\)\|", line.strip())[1:-1] for line in text.strip().splitlines()]
    return [[html.unescape(re.sub(r"\\([\\`*|_(])", r"\1", cell.strip())) for cell in line] for line in lines]
