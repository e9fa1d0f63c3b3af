"""How long a scale takes on 1, 4, 8 and 64 GPUs, simulated; its table is written into docs/scale.md.

    python benchmarks/scale.py                    # costs measured on this CPU, a GPU taken for 180 of its cores
    python benchmarks/scale.py --device cuda      # measured on this GPU

What is computed comes from `lib.plan`: the questions of every notebook to the store, each with its shards. The shards
of one question run side by side, a GPU each; the notebook waits for all, reads their results in one process, and asks
the next. Trainings run side by side, one GPU each. Starting processes, waiting for disks and bootstraps are not in it.
"""

import heapq
import math
import re
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from tabulate import tabulate

from lib import machine, plan, settings, zoo
from lib.costs import TIMED, Costs, span
from lib.plan import Work
from lib.settings import ROOT
from lib.store import Store, read_entry
from lib.training.runner import trained_names

GPUS = (1, 4, 8, 64)
# NRP's forward pass has 1.66 TFLOP at 224x224, which a core here does in 7.4 s: 0.22 TFLOP/s. A GPU is taken to do
# 40 TFLOP/s in float32, 60 % of an H200's peak. The one measurement at hand, the training of NRP-resG on an H200 (180
# crops a second, results/sample/timings.json), comes to some 50 TFLOP/s, but in bfloat16 for the most part.
SPEEDUP = 180
BEGIN, END = "<!-- simulated by benchmarks/scale.py -->", "<!-- end of the simulation -->"


class Question(NamedTuple):
    """Of a notebook to the store: shards of equal length that can run side by side, then `alone` in one process."""

    stage: str
    cell: str
    pieces: int
    seconds: float
    alone: float = 0.0


def length(question: Question, gpus: int) -> float:
    """How long a notebook waits for an answer: as many rounds of shards as it takes, and reading the results."""
    return math.ceil(question.pieces / gpus) * question.seconds / question.pieces + question.alone


def together(seconds: Sequence[float], gpus: int) -> float:
    """How long jobs take that each need one GPU, the longest first."""
    free = [0.0] * gpus
    for each in sorted(seconds, reverse=True):
        heapq.heappush(free, heapq.heappop(free) + each)
    return max(free)


def questions(works: Sequence[Work], costs: Costs, speedup: float, rate: float) -> list[Question]:
    """What notebooks ask, and how long it takes a GPU; rate: bytes a second that a process reads."""
    costs.seconds(sum((work.passes for work in works), Counter()))  # measures, backward passes first
    return [
        Question(work.stage, work.cell, work.pieces, costs.seconds(work.passes) / speedup, work.stored / rate)
        for work in works
    ]


def reading() -> float:
    """Bytes a second that the store reads and checks here."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        store.write({"function": "x"}, "", {"images": np.zeros(10**8, np.uint8)})
        (path,) = Path(folder).rglob("*.bin")
        begun = time.process_time()  # whoever else computes here
        read_entry(path)
        return 10**8 / (time.process_time() - begun)


def table(asked: Sequence[Question], trainings: dict[str, float]) -> str:
    """Time by stage and number of GPUs, and what bounds it."""
    stages = list(dict.fromkeys(question.stage for question in asked))
    rows = [
        [stage, *(span(sum(length(one, n) for one in asked if one.stage == stage)) for n in GPUS)] for stage in stages
    ]
    whole = {n: sum(length(one, n) for one in asked) for n in GPUS}
    busy = sum(one.seconds for one in asked)
    rows.append(["**all notebooks**", *(span(whole[n]) for n in GPUS)])
    rows.append(["GPUs busy", *(f"{100 * busy / whole[n] / n:.0f} %" for n in GPUS)])
    rows.append(["one process reads results", *(f"{100 * sum(q.alone for q in asked) / whole[n]:.0f} %" for n in GPUS)])
    rows.append(["all trainings", *(span(together([*trainings.values()], n)) for n in GPUS)])
    bounds = []
    for n in GPUS[1:]:
        lost = max(asked, key=lambda one, n=n: n * (length(one, n) - one.alone) - one.seconds)
        hours = span(n * (length(lost, n) - lost.alone) - lost.seconds)
        bounds.append(
            f"- {n} GPUs wait longest, together {hours}, in {lost.stage}: {lost.cell} ({lost.pieces:,} shards)."
        )
    longest = max(trainings, key=trainings.get)
    bounds.append(f"- No number of GPUs trains all in less than {span(trainings[longest])}, which is {longest}.")
    return "\n\n".join(
        [tabulate(rows, ["stage", *(f"{n} GPU{'s' * (n > 1)}" for n in GPUS)], tablefmt="github"), "\n".join(bounds)]
    )


def main(
    scale: Annotated[str, typer.Argument()] = "paper",
    device: Annotated[str, typer.Option()] = "cpu",
    speedup: Annotated[float | None, typer.Option(help="a GPU in cores of this machine; with cuda 1")] = None,
) -> None:
    speedup = speedup or (SPEEDUP if device == "cpu" else 1)
    costs, rate = Costs(settings.load(scale), zoo.device_here(device)), reading()
    works = [work for stage in plan.plan(scale) for work in stage.work]
    asked = questions(works, costs, speedup, rate)
    known = {name: section for name, section in trained_names(costs.scale).items() if section in TIMED}
    trained = {name: costs.training(section, name) / speedup for name, section in known.items()}
    stored, files = sum(work.stored for work in works) / 1e9, sum(work.files for work in works)
    measured = f"costs measured on {zoo.device_name(device)} of {machine.describe()}"
    if device == "cpu":
        measured += f", a GPU taken for {speedup:g} of its cores (an assumption: no GPU was measured for this table)"
    disk = (
        f"Disk: {stored:.0f} GB in {files:,} files. Network, with workers on other machines: results come back "
        f"({stored:.0f} GB), and the images of each shard go out. One process reads {rate / 1e9:.1f} GB a second."
    )
    about = f"The scale `{scale}`, simulated by `python benchmarks/scale.py`; {measured}."
    text = "\n\n".join([BEGIN, about, table(asked, trained), disk, END])
    page = ROOT / "docs" / "scale.md"
    old = page.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    page.write_text(pattern.sub(lambda _: text, old), encoding="utf-8")
    print(text)


if __name__ == "__main__":
    typer.run(main)
