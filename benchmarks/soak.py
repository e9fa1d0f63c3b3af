"""Kills, full disks, clocks: python benchmarks/soak.py --kills 30 prints the table of docs/reliability.md.

Each kind of stage runs on a copy of the tests' smoke project. It is killed (SIGKILL, it and all that it started) at
random moments, the disk is filled under it twice (a small tmpfs, which needs root), and the clock is set back by a day
between two runs (libfaketime, of Debian's package faketime; not under an appendix, as a Jupyter kernel hangs there).
After each fault every result is the old or the whole new
file; the run that follows ends with the bytes of one that nothing disturbed; and no entry that the store had before a
fault is written again.
"""

import argparse
import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml
from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a file
from tests.conftest import smoke_project  # noqa: E402

TRAIN = "results/smoke/train"
# Command, and where its results lie.
KINDS = {
    "training": ("train NRP", ["models/smoke/NRP.safetensors", f"{TRAIN}/networks/NRP.json", f"{TRAIN}/data"]),
    "appendix": ("run c_fsa", ["results/smoke/c_fsa"]),
    "report": ("report", ["results/smoke/report"]),
    "site": ("site", ["results/smoke/site"]),
}
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
STALE = b"of an older run"


def begin(root: Path, kind: str, **environment: str) -> subprocess.Popen:
    """Start the stage in the project `root`, whose store lies inside."""
    told = {"COMPANION_STORE": str(root / "store"), "PYTHONPATH": str(root), "COMPANION_WORKERS": "1"}
    command = [sys.executable, "-m", "lib", *KINDS[kind][0].split(), "--scale", "smoke"]
    piped = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=root, env=os.environ | told | environment, **piped)


def finish(root: Path, kind: str, **environment: str) -> tuple[int, str]:
    """Run it to its end; the exit status and what it says."""
    process = begin(root, kind, **environment)
    _, said = process.communicate()
    return process.returncode, said


def kill(process: subprocess.Popen) -> None:
    """It and all that it started: a kernel is the leader of a group of its own."""
    family = [psutil.Process(process.pid)]
    family += family[0].children(recursive=True)
    for each in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(family)
    process.communicate()


def contents(root: Path, kind: str) -> dict[str, bytes]:
    """The results of the stage by their names; not a notebook that failed."""
    places = [root / place for place in KINDS[kind][1]]
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*")) if file.is_file()]
    return {str(file.relative_to(root)): file.read_bytes() for file in files if not file.name.endswith(".failed.ipynb")}


def age(root: Path, kind: str, whole: dict[str, bytes]) -> None:
    """In place of the results those of an older run, one file more among them; nothing stored."""
    shutil.rmtree(root / "store", ignore_errors=True)
    for name, content in whole.items():
        (root / name).write_bytes(content + STALE)
    folder = root / KINDS[kind][1][-1]
    if kind != "training":  # which owns no folder alone
        (folder / "stale.csv").write_bytes(STALE)


def check(root: Path, kind: str, whole: dict[str, bytes]) -> None:
    """Every file is old or new, none is half; AssertionError names one that is not."""
    for name, content in contents(root, kind).items():
        assert content.endswith(STALE) or content == whole.get(name), f"{kind}: {name} is neither old nor new"


def entries(root: Path) -> dict[Path, int]:
    """What the store has, and when each entry was written."""
    return {path: path.stat().st_mtime_ns for path in (root / "store").rglob("*.bin")}


def complete(root: Path, kind: str, whole: dict[str, bytes], stored: dict[Path, int]) -> int:
    """Run to the end and compare; how many of the entries `stored` were written again."""
    status, said = finish(root, kind)
    assert status == 0, said[-2000:]
    found = contents(root, kind)
    differ = sorted(name for name in whole | found if whole.get(name) != found.get(name))
    assert not differ, f"{kind}: {', '.join(differ)} differ from the unbroken run's"
    return rewritten(root, stored)


def rewritten(root: Path, stored: dict[Path, int]) -> int:
    now = entries(root)
    return sum(now.get(path) != written for path, written in stored.items())


