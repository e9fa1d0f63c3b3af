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
import importlib.util
import inspect
import json
import platform
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = __name__.split(".")[0]
T = TypeVar("T")
Imports = tuple[frozenset[Path], frozenset[str]]  # files of the project, and other packages by their imported names


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
            total.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8))  # its own bytes, no copy
        elif isinstance(part, bytes):
            total.update(b"bytes")
            total.update(part)
        else:
            total.update(("json " + json.dumps(part, sort_keys=True)).encode())
    return total.hexdigest()


def short_digest(content: bytes) -> str:
    """Of a file of code."""
    return digest(content)[:16]


def record(function: Callable, arguments: tuple, device: str) -> dict:
    """What `function(*arguments)` on a device is made from, JSON-able; a CPU counts with its instruction set, on which
    the last bits depend. TypeError (`Unkeyed`) where nothing can say."""
    reached: set[Callable] = set()
    about = {"arguments": described(arguments, reached), "function": described(function, reached)}
    code, packages = known(frozenset(reached), lambda: code_and_packages(reached))
    return about | {"code": code, "packages": packages, "device": machine(device)}


def code_and_packages(reached: set[Callable]) -> tuple[dict[str, str], dict[str, str]]:
    """The digests of all files of the project that these functions and classes reach, and the versions of packages."""
    imports = [imports_of(each) for each in reached]
    files = {file for found, _ in imports for file in found}
    names = {each.__module__.split(".")[0] for each in reached}.union(*(packages for _, packages in imports))
    code = {label(file): short_digest(source(file)) for file in sorted(files)}
    return code, {one: version for one in sorted(names) if (version := version_of(one))}


def current(made_from: dict) -> bool:
    """Can the present code and packages still ask for what this record is of?"""
    files = {ROOT / name: known for name, known in made_from.get("code", {}).items()}
    same = all(file.is_file() and short_digest(source(file)) == known for file, known in files.items())
    return same and all(version_of(name) == known for name, known in made_from.get("packages", {}).items())


def import_file(path: Path, name: str) -> ModuleType:
    """A file as the module of that name. What runs is what keys are made of: it and its imports are read first."""
    imports_through(path, ROOT)
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def own_files() -> list[tuple[str, str]]:
    """The files of own/ that this process has imported: where each lies, seen from the checkout, and its module."""
    own = {name: getattr(module, "__file__", None) for name, module in sys.modules.items() if name.startswith("own.")}
    found = [(Path(file), name) for name, file in own.items() if file]  # a folder has none
    return [(str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path), name) for path, name in found]


def import_files(files: Iterable[tuple[str, str]]) -> None:
    """Import what `own_files` named in another process, with which this one may share no disk."""
    for path, name in files:
        if name not in sys.modules:
            import_file(ROOT / path, name)


_in_force: set[tuple[str, str]] = set()  # files of the project, with the digests of what this process imported of them


@contextlib.contextmanager
def in_force(made_from: Mapping) -> Iterator[None]:
    """Around a computation: ValueError in one line where this process computes with other code, other packages or on
    another kind of device than the record says. It may have begun after an edit, or run in another checkout."""
    check(made_from)
    yield
    check(made_from)  # what the computation itself has imported


def check(made_from: Mapping) -> None:
    """The check of `in_force`. A file counts once it is imported; what is edited later has not run."""
    here = platform.node()
    for name, known in made_from.get("code", {}).items():
        module = sys.modules.get(".".join(Path(name).with_suffix("").parts).removesuffix(".__init__"))
        file = ROOT / name
        if (name, known) in _in_force or Path(getattr(module, "__file__", None) or "").resolve() != file:
            continue
        if not file.is_file() or short_digest(inspect.unwrap(source)(file)) != known:
            why = f"{name} changed while it ran, or {here} has another version of it"
            raise ValueError(f"{why}: run again, in a notebook after a restart of its kernel")
        _in_force.add((name, known))
    for name, known in made_from.get("packages", {}).items():
        if (found := version_of(name) or "not at all") != known:
            raise ValueError(f"{here} has {name} {found}, this run began with {known}: install the same")
    if (known := made_from.get("device")) and known != machine(known.split()[0]):
        raise ValueError(f"{here} computes on '{machine(known.split()[0])}', this run began on '{known}'")


