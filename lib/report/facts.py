"""Plain tables of facts, which no score makes: networks, parameters, and what trainings and attacks cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from lib import settings, timings
from lib.frames import Frame
from lib.reading import read_json
from lib.report import published
from lib.settings import Params, Scale
from lib.settings.appendices import AppendixB, AppendixC
from lib.settings.networks import UNTRAINED

STAND_IN = "stand-in"
PUBLISHED_MAPS = 64  # of SegNet-Basic
RELEASED_SIZES = {"purifier": (64, 23), "cda_generator": (64, 6)}  # width and blocks
# What Appendix F says of each attack (supplement, lines 114 and 126), and where the rest comes from.
PARAMETER_SOURCES = {
    "noise": "not in the paper: the baseline of the same size",
    "fgsm": "F: step size 16",
    "r_fgsm": "F: 16/3 in a random direction, then 16 - 16/3 along the gradient",
    "i_fgsm": "F: 10 iterations, step 1.6",
    "mi_fgsm": "F: 10 iterations, step 1.6, decay 1",
    "dim": "F: probability 0.7, 10 iterations, step 1.6; decay as MI-FGSM",
    "dim_ti": "G, Figure 8; kernel of the released code (sigma 7/3 pixels)",
    "pgd": "B, but away from the label; step and start of Feature Denoising's evaluation",
    "pgd_targeted": "B: ten iterations, random targets; step and start of Feature Denoising's evaluation",
    "square": "not in the paper: Andriushchenko et al. 2020",
    "spsa": "not in the paper: Uesato et al. 2018",
    "corners": "not in the paper: the best of random corners of the ball",
    "ssp": "F: VGG-16 conv3-3, at most 100 iterations; step 2.55 and start of the released ssp.py",
    "fsa": "C, which says neither surrogate nor steps: I-FGSM's; batch, transport and start of the released code",
    "cda": "D; budgets 8 and 16 in Table 4, training at 10",
    "fff": "F: 10,000 iterations; Adam, step 0.1, halving of the released code; budget assumed",
}
# Sections of params.yaml's attacks whose attack is called otherwise than they are.
CALLED = {"noise": "Noise", "pgd_targeted": "PGD (targeted)", "square": "Square", "corners": "Random corners"}
# Fields of an appendix's settings that name a network.
ROLES = ("surrogate", "feature_surrogate", "victim", "robust", "classifier", "logits")


def attack_name(section: str) -> str:
    """The attack of a section of params.yaml, as tables call it."""
    return CALLED.get(section, section.upper().replace("_", "-"))


def played_by(scale: Scale, name: str) -> str:
    """What plays a network of the paper at this scale; a stand-in is called one."""
    spec = scale.networks[name]
    if spec.weights == UNTRAINED:
        return f"{UNTRAINED} {spec.architecture}"
    if spec.family == "segnet_basic" and spec.maps != PUBLISHED_MAPS:
        return f"{STAND_IN} {spec.architecture} with {spec.maps} maps"
    if spec.family in RELEASED_SIZES:
        kind = "" if (spec.width, spec.blocks) == RELEASED_SIZES[spec.family] else f"{STAND_IN} "
        return f"{kind}{spec.architecture} of width {spec.width}, {spec.blocks} blocks"
    kind = STAND_IN if spec.family in ("small", "small_detector") else spec.family
    return f"{kind} {spec.architecture}"


class Difference(NamedTuple):
    """What differs from the paper's setting.

    about: the attack, network or defense whose cells it concerns ("": all).  task: of those cells ("": any).
    """

    says: str
    about: str = ""
    task: str = ""


def paper_differences(scale: Scale, stages: Sequence[str]) -> list[Difference]:
    """In what the stages of a scale differ from the paper's settings (scales/paper.yaml, params.yaml). Counts of images
    stand beside every number, so they are not listed."""
    paper, found = _paper(scale), []
    if paper is None:
        return []
    for letter in dict.fromkeys(stage[0] for stage in stages):
        ours, theirs = getattr(scale, letter, None), getattr(paper, letter, None)
        if ours is not None:
            named = _texts(ours.model_dump()) | ({settings.purifier()} if letter in "bcdeg" else set())
            found += [*_other_roles(ours, theirs), *_other_tests(ours, theirs), *_other_networks(scale, named)]
            found += [*_other_parameters(scale), *_fewer_layers(scale, paper)] if letter in "fg" else []
    return list(dict.fromkeys(found))


def _paper(scale: Scale) -> Scale | None:
    """The paper's settings to hold a scale against; None for the scale paper, and in a project without that file."""
    if "paper" in (scale.name, scale.like) or not (settings.ROOT / "scales" / "paper.yaml").exists():
        return None
    return settings.load("paper")


