"""lib/training/loop.py and what it does for every kind of training: exact resume, checkpoints, losses, sheets, keys."""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from lib import keys, settings
from lib.store import Store
from lib.training import loop, runner
from tests.training.conftest import KINDS, begin, equal, fit


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_ends_with_the_same_weights_losses_and_sheets(kind, tmp_path, interruptions, monkeypatch):
    monkeypatch.setattr(loop, "LOGGED", 2)  # so that the stop falls between two rows

    def train(name):
        torch.rand(1)  # the state of the global generator must not matter
        begun = begin(kind)
        return *fit(begun, tmp_path, name), begun[1].steps

    whole, curves, _, count = train("whole")
    at = 2 * count // 3
    interruptions.stop(at, lambda: train("stopped"))
    (resumed, continued, seconds, _), steps = interruptions.steps(lambda: train("stopped"))
    assert steps == list(range(at, count))  # it did go on, and did not start again
    assert equal(whole, resumed) and not resumed.training
    assert continued.equals(curves) and curves["step"].tolist() == [count // 2, count]
    assert 0 < torch.load(tmp_path / "stopped.ckpt", weights_only=True)["seconds"] <= seconds
    sheets = sorted(path.name for path in tmp_path.glob("whole/*"))
    assert bool(sheets) == (kind in ("purifier", "cda_generator", "cda_generator_inception"))
    for name in sheets:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()


@pytest.mark.parametrize("kind", ["natural", "segmenter", "retinanet", "purifier", "cda_generator"])
def test_seeds_decide_the_weights(kind, tmp_path):
    short = {"epochs": 1} if kind in ("natural", "retinanet") else {"steps": 1}
    first, again, other = (
        fit(begin(kind, seed=seed, checkpoint_minutes=9, **short), tmp_path)[0] for seed in (3, 3, 4)
    )
    assert equal(first, again) and not equal(first, other)


@pytest.mark.parametrize("kind", ["natural", "ensemble", "segmenter", "mask_rcnn", "purifier", "cda_generator"])
def test_an_unchanged_training_is_taken_from_the_store(kind, tmp_path, interruptions, monkeypatch):
    def train(**changes):
        spec, training = begin(kind, **changes)
        found = runner.cached_training(
            Store(tmp_path), kind, spec, training, runner.record_of(spec, training, "cpu"), tmp_path / "x.ckpt"
        )
        return training, *found

    (first, curves, seconds), made = interruptions.steps(train)
    assert made == list(range(first.steps))
    (again, same, stored), made = interruptions.steps(lambda: train(checkpoint_minutes=7))
    assert made == [] and equal(first.network, again.network) and same.equals(curves) and stored == seconds
    assert not any(module.training for module in again.network.modules())
    assert interruptions.first(lambda: train(seed=5)) == 0
    monkeypatch.setattr(keys, "source", lambda path: b"other code")
    assert interruptions.first(train) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_all_files_that_run_in_a_training_are_in_its_key(kind):
    """The traced steps, against the record of the store."""
    training = begin(kind)[1]
    ran = set()
    sys.setprofile(lambda frame, event, argument: ran.add(frame.f_code.co_filename) if event == "call" else None)
    try:
        training.advance(0)
    finally:
        sys.setprofile(None)
    code = keys.record(training.prepare, ({}, list(training.inputs)), "cpu")["code"]
    files = {keys.label(Path(name)) for name in ran if name.startswith(str(settings.ROOT / "lib"))}
    assert files and files <= set(code) and len([name for name in code if name.startswith("lib/")]) <= 16


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_trains_on_a_gpu_and_goes_on_there(kind, tmp_path, interruptions):
    before = begin(kind)[1].network.state_dict()
    interruptions.stop(3, lambda: fit(begin(kind, device="cuda"), tmp_path))
    (network, _, _), steps = interruptions.steps(lambda: fit(begin(kind, device="cuda"), tmp_path))
    assert steps[0] == 3
    after = network.state_dict()
    assert all(value.is_cuda and value.isfinite().all() for value in after.values())
    assert any(not torch.equal(value, after[name].cpu()) for name, value in before.items())


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "mask_rcnn"])  # which draws proposals on its device
def test_the_first_losses_on_a_gpu_are_the_cpu_s(kind, tmp_path):
    here, there = (fit(begin(kind, device=device), tmp_path, device)[1].iloc[0] for device in ("cpu", "cuda"))
    assert there.to_numpy(float) == pytest.approx(here.to_numpy(float), rel=0.05)


