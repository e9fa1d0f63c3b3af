"""Content-addressed, resumable results on disk.

    store.cached_all([[Call(function, arguments)]], device="cpu")

gives what module-level, pure functions return, arrays by name, and computes it only once: a key is the digest of what
a result is made from (`lib.keys`). An entry is written to a temporary file, synced and renamed, so a killed run leaves
whole entries or none; each carries its own checksum, and a corrupt one is reported and computed again. Beside its
arrays it keeps what it was made from, in words, so that `why` can say why something was computed again.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import os
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from safetensors.numpy import load as decode
from safetensors.numpy import save as encode
from tqdm import tqdm

from lib import keys
from lib.atomic import write_bytes
from lib.machine import output_of

if TYPE_CHECKING:  # what only looks into the store needs no torch
    from lib.engine import Engine, Job

Arrays = dict[str, np.ndarray]
CHECKSUM = 32  # bytes of SHA-256 before the rest
PAUSE, LOST = 1, 3600  # seconds between looks at other processes' work, and after which one is taken for dead


class Call(NamedTuple):
    """A computation that is asked for, `function(*arguments, device=..., **how)`.

    arguments: what the result depends on (`lib.keys.described`).  cell: its name in messages and in `why`.  how: what
    changes no result, such as the size of a batch.
    """

    function: Callable[..., Arrays]
    arguments: tuple
    cell: str = ""
    how: Mapping[str, object] = {}


class Store:
    """Arrays by key, below `root`; what is missing is computed by the engine (default: in this process)."""

    def __init__(self, root: Path, engine: "Engine | None" = None):
        self.root = Path(root)
        self.engine = engine
        self.reported: set[str] = set()

    def __reduce__(self) -> tuple:
        """As a worker gets it: it computes by itself."""
        return Store, (self.root,)

    def cached_all(
        self, groups: Sequence[Sequence[Call]], device: str = "cpu", words: str = ""
    ) -> Iterator[list[Arrays]]:
        """What the calls give, group by group; the missing ones are computed first, those of a group by one worker.

        device: counts by its kind.  words: for the progress bar. A function of a notebook's cell, or an argument that
        holds one, has no file and so no key: it is computed anew each time, in this process, which is said once.
        """
        from lib.engine import Engine

        with keys.read_once():
            asked = [[self._job(call, device) for call in group] for group in groups]
        pieces: dict[Path, list[Job]] = {}  # by the entry that the piece writes last
        for group in asked:
            missing = {path: job for job in group if job.made_from and not (path := self.path(job.made_from)).is_file()}
            if missing:
                pieces[[*missing][-1]] = [*missing.values()]
        engine, part = self.engine or Engine([device]), os.environ.get("COMPANION_PART")
        there = len(groups) - len(pieces)
        done = run_shared(pieces, engine, part) if part else engine.run(list(pieces.values()))
        for _ in tqdm(done, words, len(groups), initial=there, disable=not words):
            pass
        for group in asked:
            yield [self._result(job, device) for job in group]

    def _job(self, call: Call, device: str) -> "Job":
        """A call with its record; without one, which is said once, where nothing can say what it is made from."""
        from lib.engine import Job

        try:
            made_from = keys.record(call.function, call.arguments, device)
        except keys.Unkeyed as error:
            made_from = {}
            if str(error) not in self.reported:
                self.reported.add(str(error))
                print(f"store: {call.cell or call.function.__name__} is not stored: {error}", file=sys.stderr)
        keep = functools.partial(self.write, made_from, call.cell)
        return Job(call.function, call.arguments, call.how, keep, made_from)

    def entry(self, made_from: dict, compute: Callable[[], Arrays], cell: str = "") -> Arrays:
        """What `compute` gives, from the store where it is there; made_from: its record (`lib.keys.record`)."""
        from lib.engine import Job

        keep = functools.partial(self.write, made_from, cell)
        return self._result(Job(lambda device: compute(), (), {}, keep, made_from), made_from["device"].split()[0])

    def _result(self, job: "Job", device: str) -> Arrays:
        """What a job gives, from the store where it is there."""
        arrays = read_entry(self.path(job.made_from)) if job.made_from else None
        if arrays is None:
            arrays = job.compute(device)
            if job.made_from:
                job.done(arrays)
        return arrays

    def write(self, made_from: dict, cell: str, arrays: Arrays) -> None:
        """Write an entry, whole or not at all."""
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        payload = encode(arrays, {"made_from": json.dumps(made_from | {"cell": cell}, sort_keys=True)})
        write_bytes(self.path(made_from), hashlib.sha256(payload).digest() + payload)

    def path(self, made_from: Mapping) -> Path:
        """Where the entry of a record lies."""
        key = keys.digest(made_from)
        return self.root / key[:2] / f"{key}.bin"

    def records(self) -> list[tuple[Path, dict]]:
        """Every entry and what it was made from, the oldest first; nothing where that cannot be read."""
        paths = sorted(self.root.rglob("*.bin"), key=modified)
        return [(path, read_record(path) or {}) for path in paths]

    def stale(self) -> list[Path]:
        """The entries that the present code and packages cannot ask for, and what killed processes left of some."""
        halves = [path for path in self.root.rglob("*.part") if time.time() - modified(path) > LOST]
        return [path for path, made in self.records() if not (made and keys.current(made))] + halves

    def adversaries(self, pattern: str) -> Iterator[tuple[dict, np.ndarray]]:
        """The shards of adversaries in cells that fit a pattern and that the present code can ask for: what each was
        made from, and its images, uint8 `[snapshots,n,3,H,W]`."""
        for path, made in self.records():
            fits = fnmatchcase(made.get("cell", ""), pattern) and keys.current(made)
            if fits and "images" in (arrays := read_entry(path) or {}):
                yield made, arrays["images"]

    def why(self, pattern: str) -> list[str]:
        """Why the newest entry whose cell fits a pattern (* and ?) was computed: a line for each part of its key that
        differs from the nearest earlier entry of the same function. ValueError where no entry fits."""
        entries = [made for _, made in self.records() if made]
        fits = [place for place, made in enumerate(entries) if fnmatchcase(made.get("cell", ""), pattern)]
        if not fits:
            cells = sorted({made.get("cell", "") for made in entries} - {""})
            known = "; ".join(cells[:10]) + ("; ..." if len(cells) > 10 else "")
            raise ValueError(f"no entry of the store is called '{pattern}'; there are {known or 'none'}")
        newest = entries[fits[-1]]
        earlier = [made for made in entries[: fits[-1]] if made["function"] == newest["function"]]
        if not earlier:
            return [f"{newest['cell']}: nothing of {newest['function']} was stored before it"]
        nearest = min(reversed(earlier), key=lambda m: (len(differing(m, newest)), m["cell"] != newest["cell"]))
        changes = [f"  {change}" for change in differing(nearest, newest)]
        return [f"{newest['cell']}, against {nearest['cell']}:", *changes]


def folder(root: Path) -> Path:
    """Where a checkout's results are stored: $COMPANION_STORE, or the folder that all worktrees of its repository
    share, which `dvc exp run --temp` finds too; without git `.store` in the checkout."""
    if named := os.environ.get("COMPANION_STORE"):
        return root / Path(named).expanduser()
    root = Path(root.as_posix().partition("/.dvc/tmp/exps/")[0])
    asked = ("rev-parse", "--path-format=absolute", "--show-toplevel", "--git-common-dir")
    top, _, common = output_of("git", "-C", str(root), *asked).partition("\n")
    return Path(common) / "companion-store" if top and Path(top).resolve() == root.resolve() else root / ".store"


def differing(before: dict, after: dict) -> list[str]:
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


def run_shared(pieces: dict[Path, list["Job"]], engine: "Engine", part: str) -> Iterator[Path]:
    """Run the pieces that no other process does that shares this store; each one's entry, when it is there.  part: such
    as "3/8", the third of eight processes: where among the pieces it begins."""
    number, parts = map(int, part.split("/"))
    first = (number - 1) * len(pieces) // parts
    left = [*pieces][first:] + [*pieces][:first]
    while left:
        there = {path for path in left if path.is_file()}
        yield from there
        left = [path for path in left if path not in there]
        mine = [*itertools.islice(filter(claimed, left), 2 * len(engine.devices))]
        with held([path.with_suffix(".claim") for path in mine]) as claims:
            for place in engine.run([pieces[path] for path in mine]):
                claims[place].unlink(missing_ok=True)
        if left and not mine:
            time.sleep(PAUSE)


def modified(path: Path) -> float:
    """When a file was written, in seconds; now for one that another process has just deleted."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


@contextlib.contextmanager
def held(claims: list[Path]) -> Iterator[list[Path]]:
    """Within it these claims count as those of a process that lives, however long a piece takes; then they are gone,
    so that others can do what failed."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(LOST / 10):
            for claim in claims:
                with contextlib.suppress(FileNotFoundError):
                    os.utime(claim)

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield claims
    finally:
        over.set()
        for claim in claims:
            claim.unlink(missing_ok=True)


def claimed(path: Path) -> bool:
    """Take a piece of work, unless another process has taken it and not been silent for LOST seconds since."""
    claim = path.with_suffix(".claim")
    claim.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        claim.touch(exist_ok=False)
        return True
    with contextlib.suppress(FileNotFoundError):
        if abs(time.time() - claim.stat().st_mtime) > LOST:  # one of the future: the clock was set back
            claim.touch()
            return True
    return False


def read_entry(path: Path) -> Arrays | None:
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
    except (OSError, KeyError, ValueError, MemoryError, OverflowError, struct.error):
        return None
