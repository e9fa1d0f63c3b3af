"""Content-addressed, resumable results on disk (imports nothing of lib).

What costs more than a second is asked for by a key: the digest of its inputs, its parameters and the code that
computes it. An entry is written to a temporary file, synced and renamed, so a killed run leaves whole entries or none;
every entry carries its own checksum, and a corrupt one is reported and computed again.
"""

import ast
import hashlib
import inspect
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from safetensors.numpy import load as decode
from safetensors.numpy import save as encode

Arrays = dict[str, np.ndarray]


def digest(*parts: object) -> str:
    """SHA-256 (hex) of arrays, bytes and JSON-able values, with their types, shapes and order."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            total.update(f"array {part.dtype} {part.shape}".encode())
            total.update(np.ascontiguousarray(part).tobytes())
        elif isinstance(part, bytes):
            total.update(b"bytes")
            total.update(part)
        else:
            total.update(("json " + json.dumps(part, sort_keys=True)).encode())
    return total.hexdigest()


def code_digest(paths: Iterable[Path]) -> str:
    """SHA-256 of the source files in `paths` (folders are read recursively for *.py)."""
    files = sorted(file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path]))
    return digest(*[file.read_bytes() for file in files])


def code_of(function: Callable) -> str:
    """SHA-256 of the file that defines `function` and of its package's files that it imports, directly or through them.

    So adding an attack changes no key of another one's results. A package's __init__.py counts where a name of its own
    is imported from it.
    """
    function = inspect.unwrap(function)
    file = Path(inspect.getfile(function)).resolve()
    root = file.parents[function.__module__.count(".") + (file.name == "__init__.py")]
    found, queue = set(), {file}
    while queue:
        path = queue.pop()
        found.add(path)
        queue |= imported(path, function.__module__.split(".")[0], root) - found
    return code_digest(found)


def imported(path: Path, package: str, root: Path) -> set[Path]:
    """The files of `package`, which lies in the folder `root`, that the file at `path` imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            above = path.relative_to(root).parts[: -node.level] if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            inner = {f"{module}.{alias.name}" for alias in node.names}
            names |= {name if source_of(name, root) else module for name in inner}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {file for name in names if name.split(".")[0] == package and (file := source_of(name, root))}


def source_of(name: str, root: Path) -> Path | None:
    """The file of a dotted module name below `root`; None for a name that is no module."""
    base = root.joinpath(*name.split("."))
    return next((file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()), None)


class Store:
    """Arrays by key, below `root`."""

    def __init__(self, root: Path):
        self.root = Path(root)

    def get(self, key: str, compute: Callable[[], Arrays]) -> Arrays:
        """The arrays stored under `key` (a hex digest), or those that `compute` returns, stored for the next time."""
        path = self.root / key[:2] / f"{key}.bin"
        arrays = read(path)
        if arrays is None:
            arrays = {name: np.ascontiguousarray(array) for name, array in compute().items()}
            write(path, arrays)
        return arrays


def read(path: Path) -> Arrays | None:
    """The arrays in `path`; None if there is no such file, or (said on stderr) if its checksum is wrong."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    checksum, payload = content[:32], content[32:]
    if hashlib.sha256(payload).digest() != checksum:
        print(f"store: {path.name} is corrupt and is computed again", file=sys.stderr)
        return None
    return decode(payload)


def write(path: Path, arrays: Arrays) -> None:
    """Write atomically: temporary file, sync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    payload = encode(arrays)
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(payload).digest() + payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
