"""One's own images for notebooks/explore.ipynb: read from a folder, labelled by the victim, attacked as any others.

Nothing here is a result: no table or figure of it is written, only adversaries and predictions are kept in the store.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from PIL import ImageOps
from PIL.Image import Resampling
from torch import Tensor

from lib import settings, zoo
from lib.attacks.registry import attacks
from lib.data.classification import class_names, classification_images
from lib.data.images import ImageSet, image_files, middle, open_image
from lib.data.unlabelled import find
from lib.experiment.study import NONE, Study, here
from lib.settings import NetworkSpec, Scale
from lib.tasks.predictions import Prediction

if TYPE_CHECKING:
    from IPython.display import Markdown

# Which networks an attack can look at, by what it looks at (`lib.attacks.registry.Attack.on`). A victim needs logits.
FITS: dict[str, Callable[[NetworkSpec], bool]] = {
    "logits": lambda spec: spec.task == "classification" and spec.family != "vgg16_conv3_3",
    "features": lambda spec: spec.tap is not None,
    "responses": lambda spec: bool(spec.activations),
    "generator": lambda spec: spec.task == "generation",
}


def open_images(scale: str | None = None, folder: str | Path | None = None, count: int = 4) -> Study:
    """A study of the first `count` images of a folder (None: of the scale's own), one image at a time.

    folder: looked for here, in the repository and in $COMPANION_ASSETS.  FileNotFoundError or ValueError in one line
    for a folder that is missing or has no images, and for a file that is no image.
    """
    if count < 1:
        raise ValueError(f"count must be 1 or more, got {count}")
    chosen = settings.load(scale)
    images = classification_images(chosen.data, count) if folder is None else own(folder, chosen.data.side, count)
    params = settings.params_at(chosen)
    return Study(params, chosen, images, here(), zoo.device_here(params.device), batch=1)


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


def networks(
    study: Study, attack: str, surrogate: str | None, victim: str | None, defense: str
) -> tuple[str | None, str]:
    """Surrogate and victim: those asked for, or Appendix F's (a generator: the first of D's); None looks at nothing.

    ValueError in one line for an attack, a network or a defense that is not there.
    """
    scale, recipes = study.scale, attacks(study.params.own_attacks)
    if attack not in recipes:
        raise ValueError(f"no attack '{attack}'; there are {', '.join(recipes)}")
    study.defense(defense)
    victim = _fitting(scale, victim or scale.f.victim, "logits", "no victim '{}' that classifies")
    on = recipes[attack].on
    if on == "nothing":
        return None, victim
    usual = {"logits": scale.f.surrogate, "generator": next(iter(scale.d.generators.values()))}
    asked = surrogate or usual.get(on, scale.f.feature_surrogate)
    return _fitting(scale, asked, on, f"no surrogate '{{}}' for {attack}"), victim


def _fitting(scale: Scale, name: str, on: str, message: str) -> str:
    known = fitting(scale, on)
    if name not in known:
        raise ValueError(f"{message.format(name)} at scale {scale.name}; there are {', '.join(known)}")
    return name


def labelled(study: Study, predicted: Prediction) -> Study:
    """The study with the victim's classes as labels, for the attacks that need some."""
    labels = torch.from_numpy(predicted.classes[:, 0])
    return dataclasses.replace(study, images=dataclasses.replace(study.images, labels=labels))
