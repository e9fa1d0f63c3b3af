"""What a plan's passes cost on this device: seconds and memory, measured on untrained networks in a minute or two."""

import time
import weakref
from collections import Counter
from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lib import machine, plan, settings, timings, zoo
from lib.data import generated
from lib.data.segmentation import CAMVID_CLASSES, CAMVID_SIDES
from lib.defenses import defense
from lib.engine import one_thread
from lib.networks.wrappers import Bf16, Tap
from lib.plan import Pass, Stage
from lib.settings import ROOT, Scale
from lib.settings.networks import UNTRAINED, NetworkSpec
from lib.training import generator, purifier, segmenter
from lib.training.runner import trained_names
from lib.units import OF_DEFENSES, in_unit

TIMED_SIDE = 128  # in pixels, on a CPU, of networks whose time grows with the pixels alone
BY_PIXELS = ("purification", "generation", "segmentation")
SHAPE = ("family", "architecture", "classes", "width", "blocks", "maps", "resize")
SLOW = 0.5  # seconds from which one run is enough
# The trainings of which one step is measured, and how much smaller.
TIMED = {
    "purifiers": (purifier, {"crop": 32, "batch": 2}),
    "generators": (generator, {"batch": 2}),
    "segmenters": (segmenter, {"batch": 1}),
}


class Cost(NamedTuple):
    """Of one image: seconds, and the bytes in use at the most (without weights)."""

    seconds: float
    memory: float = 0.0


class Peak(TorchDispatchMode):
    """The most bytes that tensors made within it take at one time."""

    def __init__(self):
        super().__init__()
        self.most = self.now = 0
        self.known: weakref.WeakSet = weakref.WeakSet()

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        given = [value.untyped_storage() for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        made = function(*args, **(kwargs or {}))
        found = [value.untyped_storage() for value in tree_leaves(made) if isinstance(value, Tensor)]
        for storage in found:
            if storage not in self.known and storage not in given:  # views take nothing
                self.known.add(storage)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.free, storage.nbytes())
        return made

    def free(self, size: int) -> None:
        self.now -= size


