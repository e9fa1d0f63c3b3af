"""The victim behind a defense, as an attacker who knows of the defense sees it.

Each mode is a network from images `[B,3,H,W]` in [0,1] to the victim's logits, so that it can be the `surrogate` of any
attack on logits: `targeted_pgd(Exact(victim, purify), x, y, ids=ids)`. A defense is a function of images that gives
images, such as `lib.defenses.defense` binds; networks found in it (a module, or a `functools.partial`'s arguments) are
registered beside the victim, so that an attack runs them in inference mode and leaves them as found.
"""

import functools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

Defense = Callable[[Tensor], Tensor]


class Behind(nn.Module):
    """What the modes share: the victim, the defenses, and the networks in them, none of them copied."""

    def __init__(self, victim: nn.Module, *defenses: Defense):
        super().__init__()
        self.victim = victim
        self.defenses = defenses
        # Two draws of one purifier hold the same network.
        self.inner = nn.ModuleList(dict.fromkeys(network for front in defenses for network in networks_in(front)))
        # An attack that saves the mode, calls eval() and restores the mode must restore the victim's own.
        self.training = victim.training

    def extra_repr(self) -> str:
        """The mode and the defenses' options; stored results are keyed by it."""
        mode = next(name for name, kind in MODES.items() if isinstance(self, kind))
        return ", ".join([f"mode={mode}", *(f"defense={described(front)}" for front in self.defenses)])


class Exact(Behind):
    """`victim(defense(x))` with the true gradient through the defense.

    The attack behind Table 1's 63.0: NRP's bypass_nrp.py, whose README calls it "straight through", back-propagates
    through the purifier itself, the static one (`nrp` with noise 0); what it makes is judged behind the dynamic one.
    ValueError where the defense passes no gradient, as the transforms of Appendix E do not.
    """

    def __init__(self, victim: nn.Module, defense: Defense):
        super().__init__(victim, defense)

    def forward(self, x: Tensor) -> Tensor:
        return self.victim(with_gradient(self.defenses[0], x))


class Identity(Behind):
    """`victim(defense(x))` whose gradient takes the defense for the identity: that of the victim at defense(x).

    BPDA (Athalye et al. 2018; obfuscated-gradients), for defenses that pass no gradient; not an experiment of the
    paper. What of x lies outside [0,1], as the first iterate of PGD does, reaches the defense clipped.
    """

    def __init__(self, victim: nn.Module, defense: Defense):
        super().__init__(victim, defense)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            defended = self.defenses[0](x.clamp(0, 1)).to(x)
        return self.victim(_StraightThrough.apply(x, defended))


class Expectation(Behind):
    """The mean of `victim(defense(x))` over several draws of a random defense, with the true gradient of all.

    EOT (Athalye et al. 2018), for the dynamic `nrp`; the paper's attack does not do it. defenses: one per draw, such as
    the dynamic `nrp` with several seeds, not the defender's. ValueError for none, or where one passes no gradient.
    """

    def __init__(self, victim: nn.Module, defenses: Sequence[Defense]):
        if not defenses:
            raise ValueError("the expectation needs at least one draw of the defense")
        super().__init__(victim, *defenses)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.victim(with_gradient(front, x)) for front in self.defenses]).mean(0)


MODES: dict[str, type[Behind]] = {"exact": Exact, "identity": Identity, "expectation": Expectation}


class _StraightThrough(torch.autograd.Function):
    """Gives `defended`, and hands its gradient on to x."""

    @staticmethod
    def forward(ctx, x: Tensor, defended: Tensor) -> Tensor:
        return defended.view_as(defended)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def with_gradient(defense: Defense, x: Tensor) -> Tensor:
    """`defense(x)`; ValueError if a gradient is wanted and the defense passes none."""
    defended = defense(x)
    if torch.is_grad_enabled() and x.requires_grad and not defended.requires_grad:
        raise ValueError(f"the defense {described(defense)} passes no gradient; attack it in mode identity")
    return defended


def networks_in(defense: object) -> Iterator[nn.Module]:
    """The networks that are the defense, or bound in a `functools.partial`; what a closure hides is not found."""
    if isinstance(defense, nn.Module):
        yield defense
    elif isinstance(defense, functools.partial):
        for part in (defense.func, *defense.args, *defense.keywords.values()):
            yield from networks_in(part)


def described(defense: Defense) -> str:
    """A defense's name and the options bound to it, networks by their class; the same in every run."""
    if isinstance(defense, functools.partial):
        values = [_shown(value) for value in defense.args]
        values += [f"{name}={_shown(value)}" for name, value in defense.keywords.items()]
        return f"{described(defense.func)}({', '.join(values)})"
    return getattr(defense, "__qualname__", type(defense).__name__)


def _shown(value: object) -> str:
    return type(value).__name__ if isinstance(value, nn.Module) else repr(value)
