"""Verdicts on what the paper says, computed from paired differences; never written by hand."""

import math
from typing import Literal

import pandas as pd

from lib.report.intervals import Estimate, percent
from lib.report.tables import paired

Expected = Literal["rises", "falls", "stays", "at most 5 points up", "a little up"]

# A change within this many percentage points counts as none.
MARGIN = 5.0

# What the supplement says of accuracy after ten iterations (lines 126 and 137).
AFTER_TEN: dict[str, Expected] = {"I-FGSM": "rises", "MI-FGSM": "stays", "DIM": "stays", "SSP": "falls"}


def verdict(change: Estimate, expected: Expected) -> str:
    """reproduced, not reproduced, or inconclusive, from the 95 % interval of a change in percentage points.

    Reproduced when the whole interval lies where the claim wants the change (`ranges`), not reproduced when all of it
    lies elsewhere.
    """
    low, high = ranges(expected)
    inside = low < change.low and change.high < high
    outside = change.high < low or high < change.low
    return "reproduced" if inside else "not reproduced" if outside else "inconclusive"


def ranges(expected: Expected) -> tuple[float, float]:
    """Where a claim wants a change to lie, in points: above or below 0, within MARGIN of it, or less than MARGIN up."""
    return {
        "rises": (0.0, math.inf),
        "falls": (-math.inf, 0.0),
        "stays": (-MARGIN, MARGIN),
        "at most 5 points up": (-math.inf, MARGIN),
        "a little up": (0.0, MARGIN),
    }[expected]


def answer(change: Estimate) -> str:
    """Is a change above 0? yes or no where its whole 95 % interval says so, else inconclusive."""
    return "yes" if change.low > 0 else "no" if change.high < 0 else "inconclusive"


def more_iterations(frame: pd.DataFrame, few: int, many: int) -> pd.DataFrame:
    """Figure 6 in numbers: how each attack's victim changes between `few` and `many` iterations."""
    rows = []
    for attack, expected in AFTER_TEN.items():
        cells = {steps: frame[(frame["attack"] == attack) & (frame["steps"] == steps)]["top1"] for steps in (few, many)}
        change = paired(frame, "top1", {"attack": attack, "steps": many}, {"attack": attack, "steps": few})
        rows.append(
            {
                "attack": attack,
                f"accuracy at {few}": percent(cells[few].to_numpy()),
                f"accuracy at {many}": percent(cells[many].to_numpy()),
                "change": change,
                "n": change.n,
                "paper: accuracy": expected,
                "verdict": verdict(change, expected),
            }
        )
    return pd.DataFrame(rows)


def beyond_noise(frame: pd.DataFrame, attack: str, points: float = 30) -> pd.DataFrame:
    """What the attack takes from each victim beyond random sign noise of the same size, and whether `points` more."""
    rows = []
    for victim in dict.fromkeys(frame["victim"]):
        part = frame[frame["victim"] == victim]
        extra = paired(part, "top1", {"attack": "Noise"}, {"attack": attack})
        shown = {name: percent(part[part["attack"] == name]["top1"].to_numpy()) for name in ("none", "Noise", attack)}
        rows.append(
            {
                "victim": victim,
                "clean": shown["none"],
                "noise": shown["Noise"],
                attack: shown[attack],
                "beyond noise": extra,
                "n": extra.n,
                f"{points:.0f} points": "yes" if extra.value >= points else "no",
            }
        )
    return pd.DataFrame(rows)


def compare_sources(frame: pd.DataFrame, pairs: list[tuple[str, str]], steps: list[int]) -> pd.DataFrame:
    """Figure 1 in numbers: does SSP fool more from the first source's features than from the second's?

    frame: rows with columns `source` and `steps`.  steps: the numbers of iterations to compare at; the paper's figure
    does not say. Pairs whose sources were not run are left out.
    """
    rows = []
    there = set(frame["source"])
    for better, worse in pairs:
        for count in steps if {better, worse} <= there else []:
            gain = paired(frame[frame["steps"] == count], "fooled", {"source": better}, {"source": worse})
            claim = f"{better} fools more than {worse}"
            rows.append(
                {"claim": claim, "iterations": count, "gain": gain, "n": gain.n, "verdict": verdict(gain, "rises")}
            )
    return pd.DataFrame(rows)
