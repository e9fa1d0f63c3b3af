"""What a stored computation is made from: a readable record whose digest is its key (imports nothing of lib).

The record names the function, its arguments (arrays by content; networks by structure, weights and the code of their
classes), the digest of every file of the project that this code reaches by imports, the versions of the packages that
those files import, and the kind of device. Nobody lists files by hand.
"""

import ast
import contextlib
import functools
import hashlib
import importlib.metadata
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = __name__.split(".")[0]
# Their versions are looked up under another name than they are imported by.
DISTRIBUTIONS = {"PIL": "pillow", "skimage": "scikit-image", "sklearn": "scikit-learn", "yaml": "pyyaml"}

Place = tuple[Path, Path]  # a file, and the folder in which its dotted name begins


class Unkeyed(TypeError):
    """An argument or a function that nothing can tell from another one: its results cannot be stored."""


@functools.cache
def source(path: Path) -> bytes:
    """A file's content when it was first asked for: an edit during a long run must not pass as what ran."""
    return path.read_bytes()


for _path in (ROOT / PACKAGE).rglob("*.py"):
    source(_path)


def digest(*parts: object) -> str:
    """SHA-256 (hex) of arrays, bytes and JSON-able values, with their types, shapes and order."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            total.update(f"array {part.dtype} {part.shape}".encode())
            total.update(np.ascontiguousarray(part).tobytes())
        elif isinstance(part, bytes):
            total.update(b"bytes")
            total.update(part)
        else:
            total.update(("json " + json.dumps(part, sort_keys=True)).encode())
    return total.hexdigest()


def record(function: Callable, arguments: tuple, device: str) -> dict:
    """What `function(*arguments)` on a device is made from; JSON-able. TypeError (`Unkeyed`) where nothing can say.

    device: as torch names it; a CPU counts with its instruction set, on which the last bits depend.
    """
    reached: set[Callable] = set()
    shown = [described(argument, reached) for argument in arguments]
    name = described(function, reached)
    places = {place for each in reached for place in places_of(each)}
    modules = {module for place in places for module in packages(*place)} | {each.__module__ for each in reached}
    names = {module.split(".")[0] for module in modules}
    return {
        "function": name,
        "arguments": shown,
        "code": {label(file): digest(source(file))[:16] for file, _ in sorted(places)},
        "packages": {one: version for one in sorted(names) if (version := version_of(one))},
        "device": machine(device),
    }


def described(value: object, reached: set[Callable]) -> object:
    """An argument as JSON-able data; the functions and classes in it are added to `reached`.

    A wrapper that changes no result, such as a memo, names in `__wrapped__` what stands for it.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)} {digest(value)}"
    if isinstance(value, Mapping):
        return {str(key): described(part, reached) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [described(part, reached) for part in value]
    if isinstance(value, functools.partial):
        whole = {"call": value.func, "with": value.args, "options": value.keywords}
        return {name: described(part, reached) for name, part in whole.items()}
    if inspect.isroutine(value) or inspect.isclass(value):
        return named(value, reached)
    if hasattr(value, "__wrapped__"):
        return described(value.__wrapped__, reached)
    if hasattr(value, "named_modules"):
        return network(value, reached)
    if hasattr(value, "detach"):
        return described(value.detach().cpu().numpy(), reached)
    raise Unkeyed(f"a {type(value).__name__} says nothing by which a stored result could be found again")


def named(function: Callable, reached: set[Callable]) -> str:
    """The dotted name of a function or class that stands at the top level of a file."""
    function = inspect.unwrap(function)
    if "<" in function.__qualname__ or function.__module__ == "__main__":
        raise Unkeyed(f"{function.__qualname__} is defined in a notebook's cell or inside a function, not in a file")
    reached.add(function)
    return f"{function.__module__}.{function.__qualname__}"


_read: dict[object, str] | None = None  # the digests of networks' weights, while these do not change


@contextlib.contextmanager
def networks_unchanged() -> Iterator[None]:
    """Within this block no network changes, so the weights of each are read once."""
    global _read
    before, _read = _read, {} if _read is None else _read
    try:
        yield
    finally:
        _read = before


def network(module, reached: set[Callable]) -> dict:
    """A network by its structure and its tensors; its classes are reached code."""
    for kind in {type(part) for part in module.modules()}:
        named(kind, reached)
    known = {} if _read is None else _read
    if module not in known:
        tensors = sorted([*module.named_parameters(), *module.named_buffers()])
        parts = [part for name, tensor in tensors for part in (name, tensor.detach().cpu().numpy())]
        known[module] = digest(*parts)
    return {"network": type(module).__name__, "structure": digest(repr(module)), "weights": known[module]}


def places_of(function: Callable) -> frozenset[Place]:
    """The file that defines a function or class of this project and those of the project that it imports, directly or
    through them; none for another package's.

    So adding an attack changes no key of another one's results. A package's __init__.py counts where a name of its own
    is imported from it.
    """
    function = inspect.unwrap(function)
    try:
        file = Path(inspect.getfile(function)).resolve()
    except TypeError:  # written in C
        return frozenset()
    if "site-packages" in file.parts or function.__module__.split(".")[0] in sys.stdlib_module_names:
        return frozenset()
    return reached_from(file, file.parents[function.__module__.count(".") + (file.name == "__init__.py")])


def code_of(function: Callable) -> str:
    """SHA-256 of all files of `places_of`."""
    return digest(*[source(file) for file, _ in sorted(places_of(function))])


@functools.cache
def reached_from(file: Path, root: Path) -> frozenset[Place]:
    """A file below `root` and all files of the project that it imports, directly or through them."""
    found, queue = set(), {(file, root)}
    while queue:
        place = queue.pop()
        found.add(place)
        queue |= {inner for name in imported_names(*place) if (inner := place_of(name, place[1]))} - found
    return frozenset(found)


@functools.cache
def imported_names(path: Path, root: Path) -> frozenset[str]:
    """The dotted names of the modules that a file imports, at its head or inside its functions."""
    names = set()
    for node in ast.walk(ast.parse(source(path))):
        if isinstance(node, ast.ImportFrom):
            above = path.relative_to(root).parts[: -node.level] if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            inner = {f"{module}.{alias.name}" for alias in node.names}
            names |= {name if place_of(name, root) else module for name in inner}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return frozenset(names)


def place_of(name: str, root: Path) -> Place | None:
    """The file of a dotted module name below `root`, or of this package; None for another package's."""
    for top in (root, ROOT) if name.split(".")[0] == PACKAGE else (root,):
        base = top.joinpath(*name.split("."))
        for file in (base.with_suffix(".py"), base / "__init__.py"):
            if file.is_file():
                return file, top
    return None


def packages(path: Path, root: Path) -> set[str]:
    """What a file imports that is not the project's: top-level module names."""
    return {name.split(".")[0] for name in imported_names(path, root) if not place_of(name, root)}


@functools.cache
def version_of(module: str) -> str:
    """The installed version of the package that brings a module; empty for Python's own and for what has none."""
    if module in sys.stdlib_module_names:
        return ""
    try:
        return importlib.metadata.version(DISTRIBUTIONS.get(module, module))
    except importlib.metadata.PackageNotFoundError:
        return ""


def machine(device: str) -> str:
    """The kind of device, for CPUs with the instruction set that torch uses."""
    kind = str(device).split(":")[0]
    if kind != "cpu" or "torch" not in sys.modules:
        return kind
    return f"cpu {sys.modules['torch'].backends.cpu.get_cpu_capability()}"


def label(file: Path) -> str:
    """A file as a record names it: the same in every checkout."""
    return file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else "/".join(file.parts[-2:])
