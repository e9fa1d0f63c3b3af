"""Tiny networks and images that the tests share, and a copy of the project that runs in seconds."""

import contextlib
import io
import json
import os
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

# Here and in the processes that tests start: as many workers compute at once as there are cores.
os.environ["OMP_NUM_THREADS"] = "1"
# Every test has a store of its own: what an earlier run of the tests computed must be computed again.
os.environ.pop("COMPANION_STORE", None)
os.environ["COMPANION_WORKERS"] = "1"

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from lib import zoo
from lib.settings import ROOT, Scale

STEPS = [1, 2, 10]  # of the curves at the scale "smoke"
LONGEST = ["test_notebooks.py", "test_own.py"]


def pytest_collection_modifyitems(items):
    """Begin with the longest files: `make test` gives each worker whole files, in this order."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no GPU")


def companion(*arguments: object) -> tuple[int, str, str]:
    """The command with these arguments, in this process: exit status, what it prints, what it says on stderr."""
    from lib import cli  # not where only a GPU is tested: `make test-gpu` needs no library of commands or pipelines

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main([str(argument) for argument in arguments])
    return status, out.getvalue(), err.getvalue()


def refused(*arguments: object) -> str:
    """The one line with which the command ends with status 1, without its name."""
    status, _, err = companion(*arguments)
    *_, line = err.strip().split("\n")
    assert status == 1 and line.startswith("companion: "), err
    return line.removeprefix("companion: ")


def record_training(results: Path, name: str, seconds: float, device: str = "CPU", **facts: object) -> None:
    """What a training leaves: its record, and in how many seconds it ran on what."""
    from lib import timings

    record = results / "train" / "networks" / f"{name}.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(facts))
    known = timings.read(results) | {
        f"training of {name}": {"seconds": seconds, "device": device, "machine": f"one {device}"}
    }
    (results / "timings.json").write_text(json.dumps(known))


class Counting(nn.Module):
    """The identity; counts how often it was called."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x


def tiny_network(seed: int = 0, classes: int = 10) -> nn.Module:
    """A small classifier with every kind of state that an attack could disturb; any image size from 8 up."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(128, classes),
    ).eval()


def eight_bit_images(count: int, side: int = 16, seed: int = 0) -> torch.Tensor:
    """Random images on the 8-bit grid, with the extremes 0 and 1 among the pixels."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), generator=generator).float() / 255


# What no defense takes for a batch of images, and a part of the error that says why.
NO_BATCH = [
    (torch.zeros(3, 8, 8), "shape"),
    (torch.zeros(1, 1, 8, 8), "shape"),
    (torch.zeros(0, 3, 8, 8), "shape"),
    (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "divide 8-bit"),
]


@pytest.fixture
def network() -> nn.Module:
    return tiny_network()


@pytest.fixture
def x() -> torch.Tensor:
    return eight_bit_images(6)


@pytest.fixture
def y() -> torch.Tensor:
    return torch.arange(6)


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """The code, the embedded world, and a scale "smoke" that takes seconds; who changes settings or code copies it."""
    return smoke_project(tmp_path_factory.mktemp("project"))


def smoke_project(root: Path) -> Path:
    """Such a project in an empty folder, which benchmarks/soak.py takes too."""
    for name in ("lib", "notebooks", "own"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "params.yaml", root)
    (root / "data").mkdir()
    (root / "data" / "world").symlink_to(ROOT / "data" / "world")
    scale = yaml.safe_load((ROOT / "scales" / "mini.yaml").read_text())
    scale["data"]["count"], scale["batch"] = 12, 4
    scale["attacks"] = {"ssp": {"steps": 10}, "fff": {"iterations": 3}}
    scale["f"] |= {"images": 6, "iterations": STEPS}
    scale["a"] |= {"images": 6, "iterations": STEPS, "examples": 2, "classes": 3}
    scale["a"]["tsne_data"]["count"] = 60
    scale["a"] |= {"layered": 4, "layers": {"VGG-16": ["features.relu3_3", "head"]}}
    for half in ("segmentation", "detection"):
        scale["e"][half]["data"]["count"] = 6
        scale["e"][half] |= {"steps": 2, "examples": 2}
    scale["b"] |= {"images": {10: 6, 12: 4}, "seeds": 2, "draws": 2}
    scale["c"] |= {"images": 6, "varied": 4, "steps": [1, 2], "batches": [2, 4]}
    scale["d"] |= {"images": 6, "examples": 3}
    scale["d"]["detection"]["data"]["count"] = 6
    scale["d"]["detection"] |= {"steps": 2, "examples": 2}
    scale["g"] |= {"images": 6, "examples": 3}
    scale["h"] |= {"images": 4, "few": 4, "gate": 4, "seeds": 2, "budgets": [0, 16], "draws": [2], "steps": 4}
    scale["h"] |= {"restarts": 2, "robust": {"ResNet50-AT": 5}, "batch": 4}
    scale["h"] |= {"defenses": ["noise alone", "NRP dynamic"], "ablations": []}
    scale["attacks"] |= {"square": {"queries": 4}, "spsa": {"steps": 2, "samples": 2}, "corners": {"queries": 4}}
    (root / "scales").mkdir()
    (root / "scales" / "smoke.yaml").write_text(yaml.safe_dump(scale))
    (root / "models" / "smoke").mkdir(parents=True)
    for seed, (name, spec) in enumerate(Scale.model_validate(scale).networks.items()):
        torch.manual_seed(seed)
        save_file(zoo.family_of(spec).build(spec).state_dict(), root / "models" / "smoke" / f"{name}.safetensors")
    # Table 2 and Appendices C and D read what the trainings recorded.
    for name, facts in {
        "NRP": {"images": 3000, "seconds": 60},
        "ResNet50-FD": {"seconds": 30},
        "ResNet50-FS": {"seconds": 30},
        "CDA-Comics": {"seconds": 20},
    }.items():
        record_training(root / "results" / "smoke", name, **facts)
    return root


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
