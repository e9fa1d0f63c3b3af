"""What a scale needs and computes, before anything is fetched or computed: companion plan paper

Every stage's notebook is run on stubs: networks that only count what passes through them, images of a few pixels, one
shard in place of all, and nothing for tables and figures. So the counts are those of the notebooks as they stand, with
the user's own attacks and defenses. What an earlier stage has stored already is not counted again. Not counted: the
passes of Figure 3 (about a hundred images) and of D's timing (ten). What a pass costs: `lib.costs`.
"""

import builtins
import functools
import inspect
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lib import experiment, keys, settings, timings, zoo
from lib.data import fetch as sets
from lib.data.detection import DetectionSet
from lib.data.images import find_folder
from lib.data.segmentation import CAMVID_CLASSES, CAMVID_SIDES
from lib.data.sets import load_set, read_ids
from lib.engine import one_thread
from lib.experiment import pictures
from lib.experiment.study import NETWORKS
from lib.fetch import data_sets, taken_images
from lib.rng import generator
from lib.settings import ROOT, Data, NetworkSpec, Scale, Scenes
from lib.settings.networks import UNTRAINED
from lib.store import Arrays, Call

STUB_SIDES, STUB_CLASSES = (12, 12), 10  # of a stub's images, and how many classes it tells apart
SET_SIZES = {"neurips2017": 1000, "imagenet_val": 50_000, "camvid": 233, "coco": 5000, "world": 400, "generated": 2}
COCO_SIDES = (480, 580)  # about as many pixels as an image of val2017 has on average
IGNORED = ("lib.report", "lib.frames", "lib.data.sets", "pandas")  # what a notebook does with its results
ONCE = {"perturbation", "traits"}  # arrays that are computed once for all images
BY_HAND = ("imagenet_val",)  # a notebook says itself that it is not fetched, and goes on


class Pass(NamedTuple):
    """An image through a network. tap: where that ends ("": at its output).  sides: of the image.  kind: "forward", or
    "backward" to the image.  Of a transform, network is its name in params.yaml."""

    network: str
    tap: str
    sides: tuple[int, int]
    kind: str


@dataclass
class Work:
    """What one question of a notebook to the store computes: passes in all, in `pieces` of `batch` images that can run
    side by side, and the bytes and files that it stores. The notebook waits for all of it."""

    stage: str
    cell: str
    passes: Counter
    batch: int = 1
    pieces: int = 0
    stored: float = 0
    files: int = 0


class Stage(NamedTuple):
    """What a stage computes and asks for; held: bytes of the images and adversaries that its notebook keeps."""

    name: str
    work: list[Work]
    networks: list[str]
    sources: list[Data | Scenes]
    held: float


def plan(scale: str, stages: Sequence[str] = ()) -> list[Stage]:
    """The stages of a scale, or only these, in the pipeline's order; what one has stored the next ones take."""
    counting = Counting(settings.load(scale))
    return [counting.stage(name) for name in stages or notebooks()]


def notebooks() -> list[str]:
    """The stages that are notebooks, in the pipeline's order."""
    there = sorted(path.stem for path in (ROOT / "notebooks").glob("?_*.ipynb"))
    return [name for name in timings.stages(ROOT) if name in there] or there


def missing(scale: str, stage: str) -> list[str]:
    """A line, with the command, for each network and data set that a stage needs and that is not here."""
    chosen = settings.load(scale)
    networks, folders = absent_networks(chosen), absent_sources(data_sets(chosen))
    if stage not in notebooks() or not (networks or folders):
        return []
    (needs,) = plan(scale, [stage])
    lines = [networks[name] for name in needs.networks if name in networks]
    return [*lines, *absent_sources(taken_images(needs.sources)).values()]


def absent_networks(chosen: Scale) -> dict[str, str]:
    """A line for each network of a scale whose weights are not here."""
    lines = {}
    for name in chosen.networks:
        source, path, how = zoo.weights_of(name, chosen)
        if path is None and source != UNTRAINED:
            lines[name] = f"network {name}: no weights ({source}); to get them: {how}"
    return lines