def _other_roles(ours: object, theirs: object) -> Iterator[Difference]:
    """Networks that play a role for which the paper takes another, and an ensemble of another size."""
    for role in ROLES:
        mine, printed = getattr(ours, role, None), getattr(theirs, role, None)
        if isinstance(mine, str) and mine != printed:
            yield Difference(f"{role.replace('_', ' ')} {mine}, not {printed}", mine)
    mine = getattr(ours, "ensemble", [])
    if mine and len(mine) != len(theirs.ensemble):
        yield Difference(f"an ensemble of {len(mine)}, not {len(theirs.ensemble)}", " + ".join(mine))


def _other_tests(ours: object, theirs: object) -> Iterator[Difference]:
    """Of segmentation and detection: SSP's steps and the victim."""
    for task in ("segmentation", "detection"):
        mine, printed = getattr(ours, task, None), getattr(theirs, task, None)
        if mine and mine.steps != printed.steps:
            yield Difference(f"SSP runs {mine.steps} of {printed.steps} steps in {task}", "SSP", task)
        if mine and mine.victims[0] not in printed.victims:
            yield Difference(f"{mine.victims[0]}, not {printed.victims[0]}", mine.victims[0], task)


def _texts(values: object) -> set[str]:
    """Every text in a section of a scale."""
    if isinstance(values, dict | list):
        return set().union(*map(_texts, values.values() if isinstance(values, dict) else values))
    return {values} if isinstance(values, str) else set()


def _other_networks(scale: Scale, named: set[str]) -> Iterator[Difference]:
    """What is known of these networks."""
    for name in (name for name in scale.networks if name in named):
        spec, played = scale.networks[name], played_by(scale, name)
        if spec.family in ("small", "small_detector"):
            yield Difference(f"small {STAND_IN} networks, trained here on drawn scenes")
        elif STAND_IN in played:
            yield Difference(f"{name} is a {played}", name)
        elif spec.note:
            yield Difference(f"{name}: {spec.note}", name)


def _other_parameters(scale: Scale) -> Iterator[Difference]:
    """Parameters of the paper's attacks that the scale changes."""
    constants = settings.params().attacks
    for section, changes in scale.attacks.model_dump(exclude_unset=True).items():
        if not PARAMETER_SOURCES[section].startswith("not in"):
            name, before = attack_name(section), getattr(constants, section)
            says = ", ".join(f"{key} {value}, not {getattr(before, key)}" for key, value in changes.items())
            yield Difference(f"{name}: {says}", name)


def _fewer_layers(scale: Scale, paper: Scale) -> Iterator[Difference]:
    """Whether FFF drives fewer layers."""
    ours, theirs = (len(one.networks[one.f.feature_surrogate].activations) for one in (scale, paper))
    if ours != theirs:
        yield Difference(f"FFF drives {ours} of {theirs} layers", "FFF")


def concerning(found: Sequence[Difference], frame: Frame) -> list[Difference]:
    """The differences that concern some of a frame's cells."""
    cells, kept = frame.cells, []
    for one in found:
        here = cells[cells["task"] == one.task] if one.task else cells
        values = here[["attack", "surrogate", "victim", "defense"]].astype(str).to_numpy().ravel()
        named = {part for value in values for part in (value, *value.split(" + "), value.split(" ")[0])}
        if len(here) and (not one.about or one.about in named):
            kept.append(one)
    return kept