def test_a_run_that_lost_steps_makes_them_again(tmp_path, interruptions, monkeypatch):
    """As after a kill between two checkpoints."""
    whole, curves, _ = fit(begin("purifier"), tmp_path, "whole")
    save = loop.save_checkpoint
    monkeypatch.setattr(loop, "save_checkpoint", lambda *state: save(*state) if state[3] == 2 else None)
    interruptions.stop(5, lambda: fit(begin("purifier"), tmp_path))
    (resumed, continued, _), steps = interruptions.steps(lambda: fit(begin("purifier"), tmp_path))
    assert steps == [2, 3, 4, 5] and continued.equals(curves) and equal(whole, resumed)


def test_checkpoints_are_as_rare_as_the_recipe_says(tmp_path):
    fit(begin("cda_generator", checkpoint_minutes=5), tmp_path, "rare")
    fit(begin("cda_generator", checkpoint_minutes=0), tmp_path, "often")
    assert not (tmp_path / "rare.ckpt").exists() and (tmp_path / "often.ckpt").exists()


# What must not be continued, and what changes no step: where the images lie, how often a checkpoint is written.
CHANGES = {"": {}, "recipe": {"lr": 1e-3}, "often": {"checkpoint_minutes": 1}, "images": {"images": "elsewhere"}}
OF_KIND = {
    "natural": ("", "recipe", "often", "data", "network", "code"),
    "ensemble": ("", "weights"),
    "segmenter": ("", "recipe", "data", "network", "code"),
    "retinanet": ("", "recipe", "data", "weights", "network", "code"),
    "purifier": ("", "recipe", "images", "data", "weights", "network", "code"),
    "cda_generator": ("", "recipe", "images", "data", "weights", "network", "code"),
}


@pytest.mark.parametrize(("kind", "changed"), [(kind, changed) for kind, all in OF_KIND.items() for changed in all])
def test_a_checkpoint_of_something_else_is_not_continued_and_that_is_said(
    kind, changed, tmp_path, interruptions, monkeypatch, capsys
):
    interruptions.stop(2, lambda: fit(begin(kind), tmp_path))
    capsys.readouterr()
    if changed == "code":
        monkeypatch.setattr(keys, "source", lambda path: b"other code")
    begun = begin(kind, other=changed, **CHANGES.get(changed, {}))
    same = changed in ("", "often", "images")
    assert interruptions.first(lambda: fit(begun, tmp_path)) == (2 if same else 0)
    message = "x.ckpt: 2 steps of another recipe, other data or other code; begins anew\n"
    assert (message in capsys.readouterr().err) == (not same)


@pytest.mark.parametrize("damaged", [lambda whole: whole[:-40], lambda whole: b"", lambda whole: b"<" + whole])
def test_a_damaged_checkpoint_is_said_and_the_training_begins_anew(tmp_path, capsys, damaged):
    layer, path = nn.Linear(2, 2), tmp_path / "x.ckpt"
    loop.save_checkpoint({"layer": layer}, path, "one recipe", 7, 1.5, {})
    path.write_bytes(damaged(path.read_bytes()))
    assert loop.resume({"layer": layer}, path, "one recipe") == (0, 0.0, {})
    assert capsys.readouterr().err == "x.ckpt is damaged; the training begins anew\n"


def test_a_checkpoint_that_does_not_fit_is_left_alone_and_written_over_later(tmp_path):
    path, layer, other = tmp_path / "x.ckpt", nn.Linear(2, 2), nn.Linear(2, 2)
    loop.save_checkpoint({"layer": layer}, path, "one recipe", 7, 1.5, {})
    kept, before = path.read_bytes(), other.weight.clone()
    assert loop.resume({"layer": other}, path, "another") == (0, 0.0, {})
    assert path.read_bytes() == kept and torch.equal(other.weight, before)
    assert loop.resume({"layer": other}, path, "one recipe") == (7, 1.5, {})
    assert torch.equal(other.weight, layer.weight)
    assert loop.resume({"layer": other}, tmp_path / "none.ckpt", "another") == (0, 0.0, {})
    loop.run_steps(loop.Training(begin, other, {"layer": other}, 2, lambda step: {"loss": 0.0}, []), path, "another", 0)
    assert torch.load(path, weights_only=True)["step"] == 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_code_in_the_key_is_what_the_steps_need(kind):
    """No settings, no networks by name, no data sets: an edit of those trains nothing again."""
    training = begin(kind)[1]
    assert training.advance.__module__ == training.prepare.__module__
    files = {path.relative_to(settings.ROOT).as_posix() for path in keys.imports_of(training.prepare)[0]}
    assert {"lib/training/loop.py", "lib/rng.py", training.prepare.__module__.replace(".", "/") + ".py"} <= files
    allowed = (
        "attacks",
        "networks",
        "training",
        "atomic.py",
        "checks.py",
        "linf.py",
        "memory.py",
        "rng.py",
        "units.py",
    )
    assert all(file.split("/")[1] in allowed for file in files - {"lib/data/renderings.py"})
    assert len(files) <= 16


