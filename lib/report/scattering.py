"""Appendix C: Table 3 (FSA and SSP), what FSA's open choices change, and feature-scattering training beside NRP."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from lib.data.world import COUNTS
from lib.experiment import Adversaries, Study, adversaries, clean, frame
from lib.experiment.fronts import NONE
from lib.experiment.robustness import schedule
from lib.report import published, tables
from lib.report.claims import verdict
from lib.report.intervals import difference, percent
from lib.settings import AppendixC, Scale

CLEAN, NOISE, FSA, SSP = "none", "Noise", "FSA", "SSP"
UNROLLED, ENVELOPE = "unrolled", "envelope"
DEFENSE = "NRP"


def table_03(judged: pd.DataFrame) -> pd.DataFrame:
    """Table 3: accuracy of the victims under FSA and SSP beside the paper's, clean images and noise above.

    judged: of `lib.experiment.frame`, the cells none, Noise, FSA and SSP.
    """
    victims = list(dict.fromkeys(judged["victim"]))
    rows = []
    for (attack, surrogate, steps), part in judged.groupby(["attack", "surrogate", "steps"], sort=False):
        cells = {victim: percent(_right(part, victim)) for victim in victims}
        name = "no attack" if attack == CLEAN else attack
        rows.append({"attack": name, "surrogate": surrogate or "-", "steps": _count(attack, steps), **cells})
        rows[-1]["n"] = cells[victims[0]].n
        if attack in published.TABLES["table_03"]["rows"]:
            printed = {victim: tables.printed("table_03", attack, victim) for victim in victims}
            source = "not stated" if attack == FSA else "VGG-16"
            rows.append({"attack": f"{attack} (paper)", "surrogate": source, "steps": "-", **printed, "n": 1000})
    return pd.DataFrame(rows)


def _count(attack: str, steps: int) -> str:
    return f"{steps} steps" if attack in (FSA, SSP) else "-"


def _right(judged: pd.DataFrame, victim: str):
    """Per image of one cell, in the order of the images' names: is the first class right? `[n]`."""
    return judged[judged["victim"] == victim].sort_values("image")["top1"].to_numpy()


def claims(judged: pd.DataFrame) -> pd.DataFrame:
    """Does SSP leave less accuracy than FSA? In points, paired, beside the paper's difference (supplement, line 78).

    A victim that is FSA's own surrogate is left out: that would be no transfer.
    """
    fsa, ssp = (judged[judged["attack"] == attack] for attack in (FSA, SSP))
    rows = []
    for victim in dict.fromkeys(judged["victim"]):
        if victim == fsa["surrogate"].iloc[0]:
            continue
        more = difference(_right(fsa, victim), _right(ssp, victim))
        paper = [published.value("table_03", attack, victim) for attack in (FSA, SSP)]
        printed = "-" if None in paper else f"{paper[0] - paper[1]:+.1f}"
        row = {"victim": victim, "FSA less SSP": more, "paper": printed, "n": more.n}
        rows.append(row | {"SSP leaves less": verdict(more, "rises")})
    return pd.DataFrame(rows)


def variations(study: Study, chosen: AppendixC) -> Iterator[tuple[dict[str, object], Adversaries]]:
    """FSA under every choice that the paper leaves open: what was chosen, and the adversaries.

    Every surrogate with every number of steps (a step is eps / steps, but at least one level: Appendix B's rule); for
    the surrogate of Table 3 and its steps also the sizes of the batch, and the envelope gradient.
    """
    own = study.params.attacks.fsa
    choices = [
        {"surrogate": surrogate, "steps": steps, "batch": own.batch, "gradient": UNROLLED}
        for surrogate in chosen.surrogates
        for steps in chosen.steps
    ]
    base = {"surrogate": chosen.surrogate, "steps": own.steps, "batch": own.batch, "gradient": UNROLLED}
    choices += [base | {"batch": batch} for batch in chosen.batches] + [base | {"gradient": ENVELOPE}]
    for choice in [dict(pairs) for pairs in dict.fromkeys(tuple(choice.items()) for choice in choices)]:
        changed = {key: value for key, value in choice.items() if key != "surrogate"}
        (cell,) = adversaries(study, FSA, choice["surrogate"], **changed | schedule(study, choice["steps"]))
        yield choice, cell


