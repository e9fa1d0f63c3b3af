"""Where the results of a scale lie, and how they are written: a folder per stage, results/<scale>/<stage>/.

In it: tables/table_05.csv and .md, figures/figure_06.svg and .png, data/figure_06.csv (what the figure shows),
pictures/figure_02.npz (images; kept out of git where they are photographs), frame.npz, metrics.json, and of a notebook
<stage>.ipynb and run.json. Names of tables and figures are unique in a scale, so reading one needs no stage.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lib import frames, markdown, timings
from lib.frames import Frame
from lib.reading import intact
from lib.settings import ROOT, Missing, note

# Slow to import, and redrawing a figure or printing a table needs only some of it.
if TYPE_CHECKING:
    from IPython.display import Markdown
    from matplotlib.figure import Figure


@lru_cache(maxsize=8)
def _frame_of(path: Path, changed: int) -> Frame:
    """A frame, read once; changed: when the file was written."""
    with intact(path):
        return frames.load_frame(path)


class Results:
    """The results of one scale: read from every stage's folder, written to that of `stage`. FileNotFoundError names the
    command that computes what is not there, ValueError a damaged file."""

    def __init__(self, scale: str, root: Path | None = None, stage: str = "report"):
        self.scale = scale
        self.stage = stage
        self.note = note(scale)  # of a dry run
        self.root = Path(root or os.environ.get("COMPANION_RESULTS") or ROOT / "results") / scale

    def path(self, kind: str, name: str) -> Path:
        """results/<scale>/<stage>/<kind>/<name>, its folder made."""
        path = self.root / self.stage / kind / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def files(self, pattern: str) -> list[Path]:
        """The files in stages' folders that match <stage>/<pattern>, sorted; not the site's copies of them."""
        return sorted(path for path in self.root.glob(f"*/{pattern}") if self.stage_of(path) != "site")

    def stage_of(self, path: Path) -> str:
        """The stage in whose folder a file lies."""
        return path.relative_to(self.root).parts[0]

    def find(self, pattern: str) -> Path:
        """The first of `files`."""
        for path in self.files(pattern):
            return path
        raise self._missing(pattern)

    def _missing(self, name: str) -> Missing:
        return Missing(
            f"{name} is not there yet in results/{self.scale}; compute it with: dvc repro (scale: {self.scale})"
        )

    def save_table(
        self, name: str, table: pd.DataFrame, numbers: pd.DataFrame | None = None, digits: int = 1, note: str = ""
    ) -> Markdown:
        """Write a table as Markdown and CSV; returns it for the notebook to show.

        numbers: what the CSV holds instead, where the table is a condensed view (one row per cell).
        digits: behind the point, in the Markdown.  note: a line below the table there.
        """
        from IPython.display import Markdown

        plain = table if numbers is None else numbers
        plain.to_csv(self.path("tables", f"{name}.csv"), index=False, float_format="%.4g")
        # What is text already stays as it is: "+3.4" would lose its sign.
        texts = [place for place, column in enumerate(table) if table[column].map(type).eq(str).all()]
        text = markdown.escaped_table(table, floatfmt=f".{digits}f", disable_numparse=texts) + "\n"
        text = self.noted(text + (f"\n{note}\n" if note else ""))
        self.path("tables", f"{name}.md").write_text(text)
        return Markdown(text)

    def noted(self, text: str) -> str:
        """Markdown of which a dry run says that it is one."""
        return f"**{self.note}**\n\n{text}" if self.note else text

    def save_data(self, name: str, data: pd.DataFrame) -> None:
        """Write what a figure shows."""
        data.to_csv(self.path("data", f"{name}.csv"), index=False, float_format="%.6g")

    def save_pictures(self, name: str, **arrays: np.ndarray) -> None:
        """Write the images that a figure shows, and what labels them."""
        np.savez_compressed(self.path("pictures", f"{name}.npz"), **arrays)

    def save_figure(self, name: str, figure: Figure, formats: tuple[str, ...] = ("svg", "png")) -> list[Path]:
        """Write a figure; byte-identical for equal content."""
        from lib.report.figures.style import write_figure  # matplotlib, which a table need not wait for

        if self.note:
            figure.text(0.5, 0.5, "DRY RUN", ha="center", va="center", fontsize=40, color="red", alpha=0.3, rotation=30)
        return [write_figure(figure, self.path("figures", f"{name}.{suffix}")) for suffix in formats]

    def save_metrics(self, metrics: dict) -> None:
        """Write the numbers that `dvc metrics` shows, rounded to what n images can tell."""
        rounded = json.loads(json.dumps(metrics), parse_float=lambda text: round(float(text), 2))
        self.path("", "metrics.json").write_text(json.dumps(rounded, indent=2, sort_keys=True) + "\n")

    def save_frame(self, frame: Frame) -> None:
        """Write what a notebook's cells came to, which tables and claims are made from."""
        frames.save_frame(frame, self.path("", "frame.npz"))

    def load_frame(self, stage: str) -> Frame:
        """A stage's frame."""
        path = self.root / stage / "frame.npz"
        if not path.is_file():
            raise self._missing(f"{stage}/frame.npz")
        return _frame_of(path, path.stat().st_mtime_ns)

    def has_frame(self, stage: str = "*") -> bool:
        """Has the stage, or any, a frame? Results from before there were any have tables only."""
        return any(self.root.glob(f"{stage}/frame.npz"))

    def timing(self, name: str, measure: Callable[[], dict]) -> dict:
        """Seconds as they are recorded for this scale, or as measured now; see `lib.timings`."""
        return timings.recorded(self.root, name, measure)

    def load_data(self, name: str) -> pd.DataFrame:
        """What a figure shows."""
        return self._read_csv(f"data/{name}.csv")

    def load_pictures(self, name: str) -> dict[str, np.ndarray]:
        """The images that a figure shows."""
        path = self.find(f"pictures/{name}.npz")
        with intact(path), np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)

    def load_table(self, name: str) -> pd.DataFrame:
        """A table as it was saved."""
        return self._read_csv(f"tables/{name}.csv")

    def _read_csv(self, name: str) -> pd.DataFrame:
        path = self.find(name)
        with intact(path):
            return pd.read_csv(path, keep_default_na=False)
