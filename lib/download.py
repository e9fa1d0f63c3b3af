"""Files from other machines: over https, from hosts that are named here, resumed after a cut, checked.

Everything can be interrupted and run again. A file is called NAME.part until it is complete and checked. Those that are
there are kept, but for damaged images and files with another SHA-256 than the committed one, which are replaced.
"""

import errno
import functools
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import requests
import tenacity
from PIL import Image
from tqdm import tqdm
from tqdm.contrib.concurrent import thread_map

from lib.digests import LOSSLESS, FirstSeen, content_sha256
from lib.settings import ROOT

HOSTS = ("raw.githubusercontent.com", "s3.amazonaws.com", "download.pytorch.org", "huggingface.co")
HOSTS += ("storage.googleapis.com", "andrewilyas.com", "robustmodels.s3.amazonaws.com")
HOSTS += ("github.com", "objects.githubusercontent.com", "release-assets.githubusercontent.com")  # releases lie there
LOOPBACK = ("127.0.0.1", "localhost", "::1")  # without encryption, but only where the user names it
WORKERS = 8
TRIES = 4
WAIT = tenacity.wait_exponential()  # 1, 2, 4 ... seconds
TIMEOUT = 30
ANSWER = 2  # seconds in which a host answers at all
BLOCK_BYTES = 1 << 16
LARGE_FILE = 10_000_000  # bytes of a file that has a progress bar of its own
IMAGES = (*LOSSLESS, ".jpeg", ".jpg")


class File(NamedTuple):
    """check: of the file, raises ValueError.  sha256: of its content, if one is committed.  address: below the URL, if
    it is not the name."""

    check: Callable[[Path], object]
    sha256: str = ""
    address: str = ""


Files = dict[str, File]  # by name in the folder


def download(
    place: Path, url: str, files: Files, *, mirror: bool = False, record: bool = True, megabytes: float = 0
) -> None:
    """Download the files that `place` lacks.

    mirror: the user named this URL, so its host is taken.  record: the digests of files without a committed one, from
    which a later one may not differ.  megabytes: of all files together, about.  ConnectionError in one line if some
    cannot be had; the others stay for the next run. ValueError for a name outside of `place` or a host that is not of
    HOSTS, OSError without room on the disk.
    """
    for name in files:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            what = f"its list names a file outside of it: '{name}'"
            raise ValueError(f"{place}: {what}; move the list away and run it again")
    hosts = (*HOSTS, urlsplit(url).hostname or "") if mirror else HOSTS
    permitted(url, hosts)
    jobs = [(f"{url}/{file.address or quote(name)}", place / name, file) for name, file in files.items()]
    missing = [job for job in jobs if not complete(job[1], job[2].sha256)]
    if missing:
        online(url)
        room(place, megabytes * 1e6 * len(missing) / len(jobs))
    seen = FirstSeen(ROOT) if record else None
    bar = {"desc": place.name, "total": len(jobs), "initial": len(jobs) - len(missing), "unit": "file"}
    try:
        failures = thread_map(lambda job: _attempt(*job, seen, hosts), missing, max_workers=WORKERS, **bar)
    finally:
        if seen:
            seen.save()
    if failures := [*filter(None, failures)]:
        raise ConnectionError(f"{len(failures)} of {len(jobs)} files are missing ({failures[0]}); run it again")


def permitted(url: str, hosts: Sequence[str] = HOSTS) -> None:
    """ValueError in one line unless the address is of https and of one of these hosts."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise ValueError(f"{url}: only https is taken")
    if parts.hostname not in hosts:
        raise ValueError(f"{url}: the host is none of {', '.join(hosts)}")


def online(url: str) -> None:
    """ConnectionError in one line, within 3 seconds, if the host of an address does not answer."""
    parts = urlsplit(url)
    if why := _silent(f"{parts.scheme}://{parts.netloc}/"):
        raise ConnectionError(f"no connection to {parts.hostname} ({why}); offline, or a proxy is needed (HTTPS_PROXY)")


@functools.cache
def _silent(origin: str) -> str:
    """Why a host does not answer, or nothing. Looking up its name has no time limit: so a thread of its own asks."""
    found = ["no answer"]

    def ask() -> None:
        try:
            requests.head(origin, timeout=ANSWER)
            found.append("")
        except OSError as error:
            found.append(type(error).__name__)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER)
    return found[-1]


def room(place: Path, needed: float) -> None:
    """OSError in one line if the disk of a folder has not so many bytes left."""
    here = next(folder for folder in (place, *place.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(here).free
    if needed > free:
        full = OSError(f"needs {needed / 1e6:,.0f} MB, but the disk of {here} has {free / 1e6:,.0f} MB left")
        full.errno = errno.ENOSPC
        raise full


def complete(path: Path, sha256: str = "") -> bool:
    """Whether a file is there, whole if it is an image, and of this SHA-256 if one is given."""
    try:
        if path.suffix in IMAGES:
            with Image.open(path) as image:
                image.verify()
        return path.is_file() and (not sha256 or content_sha256(path) == sha256)
    except (OSError, SyntaxError, ValueError):
        return False


def no_text(path: Path) -> None:
    """ValueError if a file that should hold numbers is a page or a text, as servers answer when they have no file."""
    with path.open("rb") as file:
        start = file.read(512)
    if start.lstrip()[:1] == b"<" or not start.strip() or (start.isascii() and b"\0" not in start):
        raise ValueError(f"is a text, not weights: {start[:40]!r}")


def transient(error: BaseException) -> bool:
    """Whether trying again may help: not where an address is not there or not allowed, or the disk is full."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    full = getattr(error, "errno", None) == errno.ENOSPC
    return isinstance(error, (OSError, ValueError)) and status not in (401, 403, 404, 410) and not full


def _attempt(url: str, path: Path, file: File, seen: FirstSeen | None, hosts: Sequence[str]) -> str | None:
    """Download one file, trying a few times; what went wrong, or None."""
    stop, retry = tenacity.stop_after_attempt(TRIES), tenacity.retry_if_exception(transient)
    try:
        tenacity.Retrying(stop=stop, wait=WAIT, retry=retry, reraise=True)(_download, url, path, file, seen, hosts)
    except (OSError, ValueError) as error:
        return f"{url}: {error}"
    return None


def _download(url: str, path: Path, file: File, seen: FirstSeen | None, hosts: Sequence[str]) -> None:
    """One file, going on where an earlier try or run ended; OSError or ValueError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    start = partial.stat().st_size if partial.is_file() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        permitted(response.url, hosts)  # after redirections
        if response.status_code != 416:  # there is something after what we have
            response.raise_for_status()
            start = start if response.status_code == 206 else 0  # else the server sends all of it again
            rest = int(response.headers.get("Content-Length", 0))
            room(path.parent, rest)
            sizes = {"total": start + rest, "initial": start, "disable": start + rest < LARGE_FILE}
            bar = tqdm(desc=path.name, unit="B", unit_scale=True, **sizes)
            with partial.open("ab" if start else "wb") as stream, bar:
                for block in response.iter_content(BLOCK_BYTES):
                    stream.write(block)
                    bar.update(len(block))
    try:
        file.check(partial)
        found = content_sha256(partial, path.suffix)
        if file.sha256 and found != file.sha256:
            raise ValueError(f"is another file than it was: SHA-256 is {found}, expected {file.sha256}")
        if seen and not file.sha256:
            seen.check(url, found)
    except ValueError:
        partial.unlink()
        raise
    partial.replace(path)