def described(value: object, reached: set[Callable]) -> object:
    """An argument as JSON-able data; the functions and classes in it are added to `reached`. A wrapper that changes no
    result, such as a memo, names in `__wrapped__` what stands for it."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)} {digest(value)}"
    if isinstance(value, Mapping):
        return {str(key): described(part, reached) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [described(part, reached) for part in value]
    if isinstance(value, functools.partial):
        return described({"call": value.func, "with": value.args, "options": value.keywords}, reached)
    if inspect.isroutine(value) or inspect.isclass(value):
        return named(value, reached)
    if hasattr(value, "__wrapped__"):
        return described(value.__wrapped__, reached)
    if hasattr(value, "named_modules"):
        found, inner = known(value, lambda: network_record(value))
        reached |= inner
        return found
    if hasattr(value, "detach"):
        # A view of a shard is a new object each time, of the same numbers; `value` is held, so that they stay there.
        place = (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device)
        return known(place, lambda: (described(value.detach().cpu().numpy(), reached), value))[0]
    raise Unkeyed(f"a {type(value).__name__} says nothing by which a stored result could be found again")


def named(function: Callable, reached: set[Callable]) -> str:
    """The dotted name of a function or class that stands at the top level of a file."""
    function = inspect.unwrap(function)
    if "<" in function.__qualname__ or function.__module__ == "__main__":
        raise Unkeyed(f"{function.__qualname__} is defined in a notebook's cell or inside a function, not in a file")
    reached.add(function)
    return f"{function.__module__}.{function.__qualname__}"


_known: dict[object, object] | None = None  # what was found out of arguments, while these do not change


@contextlib.contextmanager
def read_once() -> Iterator[None]:
    """Within this block no network and no tensor changes, nor any code, so each is read once."""
    global _known
    before, _known = _known, {} if _known is None else _known
    try:
        yield
    finally:
        _known = before


def known(of: Hashable, find: Callable[[], T]) -> T:
    """What `find` gives, within `read_once` only once."""
    if _known is None:
        return find()
    if of not in _known:
        _known[of] = find()
    return _known[of]


def network_record(module) -> tuple[dict, set[Callable]]:
    """A network by its structure and its tensors; and the code that it reaches: its classes, and what says in
    `built_by` that it built a part."""
    reached: set[Callable] = set()
    for kind in {type(part) for part in module.modules()}:
        named(kind, reached)
    built_by = [described(part.built_by, reached) for part in module.modules() if hasattr(part, "built_by")]
    tensors = sorted([*module.named_parameters(), *module.named_buffers()])
    parts = [part for name, tensor in tensors for part in (name, tensor.detach().cpu().numpy())]
    found = {"network": type(module).__name__, "structure": digest(repr(module)), "weights": digest(*parts)}
    return found | ({"built by": built_by} if built_by else {}), reached


def imports_of(function: Callable) -> Imports:
    """The file that defines a function or class of this project and what it imports, directly or through other files of
    the project; nothing for another package's. So adding an attack changes no key of another one's results.

    A package's __init__.py counts where a name of its own is imported from it.
    """
    function = inspect.unwrap(function)
    module = function.__module__.split(".")
    try:
        file = Path(inspect.getfile(function)).resolve()
    except TypeError:  # written in C
        return frozenset(), frozenset()
    if {"site-packages", "dist-packages"} & {*file.parts} or module[0] in sys.stdlib_module_names:
        return frozenset(), frozenset()
    return imports_through(file, file.parents[len(module) - (file.name != "__init__.py")])


@functools.cache
def imports_through(file: Path, root: Path) -> Imports:
    """A file below `root`, where its dotted name begins, and all that it imports, directly or through other files."""
    files, packages, queue = set(), set(), {file}
    while queue:
        files.add(path := queue.pop())
        more, others = imports_in(path, root)
        packages |= others
        queue |= more - files
    return frozenset(files), frozenset(packages)


@functools.cache
def imports_in(path: Path, root: Path) -> Imports:
    """What a file imports, at its head or inside its functions."""
    names, files, packages = [], set(), set()
    for node in ast.walk(ast.parse(source(path))):
        if isinstance(node, ast.ImportFrom):
            above = path.relative_to(root).parts[: -node.level] if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            names += [(f"{module}.{alias.name}", module) for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [(alias.name, alias.name) for alias in node.names]
    for name, module in names:
        if file := module_file(name, root) or module_file(module, root):
            files.add(file)
        else:
            packages.add(name.split(".")[0])
    return frozenset(files), frozenset(packages)


def module_file(name: str, root: Path) -> Path | None:
    """The file of a dotted module name below `root`, or of this package; None for another package's."""
    for top in (root, ROOT) if name.split(".")[0] == PACKAGE else (root,):
        base = top.joinpath(*name.split("."))
        for file in (base.with_suffix(".py"), base / "__init__.py"):
            if file.is_file():
                return file
    return None


@functools.cache
def version_of(module: str) -> str:
    """The installed version of the package that brings a module; empty for Python's own and for what has none."""
    if module in sys.stdlib_module_names or module in (PACKAGE, "own"):
        return ""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(module)
    found = sorted(brought_by().get(module, []))  # skimage comes with scikit-image
    return ", ".join(importlib.metadata.version(name) for name in found)


brought_by = functools.cache(importlib.metadata.packages_distributions)  # the installed packages, by module


def machine(device: str) -> str:
    """The kind of device, for CPUs with the instruction set that torch uses."""
    kind = str(device).split(":")[0]
    torch = sys.modules.get("torch")
    return f"cpu {torch.backends.cpu.get_cpu_capability()}, 1 thread" if torch and kind == "cpu" else kind


def label(file: Path) -> str:
    """A file as a record names it: the same in every checkout."""
    return file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else "/".join(file.parts[-2:])
