"""Appendix D: Table 4 (CDA and SSP against a detector), CDA behind NRP and against classifiers, and what CDA costs."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib.experiment import NONE, Adversaries, Judged, Study, adversaries, seconds_per_image
from lib.report import published, tables
from lib.report.claims import answer, verdict
from lib.report.intervals import Estimate, difference, percent
from lib.report.transforms import DETECTION, Gathered, detected_pictures, evenly
from lib.settings import AppendixD, Scale
from lib.units import to_bytes, unit_images
from lib.zoo import device_name

CLEAN, NOISE, SSP = "none", "Noise", "SSP"
BUDGETS = (8, 16)  # the columns of Table 4
METRIC = "mAP@0.5"
DEFENSE = "NRP"
TIMED = 10  # images


def proposals(study: Study, generators: dict[str, str], **changed: object) -> list[Adversaries]:
    """CDA of every generator at both budgets of Table 4, named as the table's rows. generators: row -> network."""
    cells = []
    for row, network in generators.items():
        for eps in BUDGETS:
            (cell,) = adversaries(study, "CDA", network, eps=eps, **changed)
            cells.append(dataclasses.replace(cell, attack=row))
    return cells


def table_04(numbers: pd.DataFrame, victim: str) -> pd.DataFrame:
    """Table 4: a row per attack, mAP@0.5 at each budget beside the paper's; the clean row, which the paper omits.

    numbers: of `lib.report.transforms.score`.
    """
    chosen = (numbers["victim"] == victim) & (numbers["metric"] == METRIC) & (numbers["defense"] == NONE)
    part = numbers[chosen].set_index(["attack", "eps"])
    rows = []
    for attack in dict.fromkeys(part.index.get_level_values("attack")):
        steps = part.loc[attack, "steps"].iloc[0]
        name = {CLEAN: "no attack", SSP: f"SSP, {steps} steps"}.get(attack, attack)
        row: dict[str, object] = {"attack": name, "victim": victim}
        for eps in BUDGETS:
            row[f"eps {eps}"] = str(_estimate(part, attack, 0 if attack == CLEAN else eps))
            paper = published.value("table_04", attack, f"eps {eps}")
            row[f"eps {eps} (paper)"] = "-" if paper is None else f"{paper:.1f}"
        rows.append(row | {"n": int(part["n"].iloc[0])})
    return pd.DataFrame(rows)


def _estimate(part: pd.DataFrame, attack: str, eps: float) -> Estimate:
    return Estimate(*part.loc[(attack, eps), ["value", "low", "high", "n"]])


def evidence(gathered: Gathered, victim: str, attack: str, eps: float, defense: str = NONE) -> object:
    """What is kept of one cell of the grid."""
    for one, found in zip(gathered.judged, gathered.evidence, strict=True):
        if (one.victim, one.cell.attack, one.cell.eps, one.defense) == (victim, attack, eps, defense):
            return found
    raise ValueError(f"{victim} was not asked about {attack} of {eps} behind {defense}")


def claims(gathered: Gathered, victim: str, generators: Sequence[str]) -> pd.DataFrame:
    """What Table 4 prints, paired over the same images, in points of mAP@0.5: CDA less SSP.

    SSP leaves less than a CDA where it does in print, and is close to it (within five points) where it does not, which
    is CDA-ImageNet at 16. Beyond the paper: does each CDA take more than random noise of the same size?
    """
    rows = []
    for eps in BUDGETS:
        ssp, noise = (evidence(gathered, victim, attack, eps) for attack in (SSP, NOISE))
        for name in generators:
            cda = evidence(gathered, victim, name, eps)
            more, beyond = DETECTION.change(cda, ssp, METRIC), DETECTION.change(noise, cda, METRIC)
            row: dict[str, object] = {"budget": eps, "CDA": name, "CDA less SSP": more, "n": more.n}
            row |= _printed(name, more, eps)
            rows.append(row | {"beyond noise": beyond, "more than noise": answer(beyond)})
    return pd.DataFrame(rows)


def _printed(name: str, more: Estimate, eps: int) -> dict[str, str]:
    """The paper's difference, what it says of SSP, and the verdict; dashes for a generator that it does not print."""
    cda, ssp = (published.value("table_04", attack, f"eps {eps}") for attack in (name, SSP))
    if cda is None:
        return dict.fromkeys(["paper", "claim", "verdict"], "-")
    less = cda > ssp
    said = verdict(more, "rises" if less else "stays")
    return {"paper": f"{cda - ssp:+.1f}", "claim": "SSP leaves less" if less else "SSP is close", "verdict": said}


