"""Where stored computations run: in this process, or side by side in a pool of processes on this machine.

On CPUs a computation has one thread, here and in every worker, so results do not depend on the machine's cores. A
worker writes what it computes into the store and sends nothing back; one that is killed costs its present piece, which
another one repeats.
"""

import contextlib
import hashlib
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

from lib.checks import usual_torch

RETRIES = 3  # new pools after a worker was killed
HELD = 8  # networks in the memory of a worker


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
    """Within it PyTorch computes with one thread on a CPU, and with its own defaults."""
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        with usual_torch():
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
        left, broken = dict(enumerate(pieces)), 0
        self.networks.clear()
        while left:
            try:
                for place in self._side_by_side(left):
                    del left[place]
                    yield place
            except BrokenProcessPool:
                self.pool, broken = None, broken + 1
                if broken > RETRIES:
                    raise MemoryError(f"{broken} workers were killed, each by the system: is memory short?") from None

    def _side_by_side(self, left: dict[int, Sequence[Job]]) -> Iterator[int]:
        """Hand the pieces out, a few ahead of the workers; the places of those that are done."""
        if self.pool is None:
            context = multiprocessing.get_context("spawn")
            devices = context.Queue()
            for device in self.devices:
                devices.put(device)
            self.pool = ProcessPoolExecutor(len(self.devices), context, _begin, (devices,))
        own = [(name, module.__file__) for name, module in sys.modules.items() if name.startswith("own.")]
        waiting, running = iter(list(left.items())), {}
        while True:
            for place, piece in itertools.islice(waiting, 2 * len(self.devices) - len(running)):
                running[self.pool.submit(_work, self._parcel(piece), own)] = place
            if not running:
                return
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()
                yield running.pop(future)

    def _parcel(self, piece: Sequence[Job]) -> bytes:
        file = io.BytesIO()
        _Pickler(file, self._kept).dump(list(piece))
        return file.getvalue()

    def _kept(self, network: nn.Module) -> Path:
        """The file of a network as it is in this run, called by its content."""
        self.folder = self.folder or tempfile.TemporaryDirectory(prefix="companion-")
        if id(network) not in self.networks:
            content = io.BytesIO()
            torch.save(network, content)
            path = Path(self.folder.name) / hashlib.sha256(content.getbuffer()).hexdigest()
            if not path.exists():
                path.write_bytes(content.getbuffer())
            self.networks[id(network)] = (network, path)  # held, so that no other object gets its id
        return self.networks[id(network)][1]


class _Pickler(pickle.Pickler):
    """Networks by their files, which a worker reads once; of a part of a tensor not the whole."""

    def __init__(self, file: io.BytesIO, kept: Callable[[nn.Module], Path]):
        super().__init__(file)
        self.kept = kept

    def persistent_id(self, value: object) -> Path | None:
        return self.kept(value) if isinstance(value, nn.Module) else None

    def reducer_override(self, value: object) -> object:
        if type(value) is torch.Tensor and value.untyped_storage().nbytes() > value.nbytes:
            return value.clone(memory_format=torch.contiguous_format).__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        return NotImplemented


_device = "cpu"  # of this worker
_networks: dict[Path, nn.Module] = {}  # that it has read, the last HELD


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
    try:
        for job in unpickler.load():
            job.run(_device)
    except Exception:
        _networks.clear()  # own code may have changed them
        raise


def _network_of(path: Path) -> nn.Module:
    network = _networks.pop(path, None)
    _networks[path] = torch.load(path, map_location=_device, weights_only=False) if network is None else network
    while len(_networks) > HELD:
        del _networks[next(iter(_networks))]
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
