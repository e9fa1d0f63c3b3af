"""What a plan says, against what notebooks really compute; the preflight; the dry run's scale."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
import yaml

from benchmarks.scale import Question, length, together
from lib import cli, costs, plan, run, settings, zoo
from lib.data import fetch as sets
from lib.data.sets import load_set
from lib.report.results import Results
from lib.settings import Data, Scenes
from tests.conftest import companion

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
    shutil.copytree(project, root, symlinks=True, ignore=shutil.ignore_patterns("results", ".store"))
    scale = yaml.safe_load((root / "scales" / "smoke.yaml").read_text())
    for letter in "facdg":
        scale[letter]["images"] = 4
    scale["b"] |= {"images": {10: 8, 12: 4}, "adaptive": 4}
    # The store knows what turns out equal: adversaries at budget 0, the best of restarts, and those through no noise.
    scale["h"] |= {"budgets": [8, 16], "restarts": 1, "defenses": ["NRP dynamic"]}
    for letter in "fcdg":
        scale[letter]["victims"] = scale[letter]["victims"][::3][:2]
    scale["c"]["surrogates"] = scale["c"]["surrogates"][:2]
    # The store also knows what only turns out equal: without momentum MI-FGSM is I-FGSM, so it gets other steps.
    scale["attacks"] |= {
        "mi_fgsm": {"steps": 4},
        "fsa": {"iterations": 5, "tolerance": 100.0},
        "dim": {"steps": 4},
        "dim_ti": {"steps": 4},
    }
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
    assert len(found) == 8 and all(found.values())
    assert planned == found


def test_a_stage_of_another_scale_says_all_that_is_missing_and_computes_nothing(monkeypatch, tmp_path):
    monkeypatch.delenv("COMPANION_ASSETS", raising=False)
    monkeypatch.setattr(sets, "state", lambda name, ids=None, check=False: "no")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(run, "execute_notebook", lambda *_, **__: pytest.fail("the notebook was run"))
    status, out, err = companion("run", "e_transforms", "--scale", "paper")
    assert status == 1 and not out
    *_, what, vgg, segnet, nrp, retinanet, mask_rcnn, streets, objects = sorted(err.strip().splitlines(), key=place)
    assert what == "companion: e_transforms at the scale paper needs what is not here:"
    source = "torchvision vgg16.IMAGENET1K_V1"
    assert vgg == f"network VGG-16: no weights ({source}); to get them: companion fetch VGG-16 --scale paper"
    assert segnet.endswith("companion train SegNet-Basic --scale paper") and "NRP.pth" in nrp
    assert "retinanet_resnet50_fpn.COCO_V1" in retinanet and "maskrcnn_resnet50_fpn.COCO_V1" in mask_rcnn
    assert streets == "data set camvid: no; to get it: companion fetch camvid" and "fetch coco" in objects


ORDER = ["companion:", "network VGG-16", "network SegNet", "network NRP", "network Ret", "network Mask"]
ORDER += ["data set camvid", "data set coco"]


def place(line):
    return next((number for number, start in enumerate(ORDER) if line.startswith(start)), -1)


def test_where_everything_is_here_a_stage_begins(project):
    assert settings.load("mini").note == ""
    run.check_needs("e_transforms", "dryrun")


def test_the_dry_run_has_every_network_and_section_of_the_paper_scale_untrained():
    paper, dry = settings.load("paper"), settings.load("dryrun")
    assert dry.networks.keys() == paper.networks.keys()
    for name, spec in dry.networks.items():
        assert spec.weights == "untrained"
        changed = {"weights", "blocks"} if spec.architecture == "nrp" else {"weights"}
        assert spec.model_dump(exclude=changed) == paper.networks[name].model_dump(exclude=changed)
    fewer = {
        "images",
        "iterations",
        "examples",
        "data",
        "tsne_data",
        "steps",
        "budgets",
        "surrogates",
        "varied",
        "layered",
    }
    fewer |= {"batches", "seeds", "draws", "adaptive", "most_steps", "segmentation", "detection"}
    for letter in "abcdefg":
        ours, theirs = getattr(dry, letter), getattr(paper, letter)
        assert ours.model_dump(exclude=fewer) == theirs.model_dump(exclude=fewer)
    for ours, theirs in ((dry.e.segmentation, paper.e.segmentation), (dry.d.detection, paper.d.detection)):
        assert ours.victims == theirs.victims
    assert dry.data.side == paper.data.side and dry.b.data.side == paper.b.data.side
    assert dry.e.segmentation.data.sides == (360, 480)  # CamVid's
    for section in ("segmenters", "purifiers", "generators"):
        assert getattr(dry, section).keys() == getattr(paper, section).keys()


def test_every_output_of_a_dry_run_says_so(tmp_path, capsys):
    import pandas as pd
    from matplotlib.figure import Figure

    table = pd.DataFrame({"a": [1]})
    for scale, marked in (("dryrun", True), ("mini", False)):
        results = Results(scale, tmp_path, "f_attack_parameters")
        results.save_table("t", table)
        (svg,) = results.save_figure("f", Figure(), ("svg",))
        text = results.path("tables", "t.md").read_text()
        assert text.startswith("**DRY RUN: untrained networks, generated images") == marked
        assert ("DRY RUN" in svg.read_text()) == marked
    cli.announce("report", "dryrun")
    assert "DRY RUN" in capsys.readouterr().err


def test_untrained_networks_are_the_same_each_time_and_finite():
    scale = settings.load("dryrun")
    x = torch.rand(1, 3, 64, 64)
    first, second = (zoo.load("ResNet50-NT", scale) for _ in range(2))
    assert torch.equal(first(x), second(x)) and torch.isfinite(first(x)).all() and first(x).std() > 0
    assert not torch.equal(first.network.fc.weight[:9], zoo.load("ResNet50-AT", scale).network.fc.weight)
    rows = {row["name"]: row for row in zoo.status(scale)}
    assert rows["NRP"]["found"] and rows["NRP"]["source"] == "untrained"


def test_generated_images_are_of_the_kinds_that_the_stages_take():
    images = load_set(Data(name="generated", side=30, count=3))
    assert images.images.shape == (3, 3, 30, 30) and images.images.float().std() > 10 and len(set(images.ids)) == 3
    assert torch.equal(images.images, load_set(Data(name="generated", side=30, count=3)).images)
    streets = load_set(Scenes(name="generated", labels="pixels", sides=(20, 30)))
    assert streets.images.shape == (2, 3, 20, 30) and streets.labels.max() < len(streets.classes)
    objects = load_set(Scenes(name="generated", labels="boxes", sides=(64, 96)))
    assert [image.shape[1:] for image in objects.images] == [(64, 96), (96, 64)]
    assert {one["image_id"] for one in objects.truth["annotations"]} == set(objects.image_ids)


def test_peak_memory_is_that_of_the_tensors_alive_together():
    x, peak = torch.zeros(1000), costs.Peak()
    with peak:
        a = x + 1
        b = a * 2
        view = a.view(10, 100).T  # no memory of its own
        del a, view
        c = b - 1
        d = torch.cat([b, c])
    assert peak.most == 4 * (1000 + 1000 + 2000) and peak.now == peak.most
    del b, c, d
    assert peak.now == 0


@pytest.mark.parametrize("scale", ["mini", "sample"])
def test_a_defense_of_the_protocol_alone_has_its_cost_and_a_backward_pass_where_a_gradient_passes(scale):
    found = costs.Costs(settings.load(scale), "cpu")
    for kind in ("backward", "forward"):
        assert found.of(plan.Pass("noise alone", "", (48, 48), kind)).seconds >= 0
    assert found.of(plan.Pass("noise alone", "", (96, 96), "forward")).memory > 0
    assert found.of(plan.Pass("JPEG 75", "", (48, 48), "forward")).seconds > 0


@pytest.mark.parametrize(
    ("pieces", "seconds", "alone"), [(1, 5.0, 0.0), (7, 100.0, 1.0), (64, 3.0, 2.0), (1000, 1e4, 9)]
)
def test_a_simulated_answer_takes_one_gpu_the_sum_and_more_of_them_never_longer(pieces, seconds, alone):
    question = Question("stage", "cell", pieces, seconds, alone)
    times = [length(question, gpus) for gpus in (1, 2, 3, 8, 64, 1000)]
    assert times[0] == pytest.approx(seconds + alone) and times == sorted(times, reverse=True)
    assert times[-1] == pytest.approx(seconds / pieces + alone)  # the longest shard


@pytest.mark.parametrize("seconds", [[3.0], [1.0, 2.0, 3.0, 4.0, 5.0], [80.0, 1.0, 1.0, 2.0], [5.0] * 9])
def test_simulated_trainings_take_one_gpu_the_sum_and_never_less_than_the_longest(seconds):
    assert together(seconds, 1) == sum(seconds)
    for gpus in (2, 5, 50):
        assert max(max(seconds), sum(seconds) / gpus) <= together(seconds, gpus) <= sum(seconds)
    assert together(seconds, 50) == max(seconds)
