"""What each notebook is given: networks, counts, budgets.

In all of them  victims: whose accuracy is measured.  surrogate: of the attacks on decisions.  feature_surrogate: of SSP
and FFF.  images: per number.  examples: how many images a figure shows.  purifier: the network that purifies.
"""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from lib.settings.base import ClassifierName, Count, GeneratorName, Levels, NetworkName, Strict, choices, holding
from lib.settings.networks import Data, Scenes
from lib.units import OF_DEFENSES, in_levels


def levels(options: object) -> object:
    """Options of a defense, whose budgets and noise must be levels."""
    if isinstance(options, dict):
        in_levels(options, OF_DEFENSES)
    return options


Options = Annotated[dict[str, int | float | str], BeforeValidator(levels), holding("kind", why="such as jpeg or nrp")]


class Transfer(Strict):
    """An appendix whose adversaries of surrogates are tried on other classifiers."""

    victims: list[ClassifierName]
    surrogate: ClassifierName
    feature_surrogate: ClassifierName
    images: Count


class AppendixF(Transfer):
    """notebooks/f_attack_parameters.ipynb: Table 5, Figure 6 and the transfer matrix."""

    victim: ClassifierName  # of Figure 6
    iterations: list[Count]  # of Figure 6


class AppendixA(Strict):
    """notebooks/a_why_ssp_works.ipynb: Figures 1 to 3."""

    sources: dict[str, ClassifierName]  # name in Figure 1 -> network whose feature space is attacked
    victim: ClassifierName  # of Figure 1
    iterations: list[Count]
    images: Count
    examples: Count  # in Figure 2
    logits: ClassifierName  # the network of Figure 3's logits
    features: ClassifierName  # and of its features
    tsne_data: Data
    groups: dict[str, list[tuple[int, int]]] | None = None  # name -> ranges of labels, both ends included, as one class
    classes: Count = 6  # without groups: so many, drawn at random
    # Those that SSP drives in turn; the logits, if a network has some, last.
    layers: dict[ClassifierName, Annotated[list[str], Field(min_length=2)]]
    compared: ClassifierName  # of `layers`: whose logits are held against its features, on every task
    layered: Count  # images per number of both
    budgets: list[int] = [8, 16]  # of `layers`

    @model_validator(mode="after")
    def compared_is_there(self) -> "AppendixA":
        if self.compared not in self.layers:
            raise ValueError(f"compared: '{self.compared}' is none of layers; {choices(self.compared, self.layers)}")
        return self


class TransformTest(Strict):
    """One task of Appendix E or D: its images, its victims and how SSP attacks them."""

    data: Scenes
    victims: list[NetworkName]  # the first is the table's
    steps: Count  # of SSP
    examples: Count
    threshold: float = Field(0.5, ge=0, le=1)  # the score in [0,1] from which a detection is drawn


class AppendixE(Strict):
    """notebooks/e_transforms.ipynb: Tables 6 and 7, Figures 4 and 5."""

    surrogate: ClassifierName  # whose features SSP attacks
    budgets: Annotated[list[int], holding(8, 16, why="the columns of Tables 6 and 7")]
    segmentation: TransformTest
    detection: TransformTest


def with_images(counts: dict[int, int]) -> dict[int, int]:
    return {steps: count for steps, count in counts.items() if count}


class AppendixB(Strict):
    """notebooks/b_at_comparison.ipynb: Table 1."""

    victim: ClassifierName  # "Original", which NRP protects
    hardened: dict[str, ClassifierName]  # row -> adversarially trained network
    data: Data | None = None  # if not the scale's
    # By steps of PGD; 0 images: not at all.
    images: Annotated[dict[Count, int], AfterValidator(with_images), holding(10, why="the steps that Table 1 is about")]
    seeds: int = Field(5, ge=2)  # of the dynamic defense
    draws: Count = 8  # of its noise, per step of the attack that averages over it
    adaptive: Count | None = None  # images of the attackers that are in no row of Table 1 (default: all)
    most_steps: Count | None = None  # of a dry run: fewer than `images` says


class AppendixC(Transfer):
    """notebooks/c_fsa.ipynb: Table 3, and what FSA's surrogate, steps and batch change."""

    surrogates: list[ClassifierName]  # the second table varies these, steps and batches
    steps: list[Count]
    batches: list[Count]  # below params.yaml's size
    varied: Count  # images of the second table
    scattered: ClassifierName | None = None  # trained on FSA's adversaries, if the scale has one
    natural: ClassifierName  # the same architecture trained naturally


class AppendixD(Strict):
    """notebooks/d_cda.ipynb: Table 4, Figures 9 and 10."""

    generators: dict[str, GeneratorName]  # by row of Table 4
    classifier: ClassifierName  # that all of them were trained against
    detection: TransformTest  # of Table 4
    feature_surrogate: ClassifierName
    victims: list[ClassifierName]
    images: Count
    pictured: list[str]  # the generators of Figure 9
    examples: Count


class AppendixG(Transfer):
    """notebooks/g_visual_purification.ipynb: Figures 7 and 8."""

    robust: ClassifierName  # whose features Figure 7 attacks
    ensemble: list[ClassifierName]  # the surrogates of Figure 8
    examples: Count

    @model_validator(mode="after")
    def a_victim_outside(self) -> "AppendixG":
        if not set(self.victims) - set(self.ensemble):
            raise ValueError("victims: Figure 8 needs one that is not in the ensemble")
        return self


class Protocol(Strict):
    """notebooks/h_protocol.ipynb: how much a defense really holds, which is no appendix of the paper."""

    victim: ClassifierName
    surrogate: ClassifierName  # of the attacks that transfer
    feature_surrogate: ClassifierName
    ensemble: list[ClassifierName]  # of DIM-TI
    more: dict[str, Options] = {}  # defenses beside params.yaml's: name -> kind and options
    defenses: list[str]  # that meet every attacker, beside "none"
    ablations: list[str] = []  # purifiers trained otherwise, which meet those of the gate alone
    robust: dict[ClassifierName, Levels] = {}  # networks that must stay up -> the budget in levels at which they do
    others: list[ClassifierName] = []  # further victims, of the attackers that tell most
    data: Data | None = None  # if not the scale's
    batch: Count | None = None  # if not the scale's
    images: Count
    few: Count  # of the attackers that cost most
    gate: Count  # images on which a defense shows that it is competent
    gate_data: Data | None = None  # where the scale's images have no part for validation
    budgets: list[Levels] = [0, 2, 4, 8, 16, 64]
    steps: Count = 100  # of the longest attack
    draws: list[Count] = [2, 8, 32]  # of a random defense, that an attacker averages over
    seeds: int = Field(5, ge=2)  # of the defender
    restarts: Count = 5

    def evaluated(self, defense: str | None = None) -> tuple[dict[str, Options], list[str]]:
        """The defenses that params.yaml has not, by name, and the names of those to evaluate.

        defense: that one alone, a name, or a purifier's file of weights (static, and dynamic as the paper's).
        """
        if defense is None:
            return self.more, self.defenses
        if not Path(defense).is_file():
            return self.more, [defense]
        static = {"kind": "nrp", "weights": defense}
        name = Path(defense).stem
        return {name: static, f"{name} dynamic": static | {"noise": 12.75, "eps": 16}}, [name, f"{name} dynamic"]
