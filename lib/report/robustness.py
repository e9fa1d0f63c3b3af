"""Appendix B: Table 1, the same under attackers who know of NRP, and Table 2."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib.data.world import COUNTS
from lib.experiment.robustness import DYNAMIC, ORIGINAL, STATIC
from lib.report import published, tables
from lib.report.claims import MARGIN, verdict
from lib.report.intervals import difference, percent
from lib.settings import AppendixB, Scale

STEPS = 10  # Table 1's
# Rows of Table 1 in the paper: what stands in it is the dynamic defense, attacked through the static purifier.
PAPER = {ORIGINAL: ORIGINAL, "Feature Denoising": "Feature Denoising", DYNAMIC: "NRP"}


def select(frame: pd.DataFrame, **where: object) -> pd.DataFrame:
    """The rows whose columns have these values."""
    return frame[np.logical_and.reduce([frame[column] == value for column, value in where.items()])]


def accuracy(frame: pd.DataFrame, **where: object) -> np.ndarray:
    """Per image, whether the first class is right, as a mean over the seeds of the dynamic defense: `[n]`."""
    chosen = select(frame, **where) if where else frame
    return chosen.groupby("image", sort=True)["top1"].mean().to_numpy()


def table_01(frame: pd.DataFrame, chosen: AppendixB, scale: Scale) -> pd.DataFrame:
    """Table 1: accuracy on clean images and under ten steps of targeted PGD, beside the paper's.

    The attack is white-box; on NRP it goes through the static purifier, and the dynamic one defends (supplement, line
    54). spread: standard deviation over the seeds of the dynamic defense, as the paper prints it.
    """
    rows = []
    for defended in dict.fromkeys(frame["defended"]):
        behind = defended in (STATIC, DYNAMIC)
        cells = {"clean": ("none", "-"), "adversarial": ("targeted", "exact" if behind else "white box")}
        row: dict[str, object] = {"method": defended, "network": _network(defended, chosen, scale)}
        for column, (attack, knowledge) in cells.items():
            cell = select(frame, defended=defended, attack=attack, knowledge=knowledge, steps=STEPS)
            row[column] = percent(accuracy(cell))
            row[f"{column}, spread"] = _spread(cell) if defended == DYNAMIC else "-"
            row[f"{column} (paper)"] = _printed(defended, column)
        rows.append(row | {"n": row["clean"].n})
    return pd.DataFrame(rows)


def _network(defended: str, chosen: AppendixB, scale: Scale) -> str:
    """What plays the network of a row at this scale, and the purifier before it."""
    name = chosen.hardened.get(defended, chosen.victim)
    behind = [tables.describe(scale, chosen.purifier)] if defended in (STATIC, DYNAMIC) else []
    return " + ".join([*behind, tables.describe(scale, name)])


def _spread(cell: pd.DataFrame) -> str:
    return f"± {100 * cell.groupby('seed')['top1'].mean().std():.1f}"


def _printed(defended: str, column: str) -> str:
    if defended not in PAPER:
        return "-"
    value = published.value("table_01", PAPER[defended], column)
    spread = published.TABLES["table_01"]["spread"].get(PAPER[defended])
    place = published.TABLES["table_01"]["columns"].index(column)
    return f"{value:.2f}" + (f" ± {spread[place]:.1f}" if spread else "")


def claims(frame: pd.DataFrame, hardened: Sequence[str]) -> pd.DataFrame:
    """What the supplement and its Table 1 say (lines 48 to 62), and what becomes of it under better attackers.

    Paired differences in points over the same images; the best attacker is the one that leaves the least, chosen on the
    same images.
    """
    part = frame[frame["steps"] == STEPS]
    clean = {name: accuracy(part, defended=name, attack="none") for name in dict.fromkeys(part["defended"])}
    rows = [
        ("NRP, dynamic: clean accuracy does not suffer (text)", clean[DYNAMIC], clean[ORIGINAL], "stays"),
        ("NRP, dynamic: clean accuracy falls (Table 1: by 4.8)", clean[DYNAMIC], clean[ORIGINAL], "falls"),
    ]
    for other in hardened:
        claim = f"{other} has less clean accuracy than no defense{_unprinted(other)}"
        rows.append((claim, clean[other], clean[ORIGINAL], "falls"))
    bare = accuracy(part, defended=ORIGINAL, attack="targeted", knowledge="white box")
    for other in hardened:
        own = accuracy(part, defended=other, attack="targeted", knowledge="white box")
        rows.append((f"{other} keeps more under attack than no defense{_unprinted(other)}", own, bare, "rises"))
    attacked = accuracy(part, defended=DYNAMIC, attack="targeted", knowledge="exact")
    rows.append(("NRP keeps more under attack than no defense (Table 1: by 62.3)", attacked, bare, "rises"))
    printed = published.value("table_01", "NRP", "adversarial")
    claim = f"NRP keeps {printed} % under attack (Table 1), within {MARGIN:.0f} points"
    rows.append((claim, attacked, np.full(len(attacked), printed / 100), "stays"))
    best, knowledge = _worst(part)
    for other in hardened:
        own = accuracy(part, defended=other, attack="targeted", knowledge="white box")
        ours = _unprinted(other)
        rows.append((f"NRP keeps more clean accuracy than {other}{ours}", clean[DYNAMIC], clean[other], "rises"))
        rows.append((f"NRP keeps more under attack than {other}{ours}", attacked, own, "rises"))
        if knowledge != "exact":
            rows.append((f"the same, attacker: {knowledge}", best, own, "rises"))
    return pd.DataFrame([_claim(*row) for row in rows])


def _unprinted(name: str) -> str:
    return "" if name in PAPER else " (not in the paper)"


def _claim(claim: str, after: np.ndarray, before: np.ndarray, expected: str) -> dict[str, object]:
    change = difference(after, before)
    return {"claim": claim, "change": change, "n": change.n, "verdict": verdict(change, expected)}


def _worst(part: pd.DataFrame) -> tuple[np.ndarray, str]:
    """The dynamic NRP's accuracy per image under the targeted attacker that leaves the least, and what that knows."""
    known = part[(part["defended"] == DYNAMIC) & (part["attack"] == "targeted")]["knowledge"].unique()
    found = {name: accuracy(part, defended=DYNAMIC, attack="targeted", knowledge=name) for name in known}
    worst = min(found, key=lambda name: found[name].mean())
    return found[worst], worst


