"""Files that are written whole or not at all (imports nothing of lib)."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write into, in the place of `path` (its folders are made) once the block ends without an error.

    It is written beside it, synced and renamed: a killed process leaves the old file, and NAME.xxxxxxxx.part beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """A file with this content."""
    with replacing(path) as file:
        file.write(content)
