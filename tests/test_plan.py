"""What a plan says, against what notebooks really compute; the preflight; the dry run's scale."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from torch import nn

from lib import costs, plan, run, settings, zoo
from lib.data.sets import load_set
from lib.settings import ROOT, Data, Scenes
from tests.conftest import companion, record_training, refused

# Runs every notebook's cells for real, but for tables and figures, and counts what goes through the networks, by hooks;
# then has it planned.
COUNTED = """
import builtins, json
from collections import Counter
import torch
from lib import plan, settings, zoo

passes, load = Counter(), zoo.load

def watched(name, *arguments, **named):
    network = load(name, *arguments, **named)
    def seen(_, inputs):
        x = inputs[0]
        passes[f"{name} forward"] += len(x)
        if isinstance(x, torch.Tensor) and x.requires_grad and torch.is_grad_enabled():
            x.register_hook(lambda _: passes.update({f"{name} backward": len(x)}))
    network.register_forward_pre_hook(seen)
    return network

def imported(name, *rest):
    return plan.Ignored() if name.startswith(plan.IGNORED) else builtins.__import__(name, *rest)

zoo.load, found = watched, {}
for stage in plan.notebooks():
    passes.clear()
    names = {"__builtins__": vars(builtins) | {"__import__": imported, "print": lambda *_: None}}
    for cell in json.loads((settings.ROOT / "notebooks" / f"{stage}.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]).replace('scale = "lab"', 'scale = "whole"'), names)
    found[stage] = dict(passes)
planned = {}
for stage in plan.plan("whole"):
    total = Counter()
    for work in stage.work:
        for one, images in work.passes.items():
            if one.network in settings.load("whole").networks:
                total[f"{one.network} {one.kind}"] += images
    planned[stage.name] = dict(total)
print(json.dumps([found, planned]))
"""


@pytest.fixture(scope="module")
def whole(project, tmp_path_factory):
    """The project with a scale "whole", in which all images are whole shards."""
    root = tmp_path_factory.mktemp("whole") / "project"
    shutil.copytree(project, root, symlinks=True, ignore=shutil.ignore_patterns("results"))
    scale = yaml.safe_load((root / "scales" / "smoke.yaml").read_text())
    for letter in "facdg":
        scale[letter]["images"] = 4
    scale["b"] |= {"images": {10: 8, 12: 4}, "adaptive": 4}
    scale["c"]["surrogates"] = scale["c"]["surrogates"][:2]
    # The first steps of I-FGSM and MI-FGSM agree, and the store knows that.
    scale["f"]["iterations"] = scale["a"]["iterations"] = [2, 3]
    for letter, half in (("e", "segmentation"), ("e", "detection"), ("d", "detection")):
        scale[letter][half]["data"]["count"] = 8
    (root / "scales" / "whole.yaml").write_text(yaml.safe_dump(scale))
    (root / "models" / "whole").symlink_to(root / "models" / "smoke")
    return root


def test_a_plan_counts_exactly_the_passes_that_the_notebooks_make(whole):
    environment = {key: value for key, value in os.environ.items() if key != "COMPANION_ASSETS"}
    done = subprocess.run(
        [sys.executable, "-c", COUNTED],
        cwd=whole,
        capture_output=True,
        text=True,
        env=environment | {"PYTHONPATH": str(whole), "MPLBACKEND": "agg"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found, planned = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 7 and all(found.values())
    assert planned == found
