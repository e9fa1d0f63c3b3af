"""How every figure looks."""

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes

# seaborn's "colorblind" palette and, below, its style sheets as matplotlib ships them: importing seaborn itself takes
# longer than redrawing a figure may.
COLOURS = ["#0173B2", "#DE8F05", "#029E73", "#D55E00", "#CC78BC", "#CA9161", "#FBAFE4", "#949494", "#ECE133", "#56B4E9"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
WIDTH = 6.5


def style() -> None:
    """One look for all figures: readable in print, colour-blind safe, byte-identical for equal content."""
    matplotlib.style.use(["default", "seaborn-v0_8-paper", "seaborn-v0_8-whitegrid"])
    matplotlib.rcParams.update({"svg.hashsalt": "companion", "figure.constrained_layout.use": True, "font.size": 10})


def show(axes: Axes, image: np.ndarray, title: str = "", smooth: bool = True) -> None:
    """One image without axes; small ones, and maps of classes (`smooth` false), are enlarged without smoothing."""
    axes.imshow(image, interpolation="antialiased" if smooth and image.shape[0] >= 128 else "nearest")
    axes.set_axis_off()
    axes.set_title(title, fontsize=8)
