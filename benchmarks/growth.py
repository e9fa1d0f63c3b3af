"""How time and memory grow: `make growth` measures every attack, and NRP, against images, side, steps and batch.

ResNet-18 (SSP and FFF: VGG-16 up to conv3-3) and NRP_resG of 8 blocks, random weights, one thread, CPU time; a point is
a process of its own, so that its peak memory (above that of an empty one) is its own. Around 2 images of 64 pixels, 2
steps, batch 2. Time is linear in images and steps, and in the pixels, that is in the square of the side; memory does
not depend on images and steps, and is linear in batch and pixels. The share is that of a straight line's explained
variance.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torchvision
from matplotlib.figure import Figure
from section import PAGE, write
from tabulate import tabulate

from lib import machine
from lib.attacks.adaptive import Adaptive
from lib.attacks.registry import ATTACKS
from lib.defenses import defense
from lib.networks.cda_generator import GENERATORS
from lib.networks.frozen import folded
from lib.networks.purifier import NRPResG
from lib.networks.wrappers import Normalised, Tap
from lib.report.figures.style import COLOURS, MARKERS

BASE = {"images": 2, "side": 64, "steps": 2, "batch": 2}
POINTS = {"images": [2, 4, 8, 16], "side": [64, 96, 128, 192], "steps": [2, 4, 8, 16], "batch": [1, 2, 4, 8]}
CASES = [*ATTACKS, "NRP_resG", "PGD through NRP_resG"]


def run_of(case: str, images: int, side: int, steps: int, batch: int):
    """A function that makes the adversaries of all images, batch by batch."""
    torch.manual_seed(0)
    x, y = torch.randint(0, 256, (images, 3, side, side)) / 255, torch.zeros(images, dtype=torch.int64)
    purifier = defense("nrp", network=NRPResG(64, 8).eval().requires_grad_(False))
    kind = "PGD" if case.startswith("PGD through") else case
    if kind == "NRP_resG":
        return torch.no_grad()(lambda: [purifier(part) for part in x.split(batch)])
    attack = ATTACKS[kind]
    resnet = folded(Normalised(torchvision.models.resnet18()).eval()).requires_grad_(False)
    vgg = Normalised(torchvision.models.vgg16().features[:16]).eval().requires_grad_(False)
    looked_at = {"logits": [resnet], "features": [Tap(vgg, "15")], "nothing": []}.get(attack.on)
    if attack.on == "responses":
        return lambda: attack.run(vgg, ["3", "8", "15"], (3, side, side), iterations=steps)
    if attack.on == "generator":
        looked_at = [next(iter(GENERATORS.values()))(64, 6).eval().requires_grad_(False)]
    if case != kind:
        looked_at = [Adaptive(resnet, purifier)]
    options = {"steps": steps} if "steps" in attack.parameters and kind not in ("FGSM", "R-FGSM") else {}

    def run() -> None:
        for part in torch.arange(images).split(batch):
            labels = [y[part]] if "y" in attack.parameters else []
            ids = {"ids": part.tolist()} if "ids" in attack.parameters else {}
            attack.run(*looked_at, x[part], *labels, **ids, **options)

    return run


def measure(case: str, sizes: dict[str, int]) -> tuple[float, float]:
    """Seconds (the second run) and peak MB above the process with the network loaded."""
    torch.set_num_threads(1)
    run = run_of(case, **sizes)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # Linux forgets the peak of loading
    run()
    begun = time.process_time()
    run()
    return time.process_time() - begun, resident("VmHWM") - before


def resident(which: str) -> float:
    """Memory of this process in MB: VmRSS now, VmHWM at its peak."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(which))
    return int(line.split()[1]) / 1024


def measured(case: str, sizes: dict[str, int]) -> tuple[float, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, case, json.dumps(sizes)]
    return tuple(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def straightness(x: list[float], y: list[float]) -> float:
    """The share of the variance of y that a straight line in x explains; 1 where y does not move by 5 %."""
    if np.ptp(y) < 0.05 * max(np.mean(y), 1e-3):
        return 1.0
    residual = np.asarray(y) - np.polyval(np.polyfit(x, y, 1), x)
    return float(1 - residual.var() / np.var(y))


def main() -> None:
    if sys.argv[-1].startswith("{"):
        print(json.dumps(measure(sys.argv[1], json.loads(sys.argv[2]))))
        return
    cases = sys.argv[1:] or CASES
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes, rows = figure.subplots(2, len(POINTS), squeeze=False), []
    for place, case in enumerate(cases):
        row = [case]
        for column, (name, values) in enumerate(POINTS.items()):
            found = [
                measured(case, BASE | ({"images": 8} if name == "batch" else {}) | {name: value}) for value in values
            ]
            x = [value**2 for value in values] if name == "side" else values
            for axis, y in zip(axes[:, column], zip(*found, strict=True), strict=True):
                style = {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)], "ms": 3}
                axis.plot(x, np.array(y) / max(y[0], 1e-9), lw=0.8, label=case, **style)
                row.append(straightness(x, y))
        rows.append(row)
        print(*row, file=sys.stderr)
    for column, name in enumerate(POINTS):
        axes[1, column].set_xlabel("pixels (side squared)" if name == "side" else name)
    for axis, label in zip(axes[:, 0], ("time / first point", "peak memory / first point"), strict=True):
        axis.set_ylabel(label)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=7)
    for ending in ("png", "svg"):
        figure.savefig(PAGE.parent / f"growth.{ending}", dpi=150)
    headers = ["case", *(f"{what} by {name}" for name in POINTS for what in ("time", "memory"))]
    head = f"## How cost grows\n\n{__doc__}\nOn {machine.describe()}.\n\n![time and peak memory](growth.svg)"
    write("benchmarks/growth.py", head, tabulate(rows, headers, tablefmt="github", floatfmt=".3f"))


if __name__ == "__main__":
    main()
