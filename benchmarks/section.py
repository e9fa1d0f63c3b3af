"""docs/performance.md, a section for each program here, which it writes again; and seconds, taken alternating."""

import re
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


def write(name: str, *parts: str) -> None:
    """Put the parts in the place of the section called `name`, or at the end."""
    page = PAGE.read_text() if PAGE.is_file() else "# Speed and precision, as measured\n"
    text = f"<!-- {name} -->\n" + "\n\n".join(part.strip() for part in parts) + f"\n<!-- end of {name} -->\n"
    section = re.compile(rf"<!-- {name} -->\n.*<!-- end of {name} -->\n", re.DOTALL)
    page = section.sub(lambda _: text, page) if section.search(page) else f"{page}\n{text}"
    PAGE.write_text(page)
    print(text)


def medians(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The median seconds of each run after one to warm up, the runs in turn, so that all meet the same machine: of CPU
    time, or with a GPU by the clock."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            begun = clock()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if repeat:
                times[name].append(clock() - begun)
    return {name: statistics.median(found) for name, found in times.items()}
