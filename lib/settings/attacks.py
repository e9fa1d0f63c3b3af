"""Parameters of the attacks: the section `attacks` of params.yaml, by default the supplement's Appendix F."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lib.settings.base import Strict


class Noise(Strict):
    eps: float = 16


class Fgsm(Strict):
    eps: float = 16
    step: float = 16


class RFgsm(Strict):
    eps: float = 16
    alpha: float = 16 / 3


class IFgsm(Strict):
    eps: float = 16
    step: float = 1.6
    steps: int = 10


class MiFgsm(IFgsm):
    decay: float = 1.0


class Dim(MiFgsm):
    probability: float = Field(0.7, ge=0, le=1)


class DimTi(Dim):
    kernel: int = 15
    edge: float = 3.0


class Pgd(Strict):
    eps: float = 16
    step: float = 1.6
    steps: int = 10
    start: Literal["uniform", "clean"] = "uniform"


class Ssp(Strict):
    eps: float = 16
    step: float = 2.55
    steps: int = 100
    start: Literal["noise", "perturbed"] = "noise"


class Fff(Strict):
    eps: float = 16
    iterations: int = 10_000
    lr: float = 0.1
    halve_every: int = 300


class Fsa(Strict):
    """batch: images that one call of the attack couples.  reg, iterations, gradient: of its transport plan."""

    eps: float = 16
    step: float = 1.6
    steps: int = 10
    batch: int = Field(60, ge=1)
    reg: float = Field(0.01, gt=0)
    iterations: int = Field(100, ge=1)
    gradient: Literal["unrolled", "envelope"] = "unrolled"


class Cda(Strict):
    eps: float = 16
    smoothing: bool = False


class Attacks(Strict):
    """The supplement's Appendix F, as defaults."""

    noise: Noise = Noise()
    fgsm: Fgsm = Fgsm()
    r_fgsm: RFgsm = RFgsm()
    i_fgsm: IFgsm = IFgsm()
    mi_fgsm: MiFgsm = MiFgsm()
    dim: Dim = Dim()
    dim_ti: DimTi = DimTi()
    pgd: Pgd = Pgd()
    ssp: Ssp = Ssp()
    fff: Fff = Fff()
    fsa: Fsa = Fsa()
    cda: Cda = Cda()


class OwnAttack(BaseModel):
    """An entry of params.yaml's `own_attacks`, see docs/own_attack.md.

    file: in own/, defines `attack`.  looks_at: what its first argument gives (not `on`, which YAML takes for a truth
    value).  Every other key is an option of that function.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    file: str
    looks_at: Literal["logits", "features"] = "logits"
    eps: float = Field(ge=0, le=255)

    @property
    def options(self) -> dict[str, Any]:
        """What is passed to the function by keyword, eps included; budgets and steps in levels."""
        return self.model_dump(exclude={"file", "looks_at"})
