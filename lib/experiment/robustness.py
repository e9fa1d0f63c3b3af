"""Appendix B's grid: hardened networks and NRP under PGD, by attackers who know more or less."""

from collections.abc import Iterator

import pandas as pd
from tqdm import tqdm

from lib.experiment import NONE
from lib.experiment.cells import Adversaries, Through, adversaries, clean
from lib.experiment.judging import judge
from lib.experiment.study import Study
from lib.settings import AppendixB
from lib.tasks.classification import top_k

ORIGINAL, STATIC, DYNAMIC = "Original", "NRP", "NRP dynamic"
GOALS = {"targeted": "PGD (targeted)", "untargeted": "PGD"}
# What an attacker of the victim behind NRP may know: nothing of NRP, or one of the modes of lib.attacks.adaptive,
# through the static purifier (the expectation: through draws of the dynamic one).
NOTHING = "does not know NRP"
FRONT_OF_MODE = {"identity": STATIC, "exact": STATIC, "expectation": DYNAMIC}
# The modes tried for each attack; "exact" is the released script's.
TRIED = {"targeted": ("identity", "exact", "expectation"), "untargeted": ("exact",)}


def robustness(study: Study, chosen: AppendixB, steps: int) -> pd.DataFrame:
    """One row per defended network, attack, attacker's knowledge, seed of the dynamic defense and image.

    Columns defended ("Original", a row of chosen.hardened, "NRP", "NRP dynamic"), attack ("none", "targeted",
    "untargeted"), knowledge, steps, seed, image, top1.
    """
    rows = []
    with tqdm(desc=f"{steps} steps") as progress:
        for part in _cells(study, chosen, steps):
            rows.append(part.assign(steps=steps))
            progress.update()
    return pd.concat(rows, ignore_index=True)


def _cells(study: Study, chosen: AppendixB, steps: int) -> Iterator[pd.DataFrame]:
    networks = {ORIGINAL: chosen.victim, **chosen.hardened}
    for defended, network in networks.items():
        yield _judged(study, clean(study), network, NONE, 1).assign(defended=defended, attack="none", knowledge="-")
    yield from _behind(study, chosen, clean(study), "none", "-")
    for attack, name in GOALS.items():
        for defended, network in networks.items():
            (own,) = adversaries(study, name, network, **schedule(study, steps))
            found = _judged(study, own, network, NONE, 1)
            yield found.assign(defended=defended, attack=attack, knowledge="white box")
            if defended == ORIGINAL:
                yield from _behind(study, chosen, own, attack, NOTHING)
        for mode in TRIED[attack]:
            through = Through(FRONT_OF_MODE[mode], mode, chosen.draws)
            (aware,) = adversaries(study, name, chosen.victim, through=through, **schedule(study, steps))
            yield from _behind(study, chosen, aware, attack, mode)


def schedule(study: Study, steps: int) -> dict[str, float]:
    """Feature Denoising's: the step is eps / steps, but at least one level (ImageNet-Adversarial-Training, main.py)."""
    return {"steps": steps, "step": max(1.0, study.params.attacks.pgd.eps / steps)}


def _behind(study: Study, chosen: AppendixB, cell: Adversaries, attack: str, knowledge: str) -> Iterator[pd.DataFrame]:
    """The victim behind the static NRP, and behind the dynamic one with every seed."""
    for front, seeds in ((STATIC, 1), (DYNAMIC, chosen.seeds)):
        found = _judged(study, cell, chosen.victim, front, seeds)
        yield found.assign(defended=front, attack=attack, knowledge=knowledge)


def _judged(study: Study, cell: Adversaries, network: str, front: str, seeds: int) -> pd.DataFrame:
    labels, parts = study.images.labels.numpy(), []
    for seed in range(seeds):
        changed = {"seed": seed} if front == DYNAMIC else {}
        outcome = judge(study, network, cell.images, front, **changed)
        parts.append(pd.DataFrame({"seed": seed, "image": study.images.ids, "top1": top_k(outcome, labels, 1)}))
    return pd.concat(parts)
