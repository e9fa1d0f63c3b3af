"""A function from a user's own file: an attack, a defense or a network (docs/own_attack.md, ...)."""

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType

from lib import keys
from lib.settings.base import ROOT, choices

FOLDER = "own"  # the stages of dvc.yaml depend on it
HALF_LEVEL = 0.5 / 255  # what rounding to 8 bits, and nothing else, may move a pixel


def load(file: str, name: str) -> Callable:
    """The function called `name` in a file of own/, such as "own/blur.py"; the file is executed once per process.

    ValueError or FileNotFoundError in one line.
    """
    parts = Path(file).parts
    if parts[:1] != (FOLDER,) or ".." in parts or not file.endswith(".py"):
        raise ValueError(f"{file}: write an own {name} into a Python file in {FOLDER}/, such as {FOLDER}/my_{name}.py")
    if not (ROOT / file).is_file():
        there = sorted(path.name for path in (ROOT / file).parent.glob("*.py"))
        hint = f"; an experiment in a folder of its own has what git knows: git add {file}" * ("exps" in ROOT.parts)
        raise FileNotFoundError(
            f"{file} not found; in its folder there is {', '.join(there) or 'no Python file'}{hint}"
        )
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
        return keys.execute(path, ".".join(Path(file).with_suffix("").parts), ROOT)
    except Exception as error:
        raise ValueError(f"{file} cannot be loaded: {type(error).__name__}: {' '.join(str(error).split())}") from error


def file_of(function: Callable) -> str:
    """The own file that a function comes from, such as "own/blur.py"."""
    return function.__module__.replace(".", "/") + ".py"


def check_options(what: str, function: Callable, takes: Sequence[str], given: Iterable[str]) -> None:
    """ValueError in one line unless `function` takes these arguments by position and these options by keyword.

    what: begins the line, such as "the defense jpeg".
    """
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
