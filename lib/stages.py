"""A stage of dvc.yaml while it runs: it writes beside its old results, which stay until the new ones are whole and are
replaced only if nothing that the stage depends on has changed meanwhile.

DVC digests what a stage depends on when it has ended (its issue 11058): dvc.lock would tie a file that was edited
during the run to the results of the old one, and `dvc repro` would skip the stage from then on.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path

from filelock import Timeout

from lib import timings
from lib.atomic import lock, replace_folder
from lib.settings import ROOT

LARGE_FILE = 10**7  # bytes from which on size and time stand for the content


@contextlib.contextmanager
def running(stage: str, scale: str, root: Path = ROOT, results: Path | None = None) -> Iterator[Path]:
    """`staged` and `guarded`; results: another folder than $COMPANION_RESULTS or that of the root."""
    results = results or Path(os.environ.get("COMPANION_RESULTS") or root / "results")
    with staged(results / scale, stage) as folder, guarded(stage, scale, root):
        yield folder


@contextlib.contextmanager
def guarded(stage: str, scale: str, root: Path = ROOT) -> Iterator[None]:
    """ValueError in one line, at the end, if a file that the stage depends on is not as it was at the beginning."""
    before = dependencies(stage, scale, root)
    yield
    if changed := sorted({name for name, _ in before.items() ^ dependencies(stage, scale, root).items()}):
        others = f" and {len(changed) - 1} more" * (len(changed) > 1)
        raise ValueError(
            f"{changed[0]}{others} changed while {stage} ran, which may have read either version: run it again (what "
            "the change does not concern comes from the store)"
        )


def dependencies(stage: str, scale: str, root: Path = ROOT) -> dict[str, str]:
    """Every file that dvc.yaml says the stage depends on, and what tells it from another version; none for no stage."""
    ignored = root / ".dvcignore"
    patterns = ignored.read_text().split() if ignored.is_file() else []
    found = {}
    for named in timings.stages(root).get(stage, {}).get("deps", ()):
        top = root / named.replace("${scale}", scale)
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.is_file() and not any(fnmatchcase(part, one) for part in name.split("/") for one in patterns):
                facts = path.stat()
                large = facts.st_size >= LARGE_FILE
                found[name] = f"{facts.st_size} {facts.st_mtime_ns}" if large else sha256(path.read_bytes()).hexdigest()
    return found


@contextlib.contextmanager
def staged(folder: Path, stage: str) -> Iterator[Path]:
    """An empty folder for what `stage` writes, which replaces `folder`/`stage` if the block ends without an error.

    folder: of a scale's results.  Within the block, and in the processes that it starts, $COMPANION_RESULTS names a
    view of all results in which that folder stands in the old one's place.  ValueError where the stage runs already.
    """
    view = folder.parent / f"{folder.name}-{stage}.part"
    try:
        with lock(view).acquire(blocking=False):
            shutil.rmtree(view, ignore_errors=True)  # of a run that was killed
            new = view / folder.name / stage
            new.mkdir(parents=True)
            others = [other for other in folder.parent.iterdir() if other.name != folder.name and other.is_dir()]
            inside = [folder / "timings.json", *(part for part in folder.glob("*") if part.name != stage)]
            for path in dict.fromkeys([*others, *inside]):
                (view / path.relative_to(folder.parent)).symlink_to(path.absolute())
            before = os.environ.get("COMPANION_RESULTS")
            os.environ["COMPANION_RESULTS"] = str(view.absolute())
            try:
                yield new
                if any(new.iterdir()):
                    replace_folder(new, folder / stage)
            finally:
                os.environ.pop("COMPANION_RESULTS")
                os.environ |= {"COMPANION_RESULTS": before} if before else {}
                shutil.rmtree(view, ignore_errors=True)
    except Timeout:
        raise ValueError(f"{stage} runs already at scale {folder.name}, in another process; wait for its end") from None
    except OSError as error:
        if error.errno and error.filename is None:  # a write knows no name
            error.filename = str(folder / stage)
        raise
