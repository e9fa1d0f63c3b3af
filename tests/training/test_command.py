"""companion train: every kind of training by its name, on any images, resumed after a kill, errors of a line."""

import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms import functional as vision

from lib import cli, settings, timings, zoo
from lib.atomic import write_bytes
from lib.data.renderings import RENDERINGS
from lib.data.unlabelled import unlabelled
from lib.data.world import CLASSES
from lib.engine import Engine
from lib.networks.small import ARCHITECTURES
from lib.training import generator, runner
from tests.conftest import refused
from tests.training.conftest import SIDE, scenes
from tests.training.test_samples import places

COUNTS = {"seconds", "parameters", "sha256", "recipe", "device", "machine"}
CROPS = {"images", "steps", "crops", "crops_per_second"}
RECORDED = {
    "Inc-v3": {"images", "accuracy", "accuracy_noise", "accuracy_fgsm"},
    "Inc-v3ens3": {"images", "accuracy", "accuracy_noise", "accuracy_fgsm"},
    "SegNet-Basic": {"pixels", "pixels_void_wrong", "classes", "iou", "images", "side", "steps"},
    "RetinaNet": {"images", "map_50", "map_50_95"},
    "Mask-R-CNN": {"images", "map_50", "map_50_95", "mask_map_50"},
    "NRP": CROPS,
    "CDA-ImageNet": CROPS | {"rendered", "classifier", "eps", "fooled"},
}
SHORT = {
    "stand_ins": {"epochs": 1, "batch": 4},
    "segmenters": {"steps": 40, "batch": 4, "data": {"name": "world", "labels": "pixels", "count": 12}},
    "detectors": {"epochs": 1, "batch": 4},
    "purifiers": {"steps": 6, "batch": 2, "ssp_steps": 1, "critic_width": 2},
    "generators": {"steps": 6, "batch": 2, "side": SIDE},
}


def picture(path, seed, height, width, mode="RGB"):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(image).convert(mode).save(path)


