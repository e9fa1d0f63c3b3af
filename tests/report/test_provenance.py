"""lib/report/provenance.py and lib/machine.py."""

import hashlib
import json
import platform
import subprocess
import sys
from importlib import metadata

import pytest
import torch

from lib import machine, settings
from lib.report import provenance
from lib.report.results import Results


@pytest.fixture
def facts(tmp_path):
    results = Results("mini", tmp_path)
    (tmp_path / "mini" / "train" / "networks").mkdir(parents=True)
    digest = hashlib.sha256(b"weights").hexdigest()
    (tmp_path / "mini" / "train" / "networks" / "VGG-16.json").write_text(json.dumps({"sha256": digest}))
    text = provenance.provenance_json(settings.load("mini"), results)
    assert text == provenance.provenance_json(settings.load("mini"), results)
    return json.loads(text) | {"digest": digest}


def test_versions_are_those_that_run(facts):
    assert facts["versions"]["torch"] == metadata.version("torch") and torch.__version__.startswith(
        facts["versions"]["torch"].split("+")[0]
    )
    assert facts["versions"]["python"] == platform.python_version()


def test_weights_are_named_by_their_digest_or_said_not_to_be_pinned(facts):
    assert facts["weights"]["VGG-16"] == facts["digest"]
    assert facts["weights"]["Inc-v3"].startswith("not pinned")
    assert set(facts["weights"]) == set(settings.load("mini").networks)


def test_seeds_and_data_are_there(facts):
    scale = settings.load("mini")
    assert facts["seeds"]["training of Adv-v3"] == scale.stand_ins["Adv-v3"].seed == 1
    assert facts["seeds"]["training of NRP"] == 0
    ((name, digest),) = facts["data"].items()
    assert name == "data/world (md5)" and digest.endswith(".dir")


def test_how_pytorch_computes_is_recorded_and_not_what_the_caller_set(facts):
    said = {"threads": 1, "float32 products": "highest", "TF32 in cuDNN": False, "cuDNN picks by trial": False}
    assert said.items() <= facts["PyTorch"].items() or torch.cuda.is_available()
    assert facts["precision of the surrogates"] == "float32"


def test_the_machine_is_described_without_torch():
    assert facts_of("import lib.machine as m, sys; print(m.describe()); print('torch' in sys.modules)")[1] == "False"
    text = machine.describe()
    assert f", {machine.cores()} core" in text and (machine.gpu() or "no GPU") in text and machine.processor()


def facts_of(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=settings.ROOT, check=True)
    return done.stdout.splitlines()


def test_a_gpu_is_named_by_its_driver(tmp_path, monkeypatch):
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho NVIDIA H200\necho NVIDIA H200\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert machine.gpu() == "NVIDIA H200" and machine.describe().endswith(", NVIDIA H200")
    driver.write_text("#!/bin/sh\nexit 9\n")
    assert machine.gpu() == ""
