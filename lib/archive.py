"""The results of a scale in one file, which others judge again without computing: companion archive, companion judge.

A zip of what each image came to in every draw (the frames), the claims as they were judged, what ran where, the
settings, and on request stored adversaries as PNG files; manifest.json has the SHA-256 of each.
"""

import hashlib
import json
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from lib import folders, settings
from lib.atomic import replacing
from lib.report import claims
from lib.report.results import Results

MANIFEST = "manifest.json"
OF_STAGES = ("frame.npz", "run.json", "tables/claims.csv", "provenance.json")  # of every stage that has them
DAY = (1980, 1, 1, 0, 0, 0)  # of every file in it: equal results give equal bytes


def write_archive(results: Results, target: Path, cells: Sequence[str] = ()) -> str:
    """Write the archive; how many files it holds, in words. cells: patterns of stored adversaries ("SSP on VGG-16*").

    FileNotFoundError where the scale has no frames, ValueError for a pattern that fits nothing.
    """
    if not results.has_frame():
        raise FileNotFoundError(f"results/{results.scale} has no frames; compute them with: dvc repro")
    stored = [path for name in OF_STAGES for path in results.files(name)]
    files = {f"results/{results.scale}/{path.relative_to(results.root)}": path for path in stored}
    scales = {results.scale, settings.load(results.scale).like or results.scale}
    files |= {name: settings.ROOT / name for name in ("params.yaml", *(f"scales/{scale}.yaml" for scale in scales))}
    with TemporaryDirectory(prefix="companion-") as folder:
        if cells:
            frames = [results.load_frame(path.parent.name) for path in results.files("frame.npz")]
            ids = {name for frame in frames for part in frame.images for name in part}
            for pattern in cells:
                folders.export_adversaries(pattern, Path(folder), only=ids)
        files |= {f"adversaries/{path.relative_to(folder)}": path for path in Path(folder).rglob("*.png")}
        sums = {}
        with replacing(target) as file, zipfile.ZipFile(file, "w") as archive:
            for name, path in sorted(files.items()):
                content = path.read_bytes()
                sums[name] = hashlib.sha256(content).hexdigest()
                archive.writestr(zipfile.ZipInfo(name, DAY), content, zipfile.ZIP_DEFLATED)
            about = json.dumps({"scale": results.scale, "sha256": sums}, indent=1)
            archive.writestr(zipfile.ZipInfo(MANIFEST, DAY), f"{about}\n")
    return f"{target}: {len(files)} files, {target.stat().st_size / 1e6:.1f} MB"


@contextmanager
def opened(path: Path) -> Iterator[Results]:
    """The results in an archive, in a temporary folder, once every file is found to be what the manifest says.

    FileNotFoundError for no such file, ValueError in one line for another kind of file and for the first changed one.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such archive; companion archive FILE.zip makes one")
    with TemporaryDirectory(prefix="companion-") as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                about = json.loads(archive.read(MANIFEST))
                scale, sums = about["scale"], about["sha256"]
                archive.extractall(folder, sums.keys() & set(archive.namelist()))  # what the manifest names, alone
        except (zipfile.BadZipFile, KeyError, TypeError, ValueError, EOFError) as error:
            raise ValueError(f"{path}: no archive of results, or a damaged one ({error})") from None
        for name, digest in sums.items():
            inside = Path(folder) / name
            if not inside.is_file() or hashlib.sha256(inside.read_bytes()).hexdigest() != digest:
                raise ValueError(f"{path}: {name} is not what its manifest says; get the archive again")
        yield Results(scale, Path(folder) / "results")


def judged_again(path: Path) -> pd.DataFrame:
    """The claims from an archive's frames by the rules of this code: id, the verdict there and the one now."""
    with opened(path) as results:
        there, now = map(claims.verdicts, (results.load_table("claims"), claims.judge(results)))
    rows = [(claim, there.get(claim, "-"), verdict) for claim, verdict in now.items()]
    return pd.DataFrame(rows, columns=["id", "verdict in the archive", "verdict now"])
