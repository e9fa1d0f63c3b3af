"""What each appendix's notebook is given: networks, counts, budgets."""

from pydantic import Field, model_validator

from lib.settings.base import Strict
from lib.settings.networks import Data, Scenes


class AppendixF(Strict):
    """notebooks/f_attack_parameters.ipynb

    victims: Table 5 and the transfer matrix.  surrogate: of the attacks on decisions.  feature_surrogate: of SSP and
    FFF.  victim, iterations: Figure 6.  images: per number of Figure 6 and of the matrix.
    """

    victims: list[str]
    surrogate: str
    feature_surrogate: str
    victim: str
    iterations: list[int]
    images: int


class AppendixA(Strict):
    """notebooks/a_why_ssp_works.ipynb

    sources: name in Figure 1 -> network whose feature space is attacked.  victim, iterations, images: Figure 1.
    shown: images of Figure 2.  logits, features: the networks of Figure 3.  tsne_data: its images.  groups: name ->
    ranges of labels (both ends included) that count as one class; without it, `classes` classes drawn at random.
    """

    sources: dict[str, str]
    victim: str
    iterations: list[int]
    images: int
    shown: int
    logits: str
    features: str
    tsne_data: Data
    groups: dict[str, list[tuple[int, int]]] | None = None
    classes: int = 6


class TransformTest(Strict):
    """One half of Appendix E: the images, the victims (the first is the table's), how many SSP steps, what to show.

    shown: how many images of the figure.  threshold: the score from which a detection is drawn.
    """

    data: Scenes
    victims: list[str]
    steps: int
    shown: int
    threshold: float = 0.5


class AppendixE(Strict):
    """notebooks/e_transforms.ipynb

    surrogate: whose features SSP attacks.  budgets: of the trend; Tables 6 and 7 print 8 and 16.
    """

    surrogate: str
    budgets: list[int]
    segmentation: TransformTest
    detection: TransformTest

    @model_validator(mode="after")
    def printed_budgets(self) -> "AppendixE":
        if not {8, 16} <= set(self.budgets):
            raise ValueError("budgets must hold 8 and 16, the columns of Tables 6 and 7")
        return self


class AppendixB(Strict):
    """notebooks/b_at_comparison.ipynb

    victim: "Original" of Table 1, which NRP protects.  hardened: row of Table 1 -> adversarially trained network.
    purifier: the network that purifies.  data: the images, if not the scale's.  images: steps of PGD -> how many of
    them; Table 1 has 10 steps.  seeds: of the dynamic defense.  draws: of its noise, per step of the attack that
    averages over it.
    """

    victim: str
    hardened: dict[str, str]
    purifier: str
    data: Data | None = None
    images: dict[int, int]
    seeds: int = Field(5, ge=2)
    draws: int = Field(8, ge=1)

    @model_validator(mode="after")
    def printed_steps(self) -> "AppendixB":
        if 10 not in self.images:
            raise ValueError("images must hold a count for 10 steps, which Table 1 is about")
        return self


class AppendixC(Strict):
    """notebooks/c_fsa.ipynb

    victims: the columns of Table 3.  surrogate: whose logits FSA scatters in Table 3.  feature_surrogate: of SSP.
    images: of Table 3.  surrogates, steps, batches: what the second table varies, over `varied` images (batches: below
    params.yaml's size).  scattered: the network trained on FSA's adversaries, if the scale has one.  natural: the same
    architecture trained naturally.  purifier: the network that purifies.
    """

    victims: list[str]
    surrogate: str
    feature_surrogate: str
    images: int
    surrogates: list[str]
    steps: list[int]
    batches: list[int]
    varied: int
    scattered: str | None = None
    natural: str
    purifier: str


class AppendixD(Strict):
    """notebooks/d_cda.ipynb

    generators: row of Table 4 -> generator.  classifier: the network that all of them were trained against.
    detection: the images and victims of Table 4 (the first is the table's), and how many SSP steps.
    feature_surrogate: of SSP.  victims: classifiers that the generators attack.  images: for the classifiers.
    pictured: the generators of Figure 9.  shown: images of Figure 9.  purifier: the network that purifies.
    """

    generators: dict[str, str]
    classifier: str
    detection: TransformTest
    feature_surrogate: str
    victims: list[str]
    images: int
    pictured: list[str]
    shown: int
    purifier: str


class AppendixG(Strict):
    """notebooks/g_visual_purification.ipynb

    victims: whose accuracy is told before and after.  surrogate, feature_surrogate: of every attack of the project.
    robust: the network whose features Figure 7 attacks.  ensemble: the surrogates of Figure 8.  purifier: the network
    that purifies.  images: per number.  shown: images of each figure.
    """

    victims: list[str]
    surrogate: str
    feature_surrogate: str
    robust: str
    ensemble: list[str]
    purifier: str
    images: int
    shown: int
