"""Appendix G: every attack before and after purification, what purification costs, and what the figures show."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.data.classification import class_names
from lib.experiment import NONE, Adversaries, Study, fidelity, judge
from lib.report.claims import answer
from lib.report.intervals import Estimate, difference, mean, percent
from lib.report.tables import estimates, outcomes
from lib.settings import Data
from lib.tasks.classification import top_k
from lib.units import to_bytes, unit_images

CLEAN = "none"
SHARE = 0.5  # of what an attack took: what "removes the perturbation" has to win back here
COST = 5.0  # points of clean accuracy that purification may cost
LITTLE = 5.0  # points: an attack that takes less has left nothing to win back


def label(attack: str, surrogate: str) -> str:
    """An attack and what it was made on, in words."""
    return attack if not surrogate else f"{attack} on {surrogate}"


def labelled(frame: pd.DataFrame) -> pd.DataFrame:
    """The experiment's frame, its attacks named with their surrogates, the clean images "none"."""
    names = [label(attack, surrogate) for attack, surrogate in zip(frame["attack"], frame["surrogate"], strict=True)]
    return frame.assign(attack=names)


def numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """Accuracy per attack, victim and defense: columns attack, victim, defense, value, low, high, n."""
    return estimates(frame, ["attack", "victim", "defense"], "top1")


def before_after(found: pd.DataFrame, defense: str) -> pd.DataFrame:
    """A row per attack, a column per victim: accuracy without the defense -> behind it, with intervals."""
    rows = []
    for attack, part in found.groupby("attack", sort=False):
        row = {"attack": "no attack" if attack == CLEAN else attack}
        for victim, cells in part.groupby("victim", sort=False):
            by = cells.set_index("defense")[["value", "low", "high", "n"]]
            row[victim] = f"{Estimate(*by.loc[NONE])} → {Estimate(*by.loc[defense])}"
        rows.append(row | {"n": part["n"].iloc[0]})
    return pd.DataFrame(rows)


def won_back(frame: pd.DataFrame, defense: str) -> pd.DataFrame:
    """Does the defense win back at least half of what each attack took? One row per attack and victim.

    taken, won back: points over the same images.  beyond half: what was won back beyond half of what was taken; "yes"
    where its interval lies above 0, "no" below, "-" where the attack took less than LITTLE.
    """
    rows = []
    for attack in dict.fromkeys(frame["attack"]):
        for victim in dict.fromkeys(frame["victim"]) if attack != CLEAN else ():
            clean, before = (outcomes(frame, attack=which, victim=victim, defense=NONE) for which in (CLEAN, attack))
            after = outcomes(frame, attack=attack, victim=victim, defense=defense)
            taken, won = difference(clean, before), difference(after, before)
            beyond = difference(after, before + SHARE * (clean.astype(float) - before))
            half = "-" if taken.value < LITTLE else answer(beyond)
            share = f"{100 * won.value / taken.value:.0f} %" if half != "-" else "-"
            cells = {"taken": taken, "won back": won, "share": share, "beyond half": beyond, "n": won.n}
            rows.append({"attack": attack, "victim": victim, **cells, "half won back": half})
    return pd.DataFrame(rows)


def verdicts(claims: pd.DataFrame) -> pd.DataFrame:
    """`won_back` at a glance: a row per attack, a column per victim with the share and the answer."""
    cells = claims.assign(cell=claims["share"] + ", " + claims["half won back"]).replace({"cell": {"-, -": "-"}})
    table = cells.pivot(index="attack", columns="victim", values="cell")
    ordered = table.loc[list(dict.fromkeys(claims["attack"])), list(dict.fromkeys(claims["victim"]))]
    return ordered.reset_index().rename_axis(columns=None).assign(n=claims["n"].iloc[0])


def cost(frame: pd.DataFrame, defenses: Sequence[str]) -> pd.DataFrame:
    """What each defense takes from the accuracy on clean images, in points, and whether that is at most COST."""
    rows = []
    for victim in dict.fromkeys(frame["victim"]):
        bare = outcomes(frame, attack=CLEAN, victim=victim, defense=NONE)
        for defense in defenses:
            behind = outcomes(frame, attack=CLEAN, victim=victim, defense=defense)
            change = difference(behind, bare)
            within = Estimate(change.value + COST, change.low + COST, change.high + COST, change.n)
            cells = {"clean": percent(bare), "purified": percent(behind), "change": change, "n": change.n}
            rows.append({"victim": victim, "defense": defense, **cells, f"at most {COST:.0f}": answer(within)})
    return pd.DataFrame(rows)


def quality(study: Study, cells: Sequence[Adversaries], defense: str, extractor: str) -> pd.DataFrame:
    """How near images are to the clean ones before and after purification: PSNR in dB and distance of the features.

    The features are those SSP attacks, their squared distance in percent of the clean features' squared size.
    """
    rows = []
    for cell in cells:
        before, after = (fidelity(study, cell.images, front, extractor) for front in (NONE, defense))
        untouched = np.isinf(before["psnr"]).any()
        rows.append(
            {
                "attack": "no attack" if cell.attack == CLEAN else label(cell.attack, cell.surrogate),
                "PSNR (dB)": "-" if untouched else str(mean(before["psnr"])),
                "PSNR, purified": str(mean(after["psnr"])),
                "features (%)": "-" if untouched else str(mean(100 * before["features"])),
                "features, purified": str(mean(100 * after["features"])),
                "n": len(study.images),
            }
        )
    return pd.DataFrame(rows)


def pictures(
    study: Study, cells: dict[str, Adversaries], victim: str, defense: str, shown: int, source: Data
) -> dict[str, np.ndarray]:
    """What Figures 7 to 9 show, see `lib.report.purified`: the first `shown` images that the victim knows when clean.

    cells: name of the group of rows -> adversaries.  source: the images' data set, for the names of its classes.
    """
    names, labels = np.array(class_names(source)), study.images.labels.numpy()
    known = top_k(judge(study, victim, study.images.images), labels, 1).nonzero()[0]
    chosen = np.concatenate([known, np.setdiff1d(np.arange(len(labels)), known)])[:shown]
    front = study.defense(defense)
    groups = []
    for cell in cells.values():
        images = cell.images[chosen]
        purified = to_bytes(front(unit_images(images, study.device)))
        group = {"adversary": images.permute(0, 2, 3, 1).numpy(), "purified": purified.permute(0, 2, 3, 1).numpy()}
        for kind, where in {"before": NONE, "after": defense}.items():
            said = judge(study, victim, cell.images, where)
            group[kind] = names[said.classes[chosen, 0]]
            group[f"{kind}_score"] = said.confidence[chosen, 0]
            group[f"right_{kind}"] = said.classes[chosen, 0] == labels[chosen]
        groups.append(group)
    return {name: np.stack([group[name] for group in groups]) for name in groups[0]} | {
        "groups": np.array(list(cells)),
        "clean": study.images.images[chosen].permute(0, 2, 3, 1).numpy(),
        "truth": names[labels[chosen]],
        "victim": np.array(victim),
        "purifier": np.array(defense),
    }
