"""Files that the project wrote earlier, read again: one that was damaged since is named (imports nothing of lib)."""

import contextlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def intact(path: Path) -> Iterator[None]:
    """Around the reading of a result; ValueError in one line, with the path, where it is not what was written."""
    try:
        yield
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        message = f"{path} is damaged ({why}): get it back with git checkout, or compute its stage again"
        raise ValueError(message) from None


def read_json(path: Path) -> Any:
    """What a JSON file holds; ValueError in one line for a damaged one."""
    with intact(path):
        return json.loads(path.read_text(encoding="utf-8"))
