"""lib/engine: the same results from one process and from several, also when one of them is killed."""

import functools
import importlib
import io
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from lib import keys, store
from lib.engine import Engine, Job, in_order, one_thread
from lib.networks.wrappers import Bf16, Tap
from lib.settings import ROOT
from lib.store import Call, Store
from tests.conftest import tiny_network


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


def test_a_network_that_was_changed_is_sent_anew(tmp_path, two):
    network = nn.Linear(1, 1, bias=False)
    for value in (2.0, 3.0):
        network.weight.data.fill_(value)
        keeps = [functools.partial(keep, tmp_path / f"{k}.npz") for k in (0, 1)]
        jobs = [Job(scaled, (network, torch.ones(1)), {"factor": 1}, done) for done in keeps]
        assert sorted(two.run([[job] for job in jobs])) == [0, 1]
        assert [found["made"].item() for found in results(tmp_path)] == [value, value]


def test_a_shard_travels_without_the_other_images():
    images = torch.zeros(1000, 3, 8, 8, dtype=torch.uint8)
    job = Job(scaled, (nn.Identity(), images[3:5]), {}, print)
    engine = Engine()
    parcel = engine._parcel([job])
    (sent,) = pickle_of(parcel)
    assert torch.equal(sent.arguments[1], images[3:5]) and len(parcel) < 3000


def test_a_network_travels_once_whatever_is_around_it(tmp_path):
    network, x = tiny_network(), torch.zeros(1, 3, 8, 8)
    engine = Engine()
    parcel = engine._parcel([Job(scaled, (net, x), {}, print) for net in (network, Tap(network, "0"), Bf16(network))])
    assert len(list(Path(engine.folder.name).iterdir())) == 1
    plain, tap, half = (job.arguments[0] for job in pickle_of(parcel))
    assert torch.equal(tap(x), network[0](x)) and torch.equal(plain(x), network(x)) and half.network is not half


def pickle_of(parcel):
    unpickler = pickle.Unpickler(io.BytesIO(parcel))
    unpickler.persistent_load = lambda path: torch.load(path, weights_only=False)
    return unpickler.load()


def test_a_killed_worker_costs_nothing_but_its_piece(tmp_path, two):
    made = pieces(tmp_path, function=killed_once, mark=tmp_path / "mark")
    assert sorted(two.run(made)) == [0, 1, 2, 3]
    assert [r["made"].tolist() for r in results(tmp_path)] == [
        (made[k][0].arguments[0](made[k][0].arguments[1]) * k).tolist() for k in range(4)
    ]


ASKS = """
import sys
from lib.engine import Engine, Job, in_order
from tests.test_engine import sleeps
if __name__ == "__main__":
    if sys.argv[1] == "pieces":
        list(Engine(["cpu", "cpu"]).run([[Job(sleeps, (), {}, print)], [Job(sleeps, (), {}, print)]]))
    else:
        list(in_order(dict.fromkeys("ab", sleeps), {"a": [], "b": []}, 2))
"""


def sleeps(**_):
    (Path(os.environ["BEGUN"]) / str(os.getpid())).touch()
    time.sleep(60)


def test_what_others_need_comes_first_whatever_the_order_and_what_needs_itself_is_one_line():
    needs = {"ensemble": ["source"], "source": [], "last": ["ensemble"]}
    jobs = {name: functools.partial(str, name) for name in needs}
    assert [name for name, _ in in_order(jobs, needs, 1)] == ["source", "ensemble", "last"]
    for workers in (1, 2):
        with pytest.raises(ValueError, match=r"these wait for one another: .*source.* -> .*; take one of them out"):
            list(in_order(jobs, needs | {"source": ["last"]}, workers))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("what", ["pieces", "trainings"])
def test_workers_end_when_the_process_that_asked_is_killed_or_interrupted(tmp_path, what, how):
    script = tmp_path / "asks.py"
    script.write_text(ASKS)
    (tmp_path / "begun").mkdir()
    told = os.environ | {"PYTHONPATH": str(ROOT), "BEGUN": str(tmp_path / "begun")}
    # A process in the background is started deaf to Ctrl+C.
    hears = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    asks = subprocess.Popen([sys.executable, script, what], cwd=ROOT, env=told, preexec_fn=hears)
    until = time.monotonic() + 50
    while len(begun := list((tmp_path / "begun").iterdir())) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    workers = [psutil.Process(int(path.name)) for path in begun]
    asks.send_signal(how)
    asks.wait(timeout=20)
    gone, alive = psutil.wait_procs(workers, timeout=10)
    assert len(gone) == 2 and not alive


