"""lib/engine.py: the same results from one process and from several, also when one of them is killed."""

import functools
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lib.engine import Engine, Job, one_thread


def scaled(network, x, *, device, factor):
    """The network's output on x, and the threads and process that computed it."""
    with torch.no_grad():
        made = network(x.to(device)) * factor
    return {"made": made.numpy(), "threads": torch.get_num_threads(), "process": os.getpid()}


def killed_once(network, x, *, device, factor, mark):
    """As `scaled`; the first time the whole process is killed."""
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return scaled(network, x, device=device, factor=factor)


def fails(network, x, *, device, factor):
    raise ValueError("these images are wrong")


def keep(path: Path, found: dict) -> None:
    np.savez(path, **found)


def pieces(folder, count=4, function=scaled, **how):
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    inputs = [torch.arange(3.0) + k for k in range(count)]
    jobs = [
        Job(function, (network, x), {"factor": k} | how, functools.partial(keep, folder / f"{k}.npz"))
        for k, x in enumerate(inputs)
    ]
    return [jobs[:1], *([job] for job in jobs[1:])]


def results(folder):
    return [dict(np.load(path)) for path in sorted(folder.glob("*.npz"))]


@pytest.fixture(scope="module")
def two():
    return Engine(["cpu", "cpu"])


def test_several_processes_give_what_one_gives_and_each_has_one_thread(tmp_path, two):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    assert sorted(Engine().run(pieces(tmp_path / "one"))) == [0, 1, 2, 3]
    assert sorted(two.run(pieces(tmp_path / "two"))) == [0, 1, 2, 3]
    one, several = results(tmp_path / "one"), results(tmp_path / "two")
    assert [r["made"].tolist() for r in one] == [r["made"].tolist() for r in several] and len(one) == 4
    assert {int(r["threads"]) for r in one + several} == {1}
    assert {int(r["process"]) for r in one} == {os.getpid()} and os.getpid() not in {int(r["process"]) for r in several}


def test_a_killed_worker_costs_nothing_but_its_piece(tmp_path, two):
    made = pieces(tmp_path, function=killed_once, mark=tmp_path / "mark")
    assert sorted(two.run(made)) == [0, 1, 2, 3]
    assert [r["made"].tolist() for r in results(tmp_path)] == [
        (made[k][0].arguments[0](made[k][0].arguments[1]) * k).tolist() for k in range(4)
    ]


def test_an_error_in_a_worker_is_the_caller_s_error(tmp_path, two):
    with pytest.raises(ValueError, match="these images are wrong"):
        list(two.run(pieces(tmp_path, function=fails)))
    assert sorted(two.run(pieces(tmp_path))) == [0, 1, 2, 3]


def test_the_threads_are_as_before_afterwards():
    before = torch.get_num_threads()
    with one_thread("cpu"):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
