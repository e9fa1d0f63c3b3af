"""lib/precision.py: float32 is float32 while lib computes, and the caller's settings are left as found."""

import copy
import subprocess
import sys

import pytest
import torch

from lib.attacks import decision
from lib.attacks.adaptive import Adaptive
from lib.attacks.shards import attack_shard
from lib.defenses import defense
from lib.engine import one_thread
from lib.networks.purifier import NRPResG
from lib.networks.wrappers import Tf32
from lib.precision import facts, stated
from lib.settings import ROOT
from tests.conftest import tiny_network


@pytest.fixture(params=[False, True])
def strict(request):
    """A caller with settings of its own."""
    torch.use_deterministic_algorithms(request.param, warn_only=True)
    torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    yield request.param
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("device, deterministic", [("cuda", True), ("cuda:1", True), ("cpu", None)])
def test_float32_means_it_and_the_caller_s_settings_come_back(strict, device, deterministic):
    before = facts() | {"warns": torch.is_deterministic_algorithms_warn_only_enabled()}
    with pytest.raises(KeyError), stated(device):
        now = facts()
        assert not torch.backends.cuda.matmul.allow_tf32
        raise KeyError
    assert now["float32 products"] == "highest" and not now["TF32 in cuDNN"] and not now["cuDNN picks by trial"]
    assert now["deterministic algorithms"] == (strict if deterministic is None else deterministic)
    assert before == facts() | {"warns": torch.is_deterministic_algorithms_warn_only_enabled()}


class Asking(torch.nn.Module):
    """A network that notes with which settings its forward and backward passes run."""

    def __init__(self, noted):
        super().__init__()
        self.inner, self.noted = tiny_network(), noted

    def forward(self, x):
        self.noted.append(facts()["TF32 in cuDNN"])
        result = self.inner(x)
        result.register_hook(lambda _: self.noted.append(torch.backends.cuda.matmul.allow_tf32))
        return result


@pytest.mark.parametrize("wrapper, expected", [(lambda net: net, False), (Tf32, True)])
def test_tf32_is_on_in_both_passes_of_an_attack_that_asks_for_it(wrapper, expected):
    images, noted, given = torch.zeros(1, 3, 16, 16, dtype=torch.uint8), [], {"y": torch.zeros(1, dtype=torch.int64)}
    with one_thread("cpu"):
        attack_shard(decision.i_fgsm, [wrapper(Asking(noted))], images, given, {"steps": 2}, device="cpu")
        assert not torch.backends.cudnn.allow_tf32
    assert noted == [expected] * 4


def test_half_precision_never_goes_through_a_purifier(x, y):
    purifier = NRPResG(4, 1).eval()
    purify = defense("nrp", network=purifier)
    plain = purify(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(purify(x), plain) and plain.dtype == torch.float32
    halves = Adaptive(tiny_network(), defense("nrp", network=copy.deepcopy(purifier).half()))
    with pytest.raises(TypeError, match=r"weights are torch.float16; attack and evaluate network.float\(\)") as caught:
        decision.pgd(halves, x, y, ids=range(6), steps=1)
    assert "\n" not in str(caught.value)


ALONE = """
import sys
sys.modules.update(dict.fromkeys({absent}))
import pytest
sys.exit(pytest.main(["-q", "--collect-only", "-m", "gpu", "-p", "no:cacheprovider", "-p", "no:xdist", *{files}]))
"""
ABSENT = {"dvc", "papermill", "nbformat", "nbconvert", "jupyterlab", "IPython", "typer", "matplotlib"}
ABSENT |= {"skimage", "sklearn", "onnxruntime", "playwright", "mkdocs", "timm"}


def test_make_test_gpu_needs_no_dvc_no_notebooks_and_no_figures():
    (line,) = (line for line in (ROOT / "Makefile").read_text().splitlines() if "pytest -q -m gpu" in line)
    files = [part for part in line.split() if part.startswith("tests/")]
    code = ALONE.format(absent=ABSENT, files=files)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert all(f"{file}::" in done.stdout for file in files)
