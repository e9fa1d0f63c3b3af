"""Data sets and networks of a scale, and how the project trains networks."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from lib.settings.base import ClassifierName, Count, Rate, Strict, choices

IMAGE_SETS = ("world", "neurips2017", "imagenet_val", "generated")
UNTRAINED = "untrained"  # as weights: random ones, for a dry run


class Data(Strict):
    """A set of classification images."""

    name: str  # of IMAGE_SETS, or the path of a folder of your own (docs/own_data.md)
    side: Count  # pixels
    count: Count | None = None  # images per number (default: all)
    ids: str | None = None  # a file that names the images, one a line (default: the set's first ones)

    @field_validator("name")
    @classmethod
    def there_is_such_a_set(cls, name: str) -> str:
        if name not in IMAGE_SETS and "/" not in name:
            raise ValueError(f"no data set '{name}'; {choices(name, IMAGE_SETS)}, and your own, such as own/photos")
        return name


class Scenes(Strict):
    """Images with labelled pixels (world, camvid) or boxes (world, coco); generated ones have either."""

    name: Literal["world", "camvid", "coco", "generated"]
    labels: Literal["pixels", "boxes"]
    sides: tuple[Count, Count] | None = None  # height and width, for camvid (default 360x480) and generated images
    count: Count | None = None  # images (default: all)
    ids: str | None = None  # as of `Data`; without, CamVid's are spread over its streets
    batch: Count | None = None  # images per step and per stored shard, where it is not the scale's

    @model_validator(mode="after")
    def labels_there(self) -> "Scenes":
        if (self.name, self.labels) in {("camvid", "boxes"), ("coco", "pixels")}:
            raise ValueError(f"{self.name} has no labelled {self.labels} here")
        return self


class NetworkSpec(Strict):
    """One network of a scale: where it comes from and what it wants to be fed.

    family, architecture: of `lib.networks.families`; or family: a file in own/ (docs/own_victim.md).
    """

    role: str
    task: Literal["classification", "segmentation", "detection", "purification", "generation"] = "classification"
    family: str
    architecture: str = ""
    weights: str | None = None  # see `lib.zoo`
    sha256: str | None = None
    how: str = ""  # to get the weights
    classes: int = Field(1000, ge=0)  # 0: features alone, without a head
    mean: tuple[float, float, float] | None = None  # this and the next three: see `lib.networks.wrappers.Normalised`
    std: tuple[float, float, float] | None = None
    resize: Count | None = None
    background: bool = False
    tap: str | None = None  # the layer that SSP reads
    activations: list[str] = []  # the layers that FFF drives
    maps: Count = 64  # of a SegNet-Basic
    width: Count = 64  # of a purifier or a generator
    blocks: Count = 23
    note: str = ""  # in what it differs from the network that the paper calls so; printed below every table with it
    licence: str = ""  # of weights that somebody else published
    megabytes: float | None = None
    top1: float | None = None  # known accuracy on the scale's images (published, or measured here), in percent

    @model_validator(mode="after")
    def families_have_their_task(self) -> "NetworkSpec":
        for family, task in {"purifier": "purification", "cda_generator": "generation"}.items():
            if not self.family.endswith(".py") and (self.family == family) != (self.task == task):
                raise ValueError(f"family {self.family} with task {self.task}: {family} has task {task}, no other has")
        return self


class TrainingSpec(Strict):
    """What every training says, beside batch (images per step) and lr (learning rate, at its peak). What is trained is
    the network of the same name.

    images, of a training without labels: "world", "world/comic", "world/painted" (styles of the embedded world), or a
    folder of images relative to the repository or to $COMPANION_ASSETS.
    """

    checkpoint_minutes: float = 0.25  # how much work a kill may cost
    seed: int = 0


class StandIn(TrainingSpec):
    """A small classifier (lib/training/classifiers.py)."""

    recipe: Literal["natural", "fgsm", "pgd", "ensemble", "scatter"]
    epochs: Count
    batch: Count = 64
    lr: Rate = 2e-3
    eps: float = 0  # of the adversaries, in levels, as step
    step: float = 0
    steps: int = 0
    sources: list[ClassifierName] = []  # of the recipe ensemble
    smoothing: float = Field(0, ge=0, le=0.5)  # what labels give to the other classes; FeatureScatter's fs_main.py: 0.5


class SegmenterSpec(TrainingSpec):
    """A SegNet-Basic (lib/training/segmenter.py)."""

    data: Scenes
    steps: Count = 10_000
    batch: Count = 4
    lr: Rate = 0.1
    decay: Literal["constant", "cosine"] = "constant"  # of the learning rate; the published solver keeps it constant
    cycles: Count = 1  # of the cosine; each starts with the full rate and no momentum (warm restarts)
    augment: Literal["none", "flip"] = "none"  # flip mirrors half of the images

    @model_validator(mode="after")
    def whole_cycles(self) -> "SegmenterSpec":
        if self.steps % self.cycles or (self.cycles > 1 and self.decay == "constant"):
            raise ValueError(f"{self.steps} steps are no {self.cycles} whole cycles of a cosine")
        return self


class DetectorSpec(TrainingSpec):
    """A small detector (lib/training/detectors.py) that begins with a trained classifier's backbone."""

    backbone: ClassifierName
    epochs: Count
    batch: Count = 32
    lr: Rate = 2e-3


