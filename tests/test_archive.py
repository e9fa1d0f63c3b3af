"""lib/archive.py: what goes into an archive comes out of it, and what was changed on the way is named."""

import hashlib
import json
import zipfile

import numpy as np
import pandas as pd
import pytest

from lib import archive, folders
from lib.report import claims
from lib.report.results import Results
from lib.settings import ROOT
from tests.conftest import refused


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """An archive of the committed results."""
    path = tmp_path_factory.mktemp("archive") / "mini.zip"
    said = archive.write_archive(Results("mini"), path)
    assert "files" in said
    return path


def altered(path, target, change):
    """A copy of an archive; change: name and bytes of each file -> bytes, or None to leave it out."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            if (content := change(name, old.read(name))) is not None:
                new.writestr(name, content)
    return target


def test_the_manifest_has_the_sum_of_every_file_and_every_frame_is_there(stored):
    with zipfile.ZipFile(stored) as found:
        sums = json.loads(found.read("manifest.json"))["sha256"]
        assert sorted([*sums, "manifest.json"]) == sorted(found.namelist())
        assert all(hashlib.sha256(found.read(name)).hexdigest() == value for name, value in sums.items())
    frames = {f"results/mini/{path.parent.name}/frame.npz" for path in (ROOT / "results/mini").glob("*/frame.npz")}
    assert len(frames) >= 8 and frames <= set(sums)


def test_equal_results_give_equal_bytes(stored, tmp_path):
    archive.write_archive(Results("mini"), tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == stored.read_bytes()


def test_the_claims_come_to_the_same_from_an_archive(stored):
    found = archive.judged_again(stored).set_index("id")
    committed = pd.read_csv(ROOT / "results/mini/report/tables/claims.csv", keep_default_na=False)
    assert list(found.index) == list(dict.fromkeys(committed["id"]))
    assert (found["verdict in the archive"] == found["verdict now"]).all()
    single = committed.groupby("id").filter(lambda part: len(part) == 1).set_index("id")["verdict"]
    assert found["verdict now"].loc[single.index].to_dict() == single.to_dict()


def test_another_rule_gives_another_verdict(stored, monkeypatch):
    chosen = next(claim for claim in claims.claims() if claim.id == "B3")
    monkeypatch.setattr(claims, "claims", lambda: [chosen.model_copy(update={"expected": "falls"})])
    (row,) = archive.judged_again(stored).itertuples(index=False)
    assert tuple(row) == ("B3", "not reproduced", "reproduced")


def test_a_changed_and_a_missing_file_are_named(stored, tmp_path):
    name = "results/mini/c_fsa/frame.npz"
    for change in (
        lambda each, content: content[:-1] + b"x" if each == name else content,
        lambda each, content: None if each == name else content,
    ):
        path = altered(stored, tmp_path / "altered.zip", change)
        assert refused("judge", path) == f"{path}: {name} is not what its manifest says; get the archive again"


def test_a_file_that_the_manifest_does_not_name_is_not_read(stored, tmp_path):
    path = tmp_path / "more.zip"
    path.write_bytes(stored.read_bytes())
    with zipfile.ZipFile(path, "a") as zipped:
        zipped.writestr("results/mini/c_fsa/tables/claims.csv", "x")
    with archive.opened(path) as results:
        assert not (results.root / "c_fsa" / "tables").exists()


@pytest.mark.parametrize("about", [[], {}, {"scale": "mini"}])
def test_another_manifest_is_one_line(tmp_path, about):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr(archive.MANIFEST, json.dumps(about))
    assert refused("judge", path).startswith(f"{path}: no archive of results, or a damaged one (")


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut short"])
def test_what_is_no_archive_is_one_line(tmp_path, content):
    path = tmp_path / "x.zip"
    assert refused("judge", path) == f"{path}: no such archive; companion archive FILE.zip makes one"
    path.write_bytes(content)
    assert refused("judge", path).startswith(f"{path}: no archive of results, or a damaged one (")


def test_a_scale_without_frames_has_no_archive(tmp_path):
    with pytest.raises(FileNotFoundError, match="results/mini has no frames; compute them with: dvc repro"):
        archive.write_archive(Results("mini", tmp_path), tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()


def test_adversaries_go_along_when_asked_for(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (1, 2, 3, 8, 8), dtype=np.uint8)
    asked = []

    class Stored:
        def adversaries(self, pattern):
            asked.append(pattern)
            for first, second in (("test-00000", "test-00001"), ("of another scale", "too")):
                made = ["lib.attacks.features.ssp", [], "", {"ids": [first, second]}, {"eps": 16 / 255}]
                yield {"cell": f"SSP on A, from image {first}", "arguments": made}, images

    monkeypatch.setattr(folders, "here", Stored)
    archive.write_archive(Results("mini"), tmp_path / "x.zip", ["SSP*"])
    with archive.opened(tmp_path / "x.zip") as results:
        found = sorted((results.root.parents[1] / "adversaries").rglob("*.png"))
        read = np.stack([folders.read_image(path).numpy() for path in found])
    assert asked == ["SSP*"] and np.array_equal(read, images[0])
