"""Data sets and networks of a scale."""

from typing import Literal

from pydantic import field_validator, model_validator

from lib.settings.base import Strict

SETS = ("world", "neurips2017", "imagenet_val")


class Data(Strict):
    """A set of classification images.

    name: of SETS, or the path of a folder of your own (docs/own_data.md).  side: pixels.  count: images per number
    (default: all).  ids: a file that names the images, one a line (default: the set's first ones).
    """

    name: str
    side: int
    count: int | None = None
    ids: str | None = None

    @field_validator("name")
    @classmethod
    def there_is_such_a_set(cls, name: str) -> str:
        if name not in SETS and "/" not in name:
            raise ValueError(f"no data set '{name}'; there are {', '.join(SETS)}, and your own, such as own/photos")
        return name


class Scenes(Strict):
    """Images with labelled pixels (world, camvid) or boxes (world, coco).

    sides: height and width, for camvid (default 360x480).  count: images (default all).  ids: a file that names the
    images, one a line (default: the set's first ones, of CamVid some of each street).  batch: images per step and per
    stored shard, where it is not the scale's.
    """

    name: Literal["world", "camvid", "coco"]
    labels: Literal["pixels", "boxes"]
    sides: tuple[int, int] | None = None
    count: int | None = None
    ids: str | None = None
    batch: int | None = None

    @model_validator(mode="after")
    def labels_there(self) -> "Scenes":
        if (self.name, self.labels) in {("camvid", "boxes"), ("coco", "pixels")}:
            raise ValueError(f"{self.name} has no labelled {self.labels} here")
        return self


class NetworkSpec(Strict):
    """One network of a scale: where it comes from and what it wants to be fed.

    family, architecture: of `lib.networks.families`; or family: a file in own/ (docs/own_victim.md).  weights: see
    `lib.zoo`.  mean, std, resize, background: see `lib.networks.normalised`.  tap: the layer that SSP reads.
    activations: the layers that FFF drives.  maps: of a SegNet-Basic.  width, blocks: of a purifier or a generator.
    how: how to get the weights.  licence, megabytes: of the file.
    top1: its known accuracy on the scale's images (published, or
    measured here), in percent.
    """

    role: str
    task: Literal["classification", "segmentation", "detection", "purification", "generation"] = "classification"
    family: str
    architecture: str = ""
    weights: str | None = None
    sha256: str | None = None
    classes: int = 1000
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    resize: int | None = None
    background: bool = False
    tap: str | None = None
    activations: list[str] = []
    maps: int = 64
    width: int = 64
    blocks: int = 23
    how: str = ""
    licence: str = ""
    megabytes: float | None = None
    top1: float | None = None

    @model_validator(mode="after")
    def families_have_their_task(self) -> "NetworkSpec":
        for family, task in {"purifier": "purification", "cda_generator": "generation"}.items():
            if not self.family.endswith(".py") and (self.family == family) != (self.task == task):
                raise ValueError(f"family {self.family} with task {self.task}: {family} has task {task}, no other has")
        return self
