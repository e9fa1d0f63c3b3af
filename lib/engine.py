"""Where stored computations run: in this process, or side by side in a pool of processes on this machine.

On CPUs a computation has one thread, here and in every worker, so results do not depend on the machine's cores. A
worker writes what it computes into the store and sends nothing back; one that is killed costs its present piece, which
another one repeats.
"""

import contextlib
import importlib.util
import io
import itertools
import multiprocessing
import pickle
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

RETRIES = 3  # new pools after a worker was killed


class Job(NamedTuple):
    """`function(*arguments, device=..., **how)`, whose result `done` is given; all of it can be pickled."""

    function: Callable
    arguments: tuple
    how: Mapping[str, object]
    done: Callable[[Any], None]

    def run(self, device: str) -> None:
        """Compute it here."""
        with one_thread(device):
            self.done(self.function(*self.arguments, device=device, **self.how))


@contextlib.contextmanager
def one_thread(device: str) -> Iterator[None]:
    """Within it PyTorch computes with one thread on a CPU."""
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Engine:
    """Runs jobs on devices, a worker each; with one device in this process.

    devices: such as ["cpu", "cpu"] or ["cuda:0", "cuda:1"].
    """

    def __init__(self, devices: Sequence[str] = ("cpu",)):
        self.devices = list(devices)
        self.pool: ProcessPoolExecutor | None = None
        self.folder: tempfile.TemporaryDirectory | None = None
        self.networks: dict[int, tuple[nn.Module, Path]] = {}

    def run(self, pieces: Sequence[Sequence[Job]]) -> Iterator[int]:
        """Run every piece, the jobs of one in turns by the same worker; the places of the pieces, as they end."""
        if len(self.devices) == 1 or len(pieces) == 1:
            for place, piece in enumerate(pieces):
                for job in piece:
                    job.run(self.devices[0])
                yield place
            return
        left, broken = dict(enumerate(self.parcels(pieces))), 0
        while left:
            try:
                for place in self._side_by_side(left):
                    del left[place]
                    yield place
            except BrokenProcessPool:
                self.pool, broken = None, broken + 1
                if broken > RETRIES:
                    raise MemoryError(f"{broken} workers were killed, each by the system: is memory short?") from None

    def parcels(self, pieces: Sequence[Sequence[Job]]) -> list[bytes]:
        """The pieces, pickled; a network goes once into a file that workers read once."""
        self.folder = self.folder or tempfile.TemporaryDirectory(prefix="companion-")
        return [self._parcel(piece) for piece in pieces]

    def _parcel(self, piece: Sequence[Job]) -> bytes:
        file = io.BytesIO()
        pickler = pickle.Pickler(file)
        pickler.persistent_id = self._kept
        pickler.dump(list(piece))
        return file.getvalue()

    def _kept(self, value: object) -> Path | None:
        if not isinstance(value, nn.Module):
            return None
        if id(value) not in self.networks:
            path = Path(self.folder.name) / f"{len(self.networks)}.pt"
            torch.save(value, path)
            self.networks[id(value)] = (value, path)  # held, so that no other object gets its id
        return self.networks[id(value)][1]

    def _side_by_side(self, left: dict[int, bytes]) -> Iterator[int]:
        """Hand the parcels out, a few ahead of the workers; the places of those that are done."""
        if self.pool is None:
            context = multiprocessing.get_context("spawn")
            devices = context.Queue()
            for device in self.devices:
                devices.put(device)
            self.pool = ProcessPoolExecutor(len(self.devices), context, _begin, (devices,))
        own = [(name, module.__file__) for name, module in sys.modules.items() if name.startswith("own.")]
        waiting, running = iter(list(left.items())), {}
        while True:
            for place, parcel in itertools.islice(waiting, 2 * len(self.devices) - len(running)):
                running[self.pool.submit(_work, parcel, own)] = place
            if not running:
                return
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()
                yield running.pop(future)


_device = "cpu"  # of this worker
_networks: dict[Path, nn.Module] = {}  # that it has read


def _begin(devices: multiprocessing.Queue) -> None:
    global _device
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a key press ends the process that asked, and this one with it
    _device = devices.get()
    if _device == "cpu":
        torch.set_num_threads(1)


def _work(parcel: bytes, own: Sequence[tuple[str, str]]) -> None:
    for name, file in own:
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, file)
            sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])
    unpickler = pickle.Unpickler(io.BytesIO(parcel))
    unpickler.persistent_load = _network_of
    for job in unpickler.load():
        job.run(_device)


def _network_of(path: Path) -> nn.Module:
    if path not in _networks:
        _networks[path] = torch.load(path, map_location=_device, weights_only=False)
    return _networks[path]


def in_order(
    jobs: Mapping[str, Callable[[], Any]], needs: Mapping[str, Sequence[str]], workers: int
) -> Iterator[tuple[str, Any]]:
    """What every job gives, by name, as they end; one begins when all that it needs has ended.

    With one worker they run in this process, in their order.
    """
    if workers == 1:
        for name, job in jobs.items():
            yield name, job()
        return
    left, running = dict(jobs), {}
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        while left or running:
            busy = {*left, *running.values()}
            for name in [name for name in left if busy.isdisjoint(needs[name])]:
                running[pool.submit(left.pop(name))] = name
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield running.pop(future), future.result()
