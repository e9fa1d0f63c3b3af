"""The engine on a Ray cluster: an actor per GPU, or per CPU core, which holds the networks that it used last.

What an actor computes comes back through Ray and is stored here, so the nodes need no file system in common; each needs
this checkout and the same packages (docs/scale.md), which is checked at every result. $RAY_ADDRESS names the cluster;
without it one begins on this machine.
"""

import io
import os
import socket
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from lib import keys
from lib.engine import RETRIES, Engine, Job, in_group, one_thread, unpacked

try:
    import ray
except ImportError:
    raise ValueError("engine: ray needs Ray, which is not installed here: pip install -e '.[cluster]'") from None
from ray.exceptions import RayError, RayTaskError


class Worker:
    """An actor: does one thing after the other."""

    def __init__(self, device: str):
        self.device = device

    def ready(self) -> None:
        """Ends once the actor has its place in the cluster."""

    def address(self) -> str:
        """Where the group whose first worker this is can meet."""
        with socket.socket() as free:
            free.bind(("", 0))
            return f"tcp://{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def call(self, function: Callable[[], Any]) -> Any:
        """What a function gives."""
        with one_thread(self.device):
            return function()

    def work(self, parcel: bytes, files: Sequence[tuple[str, str]], networks: dict[str, ray.ObjectRef]) -> list:
        """The results of a parcel's jobs."""
        jobs = unpacked(parcel, files, self.device, lambda name: io.BytesIO(ray.get(networks[name])))
        return [job.compute(self.device) for job in jobs]


class RayEngine(Engine):
    """`Engine` on the GPUs of a Ray cluster or, where the device is a CPU, on its cores.  cores: of a cluster that
    begins here. ValueError in one line without Ray, cluster or GPU."""

    def __init__(self, device: str, cores: int):
        if not ray.is_initialized():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports to its makers
            address = os.environ.get("RAY_ADDRESS")
            new = {} if address else {"num_cpus": cores, "include_dashboard": False}
            try:  # what a worker prints would end up in the notebook that asks
                ray.init(address or "local", log_to_driver=False, logging_level="error", **new)
            except Exception as error:  # of many kinds
                why = textwrap.shorten(str(error), 300)
                raise ValueError(f"no Ray cluster at RAY_ADDRESS={address or ''}: {why}") from None
        kind = "GPU" if device.startswith("cuda") else "CPU"
        there = int(ray.cluster_resources().get(kind, 0))
        if not there:
            raise ValueError(f"the Ray cluster has no {kind}; device in params.yaml says what networks run on")
        # An actor sees no GPU but its own.
        super().__init__(["cuda" if kind == "GPU" else device] * there)
        self.needs = {"num_cpus": int(kind == "CPU"), "num_gpus": int(kind == "GPU")}
        self.actors: list = []
        self.content: dict[str, ray.ObjectRef] = {}

    def run(self, pieces: Sequence[Sequence[Job]]) -> Iterator[int]:
        """As of `Engine`; an actor gets work once it has its place, and what a lost one had goes to another one."""
        self.networks.clear()
        self.actors = self.actors or [self._actor() for _ in self.devices]
        running = {actor.ready.remote(): (actor, None) for actor in self.actors}
        waiting, idle, left = [*range(len(pieces))], [], len(pieces)
        lost, files = Counter(), keys.own_files()
        while left:
            (ended, *_), _ = ray.wait([*running])
            actor, place = running.pop(ended)
            try:
                results = _result(ended)
            except RayError as error:
                lost[place] += 1
                if lost[place] > RETRIES:
                    raise _lost(error) from None
                waiting += [] if place is None else [place]
                self.actors[self.actors.index(actor)] = new = self._actor()
                running |= {one.ready.remote(): (one, None) for one in (new, *idle)}
                idle.clear()
                continue
            if waiting:
                parcel = self._parcel([job._replace(done=None) for job in pieces[waiting[0]]])
                running[actor.work.remote(parcel, files, self.content)] = actor, waiting.pop(0)
            else:
                idle.append(actor)
            if place is not None:
                for job, result in zip(pieces[place], results, strict=True):
                    job.done(result)
                left -= 1
                yield place

    def submit(self, job: Callable[[], Any]) -> Future:
        """Run a job on a GPU or core that is free; a lost one is repeated."""
        self._leave()
        task = ray.remote(max_retries=RETRIES, **self.needs)(_alone).remote(job, self.devices[0])
        future = Future()

        def end(asked: Future) -> None:
            error = asked.exception()
            if error:
                future.set_exception(error.cause if isinstance(error, RayTaskError) else error)
            else:
                future.set_result(asked.result())

        task.future().add_done_callback(end)
        return future

    def group(self, function: Callable[[str], Any], count: int) -> Any:
        """As of `Engine`, on so many GPUs or cores of the cluster."""
        if count > len(self.devices):
            raise ValueError(f"{count} workers need as many GPUs or cores; the Ray cluster has {len(self.devices)}")
        self._leave()
        for _ in range(RETRIES):
            actors = [self._actor() for _ in range(count)]
            try:
                address = _result(actors[0].address.remote())
                joined = [partial(in_group, rank, count, address, self.devices[0], function) for rank in range(count)]
                return _result([actor.call.remote(part) for actor, part in zip(actors, joined, strict=True)])[0]
            except Exception:
                # Where one is lost the others fail because they miss it, and that may be heard of first.
                lost = _gone(actors)
                if not lost:
                    raise
            finally:
                for actor in actors:
                    ray.kill(actor)
        raise _lost(lost)

    def _leave(self) -> None:
        """Give the places of the actors of `run` to others."""
        for actor in self.actors:
            ray.kill(actor)
        self.actors.clear()

    def _actor(self) -> Any:
        return ray.remote(**self.needs)(Worker).remote(self.devices[0])

    def _keep(self, name: str, content: io.BytesIO) -> str:
        if name not in self.content:
            self.content[name] = ray.put(content.getvalue())
        return name


def _alone(job: Callable[[], Any], device: str) -> Any:
    return Worker(device).call(job)


def _result(task: Any) -> Any:
    """What tasks give; their errors as they were raised, and RayError where a worker was lost."""
    try:
        return ray.get(task)
    except RayTaskError as error:
        raise error.cause from None


def _gone(actors: Sequence) -> RayError | None:
    """The error of an actor that is lost."""
    tasks = [actor.ready.remote() for actor in actors]
    try:
        ray.get(ray.wait(tasks, num_returns=len(tasks), timeout=5)[0])
    except RayError as error:
        return error
    return None


def _lost(error: Exception) -> ChildProcessError:
    why = textwrap.shorten(str(error), 300)
    return ChildProcessError(f"workers were lost again and again, the last one so: {why}")
