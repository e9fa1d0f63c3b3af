"""params.yaml and scales/*.yaml as validated, frozen objects (imports nothing of lib).

Budgets and steps are in the paper's 0-255 units here, as on screen; `unit()` is the one place that converts them to
the [0,1] units of the code. An unknown key is an error of one line that names the nearest valid key.
"""

import difflib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

ROOT = Path(__file__).resolve().parent.parent
SCALES = ("mini", "sample", "paper")


def unit(levels: float) -> float:
    """0-255 levels to the [0,1] scale."""
    return levels / 255


class Strict(BaseModel):
    """Frozen; an unknown key is refused and the nearest valid one named."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def known_keys(cls, data: Any) -> Any:
        for key in data if isinstance(data, dict) else ():
            if key not in cls.model_fields:
                near = difflib.get_close_matches(str(key), cls.model_fields, n=1, cutoff=0.0)
                raise ValueError(f"unknown key '{key}'; did you mean '{near[0]}'?")
        return data


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


class Params(Strict):
    """params.yaml: the paper's constants and the scale to run. defenses: name -> kind and options (lib/defenses)."""

    scale: str = "mini"
    seed: int = 0
    attacks: Attacks = Attacks()
    defenses: dict[str, dict[str, int | float | str]] = {}


class StandIn(Strict):
    """One small network that the pipeline trains (lib/training/classifiers.py)."""

    architecture: str
    recipe: Literal["natural", "fgsm", "pgd", "ensemble"]
    epochs: int
    batch: int = 64
    lr: float = 2e-3
    eps: float = 0
    step: float = 0
    steps: int = 0
    sources: list[str] = []
    seed: int = 0


class Scenes(Strict):
    """Images with labelled pixels (world, camvid) or boxes (world, coco).

    sides: height and width, for camvid (default 360x480).  count: images (default all).  batch: images per step and per
    stored shard, where it is not the scale's.
    """

    name: Literal["world", "camvid", "coco"]
    labels: Literal["pixels", "boxes"]
    sides: tuple[int, int] | None = None
    count: int | None = None
    batch: int | None = None

    @model_validator(mode="after")
    def labels_there(self) -> "Scenes":
        if (self.name, self.labels) in {("camvid", "boxes"), ("coco", "pixels")}:
            raise ValueError(f"{self.name} has no labelled {self.labels} here")
        return self


class SegmenterSpec(Strict):
    """One SegNet-Basic to train (lib/training/segmenter.py). maps: channels.  steps: iterations of `batch` images.

    decay: of the learning rate; the published solver keeps it constant.  cycles: how often a cosine is run through;
    each starts with the full rate and no momentum (warm restarts).  augment: "flip" mirrors half of the images.
    """

    data: Scenes
    maps: int = 64
    steps: int = 10_000
    batch: int = 4
    lr: float = 0.1
    decay: Literal["constant", "cosine"] = "constant"
    cycles: int = Field(1, ge=1)
    augment: Literal["none", "flip"] = "none"
    seed: int = 0

    @model_validator(mode="after")
    def whole_cycles(self) -> "SegmenterSpec":
        if self.steps % self.cycles or (self.cycles > 1 and self.decay == "constant"):
            raise ValueError(f"{self.steps} steps are no {self.cycles} whole cycles of a cosine")
        return self


class DetectorSpec(Strict):
    """One small detector that the pipeline trains (lib/training/detectors.py) from a trained classifier's backbone."""

    detector: Literal["retinanet", "mask_rcnn"]
    backbone: str
    epochs: int
    batch: int = 32
    lr: float = 2e-3
    seed: int = 0


class NetworkSpec(Strict):
    """One network of a scale: where it comes from and what it wants to be fed.

    tap: the layer that SSP reads.  activations: the layers that FFF drives.  maps: of a SegNet-Basic.
    how: how to get the weights.
    """

    role: str
    task: Literal["classification", "segmentation", "detection"] = "classification"
    family: Literal[
        "torchvision",
        "timm",
        "small",
        "vgg16_conv3_3",
        "resnet50_stride1",
        "mobilenetv2_same",
        "resnet_v2_slim",
        "segnet_basic",
        "small_detector",
        "yolox_onnx",
    ]
    architecture: str
    weights: str | None = None
    sha256: str | None = None
    classes: int = 1000
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    resize: int | None = None
    background: bool = False
    tap: str | None = None
    activations: list[str] = []
    maps: int = 64
    how: str = ""


class Data(Strict):
    """A set of classification images. side: pixels.  count: images per number (default all)."""

    name: Literal["world", "neurips2017", "imagenet_val"]
    side: int
    count: int | None = None


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


class Scale(Strict):
    """scales/<name>.yaml: data sets, networks, image counts, training lengths.

    precision: of the surrogates while they are attacked.  batch: images per step and per stored shard.
    attacks: parameters that differ from params.yaml at this scale, by section.
    """

    name: str = ""
    precision: Literal["fp32", "bf16"] = "fp32"
    batch: int = 50
    attacks: dict[str, dict[str, int | float | str]] = {}
    data: Data
    networks: dict[str, NetworkSpec]
    stand_ins: dict[str, StandIn] = {}
    segmenters: dict[str, SegmenterSpec] = {}
    detectors: dict[str, DetectorSpec] = {}
    f: AppendixF
    a: AppendixA
    e: AppendixE

    @model_validator(mode="after")
    def known_attacks(self) -> "Scale":
        Attacks.model_validate(self.attacks)
        return self

    @model_validator(mode="after")
    def known_trainings(self) -> "Scale":
        for name, spec in self.segmenters.items():
            if name not in self.networks or self.networks[name].maps != spec.maps:
                raise ValueError(f"segmenters.{name} and networks.{name} must both be there, with equal maps")
        return self


def _read(path: Path) -> dict:
    try:
        return yaml.safe_load(path.read_text()) or {}
    except FileNotFoundError:
        known = f"; the scales are {', '.join(SCALES)}" if path.parent.name == "scales" else ""
        raise FileNotFoundError(f"{path.parent.name}/{path.name} not found{known}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name}: not valid YAML: {' '.join(str(error).split())}") from None


def validated(model: type[Strict], data: dict, where: str) -> Any:
    """`data` as a `model`; ValueError in one line that begins with `where`."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where}: {place or 'top level'}: {first['msg'].removeprefix('Value error, ')}") from None


def params(root: Path = ROOT) -> Params:
    """The validated params.yaml. ValueError in one line for an unknown key or a bad value."""
    return validated(Params, _read(root / "params.yaml"), "params.yaml")


def params_at(scale: Scale, root: Path = ROOT) -> Params:
    """params.yaml with the attack parameters that the scale changes."""
    chosen = params(root)
    sections = chosen.attacks.model_dump()
    changed = {name: sections[name] | values for name, values in scale.attacks.items()}
    return chosen.model_copy(update={"attacks": Attacks.model_validate(sections | changed)})


def load(scale: str | None = None, root: Path = ROOT) -> Scale:
    """The validated scales/<scale>.yaml (default: the scale that params.yaml names)."""
    name = scale or params(root).scale
    data = _read(root / "scales" / f"{name}.yaml")
    return validated(Scale, {**data, "name": name}, f"scales/{name}.yaml")
