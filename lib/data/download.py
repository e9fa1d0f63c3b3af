"""Downloads into data/ that can be interrupted and run again.

A file appears under its name only when it is complete and checked; until then it is called NAME.part.
"""

import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from lib.data import images

TRIES = 4
TIMEOUT = 30
BLOCK = 1 << 20

Check = Callable[[Path], None]
Job = tuple[str, Path, Check]


def target(name: str) -> Path:
    """data/NAME, after removing a link there whose folder is gone."""
    place = images.ROOT / "data" / name
    if place.is_symlink() and not place.exists():
        place.unlink()
    return place


def link(place: Path, source: Path) -> Path:
    """A symbolic link at data/NAME; nothing is copied. FileExistsError if something else is there."""
    if place.exists() and not place.samefile(source):
        raise FileExistsError(f"data/{place.name} exists already; move it away first")
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(source, target_is_directory=True)
    print(f"data/{place.name} -> {source}")
    return place


def linked(name: str, url: str | None) -> Path | None:
    """data/NAME where it is a link or can be one, to $COMPANION_ASSETS/NAME; None where it is to be downloaded.

    A `url` asks for a download, unless there is a link already.
    """
    place = target(name)
    assets = Path(os.environ.get("COMPANION_ASSETS", "")) / name
    if url is None and not place.exists() and assets.is_absolute() and assets.is_dir():
        return link(place, assets)
    if place.is_symlink():
        print(f"data/{name} is a link to {place.resolve()}; nothing to do")
        return place
    return None


def download(url: str, path: Path, check: Check, tries: int = TRIES, pause: float = 1.0) -> None:
    """Download one file; it gets its name only after `check` (which raises ValueError) has passed.

    Tried `tries` times, waiting `pause`, 2 `pause`, 4 `pause` ... seconds; an address that is not there or not allowed
    is not tried again. ConnectionError in one line at the end.
    """
    partial = path.with_name(path.name + ".part")
    for attempt in range(tries):
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
                partial.write_bytes(response.read())
            check(partial)
            partial.replace(path)
            return
        except (OSError, http.client.HTTPException, ValueError) as error:
            partial.unlink(missing_ok=True)
            if _hopeless(error) or attempt + 1 == tries:
                raise ConnectionError(f"{url}: {error}") from None
            time.sleep(pause * 2**attempt)


def download_images(jobs: Iterable[Job], label: str, workers: int = 8) -> int:
    """Download every image that is not there whole: (address, file, check) each. Returns how many there are in all.

    ConnectionError in one line if some could not be had; the others stay for the next run.
    """
    jobs = list(jobs)
    missing = [job for job in jobs if not complete(job[1])]
    with ThreadPoolExecutor(workers) as pool:
        outcomes = pool.map(lambda job: _attempt(*job), missing)
        progress = tqdm(outcomes, desc=label, total=len(jobs), initial=len(jobs) - len(missing), unit="image")
        failures = [failure for failure in progress if failure]
    if failures:
        raise ConnectionError(f"{len(failures)} of {len(jobs)} images are missing ({failures[0]}); run it again")
    return len(jobs)


def download_large(url: str, path: Path, tries: int = TRIES, pause: float = 1.0) -> None:
    """Download one large file with a progress bar, going on where an earlier try or run ended.

    ConnectionError in one line after `tries` tries in a row that brought nothing; what has come stays in NAME.part.
    """
    partial = path.with_name(path.name + ".part")
    failures = 0
    while True:
        before = _size(partial)
        try:
            _go_on(url, partial)
            partial.replace(path)
            return
        except (OSError, http.client.HTTPException, ValueError) as error:
            failures = 1 if _size(partial) > before else failures + 1
            if _hopeless(error):
                raise ConnectionError(f"{url}: {error}") from None
            if failures == tries:
                raise ConnectionError(f"{url}: {error}; run it again to go on") from None
            time.sleep(pause * 2 ** (failures - 1))


def complete(path: Path) -> bool:
    """Whether the image is there and whole; one that is not is deleted, to be fetched again."""
    if not path.is_file():
        return False
    try:
        with Image.open(path) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError):
        path.unlink()
        return False
    return True


def _attempt(url: str, path: Path, check: Check) -> str | None:
    """Download one image; what went wrong, or None."""
    try:
        download(url, path, check)
    except ConnectionError as error:
        return str(error)
    return None


def _hopeless(error: Exception) -> bool:
    """Whether trying again is no use."""
    return isinstance(error, urllib.error.HTTPError) and error.code in (401, 403, 404, 410)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _go_on(url: str, partial: Path) -> None:
    """Append the rest of a file to what is there. OSError if it ends early."""
    start = _size(partial)
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # there is nothing after what we have
            if error.headers.get("Content-Range") == f"bytes */{start}":
                return
            partial.unlink()
        raise
    with response:
        if response.status != 206:  # the server sends all of it again
            start = 0
        total = start + int(response.headers.get("Content-Length", 0))
        bar = tqdm(desc=partial.stem, total=total, initial=start, unit="B", unit_scale=True)
        with partial.open("ab" if start else "wb") as file, bar:
            while block := response.read(BLOCK):
                file.write(block)
                bar.update(len(block))
    if _size(partial) != total:
        raise OSError(f"ended after {_size(partial)} of {total} bytes")
