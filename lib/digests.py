"""What a file is, as one SHA-256, and a record of those that were first seen where none is committed."""

import hashlib
import zipfile
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from lib.atomic import lock, write_bytes
from lib.reading import intact
from lib.settings import ROOT

LOSSLESS = (".png", ".webp", ".bmp")
RECORD = "data/first_seen.csv"  # a line per address; git ignores it


def content_sha256(path: Path, suffix: str | None = None) -> str:
    """The SHA-256 of a file; of an .npz, that of its tensors; of an image that is kept without loss, of its pixels: so
    it does not depend on who compressed the file.  suffix: of the name that the file gets."""
    suffix, total = suffix or path.suffix, hashlib.sha256()
    if suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as arrays:
                for name in sorted(arrays.files):
                    _add(total, arrays[name], name)
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path.name}: cannot be read ({error})") from None
        return total.hexdigest()
    if suffix in LOSSLESS:
        with Image.open(path) as image:
            _add(total, np.array(image))
        return total.hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_object(path: Path) -> str:
    """The id that git gives a file: what a commit on a public server says of a file whose SHA-256 nobody published."""
    return hashlib.sha1(b"blob %d\0" % path.stat().st_size + path.read_bytes()).hexdigest()


def _add(total: "hashlib._Hash", array: np.ndarray, name: str = "") -> None:
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    total.update(f"{name} {little.dtype.str} {list(array.shape)} ".encode())
    total.update(np.ascontiguousarray(little).tobytes())


class FirstSeen:
    """The digests of files without a committed one, as this user first got them, by address."""

    def __init__(self, root: Path = ROOT):
        self.path = root / RECORD
        self.known: dict[str, dict[str, str]] = {}
        if self.path.is_file():
            with intact(self.path):
                self.known = pd.read_csv(self.path, index_col="address", dtype=str).to_dict("index")
        self.new: dict[str, dict[str, str]] = {}

    def check(self, address: str, found: str) -> None:
        """Remember a digest that is new; ValueError in one line if it was another one."""
        first = self.known.get(address)
        if first and first["sha256"] != found:
            raise ValueError(
                f"has changed: SHA-256 is {found}, first seen {first['date']} as {first['sha256']}; "
                f"if the new file is right, delete the line of {address} in {RECORD}"
            )
        if not first:
            self.new[address] = {"sha256": found, "date": date.today().isoformat()}

    def note(self, address: str) -> str:
        """What is known of the files below an address: "unverified, first seen DATE", or nothing."""
        dates = [entry["date"] for key, entry in (self.known | self.new).items() if key.startswith(address)]
        return f"unverified, first seen {min(dates)}" if dates else ""

    def save(self) -> None:
        """Add what is new to the record, which another process may have changed meanwhile."""
        if not self.new:
            return
        with lock(self.path):
            self.known = FirstSeen(self.path.parents[1]).known | self.new
            table = pd.DataFrame.from_dict(self.known, "index").to_csv(index_label="address", lineterminator="\n")
            write_bytes(self.path, table.encode())