def absent_sources(needed: Mapping[str, sets.Chosen | None]) -> dict[str, str]:
    """A line for each data set, by name and the images that are taken, that is not here."""
    lines = {}
    for name, ids in needed.items():
        if name in sets.SETS and name not in BY_HAND:
            if (found := sets.state(name, ids)) != "yes":
                lines[name] = f"data set {name}: {found}; to get it: {sets.SETS[name].how}"
        elif "/" in name:
            try:
                find_folder(name)
            except FileNotFoundError as error:
                lines[name] = f"data set {error}"
    return lines


class Stub(nn.Module):
    """Stands for a network of the scale: takes and gives what that does, for images of any size.  seen: called with
    what passes: where it ends, and the images."""

    remainder = 0  # of a generator that gives back any size unchanged

    def __init__(self, name: str, spec: NetworkSpec, layers: Sequence[str], seen: Callable[[str, str, Tensor], None]):
        super().__init__()
        self.name, self.task, self.seen = name, spec.task, seen
        self.layers = {path: nn.Identity() for path in layers}
        for path, layer in self.layers.items():
            parent = self
            *folders, last = path.split(".")
            for folder in folders:
                parent.add_module(folder, getattr(parent, folder, nn.Module()))
                parent = getattr(parent, folder)
            parent.add_module(last, layer)
        classes = len(CAMVID_CLASSES) if spec.task == "segmentation" else STUB_CLASSES
        self.register_buffer("mean", torch.zeros(1, 3, 1, 1))
        self.register_buffer("mix", torch.rand(3, classes, generator=generator("stub", name)))

    def forward(self, x: Tensor) -> Tensor | list[dict[str, Tensor]]:
        # A hook on a layer ends the pass there (`lib.networks.wrappers`): a cheaper pass than a whole one.
        hooked = [path for path, layer in self.layers.items() if layer._forward_hooks]
        self.seen(self.name, hooked[-1] if hooked else "", x)
        for layer in self.layers.values():
            x = layer(x)
        if self.task == "detection":
            none = torch.zeros(0)
            return [{"boxes": none.reshape(0, 4), "scores": none, "labels": none.long()} for _ in x]
        if self.task == "segmentation":
            return torch.einsum("bchw,ck->bkhw", x, self.mix)
        return x.mean((2, 3)) @ self.mix if self.task == "classification" else x


class Watched:
    """A transform that is counted; it changes no result, so its key is the transform's."""

    def __init__(self, name: str, transform: Callable[[Tensor], Tensor], seen: Callable[[str, str, Tensor], None]):
        self.__wrapped__, self.name, self.seen = transform, name, seen

    def __call__(self, x: Tensor) -> Tensor:
        self.seen(self.name, "", x)
        return self.__wrapped__(x)


class Few(experiment.Study):
    """A study on stubs, whose images are planned ones for a notebook, and one shard where it is computed."""

    def network(self, name: str) -> nn.Module:
        self.store.asked[name] = None
        return self.networks[name]

    def part(self, kind: str, name: str) -> nn.Module:
        return self.network(name)

    def defense(self, name: str, **changed: object) -> Any:
        made = super().defense(name, **changed)
        with_network = made is None or NETWORKS & self.params.defenses[name].keys()
        return made if with_network else Watched(name, made, self.store.seen)


class Planned:
    """The images of a source as a notebook sees them: `count` in all, of which `few` are there, of a few pixels."""

    def __init__(self, source: Data | Scenes, split: str, count: int, batch: int):
        self.source, self.split, self.count, self.batch = source, split, count, batch
        small = {"sides": STUB_SIDES} if isinstance(source, Scenes) else {"side": STUB_SIDES[0]}
        few = load_set(source.model_copy(update={"name": "generated", "ids": None, **small}), count=min(count, batch))
        drawn = generator("images of", source.name, split, *sides(source))  # else all sources have the same images
        pixels = torch.randint(256, (len(few), 3, *STUB_SIDES), generator=drawn, dtype=torch.uint8)
        if isinstance(source, Data):
            few = replace(few, labels=torch.arange(len(few)) % STUB_CLASSES)
        elif isinstance(few, DetectionSet):  # one object: the victims know few classes
            few, pixels = replace(few, truth=few.truth | {"annotations": few.truth["annotations"][:1]}), list(pixels)
        self.few = replace(few, images=pixels)

    def __len__(self) -> int:
        return self.count

    def __getattr__(self, name: str) -> Any:
        return getattr(self.few, name)

    def slice(self, start: int, stop: int) -> "Planned":
        return Planned(self.source, self.split, len(range(self.count)[start:stop]), self.batch)


