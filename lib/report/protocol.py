"""The protocol's tables (notebooks/h_protocol.ipynb), from its frame: the waterfall, a page per defense, the checks.

A cell's columns `attacker` and `than` name who attacks and from whom he differs in one thing. These tables are no
entries of tables.yaml: their rows come in the order of the defense that meets the most attackers, cells are compared
over the images that they share, and their CSV files hold what is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lib.frames import Frame, join
from lib.report.claims import MARGIN
from lib.report.scores import Estimate, combined, estimate, point
from lib.report.tables import distinct

if TYPE_CHECKING:
    from IPython.display import Markdown

# What must be true of a gradient (`lib.attacks.inspection`).
ERROR = 1e-3  # of the finite difference, at the most, of the median image: a kink of a ReLU may lie between its ends
COSINE = 0.99  # in float32, at the least
ZEROS = 0.01  # share of pixels without one, at the most
FLAT = 0.02  # how much less sure of the right class the second half of the steps may make a network
# What is checked, whether it passed (None: not tried, or too few images to decide), and what was found.
Check = tuple[str, bool | None, str]
# Attackers of the supplement: Table 1's, without and with the static defense's gradient, and the released script.
PAPERS = ("unaware, random target", "paper's", "bypass_nrp.py")
COMPETENT = {"clean loss": (-np.inf, 6.0), "paper's attacker": (58.0, 68.0)}  # of NRP: Table 1's 78.3 - 73.5, and 63.0


def attackers(frame: Frame) -> list[str]:
    """Their names, in the order of the notebook, which the defense shows that meets the most of them."""
    met = [part.unique() for _, part in frame.cells.groupby("defense", sort=False)["attacker"]]
    return list(dict.fromkeys([*max(met, key=len), *frame.cells["attacker"]]))


def by_attacker(frame: Frame) -> dict[str, Frame]:
    """The cells of each attacker."""
    return {name: frame.where(attacker=name) for name in attackers(frame)}


def with_all_images(cells: Mapping[str, Frame]) -> dict[str, Frame]:
    """The cells that have as many images as any; costly attackers have fewer."""
    most = max(len(cell.images[0]) for cell in cells.values())
    return {name: cell for name, cell in cells.items() if len(cell.images[0]) == most}


def kept(frame: Frame) -> np.ndarray:
    """Of each image in how many of a cell's draws the victim gets it right, a share."""
    return np.mean([part["top1"] for part in frame.parts], 0)


def wins_alone(one: Frame, others: Iterable[Frame]) -> int:
    """On how many images an attacker succeeds in most draws, and none of the others does; of the same images."""
    return int(((kept(one) < 0.5) & (np.min([*map(kept, others)], 0) > 0.5)).sum())


def only(frame: Frame, places: np.ndarray) -> Frame:
    """The frame over some of its images: their places, or whether each is kept."""
    parts = [{name: values[places] for name, values in part.items()} for part in frame.parts]
    return Frame(frame.cells, parts, [tuple(np.array(names)[places].tolist()) for names in frame.images])


def over_shared_images(*frames: Frame) -> list[Frame]:
    """The frames over the images that they share, in the first one's order of them."""
    shared = set.intersection(*(set(frame.images[0]) for frame in frames))
    names = [name for name in frames[0].images[0] if name in shared]
    return [only(frame, np.array([*map(frame.images[0].index, names)], dtype=int)) for frame in frames]


def change(frame: Frame, other: Frame) -> Estimate:
    """The accuracy in one cell less that in another, over the images that they share."""
    after, before = over_shared_images(frame, other)
    return combined("accuracy", [(1.0, after), (-1.0, before)])


def with_intervals(cells: Mapping[str, Frame]) -> dict[str, str]:
    """The accuracy in cells with its interval, "-" for those that were not tried."""
    return {name: str(estimate("accuracy", cell)) if len(cell) else "-" for name, cell in cells.items()}


def crossed(frame: Frame, rows: Iterable[dict[str, object]], column: str, names: Iterable[str]) -> pd.DataFrame:
    """Accuracy with 95 % intervals: a row per labels, a column per name in a column of the frame, and how many images
    the row's cells have, "20", or "10, 20"."""
    found = []
    for labels in rows:
        cells = {name: frame.where(**labels, **{column: name}) for name in names}
        counts = sorted({len(images) for cell in cells.values() for images in cell.images})
        found.append(labels | with_intervals(cells) | {"n": ", ".join(map(str, counts))})
    return pd.DataFrame(found)


def waterfall(frame: Frame) -> pd.DataFrame:
    """Every attacker (row) against every defense (column)."""
    return crossed(frame, [{"attacker": name} for name in attackers(frame)], "defense", frame.cells["defense"].unique())


