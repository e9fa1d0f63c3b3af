"""The defenses by name: functions on images, `[B,3,H,W]` in [0,1] to the same shape and range.

To add one: write a function whose first argument is the images and whose options are keyword-only, add it to DEFENSES,
and name it in params.yaml as `{kind: name, option: value}`. To run it on folders, add a subcommand in __main__.py.
The purifier's network is no value for a file; the caller loads it: `defense("nrp", network=module, noise=NOISE)`.
"""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable

from torch import Tensor

from lib.defenses.purifier import nrp
from lib.defenses.transforms import jpeg, median, tvm

Defense = Callable[[Tensor], Tensor]

DEFENSES: dict[str, Callable[..., Tensor]] = {"jpeg": jpeg, "tvm": tvm, "median": median, "nrp": nrp}


def defense(kind: str, **options) -> Defense:
    """The defense of that name with its options bound, so that `defense(**spec)` reads an entry of params.yaml.

    ValueError for a name or an option that does not exist, and for one that is needed and not given; the values are
    checked when images come.
    """
    if kind not in DEFENSES:
        raise ValueError(f"no defense '{kind}'; {_choices(kind, DEFENSES)}")
    _, *known = inspect.signature(DEFENSES[kind]).parameters.values()
    names = [option.name for option in known]
    for name in options:
        if name not in names:
            raise ValueError(f"the defense {kind} has no option '{name}'; {_choices(name, names)}")
    for option in known:
        if option.default is option.empty and option.name not in options:
            raise ValueError(f"the defense {kind} needs the option '{option.name}'")
    return functools.partial(DEFENSES[kind], **options)


def _choices(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)
    return f"did you mean '{near[0]}'? There are: {', '.join(known)}"