def behind(gathered: Gathered, victim: str, attacks: Sequence[str]) -> pd.DataFrame:
    """Figure 10 in numbers: mAP@0.5 without a defense and behind NRP, and what NRP wins back, paired.

    share: of what the attack took. The paper gives no number for "greatly stabilizes": whether NRP helps at all is
    what the last column says.
    """
    untouched = evidence(gathered, victim, CLEAN, 0)
    rows = []
    for attack, eps in [(CLEAN, 0), *((attack, eps) for attack in attacks for eps in BUDGETS)]:
        bare, purified = (evidence(gathered, victim, attack, eps, front) for front in (NONE, DEFENSE))
        change, taken = DETECTION.change(purified, bare, METRIC), DETECTION.change(untouched, bare, METRIC)
        clean = attack == CLEAN
        row: dict[str, object] = {"attack": "no attack" if clean else attack, "budget": eps}
        row |= {"no defense": DETECTION.estimate(bare, METRIC), "behind NRP": DETECTION.estimate(purified, METRIC)}
        share = "-" if clean or taken.value <= 0 else f"{100 * change.value / taken.value:.0f} %"
        row |= {"change": change, "share won back": share, "n": change.n}
        rows.append(row | {"NRP helps": "-" if clean else answer(change)})
    return pd.DataFrame(rows)


def pictures(
    study: Study, judged: Sequence[Judged], victim: str, attack: str, shown: int, threshold: float
) -> dict[str, np.ndarray]:
    """What Figure 10 shows (`lib.report.purified.figure_10`): images, adversaries at 16, and the same purified."""
    said = {(one.cell.attack, one.cell.eps, one.defense): one for one in judged if one.victim == victim}
    before, after = said[CLEAN, 0, NONE], said[attack, 16, NONE]
    purify = study.defense(DEFENSE)
    drawn = {index: after.cell.images[index] for index in evenly(len(study.images), shown)}
    purified = {index: to_bytes(purify(unit_images(x[None], study.device)))[0] for index, x in drawn.items()}
    kinds = {
        "clean": (before.cell.images, before.outcome),
        "adversary": (after.cell.images, after.outcome),
        "purified": (purified, said[attack, 16, DEFENSE].outcome),
    }
    return detected_pictures(study, kinds, shown, threshold)


def classifiers(judged: pd.DataFrame, generators: Sequence[str], classifier: str) -> pd.DataFrame:
    """Accuracy of classifiers under CDA at 16, SSP and noise; in brackets where CDA was trained against the victim.

    generators: the attacks that were trained against `classifier`.
    """
    rows = []
    for attack, part in judged.groupby("attack", sort=False):
        against = classifier if attack in generators else "-"
        row: dict[str, object] = {"attack": "no attack" if attack == CLEAN else attack, "trained against": against}
        for victim, cell in part.groupby("victim", sort=False):
            found = percent(cell.sort_values("image")["top1"].to_numpy())
            row[victim] = f"({found})" if victim == against else str(found)
        rows.append(row | {"n": part["image"].nunique()})
    return pd.DataFrame(rows)


def smoothing(plain: pd.DataFrame, blurred: pd.DataFrame) -> pd.DataFrame:
    """What smoothing what the generator proposes changes: accuracy without, with, and the paired difference."""
    rows = []
    for (attack, eps, victim), part in plain.groupby(["attack", "eps", "victim"], sort=False):
        same = (blurred["attack"] == attack) & (blurred["eps"] == eps) & (blurred["victim"] == victim)
        without, after = (cell.sort_values("image")["top1"].to_numpy() for cell in (part, blurred[same]))
        row = {"attack": attack, "budget": int(eps), "victim": victim, "as proposed": percent(without)}
        rows.append(row | {"smoothed": percent(after), "change": difference(after, without), "n": len(after)})
    return pd.DataFrame(rows)


def costs(study: Study, chosen: AppendixD, scale: Scale, records: Path) -> pd.DataFrame:
    """Milliseconds per image of a generator and of SSP, and after how many images the generator's training has paid.

    records: of the trainings, results/<scale>/metrics/networks. Training has paid, in time, after as many images as SSP
    could have attacked in what is saved; a dash where the training ran on another device, or not here.
    """
    images = min(TIMED, len(study.images))
    steps = study.params.attacks.ssp.steps
    ssp = seconds_per_image(study, SSP, chosen.feature_surrogate, images)
    shared = {"device": device_name(study.device), "images timed": images}
    row = {"attack": f"SSP, {steps} steps", "precision": scale.precision, "per image": _span(ssp), "against SSP": "1"}
    rows = [row | {"training": "-", "pays after": "-"} | shared]
    for name, network in chosen.generators.items():
        seconds = seconds_per_image(study, "CDA", network, images)
        facts = tables.record(network, records)
        trained_on = facts.get("device", "CPU")
        here = facts and trained_on == shared["device"] and ssp > seconds
        row = {"attack": f"{name} ({tables.describe(scale, network)})", "precision": "fp32"}
        row |= {
            "per image": _span(seconds),
            "against SSP": _ratio(ssp / seconds),
            "training": f"{facts['seconds']:.0f} s on {trained_on}" if facts else "-",
            "pays after": f"{facts['seconds'] / (ssp - seconds):,.0f} images" if here else "-",
        }
        rows.append(row | shared)
    return pd.DataFrame(rows)


def _span(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _ratio(ratio: float) -> str:
    return f"{ratio:.0f} times faster" if ratio >= 10 else f"{ratio:.2g} times faster"
