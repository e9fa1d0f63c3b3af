"""How the networks that the project trains are trained."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lib.settings.base import Strict
from lib.settings.networks import Scenes

Count = Annotated[int, Field(ge=1)]


class TrainingSpec(Strict):
    """What every training says. batch: images per forward pass.  lr: the learning rate, at its peak where it changes.

    checkpoint_minutes: how much work a kill may cost.
    """

    batch: Count
    lr: float
    checkpoint_minutes: float = 0.25
    seed: int = 0


class UnlabelledSpec(TrainingSpec):
    """A training on crops of images whose labels are not read.

    images: "world", "world/comic", "world/painted" (styles of the embedded world), or a folder of images relative to
    the repository or to $COMPANION_ASSETS.  eps: budget of the adversaries in training, in levels.
    """

    images: str
    eps: float
    steps: Count
    checkpoint_minutes: float = 5


class StandIn(TrainingSpec):
    """One small network that the pipeline trains (lib/training/classifiers.py).

    eps, step, steps: of the adversaries, in levels.  sources: of the recipe ensemble.  smoothing: what the labels give
    to the other classes in all (0.5 in Haichao-Zhang/FeatureScatter, fs_main.py).
    """

    architecture: str
    recipe: Literal["natural", "fgsm", "pgd", "ensemble", "scatter"]
    epochs: Count
    batch: Count = 64
    lr: float = 2e-3
    eps: float = 0
    step: float = 0
    steps: int = 0
    sources: list[str] = []
    smoothing: float = Field(0, ge=0, le=0.5)


class SegmenterSpec(TrainingSpec):
    """One SegNet-Basic to train (lib/training/segmenter.py). maps: channels.  steps: iterations of a batch.

    decay: of the learning rate; the published solver keeps it constant.  cycles: how often a cosine is run through;
    each starts with the full rate and no momentum (warm restarts).  augment: "flip" mirrors half of the images.
    """

    data: Scenes
    maps: int = 64
    steps: Count = 10_000
    batch: Count = 4
    lr: float = 0.1
    decay: Literal["constant", "cosine"] = "constant"
    cycles: Count = 1
    augment: Literal["none", "flip"] = "none"

    @model_validator(mode="after")
    def whole_cycles(self) -> "SegmenterSpec":
        if self.steps % self.cycles or (self.cycles > 1 and self.decay == "constant"):
            raise ValueError(f"{self.steps} steps are no {self.cycles} whole cycles of a cosine")
        return self


class DetectorSpec(TrainingSpec):
    """One small detector that the pipeline trains (lib/training/detectors.py) from a trained classifier's backbone."""

    detector: Literal["retinanet", "mask_rcnn"]
    backbone: str
    epochs: Count
    batch: Count = 32
    lr: float = 2e-3


class PurifierSpec(UnlabelledSpec):
    """One NRP to train (lib/training/purifier.py); its architecture is that of the network of the same name.

    extractor: the network whose tap SSP attacks and the feature loss compares.  step, ssp_steps, ssp_start: of the
    adversaries it learns from, step in levels (`lib.attacks.features.ssp`).  budgets: "fixed" attacks every crop with
    eps, "uniform" each with its own between 0 and eps, so that the purifier sees nearly clean images too (ours, not
    the paper's).  crop: side of the random crops.  accumulate: how many batches make one update.  adversarial, pixel,
    feature: weights of the three losses.  critic_width: channels of the critic's first layer.  init: "identity" begins
    with a purifier that changes next to nothing, "random" with random weights.

    The defaults of eps, crop, batch, lr and of the three weights are recalled from the main paper and agree with
    BasicSR's train_ESRGAN_x4.yml, where steps and critic_width come from; step, ssp_steps and ssp_start are those of
    the released ssp.py. The paper's own steps of SSP and length of training are not known.
    """

    extractor: str
    eps: float = 16
    step: float = 2.55
    ssp_steps: Count = 100
    ssp_start: Literal["noise", "perturbed"] = "noise"
    budgets: Literal["fixed", "uniform"] = "fixed"
    crop: int = Field(128, ge=32, multiple_of=32)
    batch: Count = 16
    accumulate: Count = 1
    steps: Count = 400_000
    lr: float = 1e-4
    adversarial: float = 5e-3
    pixel: float = 1e-2
    feature: float = 1.0
    critic_width: int = 64
    init: Literal["identity", "random"] = "random"


class GeneratorSpec(UnlabelledSpec):
    """One CDA generator to train (lib/training/generator.py); its architecture is that of the network of the same name.

    images: of the source domain.  render: draw them as comic or painting first, a stand-in for the Comics and
    Paintings sets.  classifier: the network that is fooled.  resize: the shorter side in pixels (None: as it is).
    side: of the crops.  crops: "centre", or "random" (also mirrored; ours, for small sets).

    The defaults are those of Muzammal-Naseer/CDA, train.py, for every classifier but Inception (300 and 299 pixels);
    steps: one epoch of ImageNet, after which its README evaluates the ImageNet generators.
    """

    render: Literal["none", "comic", "painting"] = "none"
    classifier: str
    eps: float = 10.0
    resize: int | None = Field(256, ge=32)
    side: int = Field(224, ge=32)
    crops: Literal["centre", "random"] = "centre"
    batch: int = Field(15, ge=2)
    steps: Count = 85_400
    lr: float = 2e-4

    @model_validator(mode="after")
    def crops_fit(self) -> "GeneratorSpec":
        if self.resize and self.resize < self.side:
            raise ValueError(f"crops of {self.side} pixels do not fit images resized to {self.resize}")
        if self.render != "none" and not self.resize:
            raise ValueError("images are rendered at one size: name the shorter side in resize")
        return self
