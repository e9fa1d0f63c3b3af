"""An empty repository, for the commands that download."""

from pathlib import Path

import pytest
import tenacity

from lib import download
from lib.data import fetch, images


def run(name, option="", value=""):
    """What `companion data` does with these arguments; its errors are raised."""
    options = {"--url": {"url": value}, "--from": {"folder": Path(value)}, "": {}}
    return fetch.get(name, **options[option])


def leftovers(folder):
    return list(folder.rglob("*.part"))


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A folder with an empty `repository`; no assets, no waiting."""
    monkeypatch.setattr(images, "ROOT", tmp_path / "repository")
    monkeypatch.setattr(download, "ROOT", tmp_path / "repository")
    monkeypatch.setattr(download, "WAIT", tenacity.wait_none())
    monkeypatch.delenv("COMPANION_ASSETS", raising=False)
    return tmp_path
