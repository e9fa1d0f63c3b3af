"""From the tidy frame of an experiment (one row per adversary, victim and image) to the tables."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib.report import published
from lib.report.intervals import Estimate, difference, percent
from lib.settings import Attacks, OwnAttack, Scale

STAND_IN = "stand-in"
PUBLISHED_MAPS = 64  # of SegNet-Basic
RELEASED_PURIFIER, RELEASED_GENERATOR = (64, 23), (64, 6)  # width and blocks

# What Appendix F says of each attack (supplement, lines 114 and 126), and where the rest comes from.
SOURCES = {
    "noise": "not in the paper: the baseline of the same size",
    "fgsm": "F: step size 16",
    "r_fgsm": "F: 16/3 in a random direction, then 16 - 16/3 along the gradient",
    "i_fgsm": "F: 10 iterations, step 1.6",
    "mi_fgsm": "F: 10 iterations, step 1.6, decay 1",
    "dim": "F: probability 0.7, 10 iterations, step 1.6; decay as MI-FGSM",
    "dim_ti": "G, Figure 8; kernel of the released code (sigma 7/3 pixels)",
    "pgd": "B: ten iterations, random targets; step and start of Feature Denoising's evaluation",
    "ssp": "F: VGG-16 conv3-3, at most 100 iterations; step 2.55 and start of the released ssp.py",
    "fsa": "C, which says neither surrogate nor steps: I-FGSM's; batch, transport and start of the released code",
    "cda": "D; budgets 8 and 16 in Table 4, training at 10",
    "fff": "F: 10,000 iterations; Adam, step 0.1, halving of the released code; budget assumed",
}


def outcomes(frame: pd.DataFrame, **cell: object) -> np.ndarray:
    """Per image of one cell (columns and their values): is the first class right? `[n]` bool, in the images' order."""
    where = np.logical_and.reduce([frame[column] == value for column, value in cell.items()])
    return frame[where].sort_values("image")["top1"].to_numpy()


def estimates(frame: pd.DataFrame, by: Sequence[str], outcome: str) -> pd.DataFrame:
    """The mean of a 0/1 column in percent per group, with its interval: columns `by`, value, low, high, n."""
    groups = frame.groupby(list(by), sort=False)[outcome]
    rows = [dict(zip(by, key, strict=True)) | percent(part.to_numpy())._asdict() for key, part in groups]
    return pd.DataFrame(rows)


def paired(frame: pd.DataFrame, outcome: str, after: dict, before: dict) -> Estimate:
    """The difference in percentage points between two cells over the same images.

    after, before: column -> value, which select one cell each.
    """
    first, second = (_cell(frame, outcome, where) for where in (after, before))
    if list(first.index) != list(second.index):
        raise ValueError(f"the cells {after} and {before} do not share their images")
    return difference(first.to_numpy(), second.to_numpy())


def _cell(frame: pd.DataFrame, outcome: str, where: dict) -> pd.Series:
    chosen = frame
    for column, value in where.items():
        chosen = chosen[chosen[column] == value]
    return chosen.set_index("image")[outcome].sort_index()


def table_05(frame: pd.DataFrame, scale: Scale) -> pd.DataFrame:
    """Table 5: T-1 and T-5 of every victim on the clean images, beside the paper's."""
    top1, top5 = (estimates(frame, ["victim"], column).set_index("victim") for column in ("top1", "top5"))
    rows = []
    for victim in top1.index:
        rows.append(
            {
                "victim": victim,
                "network": describe(scale, victim),
                "T-1": Estimate(*top1.loc[victim]),
                "T-1 (paper)": printed("table_05", victim, "T-1"),
                "T-5": Estimate(*top5.loc[victim]),
                "T-5 (paper)": printed("table_05", victim, "T-5"),
                "n": int(top1.loc[victim, "n"]),
            }
        )
    return pd.DataFrame(rows)


def transfer(numbers: pd.DataFrame) -> pd.DataFrame:
    """The transfer matrix: a row per attack, a column per victim, accuracy in percent with its interval.

    Below stands what the paper prints of these victims: clean accuracy (Table 5) and SSP's (Table 3).
    """
    victims = list(dict.fromkeys(numbers["victim"]))
    rows = []
    for (attack, surrogate), part in numbers.groupby(["attack", "surrogate"], sort=False):
        cells = part.set_index("victim")
        shown = {victim: Estimate(*cells.loc[victim, ["value", "low", "high", "n"]]) for victim in victims}
        rows.append({"attack": attack, "surrogate": surrogate or "-", **shown, "n": str(part["n"].iloc[0])})
    for attack, cell in {"none (paper)": ("table_05", "T-1"), "SSP (paper)": ("table_03", "SSP")}.items():
        values = {victim: printed(cell[0], *_place(cell, victim)) for victim in victims}
        if set(values.values()) != {"-"}:
            rows.append({"attack": attack, "surrogate": "-", **values, "n": "1000"})
    return pd.DataFrame(rows)


