"""A function from a user's own file: an attack, a defense or a network (docs/own_attack.md, ...)."""

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

from lib import keys
from lib.settings.base import ROOT, choices

FEW_ENTRIES = 100  # entries of a list or a dictionary that are compared one by one
HALF_LEVEL = 0.5 / 255  # what rounding to 8 bits, and nothing else, may move a pixel


def function_in(file: str, name: str) -> Callable:
    """The function called `name` in a file of own/, such as "own/blur.py"; the file is executed once per process.
    ValueError or FileNotFoundError in one line."""
    parts = Path(file).parts
    if parts[:1] != ("own",) or ".." in parts or not file.endswith(".py"):
        raise ValueError(f"{file}: write an own {name} into a Python file in own/, such as own/my_{name}.py")
    if not (ROOT / file).is_file():
        there = sorted(path.name for path in (ROOT / file).parent.glob("*.py"))
        found = f"in its folder there is {', '.join(there) or 'no Python file'}"
        hint = f"; an experiment in a folder of its own has what git knows: git add {file}" * ("exps" in ROOT.parts)
        raise FileNotFoundError(f"{file} not found; {found}{hint}")
    module = _module(ROOT / file, file)
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise ValueError(f"{file} defines no function '{name}'; its functions are: {', '.join(known) or 'none'}")
    return function


@functools.cache
def _module(path: Path, file: str) -> ModuleType:
    """The executed file; ValueError in one line where it fails."""
    try:
        return keys.import_file(path, ".".join(Path(file).with_suffix("").parts))
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"{file} cannot be loaded: {why} (in a notebook: restart the kernel after an edit)") from error


@contextlib.contextmanager
def stateless(function: Callable) -> Iterator[None]:
    """Within it, a function of an own file runs. ValueError if it leaves a name of its file, or an attribute of its
    own, with another value: what is kept from one call changes what the next one gives, and is in no key."""
    before = state_of(function)
    yield
    after = state_of(function)
    if changed := sorted(name for name in before | after if before.get(name) != after.get(name)):
        raise ValueError(f"{file_of(function)} keeps a state between calls, in {', '.join(changed)}; compute it anew")


def state_of(function: Callable) -> dict[str, object]:
    """The values that outlive a call, as far as they can be told apart, by name."""
    module = sys.modules.get(function.__module__)
    # A notebook's names are the user's workplace, and no file's.
    outside = vars(module) if module and function.__module__ != "__main__" else {}
    known = {**outside, **getattr(function, "__dict__", {})}
    return {name: told(value) for name, value in known.items() if not name.startswith("__")}


def told(value: object) -> object:
    """A value by its contents where these are plain, tensors by their counts of changes, others by themselves."""
    if isinstance(value, bool | int | float | str | bytes | None):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return type(value).__name__, len(value), *map(told, value if len(value) <= FEW_ENTRIES else ())
    if isinstance(value, dict):
        return "dict", len(value), *((repr(key), told(part)) for key, part in [*value.items()][:FEW_ENTRIES])
    if hasattr(value, "named_modules") and not inspect.isclass(value):
        tensors = [*value.parameters(), *value.buffers()]
        return id(value), *map(told, tensors), *(part.training for part in value.modules())
    return id(value), getattr(value, "_version", None)


def file_of(function: Callable) -> str:
    """The own file that a function comes from, such as "own/blur.py"."""
    return function.__module__.replace(".", "/") + ".py"


def check_options(what: str, function: Callable, takes: Sequence[str], given: Iterable[str]) -> None:
    """ValueError in one line, which begins with `what`, such as "the defense jpeg", unless `function` takes these
    arguments by position and these options by keyword."""
    signature, given = inspect.signature(function), list(given)
    parameters = signature.parameters
    free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name in () if free else given:
        if name not in parameters:
            raise ValueError(f"{what} has no option '{name}'; {choices(name, list(parameters)[len(takes) :])}")
    try:
        signature.bind(*takes, **dict.fromkeys(given))
    except TypeError as error:
        called = ", ".join([*takes, *given])
        raise ValueError(f"{what}: {error}; it is called as ({called}), but takes {signature}") from None