def sides(source: Data | Scenes) -> tuple[int, int]:
    """Height and width of the images of a source; COCO's of an average one."""
    if isinstance(source, Data):
        return source.side, source.side
    known = {"coco": COCO_SIDES, "world": (48, 48)}
    return source.sides or known.get(source.name, CAMVID_SIDES)


def number_of(source: Data | Scenes, count: int | None) -> int:
    """How many images a study has; of a folder of one's own without a count as many as its labels.csv names."""
    ids = read_ids(source.ids)
    if count or source.count or ids:
        return count or source.count or len(ids)
    if source.name in SET_SIZES:
        return SET_SIZES[source.name]
    return len((find_folder(source.name) / "labels.csv").read_text(encoding="utf-8").splitlines()) - 1


class Ignored:
    """What becomes of results in a notebook, unless they decide what else is computed: nothing."""

    def __call__(self, *arguments: object, **_: object) -> "Ignored":
        for argument in arguments:
            if isinstance(argument, Iterator):  # such as the cells that are joined
                list(argument)
        return self

    def __getattr__(self, name: str) -> "Ignored":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __getitem__(self, _: object) -> "Ignored":
        return self

    def __setitem__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator:
        return iter(())

    def __len__(self) -> int:
        return 0


class Counting:
    """Runs notebooks on stubs, and stands for their store: a call is computed for one shard and counted for all."""

    def __init__(self, scale: Scale):
        self.scale = scale
        self.passes: Counter = Counter()  # (network, tap, kind): images, since they were last taken away
        self.known: dict[str, tuple[Arrays, Counter]] = {}  # by key: a call's result and passes on one shard
        self.counted: Counter = Counter()  # by key: images for which it was counted
        self.images: Planned | None = None
        self.networks = {}
        for name, spec in scale.networks.items():
            taps = [*spec.activations, spec.tap, *scale.a.layers.get(name, [])]
            layers = [zoo.layer(name, scale, tap) for tap in dict.fromkeys(taps) if tap]
            self.networks[name] = Stub(name, spec, layers, self.seen).eval().requires_grad_(False)

    def __deepcopy__(self, _: dict) -> "Counting":
        """What passes a copy of a stub is counted here too."""
        return self

    def seen(self, network: str, tap: str, x: Tensor) -> None:
        """Count images that enter a network, and those of which a gradient comes back."""
        self.passes[network, tap, "forward"] += len(x)
        if isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled():
            x.register_hook(lambda _: self.passes.update({(network, tap, "backward"): len(x)}))

    def stage(self, name: str) -> Stage:
        """Run one notebook."""
        self.name, self.work, self.asked, self.sources, self.held = name, [], {}, {}, 0.0
        notebook = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
        given = {"__import__": self.imported, "print": lambda *_: None}
        names = {"__builtins__": vars(builtins) | given}
        with one_thread("cpu"):  # so little work is slower with several
            for cell in notebook["cells"]:
                if cell["cell_type"] == "code":
                    exec("".join(cell["source"]), names)
                    names["scale"] = self.scale.name  # whatever the cell of parameters says
        return Stage(name, self.work, [*self.asked], [*self.sources.values()], self.held)

    def imported(self, name: str, *rest: Any) -> Any:
        """Python's import in a notebook."""
        if name == "lib.experiment":
            return SimpleNamespace(**vars(experiment) | self.functions(experiment))
        return Ignored() if name.startswith(IGNORED) else builtins.__import__(name, *rest)

    def functions(self, module: Any) -> dict[str, Any]:
        """The functions of `lib.experiment`, or of its module `pictures`, for planned studies."""
        public = {name: value for name, value in vars(module).items() if inspect.isfunction(value)}
        found = {name: functools.partial(self.call, value) for name, value in public.items()}
        if module is pictures:
            return found
        study = functools.partial(Few, store=self, device="cpu", networks=self.networks)
        opened = functools.partial(experiment.open_study, load=self.images_of, study=study)
        found |= {"open_study": opened, "outputs": Ignored(), "measured": Ignored()}
        return found | {"pictures": SimpleNamespace(**self.functions(pictures))}

    def images_of(self, _: Scale, source: Data | Scenes, split: str, count: int | None, batch: int) -> Planned:
        """As `lib.experiment.study.load_images`; nothing is read."""
        self.sources[source.model_dump_json()] = source
        images = Planned(source, split, number_of(source, count), batch)
        self.held += len(images) * 3 * math.prod(sides(source))
        return images

    def call(self, function: Callable, study: Few, *arguments: object, **named: object) -> Any:
        """A function of `lib.experiment` on one shard of the study."""
        self.images, few = study.images, study.images.few
        result = function(replace(study, images=few, batch=len(few)), *arguments, **named)
        if function in (experiment.adversaries, experiment.all_attacks):
            made = [cell for cell in result if cell.attack != "none"]
            self.held += len(made) * len(study.images) * 3 * math.prod(sides(study.images.source))
        if self.passes:  # what is computed outside the store, such as the images of a figure
            self.work.append(Work(self.name, function.__name__, self.sized(self.passes, 1), pieces=1))
            self.passes.clear()
        return result

    def sized(self, passes: Counter, times: float) -> Counter:
        where = sides(self.images.source)
        return Counter({Pass(net, tap, where, kind): n * times for (net, tap, kind), n in passes.items()})

    def cached_all(self, groups: Sequence[Sequence[Call]], _: str, words: str) -> Iterator[list[Arrays]]:
        """As `Store.cached_all`: what is new of the calls is counted; those of a group are one piece."""
        cell, found = words or (groups[0][0].cell if groups else ""), []
        work = Work(self.name, cell, Counter(), len(self.images.few))
        for group in groups:
            made = [self.one(call, work) for call in group]
            work.pieces += max(pieces for _, pieces in made)
            found.append([arrays for arrays, _ in made])
        self.work += [work] if work.pieces else []
        yield from found

    def one(self, call: Call, work: Work) -> tuple[Arrays, int]:
        """What a call gives, and of how many shards it is new."""
        key = keys.digest(keys.record(call.function, call.arguments, "cpu"))
        if key not in self.known:
            self.known[key] = self.computed(call, key)
        arrays, passes = self.known[key]
        images, shard = (1, 1) if ONCE & set(arrays) else (len(self.images), len(self.images.few))
        times = max(0, images - self.counted[key]) / shard
        if times:
            self.counted[key] = images
            work.passes.update(self.sized(passes, times))
            work.files += math.ceil(times)
            growth = math.prod(sides(self.images.source)) / math.prod(STUB_SIDES)
            sizes = [array.nbytes * (growth if array.shape[-2:] == STUB_SIDES else 1) for array in arrays.values()]
            work.stored += times * sum(sizes)
        return arrays, math.ceil(times)

    def computed(self, call: Call, key: str) -> tuple[Arrays, Counter]:
        """What a call gives on the stubs, and what passes through them. Images are as good as any others, and differ
        from those of every other call, as stubs tell no network from another."""
        before, self.passes, (*arguments, options), times = self.passes, Counter(), call.arguments, 1
        if isinstance(options, dict) and "iterations" in options:
            # FFF takes as many passes, a transport plan none: one is enough.
            times = options["iterations"] if call.function.__name__ == "universal_perturbation" else 1
            options = options | {"iterations": 1}
        arrays = call.function(*arguments, options, device="cpu", **call.how)
        for name in {"images", "perturbation"} & set(arrays):
            drawn = np.random.default_rng(int(key[:12], 16)).integers(0, 256, arrays[name].shape)
            arrays[name] = (drawn if name == "images" else drawn / 255 / 16).astype(arrays[name].dtype)
        passes, self.passes = Counter({name: n * times for name, n in self.passes.items()}), before
        return arrays, passes
