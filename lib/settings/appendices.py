"""What each appendix's notebook is given: networks, counts, budgets.

In all of them  victims: whose accuracy is measured.  surrogate: of the attacks on decisions.  feature_surrogate: of SSP
and FFF.  images: per number.  examples: how many images a figure shows.  purifier: the network that purifies.
"""

from typing import Annotated

from pydantic import Field

from lib.settings.base import Classifier, Generator, Network, Purifier, Strict, holding
from lib.settings.networks import Data, Scenes


class Transfer(Strict):
    """An appendix whose adversaries of surrogates are tried on other classifiers."""

    victims: list[Classifier]
    surrogate: Classifier
    feature_surrogate: Classifier
    images: int


class AppendixF(Transfer):
    """notebooks/f_attack_parameters.ipynb: Table 5, Figure 6 and the transfer matrix."""

    victim: Classifier  # of Figure 6
    iterations: list[int]  # of Figure 6


class AppendixA(Strict):
    """notebooks/a_why_ssp_works.ipynb: Figures 1 to 3."""

    sources: dict[str, Classifier]  # name in Figure 1 -> network whose feature space is attacked
    victim: Classifier  # of Figure 1
    iterations: list[int]
    images: int
    examples: int  # in Figure 2
    logits: Classifier  # the network of Figure 3's logits
    features: Classifier  # and of its features
    tsne_data: Data
    groups: dict[str, list[tuple[int, int]]] | None = None  # name -> ranges of labels, both ends included, as one class
    classes: int = 6  # without groups: so many, drawn at random


class TransformTest(Strict):
    """One task of Appendix E or D: its images, its victims and how SSP attacks them."""

    data: Scenes
    victims: list[Network]  # the first is the table's
    steps: int  # of SSP
    examples: int
    threshold: float = Field(0.5, ge=0, le=1)  # the score in [0,1] from which a detection is drawn


class AppendixE(Strict):
    """notebooks/e_transforms.ipynb: Tables 6 and 7, Figures 4 and 5."""

    surrogate: Classifier  # whose features SSP attacks
    budgets: Annotated[list[int], holding(8, 16, why="the columns of Tables 6 and 7")]
    segmentation: TransformTest
    detection: TransformTest


class AppendixB(Strict):
    """notebooks/b_at_comparison.ipynb: Table 1."""

    victim: Classifier  # "Original", which NRP protects
    hardened: dict[str, Classifier]  # row -> adversarially trained network
    purifier: Purifier
    data: Data | None = None  # if not the scale's
    images: Annotated[dict[int, int], holding(10, why="the steps that Table 1 is about")]  # by steps of PGD
    seeds: int = Field(5, ge=2)  # of the dynamic defense
    draws: int = Field(8, ge=1)  # of its noise, per step of the attack that averages over it


class AppendixC(Transfer):
    """notebooks/c_fsa.ipynb: Table 3, and what FSA's surrogate, steps and batch change."""

    surrogates: list[Classifier]  # the second table varies these, steps and batches
    steps: list[int]
    batches: list[int]  # below params.yaml's size
    varied: int  # images of the second table
    scattered: Classifier | None = None  # trained on FSA's adversaries, if the scale has one
    natural: Classifier  # the same architecture trained naturally
    purifier: Purifier


class AppendixD(Strict):
    """notebooks/d_cda.ipynb: Table 4, Figures 9 and 10."""

    generators: dict[str, Generator]  # by row of Table 4
    classifier: Classifier  # that all of them were trained against
    detection: TransformTest  # of Table 4
    feature_surrogate: Classifier
    victims: list[Classifier]
    images: int
    pictured: list[str]  # the generators of Figure 9
    examples: int
    purifier: Purifier


class AppendixG(Transfer):
    """notebooks/g_visual_purification.ipynb: Figures 7 and 8."""

    robust: Classifier  # whose features Figure 7 attacks
    ensemble: list[Classifier]  # the surrogates of Figure 8
    purifier: Purifier
    examples: int