def varied(study: Study, chosen: AppendixC) -> pd.DataFrame:
    """Accuracy under FSA's variations and under SSP on the same images, and on how many victims SSP leaves less.

    In brackets where the victim is FSA's surrogate; such victims are not counted.
    """
    (ssp,) = adversaries(study, SSP, chosen.feature_surrogate)
    under_ssp = frame(study, [ssp], chosen.victims)
    rows = [
        {"attack": "no attack", **_shown(frame(study, [clean(study)], chosen.victims))},
        {"attack": SSP, "surrogate": chosen.feature_surrogate, "steps": ssp.steps, **_shown(under_ssp)},
    ]
    for choice, cell in variations(study, chosen):
        judged = frame(study, [cell], chosen.victims)
        won = _won(judged, under_ssp, choice["surrogate"])
        rows.append({"attack": FSA, **choice, **_shown(judged, choice["surrogate"]), "SSP leaves less": won})
    columns = ["attack", "surrogate", "steps", "batch", "gradient", *chosen.victims, "n", "SSP leaves less"]
    # As text: numbers beside dashes would become fractions.
    return pd.DataFrame([{name: str(row.get(name, "-")) for name in columns} for row in rows])


def _shown(judged: pd.DataFrame, surrogate: str = "") -> dict[str, object]:
    """One cell's accuracy per victim, in brackets for the surrogate, and the number of images."""
    found = {victim: percent(_right(judged, victim)) for victim in dict.fromkeys(judged["victim"])}
    texts = {victim: f"({cell})" if victim == surrogate else str(cell) for victim, cell in found.items()}
    return texts | {"n": judged["image"].nunique()}


def _won(fsa: pd.DataFrame, ssp: pd.DataFrame, surrogate: str) -> str:
    """On how many victims SSP leaves less accuracy with its whole interval, and on how many more."""
    victims = [victim for victim in dict.fromkeys(fsa["victim"]) if victim != surrogate]
    found = [verdict(difference(_right(fsa, victim), _right(ssp, victim)), "rises") for victim in victims]
    text = f"{found.count('reproduced')} of {len(found)} victims"
    return text + (f", more on {found.count('not reproduced')}" if "not reproduced" in found else "")


def defended(study: Study, chosen: AppendixC, cells: Sequence[Adversaries]) -> pd.DataFrame:
    """Feature-scattering training and NRP: accuracy on clean images, under transferred attacks and under white-box PGD.

    One row per protected network and protection. cells: clean images and adversaries that know no victim. The white-box
    PGD is made on the network itself; of NRP that attacker knows nothing (for those who do, see Appendix B). Training
    by feature scattering makes a new network; the victims that it did not make have no such row.
    """
    networks = {chosen.natural: "-"} | dict.fromkeys(chosen.victims, "-")
    if chosen.scattered:
        networks = {chosen.scattered: "FS training"} | networks
    rows = []
    for network, training in networks.items():
        (own,) = adversaries(study, "PGD", network)
        judged = frame(study, [*cells, own], [network], [NONE, DEFENSE])
        for front in (NONE, DEFENSE):
            part = judged[judged["defense"] == front]
            protection = " + ".join([name for name in (training, front) if name not in ("-", NONE)]) or "none"
            columns = {_title(cell): percent(_right(_of(part, cell), network)) for cell in [*cells, own]}
            rows.append({"network": network, "protection": protection, **columns, "n": len(study.images)})
    return pd.DataFrame(rows)


def _title(cell: Adversaries) -> str:
    return {CLEAN: "clean", "PGD": "own PGD"}.get(cell.attack, f"{cell.attack} on {cell.surrogate}")


def _of(judged: pd.DataFrame, cell: Adversaries) -> pd.DataFrame:
    return judged[(judged["attack"] == cell.attack) & (judged["surrogate"] == cell.surrogate)]


def needs(chosen: AppendixC, scale: Scale, records: Path) -> pd.DataFrame:
    """What each of the two defenses asks for. records: of the trainings, results/<scale>/metrics/networks."""
    protected = [chosen.natural, *chosen.victims]
    return pd.DataFrame(
        [
            {
                "defense": "feature-scattering training",
                "network": _described(chosen.scattered, scale),
                "labels": "yes",
                "training images": f"{COUNTS['train', 'natural']:,}" if chosen.scattered else "-",
                "training": _seconds(chosen.scattered, records),
                "protects": "the one network that it trains",
                "per image": "nothing",
            },
            {
                "defense": "NRP",
                "network": _described(chosen.purifier, scale),
                "labels": "no",
                "training images": _images(chosen.purifier, records),
                "training": _seconds(chosen.purifier, records),
                "protects": f"all {len(protected)} networks above, none of them changed",
                "per image": "one pass of the purifier",
            },
        ]
    )


def _described(name: str | None, scale: Scale) -> str:
    return tables.describe(scale, name) if name else "none at this scale"


def _record(name: str | None, records: Path) -> dict:
    """What the training of a network recorded; nothing for one that was not trained here."""
    path = records / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _seconds(name: str | None, records: Path) -> str:
    facts = _record(name, records)
    return f"{facts['seconds']:.0f} s on {facts.get('device', 'CPU')}" if facts else "-"


def _images(name: str, records: Path) -> str:
    facts = _record(name, records)
    return f"{facts['images']:,}" if facts else "-"
