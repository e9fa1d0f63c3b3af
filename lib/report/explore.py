"""What notebooks/explore.ipynb shows of an attack and a defense on a few images: a figure and a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.report.figures.pictures import Picture, captioned, difference, prediction
from lib.report.figures.style import PAPER

if TYPE_CHECKING:
    from IPython.display import Image

    from lib.tasks.predictions import Prediction

ORIGINAL, ADVERSARY, DEFENDED, TIMES_TEN = "original", "adversary", "defended", "difference × 10"
# Does the victim still predict the original's class: under the attack, and behind the defense if there is one?
OUTCOMES = {
    (True,): "unchanged",
    (False,): "changed",
    (True, True): "unchanged",
    (True, False): "changed by the defense",
    (False, True): "changed, restored",
    (False, False): "changed, not restored",
}


class Examples(NamedTuple):
    """N images, what an attack and a defense make of them, and what the victim predicts.

    names: of the images.  pictures: "original", "adversary" and, behind a defense, "defended" -> uint8 `[N,H,W,3]`.
    predicted: the same -> the victim's predictions.  classes: their names.  attack, victim, defense: in words.
    """

    names: list[str]
    pictures: dict[str, np.ndarray]
    predicted: dict[str, Prediction]
    classes: Sequence[str]
    attack: str
    victim: str
    defense: str

    @property
    def differences(self) -> np.ndarray:
        """Adversary less original, in levels, float `[N,H*W*3]`."""
        return (self.pictures[ADVERSARY].astype(float) - self.pictures[ORIGINAL]).reshape(len(self.names), -1)

    @property
    def levels(self) -> np.ndarray:
        """The largest difference of each image `[N]`, 0 to 255."""
        return np.abs(self.differences).max(1).astype(int)

    @property
    def unchanged(self) -> dict[str, np.ndarray]:
        """Whether the victim predicts the original's class, `[N]` by kind of picture."""
        first = self.predicted[ORIGINAL].classes[:, 0]
        return {kind: predicted.classes[:, 0] == first for kind, predicted in self.predicted.items()}


def outcome_table(seen: Examples) -> pd.DataFrame:
    """A row per image: the victim's class before, after and behind the defense; what changed; how far it is."""
    heads = {ORIGINAL: "before", ADVERSARY: "after", DEFENDED: f"behind {seen.defense}"}
    predicted = {}
    for kind, found in seen.predicted.items():
        first = zip(found.classes[:, 0], found.confidence[:, 0], strict=True)
        predicted[heads[kind]] = [f"{seen.classes[label]}, {100 * score:.0f} %" for label, score in first]
    with np.errstate(divide="ignore"):  # nothing differs: infinite
        psnr = 10 * np.log10(255**2 / np.square(seen.differences).mean(1))
    same = zip(*(unchanged.tolist() for kind, unchanged in seen.unchanged.items() if kind != ORIGINAL), strict=True)
    outcomes = [OUTCOMES[each] for each in same]
    measured = {"largest difference (levels)": seen.levels, "PSNR (dB)": psnr.round(1)}
    return pd.DataFrame({"image": seen.names, **predicted, "outcome": outcomes, **measured})


def figure(seen: Examples) -> Figure:
    """A row per image: original, adversary, ten times the difference, and the adversary behind the defense.

    Above each picture stand the victim's class and its probability, with a sign: as for the original, or not.
    """
    columns = [ORIGINAL, ADVERSARY, TIMES_TEN, *([DEFENDED] if DEFENDED in seen.predicted else [])]
    rows = [(name, [_picture(seen, kind, row) for kind in columns]) for row, name in enumerate(seen.names)]
    drawn = captioned({"": rows}, PAPER._replace(height=math.inf))
    drawn.suptitle(f"{seen.attack}; classes and probabilities by {seen.victim}", fontsize=8, y=0.995)
    return drawn


def shown_figure(seen: Examples) -> Image:
    """The figure as a PNG for a notebook to show."""
    from IPython.display import Image

    png = BytesIO()
    figure(seen).savefig(png, format="png", dpi=150)
    return Image(data=png.getvalue())


def _picture(seen: Examples, kind: str, row: int) -> Picture:
    """A picture with its caption."""
    head = "" if row else f"behind {seen.defense}" if kind == DEFENDED else kind
    if kind == TIMES_TEN:
        shown = difference(seen.pictures[ADVERSARY][row], seen.pictures[ORIGINAL][row], 10)
        return shown._replace(mark=f"at most {seen.levels[row]} levels", head=head)
    label, score = (array[row, 0] for array in seen.predicted[kind])
    shown = prediction(seen.pictures[kind][row], seen.classes[label], score, seen.unchanged[kind][row])
    if kind == ORIGINAL:
        shown = shown._replace(mark=f"{100 * score:.0f} %", colour="black")
    return shown._replace(head=head)
