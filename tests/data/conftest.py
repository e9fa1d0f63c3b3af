"""A server on loopback and an empty repository, for the commands that download."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

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


@pytest.fixture
def server():
    """A loopback server at `url`, with the address /set: `files` it serves, `requests` and `ranges` it got.

    `faults`: by path, what it does first: answer with a status, or send only 20 bytes for 'short'.  `resumes`: whether
    it knows the Range header.  `redirects`: by path, to which address.
    """
    state = SimpleNamespace(files={}, faults={}, requests=[], ranges=[], resumes=True, redirects={})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state.requests.append(self.path)
            state.ranges.append(self.headers.get("Range"))
            fault = state.faults[self.path].pop(0) if state.faults.get(self.path) else None
            content = state.files.get(self.path)
            start = int((self.headers.get("Range") or "bytes=0-")[6:-1]) if state.resumes else 0
            status, rest = (404, b"") if content is None else (206 if start else 200, content[start:])
            if start and not rest:
                status = 416
            moved = state.redirects.get(self.path)
            self.send_response(fault if isinstance(fault, int) else 302 if moved else status)
            if moved:
                self.send_header("Location", moved)
            self.send_header("Content-Length", str(len(rest)))
            self.send_header("Content-Range", f"bytes */{len(content or b'')}")
            self.end_headers()
            self.wfile.write(rest[: 20 if fault == "short" else None])

        def log_message(self, *_):
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True).start()
    state.url = f"http://127.0.0.1:{listener.server_port}/set"
    yield state
    listener.shutdown()
    listener.server_close()