class PurifierSpec(TrainingSpec):
    """A purifier (lib/training/purifier.py).

    The defaults of eps, crop, batch, lr and of the three losses' weights are recalled from the main paper and agree
    with BasicSR's train_ESRGAN_x4.yml, where steps and critic_width come from; step, ssp_steps and ssp_start are those
    of the released ssp.py. The paper's own steps of SSP and length of training are not known.
    """

    images: str
    checkpoint_minutes: float = 5
    extractor: ClassifierName  # whose tap SSP attacks and the feature loss compares
    adversaries: Literal["ssp", "noise", "mi_fgsm"] = "ssp"  # that it learns from; the paper's, and two for comparison
    classifier: ClassifierName | None = None  # whose own predictions mi_fgsm leads away from
    eps: float = 16  # budget of the adversaries that it learns from, in levels, as step
    step: float = 2.55  # of SSP (`lib.attacks.features.ssp`)
    ssp_steps: Count = 100
    ssp_start: Literal["noise", "perturbed"] = "noise"
    budgets: Literal["fixed", "uniform"] = "fixed"  # uniform: every crop with its own between 0 and eps (ours)
    crop: int = Field(128, ge=32, multiple_of=32)  # side of the random crops
    batch: Count = 16
    steps: Count = 400_000
    lr: Rate = 1e-4
    adversarial: float = 5e-3  # this and the next two: weights of the losses
    pixel: float = 1e-2
    feature: float = 1.0
    critic_width: Count = 64  # channels of the critic's first layer
    init: Literal["identity", "random"] = "random"  # identity: begins with a purifier that changes next to nothing

    @model_validator(mode="after")
    def with_classifier(self) -> "PurifierSpec":
        if (self.adversaries == "mi_fgsm") != (self.classifier is not None):
            raise ValueError("adversaries: mi_fgsm and classifier go together; name both or none")
        return self


class GeneratorSpec(TrainingSpec):
    """A generator of CDA (lib/training/generator.py).

    The defaults are those of Muzammal-Naseer/CDA, train.py, for every classifier but Inception (300 and 299 pixels);
    steps: one epoch of ImageNet, after which its README evaluates those generators.
    """

    images: str  # of the source domain
    checkpoint_minutes: float = 5
    render: Literal["none", "comic", "painting"] = "none"  # first, a stand-in for the Comics and Paintings sets
    classifier: ClassifierName  # that is fooled
    eps: float = 10.0  # budget, in levels
    resize: int | None = Field(256, ge=32)  # the shorter side in pixels (None: as it is)
    side: Count = Field(224, ge=32)  # of the crops
    crops: Literal["centre", "random"] = "centre"  # random: also mirrored (ours, for small sets)
    batch: int = Field(15, ge=2)
    steps: Count = 85_400
    lr: Rate = 2e-4

    @model_validator(mode="after")
    def crops_fit(self) -> "GeneratorSpec":
        if self.resize and self.resize < self.side:
            raise ValueError(f"crops of {self.side} pixels do not fit images resized to {self.resize}")
        if self.render != "none" and not self.resize:
            raise ValueError("images are rendered at one size: name the shorter side in resize")
        return self