def robust(frame: Frame) -> pd.DataFrame:
    """Networks that must stay up (row) under every attacker (column) at the budget at which they do."""
    table = crossed(frame, distinct(frame, ["victim"]), "attacker", attackers(frame))
    budgets = frame.cells.groupby("victim")["eps"].max().map("{:g}".format)
    table.insert(1, "budget", table["victim"].map(budgets))
    return table.rename(columns={"victim": "network"})


def victims(frame: Frame) -> pd.DataFrame:
    """Other victims with every defense (row) under every attacker (column), all on the same images."""
    return crossed(frame, distinct(frame, ["victim", "defense"]), "attacker", attackers(frame)).astype({"n": int})


def page(frame: Frame, defense: str) -> pd.DataFrame:
    """One defense: of every attacker the accuracy, what it takes more than the one from which it differs in one thing,
    and the other scores. The last rows: each image under the attacker that leaves least of it."""
    here = frame.where(defense=defense)
    cells, rows = by_attacker(here), []
    for name, cell in cells.items():
        than = cell.cells["than"].iloc[0]
        step = {"than": "-", "change": "-"}
        if than in cells:
            step = {"than": than, "change": str(change(cell, cells[than]))}
        rows.append({"attacker": name} | step | scores_of(cell, cells["clean"]))
    rows += [{"attacker": label} | scores_of(part, cells["clean"]) for label, part in worst(here)]
    return pd.DataFrame(rows).fillna("-")


def scores_of(cell: Frame, clean: Frame) -> dict[str, object]:
    """The scores of a cell that its page shows."""
    found = {"accuracy": str(estimate("accuracy", cell))}
    if len(cell) > 1:
        found |= {f"in {how} draws": f"{point(f'accuracy in {how} draws', cell):.1f}" for how in ("all", "most")}
    here, before = over_shared_images(cell, clean)
    right = kept(before) > 0.5
    if right.any():
        found["of those right when clean"] = f"{point('accuracy', only(here, right)):.1f}"
    if "hit" in cell.parts[0]:
        found["target hit rate"] = f"{point('target hit rate', cell):.1f}"
    return found | {"n": len(cell.images[0])}


def worst(frame: Frame) -> Iterator[tuple[str, Frame]]:
    """Of each image the least share of draws that an attacker leaves: of those with all images, and of all."""
    cells = by_attacker(frame)
    for label, chosen in (("those with all images", with_all_images(cells)), ("all", cells)):
        first, *others = over_shared_images(*chosen.values())
        least = np.min([*map(kept, [first, *others])], 0)
        yield f"each image's worst, of {label}", Frame(first.cells[:1], [{"top1": least}], first.images[:1])


def strongest(frame: Frame) -> str:
    """Of one defense, the attacker with all images that leaves least."""
    cells = with_all_images(by_attacker(frame))
    left = {name: point("accuracy", cell) for name, cell in cells.items() if name != "clean"}
    return min(left, key=left.get)


def board(frame: Frame, competence: Frame, seconds: Mapping[str, float]) -> pd.DataFrame:
    """The defenses, those with the highest accuracy under each image's worst attacker first, as a leaderboard has them.

    frame: the waterfall.  competence: the cells of the gate, for what a defense costs on clean images.  seconds: per
    image, of each defense alone.
    """
    made = []
    for defense in frame.cells["defense"].unique():
        here, passed = frame.where(defense=defense), gate(competence, defense)
        (_, lowest), *_ = worst(here)
        unaware = here.where(attacker="unaware")
        row = {
            "defense": defense,
            "clean": str(estimate("accuracy", competence.where(defense=defense, attacker="clean"))),
            "costs": passed["clean loss"],
            "unaware attacker": str(estimate("accuracy", unaware)),
            "each image's worst": str(estimate("accuracy", lowest)),
            "strongest attacker alone": strongest(here),
            "ms per image": f"{1000 * seconds[defense]:.3g}" if defense in seconds else "-",
            "n": len(lowest.images[0]),
            "n (clean, costs)": passed["n"],
            "as the paper's": "-" if defense == "none" else passed["as the paper's"],
        }
        made.append(((point("accuracy", lowest), point("accuracy", unaware)), row))
    ranked = sorted(made, key=lambda pair: pair[0], reverse=True)
    return pd.DataFrame([{"rank": rank, **row} for rank, (_, row) in enumerate(ranked, 1)])


def gates(frame: Frame) -> pd.DataFrame:
    """Whether each defense does what its paper says, before anything is concluded from breaking it: a row of what it
    costs on clean images and what is left under each attacker."""
    return pd.DataFrame([gate(frame, name) for name in frame.cells["defense"].unique() if name != "none"])


