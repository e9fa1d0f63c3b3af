"""lib/engine/cluster.py: the same results from a Ray cluster, also when one of its workers is killed."""

import functools
import os
import signal
import sys

import pytest
import torch
from torch import nn

from lib import engine, keys
from lib.engine import Engine, Job, in_order
from lib.networks.wrappers import Bf16, Tap
from lib.store import Call, Store
from tests.conftest import refused, tiny_network


def test_without_ray_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "lib.engine.cluster", raising=False)
    monkeypatch.setenv("COMPANION_ENGINE", "ray")
    engine.engine_of.cache_clear()
    line = "engine: ray needs Ray, which is not installed here: pip install -e '.[cluster]'"
    assert refused("train", "--all", "--scale", "mini") == line
    monkeypatch.setenv("COMPANION_ENGINE", "dask")
    assert refused("train", "--all", "--scale", "mini") == "COMPANION_ENGINE=dask is none of: local, ray"


@pytest.fixture(scope="module")
def cluster():
    """Two workers on a cluster of its own; the tests share it, as it takes seconds to begin."""
    ray = pytest.importorskip("ray", reason="needs the extra cluster")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_worker_niceness", "0")  # 15 by default, which never gets its turn beside other tests
        patch.setenv("RAY_agent_register_timeout_ms", "300000")
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")  # what else runs here may fill the memory
        yield engine.engine_of.__wrapped__("ray", "cpu", 2)
        ray.shutdown()


def gradient_signs(network, x, *, device, mark=None):
    """The signs of a gradient on x; the first time that `mark` is given the whole process is killed."""
    if mark and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    x = x.to(device).requires_grad_()
    network(x).square().sum().backward()
    return {"signs": x.grad.sign().char().numpy(), "logits": network(x).detach().numpy()}


def stored(root, chosen, mark=None):
    """The files of a store for which an engine computed ten shards with the plain and with a wrapped network."""
    images, network = torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(0)), tiny_network()
    calls = [
        [
            Call(gradient_signs, (net, images[k : k + 2]), f"shard {k}", {"mark": mark if k == 6 else None})
            for net in (network, Tap(network, "0"), Bf16(network))
        ]
        for k in range(0, 20, 2)
    ]
    list(Store(root, chosen).cached_all(calls))
    return {path.name: path.read_bytes() for path in root.rglob("*.bin")}


def test_a_cluster_stores_the_bytes_that_one_process_stores_also_when_a_worker_is_killed(tmp_path, cluster):
    expected = stored(tmp_path / "one", Engine())
    assert len(expected) == 30
    assert stored(tmp_path / "ray", cluster) == expected
    assert len(cluster.content) == 1  # the network travelled once, whatever is around it
    actors = list(cluster.actors)
    assert stored(tmp_path / "killed", cluster, tmp_path / "mark") == expected
    assert (tmp_path / "mark").exists() and len(set(actors) & set(cluster.actors)) == 1


def process(x, *, device):
    return os.getpid()


def test_results_come_back_and_are_kept_by_the_process_that_asked(cluster):
    kept = []
    jobs = [[Job(process, (k,), {}, lambda found: kept.append((os.getpid(), found)))] for k in range(8)]
    assert sorted(cluster.run(jobs)) == list(range(8))
    assert len(kept) == 8 and {here for here, _ in kept} == {os.getpid()}
    assert os.getpid() not in {there for _, there in kept}


def fails(x, *, device):
    raise ValueError("these images are wrong")


def test_an_error_in_a_worker_is_the_caller_s_error(cluster):
    with pytest.raises(ValueError, match=r"^these images are wrong$"):
        list(cluster.run([[Job(fails, (k,), {}, print)] for k in range(2)]))
    assert sorted(cluster.run([[Job(process, (k,), {}, print)] for k in range(2)])) == [0, 1]


def always_killed(x, *, device):
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_kills_every_worker_ends_in_one_line(cluster, monkeypatch):
    monkeypatch.setattr("lib.engine.cluster.RETRIES", 1)
    with pytest.raises(ChildProcessError, match=r"^workers were lost again and again, the last one so: [^\n]*$"):
        list(cluster.run([[Job(always_killed, (0,), {}, print)]]))


def test_a_worker_of_another_checkout_stores_nothing(tmp_path, cluster):
    """As where a node has another version of a file: its digest is not the one that the record names."""
    kept, made = [], keys.record(gradient_signs, (tiny_network(), torch.zeros(1)), "cpu")
    changes = {
        "code": ("tests/test_ray_engine.py", "tests/test_ray_engine.py changed while it ran"),
        "packages": ("torch", "has torch .*, this run began with 0: install the same"),
    }
    for part, (name, line) in changes.items():
        other = made | {part: made[part] | {name: "0"}}
        jobs = [Job(gradient_signs, (nn.Identity(), torch.zeros(1, 3)), {}, kept.append, other)]
        with pytest.raises(ValueError, match=line):
            list(cluster.run([jobs]))
    with pytest.raises(ValueError, match=r"computes on 'cpu .*', this run began on 'cpu of another kind'"):
        list(cluster.run([[jobs[0]._replace(made_from=made | {"device": "cpu of another kind"})]]))
    assert kept == []


def begun(name, folder, kill=False):
    """A job of `in_order`; what had ended before it, and its process."""
    mark = folder / f"{name} killed"
    if kill and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    before = {path.name for path in folder.glob("?")}
    (folder / name).touch()
    return before, os.getpid()


def test_trainings_run_side_by_side_on_the_cluster_and_in_order(tmp_path, cluster):
    jobs = {name: functools.partial(begun, name, tmp_path, name == "b") for name in "abc"}
    found = dict(in_order(jobs, {"a": [], "b": [], "c": ["a", "b"]}, 1, cluster.submit))
    assert found["c"][0] == {"a", "b"} and os.getpid() not in {process for _, process in found.values()}
    with pytest.raises(ValueError, match=r"^no$"):
        list(in_order({"a": functools.partial(refuses, "no")}, {"a": []}, 1, cluster.submit))


def refuses(line, device=None):
    raise ValueError(line)


def summed(mark, device):
    """The ranks of a group's members, added up; the second one is killed the first time."""
    rank = torch.tensor(float(torch.distributed.get_rank()))
    if rank == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    torch.distributed.all_reduce(rank)
    return rank.item(), os.getpid()


def test_a_group_exchanges_tensors_and_begins_again_where_one_is_killed(tmp_path, cluster):
    total, process = cluster.group(functools.partial(summed, tmp_path / "mark"), 2)
    assert total == 1 and process != os.getpid() and (tmp_path / "mark").exists()
    with pytest.raises(ValueError, match=r"^3 workers need as many GPUs or cores; the Ray cluster has 2$"):
        cluster.group(print, 3)
    with pytest.raises(ValueError, match=r"^no$"):
        cluster.group(functools.partial(refuses, "no"), 1)
