"""One's own images for notebooks/explore.ipynb: read from a folder, labelled by the victim, attacked as any others.

Nothing here is a result: no table or figure of it is written, only adversaries and predictions are kept in the store.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from IPython.display import Markdown

from lib import markdown, settings
from lib.attacks.registry import attack_named, attacks
from lib.data.images import ImageSet, find_folder, image_files, read_image
from lib.data.sets import class_names, load_set
from lib.experiment.study import NONE, Study
from lib.settings import NetworkSpec, Scale
from lib.settings.base import choices
from lib.tasks.predictions import Prediction

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
    source = chosen.data
    images = load_set(source, chosen.split, count) if folder is None else from_folder(folder, source.side, count)
    return Study(settings.params_at(chosen), chosen, images, batch=1)


def from_folder(folder: str | Path, side: int, count: int) -> ImageSet:
    """The first `count` images of a folder, by name, `side` pixels square; labels are -1, as nobody knows them."""
    paths = image_files(find_folder(str(Path(folder).expanduser())))[:count]
    images = torch.stack([read_image(path, side, crop=True) for path in paths])
    return ImageSet(images, torch.full((len(paths),), -1), [path.name for path in paths])


def fitting(scale: Scale, on: str) -> list[str]:
    """The networks of a scale that an attack on logits, features, responses or a generator can look at; those with
    logits must know the classes of the scale's images."""
    specs, classes = scale.networks.items(), len(class_names(scale.data))
    return [k for k, spec in specs if FITS[on](spec) and (on != "logits" or spec.classes - spec.background == classes)]


def choices_table(study: Study) -> Markdown:
    """What can be written in the notebook's parameters."""
    known = attacks(study.params.own_attacks)
    rows = {"attack": known, "defense": [NONE, *study.params.defenses], "victim": fitting(study.scale, "logits")}
    for on in FITS:
        alike = ", ".join(name for name, attack in known.items() if attack.on == on)
        rows[f"surrogate of {alike}"] = fitting(study.scale, on)
    table = pd.DataFrame([{"choice": name, "among": ", ".join(names)} for name, names in rows.items()])
    return Markdown(markdown.escaped_table(table))


def chosen_networks(
    study: Study, attack: str, surrogate: str | None, victim: str | None, defense: str
) -> tuple[str | None, str]:
    """Surrogate and victim: those asked for, or Appendix F's (a generator: the first of D's); None looks at nothing.
    ValueError in one line for an attack, a network or a defense that is not there."""
    scale, on = study.scale, attack_named(attack, study.params.own_attacks).on
    study.defense(defense)
    usual = {"logits": scale.f.surrogate, "generator": next(iter(scale.d.generators.values()))}
    victim, surrogate = victim or scale.f.victim, surrogate or usual.get(on, scale.f.feature_surrogate)
    asked = [(victim, "logits", f"victim '{victim}' that classifies")]
    asked += [(surrogate, on, f"surrogate '{surrogate}' for {attack}")] if on in FITS else []
    for name, looks_at, what in asked:
        known = fitting(scale, looks_at)
        if name not in known:
            raise ValueError(f"no {what} at scale {scale.name}; {choices(name, known)}")
    return surrogate if on in FITS else None, victim


def labelled_by(study: Study, predicted: Prediction) -> Study:
    """The study with the victim's classes as labels, for the attacks that need some."""
    labels = torch.from_numpy(predicted.classes[:, 0])
    return dataclasses.replace(study, images=dataclasses.replace(study.images, labels=labels))
