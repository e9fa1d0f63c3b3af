"""The victim with its defense, as an attacker who knows of the defense sees it: exact gradient, BPDA or EOT.

`Adaptive` is the `surrogate` of any attack on logits: `pgd(Adaptive(victim, purify), x, y, ids=ids)`. A defense is a
function of images that gives images, such as `lib.defenses.defense` binds. Networks in it are registered beside the
victim, so that an attack runs them in inference mode and leaves them as found.
"""

import functools

import torch
from torch import Tensor, nn

from lib.checks import Defense, checked_network, of_shape
from lib.memory import recomputed


class Adaptive(nn.Module):
    """Images `[B,3,H,W]` in [0,1] -> the mean of `victim(defense(x))` over the defenses: one, or one per draw.

    One defense: the exact gradient. The attack behind Table 1's 63.0: NRP's bypass_nrp.py, whose README calls it
    "straight through", back-propagates through the purifier itself, the static one (`nrp` with noise 0); what it makes
    is evaluated with the dynamic one.

    Several draws: EOT (Athalye et al. 2018), for the dynamic `nrp` with several seeds, not the defender's.  losses: the
    mean of the draws' losses instead of the loss of their mean logits: with a gradient the result is every draw's
    logits `[D,B,K]`, as `decision.by_draw` takes them.  bpda: the gradient of the victim at defense(x), as if the
    defense were the identity (Athalye et al. 2018), for defenses that pass no gradient; they get x clipped to [0,1].
    Neither is an experiment of the paper.

    ValueError without a defense, and, unless bpda, where one passes no gradient, as the transforms of Appendix E.
    """

    def __init__(self, victim: nn.Module, *defenses: Defense, bpda: bool = False, losses: bool = False):
        if not defenses:
            raise ValueError("an adaptive attack needs the defense, and EOT at least one draw of it")
        super().__init__()
        checked_network(victim)
        self.victim, self.defenses, self.bpda, self.losses = victim, defenses, bpda, losses
        # Nothing is copied; two draws of one purifier hold the same network. What a closure hides is not found.
        parts = list(defenses)
        for defense in defenses:
            if isinstance(defense, functools.partial):
                parts += [defense.func, *defense.args, *defense.keywords.values()]
        self.inner = nn.ModuleList(dict.fromkeys(part for part in parts if isinstance(part, nn.Module)))
        # An attack that saves the mode, calls eval() and restores the mode must restore the victim's own.
        self.training = victim.training

    def forward(self, x: Tensor) -> Tensor:
        # Of several draws one is in memory at a time: each is computed again when its gradient is due.
        ascending = torch.is_grad_enabled() and x.requires_grad
        bound = [functools.partial(self.logits, defense) for defense in self.defenses]
        again = ascending and len(bound) > 1
        draws = torch.stack([recomputed(logits, x) if again else logits(x) for logits in bound])
        return draws if ascending and self.losses else draws.mean(0)

    def logits(self, defense: Defense, x: Tensor) -> Tensor:
        return self.victim(self.defended(defense, x))

    def defended(self, defense: Defense, x: Tensor) -> Tensor:
        name = name_of(defense)
        if self.bpda:
            with torch.no_grad():
                result = of_shape(defense(x.clamp(0, 1)), x, name).to(x)
            return result + (x - x.detach())  # adds nothing but the gradient
        result = of_shape(defense(x.clone()), x, name)
        if torch.is_grad_enabled() and x.requires_grad and not result.requires_grad:
            raise ValueError(f"the defense {name} passes no gradient; attack it with BPDA")
        return result

    def extra_repr(self) -> str:
        """Stored results are keyed by it."""
        defenses = [f"defense={name_of(defense)}" for defense in self.defenses]
        return ", ".join([f"bpda={self.bpda}", f"losses={self.losses}", *defenses])


def name_of(part: object) -> str:
    """A defense's name and the options bound to it, networks by their class; the same in every run."""
    if isinstance(part, functools.partial):
        values = [*map(name_of, part.args), *(f"{name}={name_of(value)}" for name, value in part.keywords.items())]
        return f"{name_of(part.func)}({', '.join(values)})"
    return getattr(part, "__qualname__", type(part).__name__ if callable(part) else repr(part))
