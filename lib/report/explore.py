"""One attack and one defense on a few images, one's own or the scale's, to look at: notebooks/explore.ipynb.

Nothing here is a result: no table or figure of it is written, only adversaries and judgements are kept in the store.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from PIL import ImageOps
from PIL.Image import Resampling
from torch import Tensor

from lib import settings
from lib.attacks.registry import attacks
from lib.data.classification import class_names, classification_images
from lib.data.images import ImageSet, image_files, middle, open_image
from lib.data.unlabelled import find
from lib.experiment import NONE, Study, adversaries, fidelity, judge
from lib.experiment.study import here
from lib.report.purified import LETTER, LINE, RIGHT, SMALL, WRONG, difference, fit
from lib.report.style import WIDTH, show, style
from lib.settings import NetworkSpec, Scale
from lib.tasks.classification import Prediction
from lib.units import to_bytes, unit_images

if TYPE_CHECKING:
    from IPython.display import Image, Markdown

ORIGINAL, ADVERSARY, DEFENDED, TIMES_TEN = "original", "adversary", "defended", "difference × 10"

# Which networks an attack can look at, by what it looks at (`lib.attacks.registry.Attack.on`). A victim needs logits.
FITS: dict[str, Callable[[NetworkSpec], bool]] = {
    "logits": lambda spec: spec.task == "classification" and spec.family != "vgg16_conv3_3",
    "features": lambda spec: spec.tap is not None,
    "responses": lambda spec: bool(spec.activations),
    "generator": lambda spec: spec.task == "generation",
}


class Look(NamedTuple):
    """N images, what an attack and a defense make of them, and what the victim says.

    names: of the images.  pictures: "original", "adversary" and, behind a defense, "defended" -> uint8 `[N,H,W,3]`.
    said: the same -> the victim's predictions.  classes: their names.  levels: largest difference between original and
    adversary, `[N]`, 0 to 255.  psnr: of the adversary, `[N]`, dB.  attack, victim, defense: in words.
    """

    names: list[str]
    pictures: dict[str, np.ndarray]
    said: dict[str, Prediction]
    classes: Sequence[str]
    levels: np.ndarray
    psnr: np.ndarray
    attack: str
    victim: str
    defense: str


def open_images(scale: str | None = None, folder: str | Path | None = None, count: int = 4) -> Study:
    """A study of the first `count` images of a folder (None: of the scale's own), one image at a time.

    folder: looked for here, in the repository and in $COMPANION_ASSETS.  FileNotFoundError or ValueError in one line
    for a folder that is missing or has no images, and for a file that is no image.
    """
    if count < 1:
        raise ValueError(f"count must be 1 or more, got {count}")
    chosen = settings.load(scale)
    images = classification_images(chosen.data, count) if folder is None else own(folder, chosen.data.side, count)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Study(settings.params_at(chosen), chosen, images, here(), device, batch=1)


def own(folder: str | Path, side: int, count: int) -> ImageSet:
    """The first `count` images of a folder, by name, `side` pixels square; labels are -1, as nobody knows them."""
    paths = image_files(find(str(Path(folder).expanduser())))[:count]
    images = torch.stack([read(path, side) for path in paths])
    return ImageSet(images, torch.full((len(paths),), -1), [path.name for path in paths])


def read(path: Path, side: int) -> Tensor:
    """An image of any size as uint8 `[3,side,side]`, upright as its camera says; the middle of one that is not square.

    ValueError in one line for a file that is no image.
    """
    with open_image(path) as file:
        image = ImageOps.exif_transpose(file).convert("RGB")
    square = image.width == image.height
    image = image.resize((side, side), Resampling.BILINEAR) if square else middle(image, side)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def fitting(scale: Scale, on: str) -> list[str]:
    """The networks of a scale that an attack on logits, features, responses or a generator can look at.

    Those with logits must know the classes of the scale's images.
    """
    classes = len(class_names(scale.data))
    return [
        name
        for name, spec in scale.networks.items()
        if FITS[on](spec) and (on != "logits" or spec.classes - spec.background == classes)
    ]


def choices(study: Study) -> Markdown:
    """What can be written in the notebook's parameters."""
    from IPython.display import Markdown

    recipes = attacks(study.params.own_attacks)
    known = {"attack": recipes, "defense": [NONE, *study.params.defenses], "victim": fitting(study.scale, "logits")}
    for on in FITS:
        alike = [name for name, recipe in recipes.items() if recipe.on == on]
        known[f"surrogate of {', '.join(alike)}"] = fitting(study.scale, on)
    rows = [{"choice": name, "among": ", ".join(names)} for name, names in known.items()]
    return Markdown(pd.DataFrame(rows).to_markdown(index=False))


def look(
    study: Study,
    attack: str,
    surrogate: str | None = None,
    victim: str | None = None,
    defense: str = NONE,
    **changed: object,
) -> Look:
    """Attack the study's images, defend them, and ask the victim each time.

    attack: as of `lib.experiment.adversaries`; where it needs labels, the victim's classes of the clean images are
    taken.  surrogate, victim: networks of the scale; None: those of Appendix F (generators: the first of D's).
    defense: a name in params.yaml, or "none".  changed: parameters of the attack, in params.yaml's units (eps=8).
    ValueError in one line for a name or a parameter that is not there, FileNotFoundError for missing weights.
    """
    scale = study.scale
    surrogate, victim = surrogate_of(study, attack, surrogate), victim or scale.f.victim
    if victim not in fitting(scale, "logits"):
        known = ", ".join(fitting(scale, "logits"))
        raise ValueError(f"no victim '{victim}' that classifies at scale {scale.name}; there are {known}")
    front = study.defense(defense)
    clean = study.images.images
    said = {ORIGINAL: judge(study, victim, clean)}
    labels = torch.from_numpy(said[ORIGINAL].classes[:, 0])
    study = dataclasses.replace(study, images=dataclasses.replace(study.images, labels=labels))
    (cell,) = adversaries(study, attack, surrogate, **changed)
    said[ADVERSARY] = judge(study, victim, cell.images)
    pictures = {ORIGINAL: clean, ADVERSARY: cell.images}
    if front:
        said[DEFENDED] = judge(study, victim, cell.images, defense)
        parts = [to_bytes(front(unit_images(image[None], study.device))) for image in cell.images]
        pictures[DEFENDED] = torch.cat(parts)
    return Look(
        names=study.images.ids,
        pictures={kind: images.permute(0, 2, 3, 1).numpy() for kind, images in pictures.items()},
        said=said,
        classes=class_names(scale.data),
        levels=(cell.images.int() - clean.int()).abs().flatten(1).amax(1).numpy(),
        psnr=fidelity(study, cell.images)["psnr"],
        attack=f"{attack} on {surrogate}" if surrogate else attack,
        victim=victim,
        defense=defense,
    )


def surrogate_of(study: Study, attack: str, asked: str | None) -> str | None:
    """The network that the attack looks at: the one asked for, or the appendices' own; None if it looks at none."""
    scale, recipes = study.scale, attacks(study.params.own_attacks)
    if attack not in recipes:
        raise ValueError(f"no attack '{attack}'; there are {', '.join(recipes)}")
    on = recipes[attack].on
    if on == "nothing":
        return None
    usual = {"logits": scale.f.surrogate, "generator": next(iter(scale.d.generators.values()))}
    name = asked or usual.get(on, scale.f.feature_surrogate)
    if name not in fitting(scale, on):
        known = ", ".join(fitting(scale, on))
        raise ValueError(f"no surrogate '{name}' for {attack} at scale {scale.name}; there are {known}")
    return name


def outcomes(seen: Look) -> list[str]:
    """What happened to the victim's class of each image, in words."""
    classes = {kind: said.classes[:, 0] for kind, said in seen.said.items()}
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
    said = {
        heads[kind]: [
            f"{seen.classes[label]}, {100 * score:.0f} %"
            for label, score in zip(found.classes[:, 0], found.confidence[:, 0], strict=True)
        ]
        for kind, found in seen.said.items()
    }
    measured = {"largest difference (levels)": seen.levels, "PSNR (dB)": seen.psnr.astype(float).round(1)}
    return pd.DataFrame({"image": seen.names, **said, "outcome": outcomes(seen), **measured})


def figure(seen: Look) -> Figure:
    """A row per image: original, adversary, ten times the difference, and the adversary behind the defense.

    Below each picture stand the victim's class and its probability, with a sign: as for the original, or not.
    """
    style()
    columns = [ORIGINAL, ADVERSARY, TIMES_TEN, *([DEFENDED] if DEFENDED in seen.said else [])]
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
    said, first = seen.said[kind], seen.said[ORIGINAL].classes[row, 0]
    sign, colour = RIGHT if said.classes[row, 0] == first else WRONG
    name, score = fit(seen.classes[said.classes[row, 0]], letters), f"{100 * said.confidence[row, 0]:.0f} %"
    return (f"{name}\n{score}", "black") if kind == ORIGINAL else (f"{name}\n{sign} {score}", colour)
