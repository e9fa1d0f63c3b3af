"""Files that are written whole or not at all (imports nothing of lib)."""

import contextlib
import filecmp
import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock


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
    except OSError as error:
        if error.errno and error.filename is None:  # a write knows no name
            error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """A file with this content."""
    with replacing(path) as file:
        file.write(content)


def replace_folder(new: Path, old: Path) -> None:
    """Move every file of the folder `new` to its place in `old`, then delete what `old` has besides.

    Each file is the old or the new one at any moment; one with the same content is left as it is.
    """
    names = {path.relative_to(new) for path in new.rglob("*") if path.is_file()}
    for name in sorted(names):
        target = old / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not (target.is_file() and filecmp.cmp(new / name, target, shallow=False)):
            (new / name).replace(target)
    for path in sorted(old.rglob("*"), reverse=True):
        if path.is_dir():
            with contextlib.suppress(OSError):  # not empty
                path.rmdir()
        elif path.relative_to(old) not in names:
            path.unlink()


def lock(path: Path) -> FileLock:
    """A lock of this machine's processes on a path; its file lies in the temporary folder."""
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    return FileLock(Path(tempfile.gettempdir()) / f"companion-{name}.lock")
