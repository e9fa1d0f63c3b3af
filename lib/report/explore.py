"""What notebooks/explore.ipynb shows of an attack and a defense on a few images: a figure and a table."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.report.figures.purified import LETTER, LINE, RIGHT, SMALL, WRONG, difference, fit
from lib.report.figures.style import WIDTH, show, style

if TYPE_CHECKING:
    from IPython.display import Image

    from lib.tasks.predictions import Prediction

ORIGINAL, ADVERSARY, DEFENDED, TIMES_TEN = "original", "adversary", "defended", "difference × 10"


class Look(NamedTuple):
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
        adversary, original = (self.pictures[kind].astype(float) for kind in (ADVERSARY, ORIGINAL))
        return (adversary - original).reshape(len(self.names), -1)

    @property
    def levels(self) -> np.ndarray:
        """The largest difference of each image `[N]`, 0 to 255."""
        return np.abs(self.differences).max(1).astype(int)


def outcomes(seen: Look) -> list[str]:
    """What happened to the victim's class of each image, in words."""
    classes = {kind: predicted.classes[:, 0] for kind, predicted in seen.predicted.items()}
    changed = classes[ADVERSARY] != classes[ORIGINAL]
    if DEFENDED not in classes:
        return ["changed" if one else "unchanged" for one in changed]
    kept = classes[DEFENDED] == classes[ORIGINAL]
    words = {
        (True, True): "changed, restored",
        (True, False): "changed, not restored",
        (False, True): "unchanged",
        (False, False): "changed by the defense",
    }
    return [words[pair] for pair in zip(changed.tolist(), kept.tolist(), strict=True)]


def table(seen: Look) -> pd.DataFrame:
    """A row per image: the victim's class before, after and behind the defense; what changed; how far it is."""
    heads = {ORIGINAL: "before", ADVERSARY: "after", DEFENDED: f"behind {seen.defense}"}
    predicted = {
        heads[kind]: [
            f"{seen.classes[label]}, {100 * score:.0f} %"
            for label, score in zip(found.classes[:, 0], found.confidence[:, 0], strict=True)
        ]
        for kind, found in seen.predicted.items()
    }
    with np.errstate(divide="ignore"):  # nothing differs: infinite
        psnr = 10 * np.log10(255**2 / np.square(seen.differences).mean(1))
    measured = {"largest difference (levels)": seen.levels, "PSNR (dB)": psnr.round(1)}
    return pd.DataFrame({"image": seen.names, **predicted, "outcome": outcomes(seen), **measured})


def figure(seen: Look) -> Figure:
    """A row per image: original, adversary, ten times the difference, and the adversary behind the defense.

    Below each picture stand the victim's class and its probability, with a sign: as for the original, or not.
    """
    style()
    columns = [ORIGINAL, ADVERSARY, TIMES_TEN, *([DEFENDED] if DEFENDED in seen.predicted else [])]
    wide = WIDTH / len(columns)
    letters = int(wide / LETTER)
    drawn = Figure(figsize=(WIDTH, (wide + 3 * LINE) * len(seen.names) + 0.5))
    drawn.suptitle(f"{seen.attack}; classes and probabilities by {seen.victim}", fontsize=9)
    for row, name in enumerate(seen.names):
        for place, kind in enumerate(columns, row * len(columns) + 1):
            axes = drawn.add_subplot(len(seen.names), len(columns), place)
            title = f"behind {seen.defense}" if kind == DEFENDED else kind
            show(axes, _picture(seen, kind, row), title if row == 0 else "")
            text, colour = _caption(seen, kind, row, letters)
            below = {"ha": "center", "va": "top", "transform": axes.transAxes}
            axes.text(0.5, -0.03, text, color=colour, **below, **SMALL)
            if kind == ORIGINAL:
                left = {"rotation": 90, "ha": "right", "va": "center", "transform": axes.transAxes}
                axes.text(-0.04, 0.5, fit(name, letters), parse_math=False, **left, **SMALL)
    return drawn


def picture(seen: Look) -> Image:
    """The figure as a PNG for a notebook to show."""
    from IPython.display import Image

    png = BytesIO()
    figure(seen).savefig(png, format="png", dpi=150)
    return Image(data=png.getvalue())


def _picture(seen: Look, kind: str, row: int) -> np.ndarray:
    if kind == TIMES_TEN:
        return difference(seen.pictures[ADVERSARY][row], seen.pictures[ORIGINAL][row])
    return seen.pictures[kind][row]


def _caption(seen: Look, kind: str, row: int, letters: int) -> tuple[str, str]:
    """What stands below a picture, and its colour."""
    if kind == TIMES_TEN:
        return f"at most {seen.levels[row]} levels", "black"
    predicted, first = seen.predicted[kind], seen.predicted[ORIGINAL].classes[row, 0]
    sign, colour = RIGHT if predicted.classes[row, 0] == first else WRONG
    name, score = fit(seen.classes[predicted.classes[row, 0]], letters), f"{100 * predicted.confidence[row, 0]:.0f} %"
    return (f"{name}\n{score}", "black") if kind == ORIGINAL else (f"{name}\n{sign} {score}", colour)