def listed(found: Sequence[Difference]) -> str:
    """The differences as a line below a table; "" for none."""
    return f"Not as in the paper: {'; '.join(one.says for one in found)}." if found else ""


def training_record(name: str | None, records: Path) -> dict:
    """What the training of a network recorded in results/<scale>/train/networks, and in how many seconds it ran
    (`lib.timings`); {} if it was not trained."""
    path = records / f"{name}.json"
    took = timings.read(records.parents[1]).get(f"training of {name}", {})
    return read_json(path) | took if path.is_file() and took else {}


def networks(scale: Scale, names: Sequence[str]) -> pd.DataFrame:
    """Which network plays which of the paper's at this scale."""
    rows = [(name, played_by(scale, name), scale.networks[name].role) for name in names]
    return pd.DataFrame(rows, columns=["name", "network", "role"])


def attack_parameters(used: Params, scale: Scale) -> pd.DataFrame:
    """Appendix F's parameters (budgets and steps in 0-255 levels): those used, and params.yaml's where they differ, or
    where appendices D and E run SSP for fewer steps and FFF drives fewer layers. Custom attacks come last."""
    elsewhere: dict[str, list[str]] = {}
    if paper := _paper(scale):
        tests = [*_other_tests(scale.d, paper.d), *_other_tests(scale.e, paper.e)]
        for one in [*tests, *_fewer_layers(scale, paper)]:
            elsewhere.setdefault(one.about.lower(), []).append(one.says)
    rows, constants = [], settings.params().attacks
    for section, chosen in used.attacks:
        values, original = dict(chosen), dict(getattr(constants, section))
        differ = {key: original[key] for key in values if values[key] != original[key]}
        says = "; ".join(dict.fromkeys([_valued(differ) or "same", *elsewhere.get(section, [])]))
        rows.append((attack_name(section), _valued(values), says, PARAMETER_SOURCES[section]))
    for name, spec in used.own_attacks.items():
        rows.append((name, _valued(spec.options), "same", f"own: {spec.file}, on {spec.looks_at}"))
    return pd.DataFrame(rows, columns=["attack", "parameters", "paper scale", "source"])


def _valued(values: dict) -> str:
    texts = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in values.items()}
    return ", ".join(f"{key} {text}" for key, text in texts.items())


def training_cost(chosen: AppendixB, scale: Scale, records: Path, labelled: int) -> pd.DataFrame:
    """Table 2: what training each defense cost; the paper's rows, Feature Denoising's own, and ours as measured.

    The paper prints 52 hours for Feature Denoising: those are its baseline's without denoising blocks; the network of
    Table 1 took 90 (ImageNet-Adversarial-Training, INSTRUCTIONS.md).  records: the folder of the trainings' records,
    results/<scale>/train/networks; a network not trained here has no row.  labelled: labelled training images.
    """
    printed, theirs = published.TABLES["table_02"]["rows"], "ImageNet-Adversarial-Training, INSTRUCTIONS.md"
    # method, source, GPUs, hours, does it need labels and depend on the data set, training images
    rows = [
        ("Feature Denoising, ResNet152", "paper", *printed["Feature Denoising"], "Yes", "1.3 million, labelled"),
        ("the same: the baseline without denoising blocks", theirs, 128, 52, "Yes", "1.28 million, labelled"),
        ("the same: with them, the network of Table 1", theirs, 128, 90, "Yes", "1.28 million, labelled"),
        ("NRP", "paper", *printed["NRP"], "No", "25,000, no labels"),
    ]
    purifiers = {f"NRP, {name}" if name != settings.purifier() else "NRP": name for name in scale.purifiers}
    for method, name in {**purifiers, **chosen.hardened}.items():
        if facts := training_record(name, records):
            title, source = f"{method} ({played_by(scale, name)})", f"measured on {facts['machine']}"
            free = name in scale.purifiers
            images = f"{facts['images']:,}, no labels" if free else f"{labelled:,}, labelled"
            gpus = int(facts.get("device", "CPU") != "CPU")
            rows.append((title, source, gpus, facts["seconds"] / 3600, "No" if free else "Yes", images))
    columns = ["method", "source", "GPUs", "time", "GPU-hours"]
    columns += ["task/label dependency", "dataset specific", "training images"]
    made = [
        (method, source, gpus, _hours(hours), _hours(gpus * hours) if gpus else "-", bound, bound, images)
        for method, source, gpus, hours, bound, images in rows
    ]
    return pd.DataFrame(made, columns=columns)


