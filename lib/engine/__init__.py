"""Where stored computations run: in this process, or side by side in a pool of processes on this machine.

On CPUs a computation has one thread, here and in every worker, so results do not depend on the machine's cores. A
worker writes what it computes into the store and sends nothing back; one that is killed costs its present piece, which
another one repeats. `lib.engine.cluster` does the same on a cluster.
"""

import contextlib
import functools
import graphlib
import hashlib
import io
import itertools
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
import torch.distributed
from torch import nn
from torch.multiprocessing import ProcessExitedException, spawn

from lib import keys
from lib.checks import usual_torch
from lib.precision import stated

RETRIES = 3  # new pools after a worker was killed
HELD = 8  # networks in the memory of a worker


class Job(NamedTuple):
    """`function(*arguments, device=..., **how)`, whose result `done` is given; all of it can be pickled.  made_from:
    its record (`lib.keys`), which must hold where it is computed."""

    function: Callable
    arguments: tuple
    how: Mapping[str, object]
    done: Callable[[Any], None] | None
    made_from: Mapping = {}

    def compute(self, device: str) -> Any:
        """The result, computed here. ValueError in one line where the code is not what the record says."""
        try:
            with keys.in_force(self.made_from), one_thread(device):
                return self.function(*self.arguments, device=device, **self.how)
        except Exception:
            _held.clear()  # custom code may have changed those that this worker holds
            raise


@contextlib.contextmanager
def one_thread(device: str) -> Iterator[None]:
    """Within it PyTorch computes with one thread on a CPU, its own defaults, and float32 as it is (`lib.precision`)."""
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        with stated(device), usual_torch():
            yield
    finally:
        torch.set_num_threads(threads)


class Engine:
    """Runs jobs on devices, such as ["cpu", "cpu"] or ["cuda:0", "cuda:1"], a worker each; with one in this process."""

    def __init__(self, devices: Sequence[str] = ("cpu",)):
        self.devices = list(devices)
        self.pool: ProcessPoolExecutor | None = None
        self.folder: tempfile.TemporaryDirectory | None = None
        self.networks: dict[int, tuple[nn.Module, str]] = {}

    def run(self, pieces: Sequence[Sequence[Job]]) -> Iterator[int]:
        """Run every piece, the jobs of one in turns by the same worker; the places of the pieces, as they end."""
        if len(self.devices) == 1 or len(pieces) == 1:
            for place, piece in enumerate(pieces):
                for job in piece:
                    job.done(job.compute(self.devices[0]))
                yield place
            return
        left, broken = dict(enumerate(pieces)), 0
        self.networks.clear()
        while left:
            try:
                with _interruptible():
                    for place in self._side_by_side(left):
                        del left[place]
                        yield place
            except BrokenProcessPool:
                self.pool, broken = None, broken + 1
                if broken > RETRIES:
                    raise _killed(broken) from None

    def _side_by_side(self, left: dict[int, Sequence[Job]]) -> Iterator[int]:
        """Hand the pieces out, a few ahead of the workers; the places of those that are done."""
        if self.pool is None:
            context = multiprocessing.get_context("spawn")
            devices = context.Queue()
            for device in self.devices:
                devices.put(device)
            self.pool = ProcessPoolExecutor(len(self.devices), context, _begin, (devices,))
        files = keys.own_files()
        waiting, running = iter(list(left.items())), {}
        while True:
            for place, piece in itertools.islice(waiting, 2 * len(self.devices) - len(running)):
                running[self.pool.submit(_work, self._parcel(piece), files)] = place
            if not running:
                return
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()
                yield running.pop(future)

    def group(self, function: Callable[[str], Any], count: int) -> Any:
        """`function(device)` in so many processes at once, which share the work (`in_group`); what the first one gives.
        After one was killed all begin again."""
        device = self.devices[0]
        if device.startswith("cuda") and count > torch.cuda.device_count():
            raise ValueError(f"{count} workers need as many GPUs; there are {torch.cuda.device_count()}")
        for _ in range(RETRIES):
            with tempfile.TemporaryDirectory(prefix="companion-") as folder:
                try:
                    spawn(_grouped, (count, folder, device, function), nprocs=count)
                    return torch.load(f"{folder}/result", weights_only=False)
                except ProcessExitedException as error:
                    if not error.signal_name:
                        raise
        raise _killed(RETRIES)

    def _parcel(self, piece: Sequence[Job]) -> bytes:
        file = io.BytesIO()
        _Pickler(file, self._sent).dump(list(piece))
        return file.getvalue()

    def _sent(self, network: nn.Module) -> str:
        """The name of a network as it is in this run, by its content, under which the workers find it."""
        if id(network) not in self.networks:
            content = io.BytesIO()
            torch.save(network, content)
            name = hashlib.sha256(content.getbuffer()).hexdigest()
            self.networks[id(network)] = (network, self._keep(name, content))  # held, so that no other gets its id
        return self.networks[id(network)][1]

    def _keep(self, name: str, content: io.BytesIO) -> str:
        """Put a network where the workers find it: here into a file, whose path this gives."""
        self.folder = self.folder or tempfile.TemporaryDirectory(prefix="companion-")
        path = Path(self.folder.name) / name
        if not path.exists():
            path.write_bytes(content.getbuffer())
        return str(path)