def gate(frame: Frame, defense: str) -> dict[str, object]:
    """A row of `gates`, and whether it lies where the paper's NRP does."""
    left = {name: frame.where(defense=defense, attacker=name) for name in attackers(frame)}
    loss, papers = change(frame.where(defense="none", attacker="clean"), left.pop("clean")), left.get("paper's", [])
    found = [loss.value, point("accuracy", papers) if len(papers) else np.nan]
    # 58 of 100 images are 57.99999999999999 %.
    inside = all(low <= round(value, 6) <= high for value, (low, high) in zip(found, COMPETENT.values(), strict=True))
    verdict = {"as the paper's": "yes" if inside else "no", "n": loss.n}
    return {"defense": defense, "clean loss": str(loss)} | with_intervals(left) | verdict


def all_checks(frame: Frame, gradients: Mapping, sure: Mapping, saved: Mapping) -> pd.DataFrame:
    """The checks of every defense, a column each: the verdict and what it rests on. Arguments by defense, as of
    `checks`."""
    columns = {}
    for name in gradients:
        found = checks(frame, name, gradients[name], sure[name], saved[name]).set_index("check")
        columns[name] = found["verdict"] + ": " + found["found"]
    return pd.concat(columns, axis=1).fillna("-").reset_index()


def checks(
    frame: Frame, defense: str, gradients: Mapping[str, np.ndarray] | None, sure: np.ndarray, saved: Mapping[str, float]
) -> pd.DataFrame:
    """What must be true if the attackers did their work (Carlini et al. 2019; Athalye et al. 2018; Tramer et al. 2020).

    frame: the cells of one victim; "aware" is the attacker that knows all.  gradients, sure, saved: of `gradients_of`,
    `confidences_of` (after the first, half and all steps) and `reread` in `lib.experiment`.
    """
    here = frame.where(defense=defense)
    found = [*of_budgets(here), *of_pairs(here), *of_gradient_free(here), of_convergence(sure)]
    found += [*of_gradients(gradients), of_saved_files(here, saved)]
    words = {True: "pass", False: "FAIL", None: "-"}
    rows = [(check, words[passed], says) for check, passed, says in found]
    return pd.DataFrame(rows, columns=["check", "verdict", "found"])


def of_budgets(frame: Frame) -> Iterator[Check]:
    """Accuracy at budget 0 is that of clean images; it falls with the budget, to nothing."""
    aware = frame.where(attacker="aware")
    at = {eps: aware.where(eps=eps) for eps in sorted(set(aware.cells["eps"]))}
    if 0 in at:
        pairs = zip(at[0].parts, frame.where(attacker="clean").parts, strict=True)
        same = [np.array_equal(zero["top1"], clean["top1"]) for zero, clean in pairs]
        yield "budget 0 changes no prediction, image by image", all(same), f"{sum(same)} of {len(same)} cells"
    for before, after in pairwise(at):
        yield at_least(f"budget {after:g} at least as strong as {before:g}", at[after], at[before])
    most = max(at)
    left = point("accuracy", at[most])
    yield f"budget {most:g} leaves nothing", left == 0, f"{left:.1f} %"


def at_least(check: str, stronger: Frame, weaker: Frame) -> Check:
    """Whether an attacker leaves no more than a weaker one, by the interval of their difference, undecided where that
    allows for MARGIN and more; and on how many images the weaker one alone succeeds."""
    if not len(stronger) or not len(weaker):
        return check, None, "not tried"
    moved, (after, before) = change(stronger, weaker), over_shared_images(stronger, weaker)
    decided = moved.low > 0 or moved.value <= 0 or moved.high < MARGIN
    says = f"{moved} points; the weaker alone on {wins_alone(before, [after])} of {moved.n} images"
    return check, moved.low <= 0 if decided else None, says


# Checks of pairs: what is said, the attacker that must be at least as strong, and the other.
PAIRS = [
    ("ten steps at least as strong as one", "aware", "one step"),
    ("more steps at least as strong", "aware, long", "aware"),
    ("restarts at least as strong", "aware, restarts", "aware"),
    ("knowing the defense at least as strong as not", "aware", "unaware"),
    ("the white box at least as strong as MI-FGSM from another network", "aware", "transfer of MI-FGSM"),
    ("the white box at least as strong as DIM-TI from an ensemble", "aware", "transfer of DIM-TI"),
    ("the white box at least as strong as SSP", "aware", "transfer of SSP"),
    ("stronger than random noise of the same size", "aware", "random noise"),
]


def of_pairs(frame: Frame) -> Iterator[Check]:
    """The checks of PAIRS at the paper's budget, and that more draws are at least as strong as fewer."""
    at16 = frame.where(eps=16.0)
    averaged = [name for name in attackers(at16) if name.removeprefix("mean of losses, ").isdigit()]
    more_draws = [(f"{more} at least as strong as {fewer}", more, fewer) for fewer, more in pairwise(averaged)]
    for check, stronger, weaker in PAIRS + more_draws:
        yield at_least(check, at16.where(attacker=stronger), at16.where(attacker=weaker))