@pytest.fixture
def photographs(tmp_path):
    """A folder of seven images of different sizes, formats and modes, some deeper down."""
    folder = tmp_path / "photographs"
    (folder / "more").mkdir(parents=True)
    names = ["a.png", "b.jpg", "c.webp", "d.bmp", "more/e.JPEG", "more/f.png", "more/g.png"]
    for k, name in enumerate(names):
        picture(folder / name, k, 34 + 5 * k, 58 - 4 * k, "L" if name == "more/g.png" else "RGB")
    (folder / "readme.txt").write_text("not an image")
    return folder


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The command in a project whose scale trains for seconds, with the networks that others learn from."""
    root = tmp_path / "project"
    models, results = root / "models" / "mini", root / "results" / "mini"
    (root / "scales").mkdir(parents=True)
    scale = yaml.safe_load((settings.ROOT / "scales" / "mini.yaml").read_text())
    for section, short in SHORT.items():
        for recipe in scale[section].values():
            recipe |= short | {"checkpoint_minutes": 0}
    scale["networks"]["SegNet-Basic"]["maps"] = 4
    for name in ("NRP", "CDA-ImageNet"):
        scale["networks"][name] |= {"width": 4, "blocks": 1}

    def change(name, section=None, **changes):
        section = section or next(section for section in SHORT if name in scale[section])
        scale[section][name] |= changes
        (root / "scales" / "mini.yaml").write_text(yaml.safe_dump(scale, sort_keys=False))

    change("NRP")
    for name in ("VGG-16", "ResNet50-NT", "Inc-v4", "Res-152"):
        torch.manual_seed(0)
        state = ARCHITECTURES[scale["networks"][name]["architecture"]](12).state_dict()
        weights = runner.save({key: value.contiguous() for key, value in state.items()})
        write_bytes(models / f"{name}.safetensors", weights)
    monkeypatch.setattr(zoo, "ROOT", root)
    monkeypatch.setattr(runner, "world", SimpleNamespace(load_scenes=lambda split: scenes(12), CLASSES=CLASSES))
    monkeypatch.delenv("COMPANION_ASSETS", raising=False)
    # `settings.load` reads the repository by default; the command gives it the scale's name alone.
    load = settings.load
    monkeypatch.setattr(settings, "load", lambda name=None, root=root: load(name, root))

    def run(*arguments):
        status = cli.main(["train", *map(str, arguments), "--scale", "mini", "--root", str(root)])
        if status == 130:  # a key press
            raise KeyboardInterrupt
        assert status == 0

    def record(name):
        took = timings.read(results)[f"training of {name}"]
        return json.loads((results / "train" / "networks" / f"{name}.json").read_text()) | took

    run.root, run.change, run.record, run.models, run.results = root, change, record, models, results
    return run


def failure(command, *arguments) -> str:
    """The one line with which the command ends."""
    return refused("train", *arguments, "--scale", "mini", "--root", command.root)


@pytest.mark.parametrize("name", RECORDED)
def test_the_command_trains_by_name_and_writes_a_true_record(name, command, capsys):
    before = {path.name for path in command.models.iterdir()}
    command(name)
    printed, record, path = capsys.readouterr().out, command.record(name), command.models / f"{name}.safetensors"
    assert (
        printed.startswith(f"{name}: ") and printed.count("\n") == 1 and f"parameters {record['parameters']}" in printed
    )
    assert set(record) == RECORDED[name] | COUNTS
    assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert {path.name for path in command.models.iterdir()} == before | {f"{name}.safetensors"}  # no checkpoint is left
    network = zoo.load(name, settings.load("mini"))
    masks = {key: value for key, value in load_file(path).items() if "roi_heads.mask" in key}  # the zoo drops them
    assert record["parameters"] == sum(p.numel() for p in network.parameters()) + sum(v.numel() for v in masks.values())
    found = network.state_dict() | masks
    for key, value in load_file(path).items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(value, found[key] if key in found else found[f"network.{key}"])


@pytest.mark.parametrize("name", ["Inc-v3", "CDA-ImageNet"])
def test_a_network_that_is_as_recorded_is_not_trained_on_another_cpu_but_after_an_edit(name, command, monkeypatch):
    """CPUs differ in their last bits: all judge the recorded network, which `make repro` fetches."""
    command(name)
    file, before = command.models / f"{name}.safetensors", command.record(name)
    weights, steps = file.read_bytes(), []
    run = runner.loop.run_steps
    monkeypatch.setattr(runner.loop, "run_steps", lambda *given: steps.append(1) or run(*given))
    monkeypatch.setattr(runner.keys, "machine", lambda device: "cpu of another kind, 1 thread")
    command(name)
    assert not steps and file.read_bytes() == weights and command.record(name) == before
    file.write_bytes(weights + b" ")  # not what the record says
    command(name)
    assert len(steps) == 1 and file.read_bytes() == weights
    record = command.root / f"results/mini/train/networks/{name}.json"
    record.write_text(f"<<<<<<< HEAD\n{record.read_text()}")  # damaged, as by a merge
    command(name)
    assert len(steps) == 1 and command.record(name) == before  # from the store
    command.change(name, seed=7)
    command(name)
    assert len(steps) == 2 and file.read_bytes() != weights and command.record(name)["recipe"] != before["recipe"]


def test_the_accuracy_of_a_stand_in_is_that_of_the_loaded_network(command):
    command.change("Inc-v3", epochs=20)
    command("Inc-v3")
    predicted = zoo.load("Inc-v3", settings.load("mini"))(scenes(12).images.float() / 255).argmax(1)
    assert command.record("Inc-v3")["accuracy"] == pytest.approx((predicted == scenes(12).labels).float().mean().item())


def test_a_detector_and_a_segmenter_score_as_the_loaded_networks_do(command):
    for name in ("Mask-R-CNN", "SegNet-Basic"):
        command.change(name, **({"epochs": 20} if name == "Mask-R-CNN" else {}))
        command(name)
    scale = settings.load("mini")
    data = runner.boxes.coco_format(scenes(12))
    scores = runner.average_precisions(zoo.load("Mask-R-CNN", scale), data)
    assert scores == pytest.approx({key: command.record("Mask-R-CNN")[key] for key in scores}) and scores["map_50"] > 0
    data = runner.load_set(scale.segmenters["SegNet-Basic"].data, "val")
    predicted = runner.segment(zoo.load("SegNet-Basic", scale), data.images)["labels"]
    found = runner.confusion.scores(runner.confusion.confusions(predicted, data.labels.numpy(), 15).sum(0))
    assert found.pixels == pytest.approx(command.record("SegNet-Basic")["pixels"])


@pytest.mark.parametrize("name", ["NRP", "CDA-ImageNet"])
def test_it_trains_on_any_folder_and_shows_how(name, command, photographs):
    command(name, "--images", photographs)
    record = command.record(name)
    assert (record["images"], record["steps"], record["crops"]) == (7, 6, 12)
    assert record["crops_per_second"] == pytest.approx(12 / record["seconds"], rel=0.5)
    losses = pd.read_csv(command.results / "train" / "data" / f"{name}_losses.csv")
    assert losses["step"].tolist() == [1, 2, 3, 4, 5, 6] and np.isfinite(losses).all(axis=None)
    # Seven images make three batches of two: an epoch is three steps.
    sheets = sorted((command.results / "sheets" / name).iterdir())
    assert [path.name for path in sheets] == ["epoch_0001.png", "epoch_0002.png"]
    if name == "NRP":
        assert list(losses)[1:] == ["adversarial", "pixel", "feature", "critic"] and (losses > 0).all(axis=None)
        # Two 3x3 convolutions between 3 and 4 channels, two among 4, each with a bias.
        assert record["parameters"] == (3 * 4 * 9 + 4) + 2 * (4 * 4 * 9 + 4) + (4 * 3 * 9 + 3)
    else:
        assert list(losses)[1:] == ["loss", "fooled"] and losses["fooled"].between(0, 1).all()
        assert (record["rendered"], record["classifier"], record["eps"]) == ("none", "VGG-16", 10)
        assert record["fooled"] == pytest.approx(losses["fooled"].iloc[-1], abs=1e-4)
        # Width 4: a 7x7 convolution, two down, two within the block, two up, each with a norm; a 7x7 with a bias.
        convolutions = 3 * 4 * 49 + 9 * (4 * 8 + 8 * 16 + 16 * 16 + 16 * 16 + 16 * 8 + 8 * 4) + 4 * 3 * 49 + 3
        assert record["parameters"] == convolutions + 2 * (4 + 8 + 16 + 16 + 16 + 8 + 4)


def tiles(path):
    """The squares of a sheet, `[4 rows,6 columns,3,side,side]`."""
    with Image.open(path) as file:
        assert file.format == "PNG" and file.mode == "RGB" and file.size == (6 * SIDE, 4 * SIDE)
        whole = torch.from_numpy(np.array(file)).permute(2, 0, 1)
    return whole.unfold(1, SIDE, SIDE).unfold(2, SIDE, SIDE).permute(1, 2, 0, 3, 4)


def test_a_purifiers_sheet_shows_clean_adversary_purified_and_what_was_taken_away(command, photographs):
    command("NRP", "--images", photographs)
    shown = tiles(command.results / "sheets" / "NRP" / "epoch_0002.png")
    for column, image in enumerate(list(unlabelled(str(photographs)))[:6]):
        assert places(shown[0, column], image)
    clean, attacked, purified, difference = shown.int()
    moved = (attacked - clean).abs().flatten(1).amax(1)
    assert moved.max() <= 16 and len(set(moved.tolist())) > 1  # uniform budgets at this scale
    assert (purified != attacked).any()
    expected = (127.5 + 10 * (attacked - purified)).clamp(0, 255)
    assert (difference - expected).abs().max() <= 6  # the purified images were rounded: half a level, ten times


@pytest.mark.parametrize("render", [None, "comic"])
def test_a_generators_sheet_shows_the_images_as_drawn_the_proposal_and_the_adversary(command, photographs, render):
    if render:
        command.change("CDA-ImageNet", resize=40)
    command("CDA-ImageNet", "--images", photographs, *(["--render", render] if render else []))
    clean, proposed, attacked, difference = tiles(command.results / "sheets" / "CDA-ImageNet" / "epoch_0002.png")
    for column, image in enumerate(list(unlabelled(str(photographs)))[:6]):
        assert places(clean[column], RENDERINGS[render](generator.resized(image, 40)) if render else image)
    network, x = zoo.load("CDA-ImageNet", settings.load("mini")), clean.float() / 255
    assert (network(x) * 255 - proposed).abs().max() <= 0.51  # in inference, after the last step
    clean, proposed, attacked, difference = (row.int() for row in (clean, proposed, attacked, difference))
    expected = torch.minimum(torch.maximum(proposed, clean - 10), clean + 10).clamp(0, 255)
    assert torch.equal(attacked, expected)
    # The adversary of the difference was not rounded yet: half a level, ten times.
    assert (difference - (127.5 + 10 * (attacked - clean)).clamp(0, 255)).abs().max() <= 6
    assert command.record("CDA-ImageNet")["rendered"] == (render or "none")


def test_images_are_resized_before_they_are_cut(command, photographs):
    picture(photographs / "tiny.png", 9, 20, 30)
    command.change("CDA-ImageNet", resize=40, crops="centre")
    command("CDA-ImageNet", "--images", photographs)
    clean = tiles(command.results / "sheets" / "CDA-ImageNet" / "epoch_0001.png")[0]
    for column, image in enumerate(list(unlabelled(str(photographs)))[:6]):
        sides = [round(40 * size / min(image.shape[1:])) for size in image.shape[1:]]
        top, left = ((size - SIDE) // 2 for size in sides)
        resized = vision.resize(image, sides, antialias=True)[:, top : top + SIDE, left : left + SIDE]
        assert (clean[column].int() - resized.int()).abs().max() <= 1


@pytest.mark.parametrize(("name", "source"), [("NRP", "world"), ("CDA-Comics", "world/comic")])
def test_the_images_of_the_scale_are_taken_unless_others_are_named(command, monkeypatch, name, source):
    asked = []
    monkeypatch.setattr(runner, "unlabelled", lambda source: asked.append(source) or unlabelled(source)[:6])
    command(name)
    clean = tiles(command.results / "sheets" / name / "epoch_0001.png")[0]
    assert asked == [source]
    assert all(places(tile, image) for tile, image in zip(clean, unlabelled(source)[:6], strict=True))


@pytest.mark.parametrize("name", ["NRP", "CDA-ImageNet"])
def test_a_stopped_command_goes_on_and_counts_the_time_of_both_runs(name, command, photographs, interruptions):
    interruptions.stop(4, lambda: command(name, "--images", photographs))
    weights = command.models / f"{name}.safetensors"
    assert not weights.exists()
    before = torch.load(weights.with_suffix(".ckpt"), weights_only=True)["seconds"]
    _, steps = interruptions.steps(lambda: command(name, "--images", photographs))
    assert steps == [4, 5] and not weights.with_suffix(".ckpt").exists()
    resumed = weights.read_bytes()
    assert command.record(name)["seconds"] >= round(before, 1)
    shutil.rmtree(command.root / ".store")
    command(name, "--images", photographs)
    assert weights.read_bytes() == resumed


def test_another_rendering_begins_anew(command, photographs, interruptions):
    command.change("CDA-ImageNet", resize=40)
    named = ["CDA-ImageNet", "--images", photographs]
    interruptions.stop(4, lambda: command(*named))
    assert interruptions.first(lambda: command(*named, "--render", "comic")) == 0


def test_a_killed_process_goes_on_where_it_was(command, capsys):
    script = (
        "from pathlib import Path; from lib import settings; from lib.training import runner; root = Path.cwd();"
        "runner.train('SegNet-Basic', settings.load('mini', root), root)"
    )
    environment = os.environ | {"PYTHONPATH": str(settings.ROOT)}
    process = subprocess.Popen([sys.executable, "-c", script], cwd=command.root, env=environment,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    file = command.models / "SegNet-Basic.safetensors"
    while not file.with_suffix(".ckpt").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not file.exists()
    command("SegNet-Basic")
    first = int(capsys.readouterr().err.split("/40")[0].split("|")[-1].strip())
    assert first > 0, "the second run began again"
    assert not list(file.parent.glob("SegNet-Basic.ckpt*"))  # nor what the killed process left half written
    killed = load_file(file)
    shutil.rmtree(command.root / ".store")
    command("SegNet-Basic")
    assert all(torch.equal(value, killed[name]) for name, value in load_file(file).items())


# Errors.


def test_errors_are_one_line_that_says_what_to_do(command):
    known = ", ".join(name for section in SHORT for name in getattr(settings.load("mini"), section))
    assert f"scales/mini.yaml trains no 'NPR'; did you mean 'NRP'? There are: {known}" in failure(command, "NPR")
    assert "Inc-v3: top level: unknown key 'images'" in failure(command, "Inc-v3", "--images", "x")
    assert "render: Input should be 'none', 'comic' or 'painting'" in failure(
        command, "CDA-ImageNet", "--render", "oil"
    )
    for name in RECORDED:
        if name != "SegNet-Basic":  # has one architecture
            command.change(name, "networks", architecture="vgg17")
            assert "has no architecture 'vgg17', only " in failure(command, name)
    command.change("CDA-ImageNet", resize=34, side=36)
    assert "crops of 36 pixels do not fit images resized to 34" in failure(command, "CDA-ImageNet")


@pytest.mark.parametrize(("name", "other"), [
    ("Inc-v3ens3", "Res-152"), ("RetinaNet", "ResNet50-NT"), ("NRP", "VGG-16"), ("CDA-ImageNet", "VGG-16"),
])  # fmt: skip
def test_a_missing_network_is_named_with_how_to_get_it(command, name, other):
    (command.models / f"{other}.safetensors").unlink()
    message = failure(command, name)
    assert f"{other}: no weights (models/mini/{other}.safetensors); to get them: " in message and "dvc repro" in message


@pytest.mark.parametrize("name", ["NRP", "CDA-ImageNet"])
def test_bad_images_are_named(name, command, photographs, tmp_path):
    named, empty = [name, "--images"], tmp_path / "empty"
    assert "none: neither here nor in the repository nor in $COMPANION_ASSETS" in failure(command, *named, "none")
    empty.mkdir()
    assert "no images here" in failure(command, *named, empty)
    picture(photographs / "tiny.png", 0, 20, 90)
    assert "tiny.png: 90x20 pixels hold no crop of 32x32" in failure(command, *named, photographs)
    (photographs / "tiny.png").write_bytes(b"<html>")
    assert "tiny.png: is a web page, no image" in failure(command, *named, photographs)
    picture(empty / "one.png", 0, 40, 40)
    assert "1 training images do not fill a batch of 2" in failure(command, *named, empty)
    if name == "CDA-ImageNet":
        message = failure(command, *named, photographs, "--render", "comic")
        assert "images are rendered at one size: name the shorter side in resize" in message
        command.change(name, resize=40)
        assert "tiny.png: is a web page, no image" in failure(command, *named, photographs)


def test_several_workers_train_what_the_command_names(command, monkeypatch):
    """The group here is one process, which gets its job as others do; tests/training/test_workers.py has real ones."""
    monkeypatch.setattr(Engine, "group", lambda self, job, count: pickle.loads(pickle.dumps(job))("cpu"))
    command("Inc-v3", "--workers", 4)
    several = command.record("Inc-v3")
    command("Inc-v3")
    one = command.record("Inc-v3")
    assert several["workers"] == 4 and "workers" not in one and several["sha256"] == one["sha256"]
