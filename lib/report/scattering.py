"""Appendix C: Table 3 (FSA and SSP), what FSA's open choices change, and feature-scattering training beside NRP."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from lib.data.world import COUNTS
from lib.experiment import NONE, Adversaries, Study, adversaries, clean, frame
from lib.report import published, tables
from lib.report.claims import verdict
from lib.report.intervals import difference, percent
from lib.report.tables import outcomes
from lib.settings import AppendixC, Scale

CLEAN, NOISE, FSA, SSP = "none", "Noise", "FSA", "SSP"
UNROLLED, ENVELOPE = "unrolled", "envelope"
DEFENSE = "NRP"


def table_03(judged: pd.DataFrame, batch: int) -> pd.DataFrame:
    """Table 3: accuracy of the victims under FSA and SSP beside the paper's, clean images and noise above.

    judged: of `lib.experiment.frame`, the cells none, Noise, FSA and SSP.  batch: FSA's. In brackets where the victim
    is the surrogate: no transfer.
    """
    rows = []
    for (attack, surrogate, steps), part in judged.groupby(["attack", "surrogate", "steps"], sort=False):
        shown = _shown(part, surrogate)
        name = "no attack" if attack == CLEAN else attack
        schedule_text = {FSA: f"{steps} steps, batch {min(batch, shown['n'])}", SSP: f"{steps} steps"}.get(attack, "-")
        rows.append({"attack": name, "surrogate": surrogate or "-", "schedule": schedule_text, **shown})
        if attack in published.TABLES["table_03"]["rows"]:
            printed = {victim: tables.printed("table_03", attack, victim) for victim in shown if victim != "n"}
            source = "not stated" if attack == FSA else "VGG-16"
            rows.append({"attack": f"{attack} (paper)", "surrogate": source, "schedule": "-", **printed, "n": 1000})
    return pd.DataFrame(rows)


def claims(judged: pd.DataFrame) -> pd.DataFrame:
    """Does SSP leave less accuracy than FSA? In points, paired, beside the paper's difference (supplement, line 78).

    A victim that is a surrogate of either is left out: that would be no transfer.
    """
    fsa, ssp = (judged[judged["attack"] == attack] for attack in (FSA, SSP))
    surrogates = {fsa["surrogate"].iloc[0], ssp["surrogate"].iloc[0]}
    victims = [victim for victim in dict.fromkeys(judged["victim"]) if victim not in surrogates]
    return pd.DataFrame([{"victim": victim, **_claim(fsa, ssp, victim)} for victim in victims])


def _claim(fsa: pd.DataFrame, ssp: pd.DataFrame, victim: str) -> dict[str, object]:
    more = difference(outcomes(fsa, victim=victim), outcomes(ssp, victim=victim))
    paper = [published.value("table_03", attack, victim) for attack in (FSA, SSP)]
    printed = "-" if None in paper else f"{paper[0] - paper[1]:+.1f}"
    return {"FSA less SSP": more, "paper": printed, "n": more.n, "SSP leaves less": verdict(more, "rises")}


def variations(study: Study, chosen: AppendixC) -> Iterator[tuple[dict[str, object], Adversaries]]:
    """FSA under every choice that the paper leaves open: what was chosen, and the adversaries.

    Every surrogate with every number of steps (a step is eps / steps, but at least one level, as in Feature Denoising's
    main.py); for the surrogate of Table 3 and its steps also smaller batches, and the envelope gradient.
    """
    own = study.params.attacks.fsa
    base = {"surrogate": chosen.surrogate, "steps": own.steps, "batch": own.batch, "gradient": UNROLLED}
    choices = [base | {"surrogate": name, "steps": steps} for name in chosen.surrogates for steps in chosen.steps]
    smaller = [batch for batch in chosen.batches if batch < min(own.batch, len(study.images))]
    choices += [base | {"batch": batch} for batch in smaller] + [base | {"gradient": ENVELOPE}]
    for choice in choices:
        changed = {key: value for key, value in choice.items() if key != "surrogate"}
        step = max(1.0, own.eps / choice["steps"])
        (cell,) = adversaries(study, FSA, choice["surrogate"], **changed, step=step)
        yield choice | {"batch": min(choice["batch"], len(study.images))}, cell


class Varied(NamedTuple):
    """What the victims say under FSA's variations, and under SSP on the same images.

    fsa: the choice (surrogate, steps, batch, gradient) and the frame of each variation.  ssp: surrogate -> frame.
    """

    clean: pd.DataFrame
    ssp: dict[str, pd.DataFrame]
    fsa: list[tuple[dict[str, object], pd.DataFrame]]


def vary(study: Study, chosen: AppendixC) -> Varied:
    """Attack and judge.

    Where FSA and SSP look at different networks, SSP in the features of FSA's is there too, if the scale names a tap.
    """
    networks = [chosen.feature_surrogate]
    if chosen.surrogate not in networks and study.scale.networks[chosen.surrogate].tap:
        networks.append(chosen.surrogate)
    ssp = {name: frame(study, adversaries(study, SSP, name), chosen.victims) for name in networks}
    fsa = [(choice, frame(study, [cell], chosen.victims)) for choice, cell in variations(study, chosen)]
    return Varied(frame(study, [clean(study)], chosen.victims), ssp, fsa)


def variation_table(varied: Varied) -> pd.DataFrame:
    """Accuracy of every victim in every variation; in brackets where the victim is the surrogate."""
    rows = [{"attack": "no attack", **_shown(varied.clean)}]
    for name, judged in varied.ssp.items():
        rows.append({"attack": SSP, "surrogate": name, "steps": judged["steps"].iloc[0], **_shown(judged, name)})
    rows += [{"attack": FSA, **choice, **_shown(judged, choice["surrogate"])} for choice, judged in varied.fsa]
    columns = ["attack", "surrogate", "steps", "batch", "gradient", *dict.fromkeys(varied.clean["victim"]), "n"]
    # As text: numbers beside dashes would become fractions.
    return pd.DataFrame([{name: str(row.get(name, "-")) for name in columns} for row in rows])


def strongest(varied: Varied) -> pd.DataFrame:
    """SSP against the strongest of FSA's variations on each victim, and in how many of all SSP leaves less, or more.

    The strongest is chosen on the same images, which favours FSA. What has the victim as surrogate is left out.
    """
    (feature_surrogate, ssp), *_ = varied.ssp.items()
    rows = []
    for victim in dict.fromkeys(varied.clean["victim"]):
        others = [(choice, judged) for choice, judged in varied.fsa if choice["surrogate"] != victim]
        if victim == feature_surrogate or not others:
            continue
        choice, judged = min(others, key=lambda one: outcomes(one[1], victim=victim).mean())
        found = [_claim(other, ssp, victim)["SSP leaves less"] for _, other in others]
        row = {"victim": victim, "strongest FSA": ", ".join(f"{key} {value}" for key, value in choice.items())}
        row |= {"FSA": percent(outcomes(judged, victim=victim)), "SSP": percent(outcomes(ssp, victim=victim))}
        row |= _claim(judged, ssp, victim)
        row |= {
            "in all": f"less in {found.count('reproduced')}, more in {found.count('not reproduced')} of {len(found)}"
        }
        rows.append({key: value for key, value in row.items() if key != "paper"})
    return pd.DataFrame(rows)


def _shown(judged: pd.DataFrame, surrogate: str = "") -> dict[str, object]:
    """One cell's accuracy per victim, in brackets for the surrogate, and the number of images."""
    found = {victim: percent(outcomes(judged, victim=victim)) for victim in dict.fromkeys(judged["victim"])}
    texts = {victim: f"({cell})" if victim == surrogate else str(cell) for victim, cell in found.items()}
    return texts | {"n": judged["image"].nunique()}