def of_gradient_free(frame: Frame) -> Iterator[Check]:
    """Attackers without a gradient win nowhere where those with one fail."""
    with_gradient = [frame.where(attacker=name, eps=16.0) for name in ("aware", "aware, long", "aware, restarts")]
    for name in ("Square", "SPSA", "random corners"):
        check, cell = f"{name} wins nowhere where gradients fail", frame.where(attacker=name)
        if not len(cell):
            yield check, None, "not tried"
            continue
        own, *others = over_shared_images(cell, *filter(len, with_gradient))
        count = wins_alone(own, others)
        yield check, count == 0, f"alone on {count} of {len(own.images[0])} images"


def of_convergence(sure: np.ndarray) -> Check:
    """The attack has come to its end: the cross-entropy itself rises without bound. sure: the probability of the right
    class, `[3,n]`, after the first, half of the steps, and all of them."""
    first, half, last = sure.mean(1)
    return "the loss is flat at the end", bool(half - last < FLAT), f"{first:.3f}, {half:.3f}, {last:.3f} sure"


def of_gradients(found: Mapping[str, np.ndarray] | None) -> Iterator[Check]:
    """The gradient is the loss's own. None: no gradient passes the defense."""
    if found is None:
        return
    middle = {name: float(np.median(values)) for name, values in found.items()}
    said = "median relative error"
    yield "gradient as by finite differences", middle["difference"] < ERROR, f"{said} {middle['difference']:.1e}"
    yield "float32 follows float64", middle["float32"] > COSINE, f"median cosine {middle['float32']:.4f}"
    yield "bfloat16 follows float64 (not used here)", None, f"median cosine {middle['bfloat16']:.3f}"
    yield "no vanishing gradient", middle["zeros"] < ZEROS, f"{middle['zeros']:.2%} of pixels are zero"


def of_saved_files(frame: Frame, saved: Mapping[str, float]) -> Check:
    """The saved files keep the budget and give the same accuracy."""
    told = point("accuracy", frame.where(attacker="aware", eps=16.0, seed=0))
    same = saved["moved"] <= 16 and abs(saved["accuracy"] - told) < 1e-9
    says = f"moved by {saved['moved']:.0f} levels at most, accuracy {saved['accuracy']:.1f} %, {told:.1f} % before"
    return "saved as PNG and read again, budget and accuracy are the same", same, says


def curves(frame: Frame) -> pd.DataFrame:
    """Accuracy against budget, from the clean images on: columns defense, attacker, eps, value, low, high, n."""
    rows = []
    for defense in frame.cells["defense"].unique():
        here = frame.where(defense=defense)
        for name in ("random noise", "unaware, random target", "paper's", "aware"):
            cells = here.where(attacker=name)
            for eps in sorted({0.0, *cells.cells["eps"]}) if len(cells) else []:
                cell = cells.where(eps=eps) if eps else here.where(attacker="clean")
                labels = {"defense": defense, "attacker": name, "eps": eps}
                rows.append(labels | estimate("accuracy", cell)._asdict())
    return pd.DataFrame(rows)


def labelled(**frames: Frame | None) -> Frame:
    """Frames as one, told apart by the column experiment."""
    return join(
        replace(frame, cells=frame.cells.assign(experiment=name)) for name, frame in frames.items() if frame is not None
    )


def slug(name: str) -> str:
    """A defense's name in a file's."""
    return "".join(letter if letter.isalnum() else "_" for letter in name.lower())


def said(frame: Frame, defense: str) -> str:
    """One defense in a line: its clean accuracy, and that under the paper's attackers and the strongest."""
    here = frame.where(defense=defense)
    cells = by_attacker(here)
    start, best = estimate("accuracy", cells["clean"]), strongest(here)
    named = [name for name in dict.fromkeys([*PAPERS, best]) if name in cells]
    under = ", ".join(f"{estimate('accuracy', cells[name])} % under *{name}*" for name in named)
    return f"- **{defense}**: {start} % on clean images, {under}, the strongest of those with all {start.n} images."


def conclusion(frame: Frame, competence: Frame) -> Markdown:
    """Every defense in a line, and what may follow."""
    from IPython.display import Markdown

    passed = [row["defense"] for row in gates(competence).to_dict("records") if row["as the paper's"] == "yes"]
    names = ", ".join(passed) or "none of these defenses"
    lines = [said(frame, defense) for defense in frame.cells["defense"].unique()]
    lines.append(
        f"\nAs competent as the paper's NRP on validation images: {names}. What breaks another one proves nothing "
        "about the authors' purifier; `companion evaluate NRP.pth --scale paper` measures that one."
    )
    return Markdown("\n".join(lines))