def adaptive(frame: pd.DataFrame) -> pd.DataFrame:
    """Every defended network under every attacker: a row each, a column per attack and number of steps, with n.

    paper: the number of Table 1 that a row's targeted attack of ten steps corresponds to.
    """
    rows = []
    attacked = frame[frame["attack"] != "none"]
    order = list(dict.fromkeys(frame["defended"]))
    for (defended, knowledge), part in attacked.groupby(["defended", "knowledge"], sort=False):
        row: dict[str, object] = {"defended": defended, "attacker": knowledge}
        for (attack, steps), cell in part.groupby(["attack", "steps"], sort=False):
            found = percent(accuracy(cell))
            row[f"{attack}, {steps} steps (n {found.n})"] = str(found)
        printed = knowledge in ("white box", "exact")
        rows.append(row | {f"paper (targeted, {STEPS} steps)": _printed(defended, "adversarial") if printed else "-"})
    return pd.DataFrame(sorted(rows, key=lambda row: order.index(row["defended"]))).fillna("-")


def estimates(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per cell of the grid: defended, attack, knowledge, steps, value, low, high, n."""
    by = ["defended", "attack", "knowledge", "steps"]
    return pd.DataFrame(
        [
            dict(zip(by, key, strict=True)) | percent(accuracy(cell))._asdict()
            for key, cell in frame.groupby(by, sort=False)
        ]
    )


def table_02(chosen: AppendixB, scale: Scale, records: Path) -> pd.DataFrame:
    """Table 2: what training each defense cost; the paper's rows, Feature Denoising's own, and ours as measured.

    The paper prints 52 hours for Feature Denoising: those are its baseline's without denoising blocks; the network of
    Table 1 took 90 (ImageNet-Adversarial-Training, INSTRUCTIONS.md).  records: the folder of the trainings' records,
    results/<scale>/metrics/networks. A network whose weights were not trained here has no row of ours.
    """
    paper, labelled = published.TABLES["table_02"]["rows"], ("Yes", "Yes", "1.28 million, labelled")
    theirs = "ImageNet-Adversarial-Training, INSTRUCTIONS.md"
    rows = [
        _cost(
            "Feature Denoising, ResNet152", "paper", *paper["Feature Denoising"], *labelled[:2], "1.3 million, labelled"
        ),
        _cost("the same: the baseline without denoising blocks", theirs, 128, 52, *labelled),
        _cost("the same: with them, the network of Table 1", theirs, 128, 90, *labelled),
        _cost("NRP", "paper", *paper["NRP"], "No", "No", "25,000, no labels"),
    ]
    own = {f"NRP, {name}" if name != chosen.purifier else "NRP": name for name in scale.purifiers}
    for method, name in {**own, **chosen.hardened}.items():
        if facts := tables.record(name, records):
            purifier = name in scale.purifiers
            images = f"{facts['images'] if purifier else COUNTS['train', 'natural']:,}"
            rows.append(
                _cost(
                    f"{method} ({tables.describe(scale, name)})",
                    f"measured here, {facts.get('device', 'CPU')}",
                    1 if facts.get("device", "CPU") != "CPU" else 0,
                    facts["seconds"] / 3600,
                    *(("No", "No", f"{images}, no labels") if purifier else ("Yes", "Yes", f"{images}, labelled")),
                )
            )
    return pd.DataFrame(rows)


def _cost(method: str, source: str, gpus: int, hours: float, labels: str, specific: str, images: str) -> dict:
    return {
        "method": method,
        "source": source,
        "GPUs": gpus,
        "time": _hours(hours),
        "GPU-hours": _hours(gpus * hours) if gpus else "-",
        "task/label dependency": labels,
        "dataset specific": specific,
        "training images": images,
    }


def _hours(hours: float) -> str:
    return f"{hours:.2g} h" if hours < 10 else f"{hours:,.0f} h"


def nested(numbers: pd.DataFrame) -> dict[str, dict[str, float]]:
    """The grid as {defended: {attack, knowledge and steps: value}}, for `dvc metrics`."""
    numbers = numbers[(numbers["attack"] != "none") | (numbers["steps"] == STEPS)]
    named = numbers.assign(cell=numbers["attack"] + " " + numbers["knowledge"] + " " + numbers["steps"].astype(str))
    return tables.nested(named, "defended", "cell")
