"""The defenses by name: functions on images, `[B,3,H,W]` in [0,1] to the same shape and range.

Your own needs one file and one line of params.yaml: docs/own_defense.md. To add one to the library: write a function
whose first argument is the images and whose options are keyword-only, add it to DEFENSES, and name it in params.yaml as
`{kind: name, option: value}`. A purifier's network is no such value: `defense("nrp", network=module, noise=NOISE)`.
"""

import functools
import inspect
from collections.abc import Callable

from torch import Tensor

from lib.checks import Defense
from lib.defenses.own import own_defense
from lib.defenses.purifier import noise, nrp
from lib.defenses.transforms import jpeg, median, tvm
from lib.own import check_options, choices, function_in

DEFENSES: dict[str, Callable[..., Tensor]] = {"jpeg": jpeg, "tvm": tvm, "median": median, "nrp": nrp, "noise": noise}


def defense(kind: str | Callable[..., Tensor], **options) -> Defense:
    """The defense of that name with its options bound, so that `defense(**spec)` reads an entry of params.yaml.

    kind: a name of DEFENSES, a file in own/ that defines `defense` (docs/own_defense.md), or such a function.
    ValueError for a name or an option that does not exist, and for one that is needed and not given, errors of the
    file as of `lib.own.function_in`; the values are checked when images come. Options at their defaults are left out:
    equal defenses have equal stored results, such as the static NRP and the dynamic one without its noise.
    """
    given, file = callable(kind), str(kind).endswith(".py")
    own = given or file
    if not own and kind not in DEFENSES:
        raise ValueError(f"no defense '{kind}'; {choices(kind, DEFENSES)}")
    function = kind if given else function_in(kind, "defense") if file else DEFENSES[kind]
    check_options(f"the defense {kind.__name__ if given else kind}", function, ["x"], options)
    usual = {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
    options = {name: value for name, value in options.items() if name not in usual or value != usual[name]}
    return functools.partial(own_defense, function, **options) if own else functools.partial(function, **options)