def killed(root: Path, kind: str, whole: dict[str, bytes], seconds: float, kills: int, rng: random.Random) -> list:
    """Kill the stage so often; in how many runs that took, and how many entries were computed twice."""
    runs, again, left, stored = 0, 0, kills, {}
    age(root, kind, whole)
    while left:
        process, runs = begin(root, kind), runs + 1
        try:
            _, said = process.communicate(timeout=rng.uniform(0, seconds))
            assert process.returncode == 0, said[-2000:]
        except subprocess.TimeoutExpired:
            kill(process)
            left -= 1
        check(root, kind, whole)
        again += rewritten(root, stored)
        stored = entries(root)
        if process.returncode == 0:  # it was quicker than the kill, with what was stored
            again += complete(root, kind, whole, stored)
            age(root, kind, whole)
            stored = {}
    return [runs, again + complete(root, kind, whole, stored)]


def filled(root: Path, kind: str, whole: dict[str, bytes]) -> str:
    """Run on a disk with room for a little, then for more, then for all."""
    if os.geteuid():
        return "not tried: needs root"
    refused, again = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", disk], check=True)
        try:
            copy = Path(shutil.copytree(root, disk / "project", symlinks=True))
            age(copy, kind, whole)
            size = sum(map(len, whole.values()))
            stored = {}
            for room in (10_000, size // 2):
                used = shutil.disk_usage(disk).used
                subprocess.run(["mount", "-o", f"remount,size={used + room}", disk], check=True)
                status, said = finish(copy, kind)
                last = said.strip().splitlines()[-1]
                assert status == 0 or (last.startswith("companion: ") and "Traceback" not in said), said[-3000:]
                refused += status != 0
                check(copy, kind, whole)
                again += rewritten(copy, stored)
                stored = entries(copy)
            subprocess.run(["mount", "-o", "remount,size=2g", disk], check=True)
            again += complete(copy, kind, whole, stored)
        finally:
            subprocess.run(["umount", "--lazy", disk], check=True)
    return f"{refused} of 2 refused in one line, {again} computed twice"


def set_back(root: Path, kind: str, whole: dict[str, bytes], seconds: float) -> str:
    """Kill a run half way, set the clock back by a day, and run to the end."""
    if FAKETIME is None:
        return "not tried: no libfaketime (Debian: apt install faketime)"
    if kind == "appendix":
        return "not tried: a Jupyter kernel hangs under libfaketime"
    age(root, kind, whole)
    process = begin(root, kind)
    try:
        process.communicate(timeout=seconds / 2)
    except subprocess.TimeoutExpired:
        kill(process)
    stored = entries(root)
    faked = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": "-1d", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    status, said = finish(root, kind, **faked)
    assert status == 0 and contents(root, kind) == whole, said[-2000:]
    return f"same bytes, {rewritten(root, stored)} computed twice"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30, help="of each kind of stage")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rows, rng = [], random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "project").mkdir()
        root = smoke_project(Path(folder) / "project")
        for name in ("data.dvc", "dvc.yaml"):  # that the report and the site read
            shutil.copy(ROOT / name, root)
        scale = root / "scales" / "smoke.yaml"
        chosen = yaml.safe_load(scale.read_text())
        chosen["purifiers"]["NRP"] |= {"steps": 20, "checkpoint_minutes": 0.01}
        scale.write_text(yaml.safe_dump(chosen))
        for kind in KINDS:  # what nothing disturbs; a later kind reads the results of those before
            shutil.rmtree(root / "store", ignore_errors=True)
            begun = time.monotonic()
            status, said = finish(root, kind)
            assert status == 0, said[-2000:]
            seconds, whole = time.monotonic() - begun, contents(root, kind)
            if kind in given.kinds:
                print(f"{kind}: {seconds:.0f} s undisturbed, {len(whole)} files", file=sys.stderr, flush=True)
                runs, again = killed(root, kind, whole, seconds, given.kills, rng)
                disk, clock = filled(root, kind, whole), set_back(root, kind, whole, seconds)
                rows.append([kind, f"companion {KINDS[kind][0]}", given.kills, runs, "same bytes", again, disk, clock])
                print(rows[-1], file=sys.stderr, flush=True)
    heads = ["stage", "command", "kills", "runs", "in the end", "entries computed twice", "disk filled twice"]
    print(tabulate(rows, [*heads, "clock set back a day"], tablefmt="pipe"))


if __name__ == "__main__":
    main()