def seconds_of(run: Callable[[], object], device: str) -> float:
    """Seconds of a run; on a CPU of its one core, whoever else computes there."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    begun = clock()
    run()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return clock() - begun


def timed(run: Callable[[], object], device: str) -> tuple[float, float]:
    """Seconds and peak bytes of a run, which is repeated where it is short."""
    with Peak() as peak:
        took = seconds_of(run, device)
    repeated = took <= SLOW or device != "cpu"
    return min(seconds_of(run, device) for _ in range(2)) if repeated else took, peak.most


def fixed_cost(spec: NetworkSpec) -> bool:
    """Does a pass through the network cost the same whatever the size of the image?"""
    return bool(spec.resize) or spec.task == "detection"


class Costs:
    """The cost of a scale's passes on a device."""

    def __init__(self, scale: Scale, device: str):
        self.scale, self.params, self.device = scale, settings.params_at(scale), device
        self.defenses = self.params.defenses | scale.h.evaluated()[0]
        free = {name: spec.model_copy(update={"weights": UNTRAINED}) for name, spec in scale.networks.items()}
        self.bare = scale.model_copy(update={"networks": free})
        self.known: dict[tuple, dict[str, Cost]] = {}
        self.weights: dict[str, int] = {}  # bytes, by `key`
        self.steps: dict[tuple, float] = {}
        self.unmeasured: list[str] = []  # networks that cannot be made without their file

    def key(self, name: str) -> str:
        """What networks of the same architecture and sizes share; a transform has its name."""
        spec = self.scale.networks.get(name)
        return str(spec.model_dump(include=set(SHAPE))) if spec else name

    def of(self, one: Pass) -> Cost:
        """The cost of a pass. An architecture is measured once: its cost grows with the pixels that it works on."""
        key, spec = (self.key(one.network), one.tap), self.scale.networks.get(one.network)
        if one.kind not in self.known.setdefault(key, {}):
            self.known[key] |= self.measured(one, spec)
        times = 1 if spec and fixed_cost(spec) else prod(one.sides)
        return Cost(*(value * times for value in self.known[key][one.kind]))

    def measured(self, one: Pass, spec: NetworkSpec | None) -> dict[str, Cost]:
        """Forward, and backward to the image where that is asked for; of a pixel, or of an image of any size.  spec: of
        the network; None for a transform."""
        function = self.module(one, spec) if spec else defense(**in_unit(self.defenses[one.network], OF_DEFENSES))
        if function is None:
            self.unmeasured.append(one.network)
            return dict.fromkeys(("forward", "backward"), Cost(0.0))
        small = not spec or (self.device == "cpu" and spec.task in BY_PIXELS)
        height, width = (min(side, TIMED_SIDE) for side in one.sides) if small else one.sides
        x = torch.rand(8 if spec and self.device != "cpu" else 1, 3, height, width, device=self.device)
        given = list(x) if spec and spec.task == "detection" else x
        share = 1 / len(x) / (1 if spec and fixed_cost(spec) else height * width)
        with one_thread(self.device):
            with torch.no_grad():
                seconds, memory = timed(lambda: function(given), self.device)
            found = {"forward": Cost(seconds * share, memory * share)}
            if one.kind == "backward":
                x.requires_grad_(True)
                both, memory = timed(lambda: torch.autograd.grad(function(x).float().sum(), x), self.device)
                found["backward"] = Cost(max(both - seconds, 0.0) * share, memory * share)
        return found

    def module(self, one: Pass, spec: NetworkSpec) -> nn.Module | None:
        """The untrained network of a pass; None for one that is its file, where that is not here."""
        by_file = zoo.family_of(spec).build is None
        if by_file and zoo.weights_of(one.network, self.scale)[1] is None:
            return None
        network = zoo.load(one.network, self.scale if by_file else self.bare, self.device)
        network = network.to(memory_format=torch.channels_last)
        self.weights[self.key(one.network)] = sum(part.nbytes for part in network.state_dict().values())
        module = Tap(network, one.tap) if one.tap else network
        half = spec.task == "classification" and one.kind == "backward" and self.scale.precision == "bf16"
        return Bf16(module) if half else module

    def seconds(self, passes: Counter) -> float:
        """Of all passes, one after another on one worker."""
        ordered = sorted(passes, key=lambda one: one.kind)  # backward first, which measures both
        return sum(self.of(one).seconds * passes[one] for one in ordered)

    def memory(self, stage: Stage) -> float:
        """Bytes on the device: a batch of the most expensive pass, and the weights of all networks of the stage."""
        batches = [work.batch * self.of(one).memory for work in stage.work for one in work.passes]
        return max(batches, default=0) + sum(self.weights.get(self.key(name), 0) for name in stage.networks)

    def of_stage(self, stage: Stage) -> list[float]:
        """Forward and backward passes, seconds, GB on the device and on the host, GB and files in the store."""
        passes = sum((work.passes for work in stage.work), Counter())
        counts = [sum(n for one, n in passes.items() if one.kind == kind) for kind in ("forward", "backward")]
        memory = [self.memory(stage) / 1e9, stage.held / 1e9]
        stored = [sum(work.stored for work in stage.work) / 1e9, sum(work.files for work in stage.work)]
        return [*counts, self.seconds(passes), *memory, *stored]

    def training(self, section: str, name: str) -> float:
        """Seconds of one of the scale's trainings: of its steps, one of which is measured on few and small images.
        Those of alike recipes are measured once."""
        spec, network = getattr(self.scale, section)[name], self.scale.networks[name]
        alike = (section, self.key(name), str(spec.model_dump(exclude={"images", "render", "steps"})))
        if alike not in self.steps:
            self.steps[alike] = self.step(section, spec, network)
        return self.steps[alike] * spec.steps

    def step(self, section: str, spec: Any, network: Any) -> float:
        """Seconds of a training's second step, as if the batch were a whole one."""
        kind, smaller = TIMED[section]
        few = spec.model_copy(update=smaller)
        if section == "segmenters":
            data = generated.with_pixels(spec.data.sides or CAMVID_SIDES, 2)
            given = [data.images, data.labels, CAMVID_CLASSES, self.device]
        else:
            given = [list(generated.classified(320, 2).images)]
            given += [zoo.extractor(spec.extractor, self.bare, device=self.device)] if section == "purifiers" else []
            given += [zoo.load(spec.classifier, self.bare, self.device) if spec.classifier else None]
        made = kind.training(few, network, *given)
        with one_thread(self.device):
            made.advance(0)
            seconds = seconds_of(lambda: made.advance(1), self.device)
        pixels = (spec.crop / few.crop) ** 2 if section == "purifiers" else 1
        return seconds * pixels * spec.batch / few.batch