def test_an_error_in_a_worker_is_the_caller_s_error(tmp_path, two):
    with pytest.raises(ValueError, match="these images are wrong"):
        list(two.run(pieces(tmp_path, function=fails)))
    assert sorted(two.run(pieces(tmp_path))) == [0, 1, 2, 3]


def test_the_threads_are_as_before_afterwards():
    before = torch.get_num_threads()
    with one_thread("cpu"):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def share(root, part):
    """What one of several processes does: the same calls, on one store."""
    os.environ["COMPANION_PART"] = part
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    calls = [
        [Call(noted, (network, torch.arange(3.0) + k), f"{k}", {"factor": k, "log": root / "log"})] for k in range(9)
    ]
    return [found["made"].tolist() for (found,) in Store(root).cached_all(calls)]


def noted(network, x, *, device, factor, log):
    """The network's output, slowly, and written down."""
    time.sleep(0.2)
    with log.open("a") as file:
        file.write(f"{factor}\n")
    return {"made": scaled(network, x, device=device, factor=factor)["made"]}


def test_processes_that_share_a_store_share_the_work_also_that_of_a_dead_one(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_PART", "")  # as before afterwards
    (tmp_path / "alone").mkdir()
    expected = share(tmp_path / "alone", "1/1")
    monkeypatch.setattr(store, "LOST", 1)
    monkeypatch.setattr(store, "claimed", functools.partial(died_at, store.claimed, tmp_path))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context) as pool:
        others = [pool.submit(share, tmp_path, part) for part in ("2/3", "3/3")]
        assert share(tmp_path, "1/3") == expected
        assert [other.result() for other in others] == [expected, expected]
    made = (tmp_path / "log").read_text().split()
    assert sorted(set(made), key=int) == [str(k) for k in range(9)] and len(made) < 18
    assert not list(tmp_path.rglob("*.claim"))


def test_eight_parts_in_any_order_store_the_bytes_of_one_process(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_PART", "")
    for name in ("one", "parts"):
        (tmp_path / name).mkdir()
    share(tmp_path / "one", "1/1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_engine"])  # what all eight import
    parts = [(tmp_path / "parts", f"{part}/8") for part in (3, 8, 1, 6, 2, 7, 5, 4)]
    processes = [context.Process(target=share, args=part) for part in parts]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    one, several = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.bin")} for name in ("one", "parts")
    )
    assert one == several and len(one) == 9
    assert 9 <= len((tmp_path / "parts" / "log").read_text().split()) < 18  # next to nothing twice


def died_at(claimed, root, path):
    """A process that died left a claim on the first entry, an hour and more ago."""
    mark = root / "dead"
    if not mark.exists():
        mark.touch()
        claimed(path)
        os.utime(path.with_suffix(".claim"), (0, 0))
    return claimed(path)


@pytest.fixture
def edited():
    """Writes a file of this project with a function that gives a number, and imports it."""
    name = f"edited_{os.getpid()}"
    path = ROOT / "tests" / f"{name}.py"

    def write(number, load=True):
        path.write_text(
            f"import numpy as np\n\n\ndef number(k, *, device):\n    return {{'made': np.array({number})}}\n"
        )
        return importlib.import_module(f"tests.{name}").number if load else None

    yield write
    path.unlink()
    sys.modules.pop(f"tests.{name}", None)


def numbers(root, engine, function):
    return [found["made"].item() for (found,) in Store(root, engine).cached_all([[Call(function, (k,))] for k in "ab"])]


def test_what_other_code_computes_than_the_key_names_is_not_stored(tmp_path, two, edited):
    """The file is edited after it was read for the key, and before a worker imports it."""
    function = edited(1)
    keys.imports_of(function)
    edited(2, load=False)
    name = f"tests/{function.__module__.split('.')[1]}.py"
    with pytest.raises(
        ValueError,
        match=f"^{name} changed while it ran, or .* has another version of it: run again, in a notebook after",
    ):
        numbers(tmp_path, two, function)
    assert not list(tmp_path.rglob("*.bin"))


def test_nor_in_this_process_but_an_edit_after_the_import_has_not_run(tmp_path, edited):
    edited(1, load=False)
    keys.source(ROOT / "tests" / f"edited_{os.getpid()}.py")
    function = edited(2)
    with pytest.raises(ValueError, match="changed while it ran"):
        numbers(tmp_path, Engine(), function)
    assert not list(tmp_path.rglob("*.bin"))
    edited(1, load=False)  # as if this had run
    assert numbers(tmp_path, Engine(), function) == [2, 2]
    edited(3, load=False)
    assert numbers(tmp_path / "later", Engine(), function) == [2, 2]