def _hours(hours: float) -> str:
    return f"{hours:.2g} h" if hours < 10 else f"{hours:,.0f} h"


def needs(chosen: AppendixC, scale: Scale, records: Path, labelled: int) -> pd.DataFrame:
    """What feature-scattering training and NRP ask for. records, labelled: see `training_cost`."""
    scattered, purifier = (training_record(name, records) for name in (chosen.scattered, settings.purifier()))
    network, images = (
        (played_by(scale, chosen.scattered), f"{labelled:,}") if chosen.scattered else ("none at this scale", "-")
    )
    protected = f"the {len({chosen.natural, *chosen.victims})} networks below, none of them changed"
    columns = {
        "defense": ("feature-scattering training", "NRP"),
        "network": (network, played_by(scale, settings.purifier())),
        "labels": ("yes", "no"),
        "training images": (images, f"{purifier['images']:,}" if purifier else "-"),
        "training": (_training(scattered), _training(purifier)),
        "protects": ("the one network that it trains", protected),
        "per image": ("nothing", "one pass of the purifier"),
    }
    return pd.DataFrame(columns)


def generator_cost(took: dict[str, dict], chosen: dict[str, str], scale: Scale, records: Path, n: int) -> pd.DataFrame:
    """Milliseconds per image of SSP and of generators, and after how many images a generator's training has paid.

    took: seconds per image and device of "SSP" and of each row of `chosen` (row -> generator).  n: images timed.
    Training has paid, in time, after as many images as SSP could have attacked in what is saved; a dash where it ran on
    another device, or not here.
    """
    ssp, device = took["SSP"]["seconds"], took["SSP"]["device"]
    rows = [("SSP", scale.precision, _span(ssp), "1", "-", "-")]
    for name, network in chosen.items():
        seconds, facts = took[name]["seconds"], training_record(network, records)
        here = facts and facts.get("device", "CPU") == device and ssp > seconds
        times = f"{ssp / seconds:.0f}" if ssp >= 10 * seconds else f"{ssp / seconds:.2g}"
        paid = f"{facts['seconds'] / (ssp - seconds):,.0f} images" if here else "-"
        title = f"{name} ({played_by(scale, network)})"
        rows.append((title, "float32", _span(seconds), f"{times} times faster", _training(facts), paid))
    columns = ["attack", "precision", "per image", "against SSP", "training", "pays after"]
    return pd.DataFrame(rows, columns=columns).assign(device=device, **{"images timed": n})


def _training(facts: dict) -> str:
    return f"{facts['seconds']:.0f} s on {facts.get('device', 'CPU')}" if facts else "-"


def _span(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def transform_runs(studies: dict[str, tuple]) -> pd.DataFrame:
    """What was attacked, for each name: images, sizes in pixels (height x width), steps of SSP.

    studies: name -> 8-bit images `[3,H,W]` and number of steps.
    """
    rows = []
    for name, (images, steps) in studies.items():
        texts = [f"{height}x{width}" for height, width in sorted({tuple(image.shape[1:]) for image in images})]
        pixels = texts[0] if len(texts) == 1 else f"{len(texts)} sizes, {texts[0]} to {texts[-1]}"
        rows.append({"task": name, "images": len(images), "pixels": pixels, "SSP steps": steps})
    return pd.DataFrame(rows)