def _killed(count: int) -> ChildProcessError:
    return ChildProcessError(f"{count} workers were killed, each by the system: is memory short?")


@functools.cache
def engine_of(kind: str, device: str, workers: int) -> Engine:
    """The engine of this process. kind: "local", a worker per core, or the one GPU (with "cuda", all); or "ray"."""
    if kind == "ray":
        from lib.engine.cluster import RayEngine

        return RayEngine(device, workers)
    gpus = [f"cuda:{k}" for k in range(torch.cuda.device_count())] if device == "cuda" else []
    return Engine(gpus or ([device] if device != "cpu" else ["cpu"] * workers))


class _Pickler(pickle.Pickler):
    """Networks by their names, so that a worker reads each once; of a part of a tensor not the whole."""

    def __init__(self, file: io.BytesIO, sent: Callable[[nn.Module], str]):
        super().__init__(file)
        self.sent = sent

    def persistent_id(self, value: object) -> str | None:
        if not isinstance(value, nn.Module):
            return None
        # A wrapper is sent as it is, around the name of its network, which others wrap too or use as it is.
        wrapper = len(value._modules) == 1 and not value._parameters and not value._buffers
        return None if wrapper else self.sent(value)

    def reducer_override(self, value: object) -> object:
        if type(value) is torch.Tensor and value.untyped_storage().nbytes() > value.nbytes:
            return value.clone(memory_format=torch.contiguous_format).__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        return NotImplemented


_device = "cpu"  # of this worker
_held: dict[str, nn.Module] = {}  # the networks that it has read, the last HELD


def _begin(devices: multiprocessing.Queue) -> None:
    global _device
    _end_with_parent()
    _device = devices.get()
    if _device == "cpu":
        torch.set_num_threads(1)
    if _device.startswith("cuda"):
        torch.cuda.set_device(_device)  # else pinned memory would take room on the first GPU


def _end_with_parent() -> None:
    """End this process when the one that asked for it does, by a key press or killed, which cannot say so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _work(parcel: bytes, files: Sequence[tuple[str, str]]) -> None:
    for job in unpacked(parcel, files, _device, functools.partial(open, mode="rb")):
        job.done(job.compute(_device))


def unpacked(
    parcel: bytes, files: Sequence[tuple[str, str]], device: str, content: Callable[[str], IO[bytes]]
) -> list[Job]:
    """The jobs of a parcel, at a worker; content: opens a network that it does not hold yet, by its name."""

    def network(name: str) -> nn.Module:
        found = _held.pop(name, None)
        if found is None:
            with content(name) as file:
                found = torch.load(file, map_location=device, weights_only=False)
        _held[name] = found
        while len(_held) > HELD:
            del _held[next(iter(_held))]
        return found

    keys.import_files(files)
    unpickler = pickle.Unpickler(io.BytesIO(parcel))
    unpickler.persistent_load = network
    return unpickler.load()


def _grouped(rank: int, count: int, folder: str, device: str, function: Callable[[str], Any]) -> None:
    _end_with_parent()
    result = in_group(rank, count, f"file://{folder}/meet", device, function)
    if rank == 0:
        torch.save(result, f"{folder}/result")


def in_group(rank: int, count: int, address: str, device: str, function: Callable[[str], Any]) -> Any:
    """`function(device)` as one of `count` processes that meet at an address and can exchange tensors
    (torch.distributed). On one machine with several GPUs ("cuda:0") the process takes that of its rank."""
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    if device.startswith("cuda"):
        device = f"cuda:{rank}" if ":" in device else "cuda:0"
        torch.cuda.set_device(device)
    torch.distributed.init_process_group(backend, init_method=address, rank=rank, world_size=count)
    try:
        with one_thread(device):
            return function(device)
    finally:  # the others end too where this one fails
        torch.distributed.destroy_process_group()


def in_order(
    jobs: Mapping[str, Callable[[], Any]],
    needs: Mapping[str, Sequence[str]],
    workers: int,
    submit: Callable[[Callable[[], Any]], Future] | None = None,
) -> Iterator[tuple[str, Any]]:
    """What every job gives, by name, as they end; one begins when all that it needs has ended.

    With one worker they run in this process; with several in a pool of processes, or where `submit` puts them.
    ValueError where some need one another.
    """
    needed = {name: [one for one in needs[name] if one in jobs] for name in jobs}
    order, running = graphlib.TopologicalSorter(needed), {}
    try:
        order.prepare()
    except graphlib.CycleError as error:
        raise ValueError(f"these wait for one another: {' -> '.join(error.args[1])}; take one of them out") from None
    if workers == 1 and not submit:
        while order.is_active():
            for name in order.get_ready():
                yield name, jobs[name]()
                order.done(name)
        return
    with contextlib.ExitStack() as stack:
        if not submit:
            pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _end_with_parent)
            submit = stack.enter_context(pool).submit
            stack.enter_context(_interruptible())
        while order.is_active():
            for name in order.get_ready():
                running[submit(jobs[name])] = name
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                name = running.pop(future)
                try:
                    yield name, future.result()
                except BrokenProcessPool:
                    raise MemoryError("a worker was killed by the system") from None
                order.done(name)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Within it Ctrl+C ends the processes of a pool too, which would otherwise be waited for."""
    try:
        yield
    except KeyboardInterrupt:
        for child in multiprocessing.active_children():
            child.terminate()
        raise
