"""Content-addressed, resumable results on disk.

    store.cached(function, *arguments, device="cpu", batch=10)

gives what the module-level, pure function returns, arrays by name, and computes it only once: its key is the digest of
what it is made from (`lib.keys`). An entry is written to a temporary file, synced and renamed, so a killed run leaves
whole entries or none; every entry carries its own checksum, and a corrupt one is reported and computed again. Beside
its arrays it keeps what it was made from, in words, so that `why` can say why something was computed again.
"""

import functools
import hashlib
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from safetensors.numpy import load as decode
from safetensors.numpy import save as encode

from lib import keys
from lib.atomic import write_bytes

Arrays = dict[str, np.ndarray]
CHECKSUM = 32  # bytes of SHA-256 before the rest


class Store:
    """Arrays by key, below `root`."""

    def __init__(self, root: Path):
        self.root = Path(root)
        self.reported: set[str] = set()

    def cached(
        self, function: Callable[..., Arrays], *arguments: object, device: str = "cpu", cell: str = "", **how: object
    ) -> Arrays:
        """`function(*arguments, device=device, **how)`, from the store where it is there.

        arguments: what the result depends on; see `lib.keys.described`.  device: counts by its kind.  how: what changes
        no result, such as the size of a batch.  cell: names the computation for people, in messages and in `why`.

        A function of a notebook's cell, or an argument that holds one, has no file and so no key: it is computed anew
        each time, which is said once.
        """
        try:
            made_from = keys.record(function, arguments, device)
        except keys.Unkeyed as error:
            if str(error) not in self.reported:
                self.reported.add(str(error))
                print(f"store: {cell or function.__name__} is not stored: {error}", file=sys.stderr)
            return function(*arguments, device=device, **how)
        return self.entry(made_from, functools.partial(function, *arguments, device=device, **how), cell)

    def entry(self, made_from: dict, compute: Callable[[], Arrays], cell: str = "") -> Arrays:
        """What `compute` gives, from the store where it is there; made_from: its record (`lib.keys.record`)."""
        path = self.path(keys.digest(made_from))
        arrays = read(path)
        if arrays is None:
            arrays = {name: np.ascontiguousarray(array) for name, array in compute().items()}
            write(path, arrays, made_from | {"cell": cell})
        return arrays

    def path(self, key: str) -> Path:
        """Where the entry of a key lies."""
        return self.root / key[:2] / f"{key}.bin"

    def why(self, pattern: str) -> list[str]:
        """Why the newest entry whose cell fits a pattern (* and ?) was computed: a line for each part of its key that
        differs from the nearest earlier entry of the same function.

        ValueError where no entry fits.
        """
        paths = sorted(self.root.rglob("*.bin"), key=lambda path: path.stat().st_mtime)
        entries = [made for path in paths if (made := read_record(path))]
        fits = [place for place, made in enumerate(entries) if fnmatchcase(made.get("cell", ""), pattern)]
        if not fits:
            cells = sorted({made.get("cell", "") for made in entries} - {""})
            known = "; ".join(cells[:10]) + ("; ..." if len(cells) > 10 else "")
            raise ValueError(f"no entry of the store is called '{pattern}'; there are {known or 'none'}")
        newest = entries[fits[-1]]
        earlier = [made for made in entries[: fits[-1]] if made["function"] == newest["function"]]
        if not earlier:
            return [f"{newest['cell']}: nothing of {newest['function']} was stored before it"]
        nearest = min(reversed(earlier), key=lambda m: (len(differences(m, newest)), m["cell"] != newest["cell"]))
        changes = [f"  {change}" for change in differences(nearest, newest)]
        return [f"{newest['cell']}, against {nearest['cell']}:", *changes]


def folder(root: Path) -> Path:
    """Where a checkout's results are stored: $COMPANION_STORE, or the folder that all worktrees of its repository
    share, which `dvc exp run --temp` finds too; without git `.store` in the checkout."""
    if named := os.environ.get("COMPANION_STORE"):
        return Path(named).expanduser()
    parts = root.parts
    if "exps" in parts and parts[(place := parts.index("exps")) - 2 : place] == (".dvc", "tmp"):
        root = Path(*parts[: place - 2])
    asked = ["git", "-C", str(root), "rev-parse", "--path-format=absolute", "--show-toplevel", "--git-common-dir"]
    try:
        top, common = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split("\n")[:2]
    except (OSError, subprocess.CalledProcessError):
        return root / ".store"
    return Path(common) / "companion-store" if Path(top).resolve() == root.resolve() else root / ".store"


def differences(before: dict, after: dict) -> list[str]:
    """The parts of two records that differ, a line each."""
    old, new = leaves(before), leaves(after)
    pairs = [(name, old.get(name, "nothing"), new.get(name, "nothing")) for name in new | old if name != "cell"]
    return [f"{name}: {a!s:.60} -> {b!s:.60}" for name, a, b in pairs if a != b]  # a digest says no more by its rest


def leaves(value: object, name: str = "") -> dict[str, object]:
    """Nested data as one level: "arguments.3.eps": 16."""
    parts = dict(enumerate(value)) if isinstance(value, list) else value
    if not isinstance(parts, dict):
        return {name: value}
    found = [leaves(part, f"{name}.{inner}".strip(".")) for inner, part in parts.items()]
    return {key: leaf for one in found for key, leaf in one.items()}


def read(path: Path) -> Arrays | None:
    """The arrays in `path`; None if there is no such file, or (said on stderr) if its checksum is wrong."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    checksum, payload = content[:CHECKSUM], content[CHECKSUM:]
    if hashlib.sha256(payload).digest() != checksum:
        print(f"store: {path.name} is corrupt and is computed again", file=sys.stderr)
        return None
    return decode(payload)


def read_record(path: Path) -> dict | None:
    """What an entry was made from, read from its head alone; None for a file without."""
    try:
        with path.open("rb") as file:
            file.seek(CHECKSUM)
            (length,) = struct.unpack("<Q", file.read(8))
            return json.loads(json.loads(file.read(length))["__metadata__"]["made_from"])
    except (OSError, KeyError, ValueError, struct.error):
        return None


def write(path: Path, arrays: Arrays, made_from: dict | None = None) -> None:
    """Write an entry, whole or not at all."""
    payload = encode(arrays, {"made_from": json.dumps(made_from or {}, sort_keys=True)})
    write_bytes(path, hashlib.sha256(payload).digest() + payload)