def _place(cell: tuple[str, str], victim: str) -> tuple[str, str]:
    """Row and column of a victim: Table 5 has victims as rows, Table 3 as columns."""
    return (victim, cell[1]) if cell[0] == "table_05" else (cell[1], victim)


def parameters(used: Attacks, paper: Attacks, own: dict[str, OwnAttack] | None = None) -> pd.DataFrame:
    """Appendix F's parameters (budgets and steps in 0-255 levels): those used, and params.yaml's where they differ.

    own: params.yaml's own attacks, which no scale changes.
    """
    rows = []
    for name, chosen in used:
        values, original = dict(chosen), dict(getattr(paper, name))
        rows.append(
            {
                "attack": name.upper().replace("_", "-"),
                "parameters": _listed(values),
                "paper scale": _listed({key: original[key] for key in values if values[key] != original[key]})
                or "same",
                "source": SOURCES[name],
            }
        )
    for name, spec in (own or {}).items():
        source = f"own: {spec.file}, on {spec.looks_at}"
        rows.append({"attack": name, "parameters": _listed(spec.options), "paper scale": "same", "source": source})
    return pd.DataFrame(rows)


def white_box(frame: pd.DataFrame) -> pd.DataFrame:
    """Each victim on clean images, under noise, and under its own FGSM: accuracy in percent with its interval."""
    rows = []
    for victim, part in frame.groupby("victim", sort=False):
        accuracy = {attack: percent(outcome.to_numpy()) for attack, outcome in part.groupby("attack")["top1"]}
        cells = {"clean": accuracy["none"], "noise": accuracy["Noise"], "own FGSM": accuracy["FGSM"]}
        rows.append({"victim": victim, **cells, "n": part["image"].nunique()})
    return pd.DataFrame(rows)


def _listed(values: dict) -> str:
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )


def networks(scale: Scale, names: Sequence[str]) -> pd.DataFrame:
    """Which network plays which of the paper's at this scale."""
    rows = [{"name": name, "network": describe(scale, name), "role": scale.networks[name].role} for name in names]
    return pd.DataFrame(rows)


def iterations(frame: pd.DataFrame) -> pd.DataFrame:
    """What Figure 6 shows: accuracy per attack and number of steps, with the clean and noise levels beside it."""
    level = {name: 100 * frame[frame["attack"] == name]["top1"].mean() for name in ("none", "Noise")}
    attacked = frame[~frame["attack"].isin(level)]
    numbers = estimates(attacked, ["attack", "surrogate", "steps", "victim"], "top1")
    return numbers.assign(clean=level["none"], noise=level["Noise"])


def nested(numbers: pd.DataFrame, first: str, second: str) -> dict[str, dict[str, float]]:
    """A long table as {first: {second: value}}, for `dvc metrics`."""
    return {
        key: dict(zip(part[second].map(_key), part["value"], strict=True))
        for key, part in numbers.groupby(first, sort=False)
    }


def _key(cell: object) -> str:
    """4.0 -> "4": a point parts the levels of what `dvc metrics` prints."""
    return f"{cell:g}" if isinstance(cell, float) else str(cell)


def describe(scale: Scale, name: str) -> str:
    """What plays a network of the paper at this scale; a stand-in is called one."""
    spec = scale.networks[name]
    if spec.family == "segnet_basic" and spec.maps != PUBLISHED_MAPS:
        return f"{STAND_IN} {spec.architecture} with {spec.maps} maps"
    if spec.family == "purifier":
        kind = "" if (spec.width, spec.blocks) == RELEASED_PURIFIER else f"{STAND_IN} "
        return f"{kind}{spec.architecture} of width {spec.width}, {spec.blocks} blocks"
    if spec.family == "cda_generator":
        kind = "" if (spec.width, spec.blocks) == RELEASED_GENERATOR else f"{STAND_IN} "
        return f"{kind}{spec.architecture} of width {spec.width}, {spec.blocks} blocks"
    kind = STAND_IN if spec.family in ("small", "small_detector") else spec.family
    return f"{kind} {spec.architecture}".strip()


def record(name: str | None, records: Path) -> dict:
    """What the training of a network recorded in results/<scale>/metrics/networks; {} if it was not."""
    path = records / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def printed(table: str, row: str, column: str) -> str:
    """The paper's number as text, or a dash where it prints none."""
    number = published.value(table, row, column)
    return "-" if number is None else f"{number:.1f}"