EXPLAINED = """\
Passes are of images through networks or transforms. Their seconds are measured on untrained networks, each at one size,
and grow with the pixels; reading images, tables and bootstraps are not in them. Time: of one worker; several share it.
Device: weights and one batch of the costliest pass. Host: the images and adversaries that a notebook holds."""


def report_costs(name: str, device: str) -> str:
    """What a scale costs on a device, in tables; and what of it is not here."""
    stages, scale = plan.plan(name), settings.load(name)
    costs, absent = Costs(scale, device), plan.absent_networks(scale)
    works = [work for stage in stages for work in stage.work]
    costs.seconds(sum((work.passes for work in works), Counter()))  # measures, backward passes first
    rows = [[stage.name, *costs.of_stage(stage), sum(one in absent for one in stage.networks)] for stage in stages]
    rows.append(["in all", *(f(row[place] for row in rows) for place, f in enumerate(TOTALS, 1))])
    heads = ["stage", "forward", "backward", "time", "device GB", "host GB", "store GB", "files", "networks missing"]
    table = [[*row[:3], span(row[3]), *row[4:]] for row in rows]
    formats = ["", ",.0f", ",.0f", "", ".1f", ".1f", ".1f"]
    largest = sorted(((costs.seconds(work.passes), work) for work in works), key=lambda pair: -pair[0])[:8]
    most = [[work.stage, work.cell, work.pieces, span(seconds)] for seconds, work in largest]
    trained = trainings(costs)
    lines = [*absent.values(), *plan.absent_sources(plan.data_sets(scale)).values()]
    parts = [
        f"# The scale {name} on {machine.describe()}: {zoo.device_name(device)}, one worker",
        scale.note,
        EXPLAINED,
        tabulate(table, heads, floatfmt=formats, intfmt=",", tablefmt="github"),
        tabulate(most, ["stage", "what takes longest", "pieces", "time"], intfmt=",", tablefmt="github"),
        tabulate(trained, ["training", "time", "how known"], tablefmt="github") if trained else "",
        f"Without its file not measured, taken for nothing: {', '.join(costs.unmeasured)}." if costs.unmeasured else "",
        "\n".join(["Not here:", *(f"- {line}" for line in lines)]) if lines else "All that it needs is here.",
    ]
    return "\n\n".join(filter(None, parts))


TOTALS = (sum, sum, sum, max, max, sum, sum, max)  # of the columns of numbers


def span(seconds: float) -> str:
    """Seconds in the largest unit of which there is one."""
    size, unit = next((entry for entry in UNITS if seconds >= entry[0]), (1, "s"))
    return f"{seconds / size:,.1f} {unit}"


UNITS = ((3600, "h"), (60, "min"))


def trainings(costs: Costs) -> list[list[str]]:
    """The time of each training of the scale: as it was recorded, or of one step measured here."""
    recorded, rows = timings.read(ROOT / "results" / costs.scale.name), []
    for name, section in trained_names(costs.scale).items():
        if known := recorded.get(f"training of {name}"):
            rows.append([name, span(known["seconds"]), f"recorded on {known['machine']}"])
        elif section in TIMED:
            rows.append([name, span(costs.training(section, name)), "one step measured here"])
        else:
            rows.append([name, "?", "not measured"])
    return rows