def defended(study: Study, chosen: AppendixC, cells: Sequence[Adversaries]) -> pd.DataFrame:
    """Feature-scattering training and NRP: accuracy on clean images, under transferred attacks and under PGD.

    One row per network and protection. cells: clean images and adversaries of other networks (in brackets where they
    are the network's own). PGD is made on the bare network, so it is white-box where there is no NRP, and by an
    attacker who does not know of it where there is (for those who do, see Appendix B). Training by feature scattering
    makes one new network; no other victim has such a row.
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
            row: dict[str, object] = {"network": network, "protection": protection}
            row |= {_title(cell): _shown(_of(part, cell), cell.surrogate)[network] for cell in cells}
            bare = str(percent(outcomes(_of(part, own), victim=network)))
            rows.append(row | {"PGD on the bare network": bare, "n": len(study.images)})
    return pd.DataFrame(rows)


def _title(cell: Adversaries) -> str:
    return "clean" if cell.attack == CLEAN else f"{cell.attack} on {cell.surrogate}"


def _of(judged: pd.DataFrame, cell: Adversaries) -> pd.DataFrame:
    return judged[(judged["attack"] == cell.attack) & (judged["surrogate"] == cell.surrogate)]


def needs(chosen: AppendixC, scale: Scale, records: Path) -> pd.DataFrame:
    """What each of the two defenses asks for. records: of the trainings, results/<scale>/metrics/networks."""
    protected = {chosen.natural, *chosen.victims}
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
                "protects": f"the {len(protected)} networks below, none of them changed",
                "per image": "one pass of the purifier",
            },
        ]
    )


def _described(name: str | None, scale: Scale) -> str:
    return tables.describe(scale, name) if name else "none at this scale"


def _seconds(name: str | None, records: Path) -> str:
    facts = tables.record(name, records)
    return f"{facts['seconds']:.0f} s on {facts.get('device', 'CPU')}" if facts else "-"


def _images(name: str, records: Path) -> str:
    facts = tables.record(name, records)
    return f"{facts['images']:,}" if facts else "-"