# The schedule and the order of the images.


def test_the_learning_rate_rises_then_falls_to_nothing():
    rates = [loop.warmup_cosine(1.0, k / 100) for k in range(101)]
    assert max(rates) == pytest.approx(1.0) and rates[-1] == pytest.approx(0) and rates[0] > 0
    peak = rates.index(max(rates))
    assert all(a < b for a, b in pairwise(rates[: peak + 1])) and all(a > b for a, b in pairwise(rates[peak:]))


def test_every_epoch_sees_each_image_once():
    for epoch in range(2):
        seen = torch.cat([loop.shuffled(96, 16, 6 * epoch + place, 0) for place in range(6)])
        assert sorted(seen.tolist()) == list(range(96))


def test_a_step_goes_down_the_gradient_and_a_factor_multiplies_the_rate():
    values = [nn.Parameter(torch.tensor(2.0)) for _ in range(2)]
    optimiser = torch.optim.SGD([{"params": values[:1]}, {"params": values[1:], "factor": 2}], lr=5.0)
    assert loop.descend(optimiser, values[0] ** 2 + values[1] ** 2, lr=0.1) == 8
    assert [value.item() for value in values] == pytest.approx([2 - 0.1 * 4, 2 - 0.2 * 4])


# Losses and sheets.


@pytest.mark.parametrize("steps", [1, 150, 200, 399, 1200])
def test_the_table_of_losses_has_at_most_two_hundred_rows(steps):
    losses = {"first": torch.arange(1.0, steps + 1), "second": torch.full((steps,), 7.0)}
    table = pd.DataFrame(loop.means(losses))
    assert list(table.columns) == ["step", "first", "second"]
    assert min(steps, 100) <= len(table) <= 200
    # A row is the mean of the steps since the last one.
    every = table["step"].iloc[0]
    assert table["step"].tolist() == [min(every * (k + 1), steps) for k in range(len(table))]
    width = np.diff([0, *table["step"]])
    assert np.allclose(table["first"], table["step"] - (width - 1) / 2) and (table["second"] == 7).all()


def test_sheets_come_once_an_epoch_and_at_the_end(tmp_path):
    layer, rows = nn.Linear(1, 1), lambda: [torch.zeros(1, 3, 2, 2)]
    training = loop.Training(begin, layer, {"layer": layer}, 5, lambda step: {"loss": 0.0}, [], epoch=2, sheet=rows)
    loop.run_steps(training, tmp_path / "x.ckpt", "", 60, tmp_path / "sheets")
    assert sorted(path.name for path in (tmp_path / "sheets").iterdir()) == [f"epoch_000{k}.png" for k in (1, 2, 3)]
    loop.run_steps(training, tmp_path / "x.ckpt", "", 60)
    assert [path.name for path in tmp_path.iterdir()] == ["sheets"]


def test_a_sheet_has_a_row_per_batch_and_a_column_per_image(tmp_path):
    batches = torch.randint(0, 256, (4, 5, 3, 6, 7), dtype=torch.uint8)
    path = tmp_path / "new" / "sheet.png"
    loop.save_sheet([batch.float() / 255 for batch in batches], path)
    with Image.open(path) as file:
        assert file.format == "PNG" and file.mode == "RGB" and file.size == (5 * 7, 4 * 6)
        found = np.array(file)
    for row in range(4):
        for column in range(5):
            tile = found[6 * row : 6 * row + 6, 7 * column : 7 * column + 7]
            assert np.array_equal(tile, batches[row, column].permute(1, 2, 0).numpy()), (row, column)
