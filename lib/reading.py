"""Files that are read again or that users write: one that is damaged is named (imports nothing of lib)."""

import contextlib
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml


@contextlib.contextmanager
def intact(path: Path) -> Iterator[None]:
    """Around the reading of a result; ValueError in one line, with the path, where it is not what was written."""
    try:
        if path.suffix in (".csv", ".md") and re.search(r"(?m)^[<>]{7} ", path.read_text(encoding="utf-8")):
            raise ValueError("it holds both sides of a merge")
        yield
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        why = re.split(r"\.\s|\n", str(error))[0] or type(error).__name__  # NumPy's next sentence asks for trust
        message = f"{path.resolve()} is damaged ({why}): get it back with git checkout, or compute its stage again"
        raise ValueError(message) from None


def read_text(path: Path) -> str:
    """A text; ValueError in one line for a damaged one."""
    with intact(path):
        return path.read_text(encoding="utf-8")


def read_json(path: Path) -> Any:
    """What a JSON file holds; ValueError in one line for a damaged one."""
    with intact(path):
        return json.loads(path.read_text(encoding="utf-8"))


class Once(yaml.SafeLoader):
    """YAML in which no key may stand twice: of two the later one would count, without a word."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node, names = super().compose_mapping_node(anchor), set()  # as written: what "<<" takes comes in later
        for key, _ in node.value:
            if key.value in names:
                raise yaml.MarkedYAMLError(problem=f"'{key.value}' stands twice", problem_mark=key.start_mark)
            names.add(key.value)
        return node


def read_yaml(path: Path, kind: type = dict) -> Any:
    """What a YAML file holds, a dict or a list, empty where nothing; ValueError in one line, with the place, for
    another file and where a key stands twice."""
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Once)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        why = " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
        raise ValueError(f"{path}: not valid YAML: {why}") from None
    if not isinstance(found, kind | None):
        raise ValueError(f"{path}: must hold {'a list' if kind is list else 'keys and values'}, not '{found!s:.40}'")
    return found or kind()
