"""lib/report/protocol.py: its tables against brute force, and every check both passing and failing, on made frames."""

import numpy as np
import pytest

from lib.frames import join, load_frame, save_frame
from lib.report import protocol
from lib.report.scores import estimate, point
from tests.made import cell

N, FEW, SEEDS = 14, 6, 3
NAMES = [f"i{k:03}" for k in range(N)]


def cells(attacker, top1, than="", hit=None, **columns):
    """A cell per seed. top1, hit: `[n]` or `[seeds,n]`."""
    parts = [{"top1": right} for right in np.atleast_2d(top1)]
    for part, row in zip(parts, np.atleast_2d(hit) if hit is not None else [], strict=False):
        part["hit"] = row
    return join(
        cell(part, attacker=attacker, than=than, seed=seed, **{"defense": "D"} | columns)
        for seed, part in enumerate(parts)
    )


# Brute force.


def interval(values, low, high, clip=False):
    """The value and 95 % interval of the mean of outcomes in percent between two ends (Bonett and Price 2012)."""
    values = np.asarray(values, dtype=float)
    value, n = values.mean(), len(values)
    if np.ptp(values) == 0:
        half, middle = (high if clip else 100) * (1 - 0.025 ** (1 / n)), value
    else:
        added = np.array([*values, low, high])
        middle, half = added.mean(), 1.959964 * added.std() / np.sqrt(n + 2)
    ends = (middle - half, middle + half)
    return value, *(np.clip(ends, low, high) if clip else ends)


def shown(found):
    return "{:.1f} [{:.1f}, {:.1f}]".format(*found)


def accuracy(right):
    """As a table shows it. right: `[n]` or `[seeds,n]`."""
    return shown(interval(100 * np.atleast_2d(right).mean(0), 0, 100, clip=True))


def difference(after, before):
    """Paired, of two attackers, over the images of the one that has fewer."""
    a, b = (100 * np.atleast_2d(right).mean(0) for right in (after, before))
    n = min(len(a), len(b))
    return shown(interval(a[:n] - b[:n], -100, 100))


@pytest.fixture
def outcomes():
    """Of a defense without random numbers and of a random one, by attacker."""
    rng = np.random.default_rng(0)
    rates = {"clean": 0.9, "unaware": 0.6, "paper's": 0.5, "static": 0.3, "Square": 0.4}

    def made(rate, seeds, few):
        return rng.random((seeds, FEW if few else N)) < rate

    fixed = {name: made(rate, 1, name == "Square") for name, rate in rates.items() if name != "static"}
    random = {name: made(rate, SEEDS, name == "Square") for name, rate in rates.items()}
    return {"none": fixed, "D": random}


THAN = {"paper's": "unaware", "static": "paper's"}


@pytest.fixture
def frame(outcomes):
    made = []
    for defense, attackers in outcomes.items():
        for name, right in attackers.items():
            hit = ~right if name == "paper's" else None
            made.append(cells(name, right, THAN.get(name, ""), hit, defense=defense))
    return join(made)


def test_the_waterfall_is_brute_force(frame, outcomes):
    table = protocol.waterfall(frame)
    assert list(table.columns) == ["attacker", "none", "D", "n"]
    assert table["attacker"].tolist() == ["clean", "unaware", "paper's", "static", "Square"]
    for row in table.to_dict("records"):
        for defense, attackers in outcomes.items():
            right = attackers.get(row["attacker"])
            assert row[defense] == ("-" if right is None else accuracy(right))
        assert row["n"] == ("6" if row["attacker"] == "Square" else "14")


def test_an_attacker_with_several_counts_of_images_shows_them():
    few = join([cells("clean", np.ones(N)), cells("clean", np.ones(FEW), defense="E")])
    assert protocol.waterfall(few)["n"].tolist() == ["6, 14"]


def test_the_attackers_come_in_the_order_of_the_defense_that_meets_most():
    made = [cells(name, np.ones(N), defense=defense) for defense, name in (("none", "c"), ("none", "z"))]
    made += [cells(name, np.ones(N)) for name in ("c", "b", "a")]
    assert protocol.attackers(join(made)) == ["c", "b", "a", "z"]


@pytest.mark.parametrize("defense", ["none", "D"])
def test_a_page_is_brute_force(frame, outcomes, defense):
    found, table = outcomes[defense], protocol.page(frame, defense).set_index("attacker")
    seeds = len(found["clean"])
    right_when_clean = found["clean"].mean(0) > 0.5
    assert 0 < right_when_clean.sum() < N
    for name, right in found.items():
        row, n = table.loc[name], right.shape[1]
        than = THAN.get(name)
        known = than if than in found else "-"
        assert row["than"] == known
        assert row["change"] == ("-" if known == "-" else difference(right, found[than]))
        assert row["accuracy"] == accuracy(right)
        assert row["of those right when clean"] == f"{100 * right[:, right_when_clean[:n]].mean():.1f}"
        assert row["n"] == n
        hit = f"{100 * (~right).mean():.1f}" if name == "paper's" else "-"
        assert row["target hit rate"] == hit
        if seeds > 1:
            assert row["in all draws"] == f"{100 * right.all(0).mean():.1f}"
            assert row["in most draws"] == f"{100 * (right.sum(0) >= 2).mean():.1f}"
    assert seeds > 1 or "in all draws" not in table


def test_a_defense_may_be_called_as_a_pattern(outcomes):
    """As a file of weights, NRP [1].pth, may be."""
    name, found = "NRP [1]", outcomes["none"]
    frame = join(cells(attacker, right, defense=name) for attacker, right in found.items())
    assert protocol.waterfall(frame)[name].tolist() == [accuracy(right) for right in found.values()]
    assert protocol.page(frame, name)["accuracy"].tolist()[: len(found)] == [
        accuracy(right) for right in found.values()
    ]


@pytest.mark.parametrize("defense", ["none", "D"])
def test_each_image_s_worst_is_the_attacker_that_leaves_it_in_the_fewest_draws(frame, outcomes, defense):
    found = outcomes[defense]
    whole = np.min([right.mean(0) for name, right in found.items() if name != "Square"], 0)
    everyone = np.min([right[:, :FEW].mean(0) for right in found.values()], 0)
    table = protocol.page(frame, defense).set_index("attacker")
    for label, right in (("of those with all images", whole), ("of all", everyone)):
        row = table.loc[f"each image's worst, {label}"]
        assert (row["accuracy"], row["n"]) == (accuracy(right[None]), len(right))
    # No attacker leaves less than the worst.
    assert all(whole.mean() <= right.mean() for right in found.values() if right.shape[1] == N)


def test_many_attackers_who_each_win_in_another_draw_are_not_one_who_wins_in_all():
    frame = join(
        [cells("clean", [[1, 1, 0], [1, 0, 1]]), cells("one", [0, 1, 1]), cells("two", [[1, 0, 1], [0, 1, 1]])]
    )
    for _, worst in protocol.worst(frame):
        assert [part["top1"].tolist() for part in worst.parts] == [[0, 0.5, 0.5]]


def test_scores_over_draws_by_hand():
    draws = cells("a", [[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]])
    assert point("accuracy", draws) == pytest.approx(100 * 6 / 12)
    assert point("accuracy in all draws", draws) == 25.0
    assert point("accuracy in most draws", draws) == 50.0
    even = cells("a", [[1, 1, 0, 0], [1, 0, 1, 0]])
    assert point("accuracy in most draws", even) == 25.0  # half of the draws are not most
    one = cells("a", [1, 1, 0, 0])
    assert {point(f"accuracy{rest}", one) for rest in ("", " in all draws", " in most draws")} == {50.0}
    assert estimate("accuracy in all draws", draws)[:3] == pytest.approx(
        interval([100, 0, 0, 0], 0, 100, clip=True), abs=1e-4
    )


# Images that two attackers share.


def test_images_are_paired_by_name_whatever_their_order_and_number(outcomes):
    right, other = outcomes["D"]["clean"][0], outcomes["D"]["static"][0]
    order = np.random.default_rng(1).permutation(N)[:9]
    whole = cells("clean", right)
    part = protocol.only(cells("static", other), order)
    assert part.images[0] == tuple(NAMES[k] for k in order)
    for first, second, sign in ((whole, part, 1), (part, whole, -1)):
        found = protocol.change(first, second)
        by_hand = sign * 100.0 * (right[order].astype(int) - other[order].astype(int))
        assert found[:3] == pytest.approx(interval(by_hand, -100, 100, clip=True), abs=1e-4) and found.n == 9
    a, b = protocol.over_shared_images(part, whole)
    assert a.images == b.images == [tuple(NAMES[k] for k in order)]
    assert b.parts[0]["top1"].tolist() == right[order].tolist()


def test_only_takes_places_or_what_is_kept():
    frame = cells("a", [[1, 0, 1], [0, 0, 1]])
    for kept in (np.array([False, True, True]), np.array([1, 2])):
        found = protocol.only(frame, kept)
        assert [part["top1"].tolist() for part in found.parts] == [[0, 1], [0, 1]]
        assert found.images == [("i001", "i002")] * 2


# Competence.


@pytest.mark.parametrize(
    ("clean", "papers", "verdict"),
    [
        (85, 63, "yes"),
        (84, 58, "yes"),  # 6 points lost, 5 below: just so
        (90, 68, "yes"),
        (95, 63, "yes"),  # better than without
        (83, 63, "no"),
        (85, 57, "no"),
        (85, 69, "no"),
        (85, None, "no"),
    ],
)
def test_a_defense_passes_the_gate_within_the_paper_s_bounds(clean, papers, verdict):
    made = [cells("clean", np.arange(100) < 90, defense="none"), cells("clean", np.arange(100) < clean)]
    made += [cells("unaware", np.arange(100) < 70)]
    made += [cells("paper's", np.arange(100) < papers)] if papers else []
    (row,) = protocol.gates(join(made)).to_dict("records")
    assert row["defense"] == "D" and row["as the paper's"] == verdict and row["n"] == 100
    lost = 100.0 * ((np.arange(100) < 90).astype(int) - (np.arange(100) < clean).astype(int))
    assert row["clean loss"] == shown(interval(lost, -100, 100))
    assert row["unaware"] == accuracy(np.arange(100) < 70)
    assert row.get("paper's", "-") == (accuracy(np.arange(100) < papers) if papers else "-")


# Checks. In the honest frame all pass; each case spoils it so that the one named fails.

IMAGES = 40


def honest():
    """Images right by attacker and budget; the first so many of them."""
    first = np.arange(IMAGES)[None]
    right = {("clean", 0.0): 36, ("aware", 0.0): 36, ("aware", 16.0): 3, ("aware", 64.0): 0}
    right |= {("aware, long", 16.0): 2, ("aware, restarts", 16.0): 2, ("one step", 16.0): 10, ("unaware", 16.0): 12}
    right |= {("transfer of MI-FGSM", 16.0): 25, ("transfer of DIM-TI", 16.0): 22, ("transfer of SSP", 16.0): 20}
    right |= {("random noise", 0.0): 36, ("random noise", 16.0): 33, ("random noise", 64.0): 30}
    right |= {("mean of losses, 2", 16.0): 5, ("mean of losses, 8", 16.0): 4}
    found = {key: first < count for key, count in right.items()}
    for name in ("Square", "SPSA", "random corners"):
        found[name, 16.0] = found["aware", 16.0][:, :12] | (first[:, :12] < 8)
    return found


def table(right, gradients=None, sure=None, saved=None):
    """The verdicts by check."""
    made = join(cells(name, top1, eps=eps) for (name, eps), top1 in right.items())
    few = np.arange(1, 6)
    gradients = {
        "difference": 1e-6 * few,
        "float32": 1 - 1e-4 * few,
        "bfloat16": 1 - 0.01 * few,
        "zeros": 1e-3 * few,
    } | (gradients or {})
    sure = np.array([[0.9] * 6, [0.05] * 6, [0.04] * 6]) if sure is None else sure
    saved = {"moved": 16.0, "accuracy": 100 * right["aware", 16.0][0].mean()} | (saved or {})
    found = protocol.checks(made, "D", gradients, sure, saved)
    assert found["check"].is_unique
    return found.set_index("check")


def spoilt(right, changes):
    """Another frame. changes: by attacker and budget, how many images it leaves; or an image and what becomes of it."""
    found = dict(right)
    for key, change in changes.items():
        if isinstance(change, tuple):
            image, value = change
            found[key] = found[key].copy()
            found[key][:, image] = value
        else:
            found[key] = np.arange(IMAGES)[None] < change
    return found


def beaten_by(name):
    """An attacker that leaves nothing where the one that knows all leaves a quarter."""
    return {(name, 16.0): 0, ("aware", 16.0): 10}


AWARE, WHITE = ("aware", 16.0), "the white box at least as strong as"
# By check what is spoilt: of the frame, or of the other arguments.
IN_FRAME = {
    "budget 0 changes no prediction, image by image": {("aware", 0.0): (39, True)},
    "budget 16 at least as strong as 0": {("aware", 0.0): 0, AWARE: 10},
    "budget 64 at least as strong as 16": {("aware", 64.0): 15},
    "budget 64 leaves nothing": {("aware", 64.0): 1},
    "ten steps at least as strong as one": beaten_by("one step"),
    "more steps at least as strong": {("aware, long", 16.0): 14},
    "restarts at least as strong": {("aware, restarts", 16.0): 14},
    "knowing the defense at least as strong as not": beaten_by("unaware"),
    f"{WHITE} MI-FGSM from another network": beaten_by("transfer of MI-FGSM"),
    f"{WHITE} DIM-TI from an ensemble": beaten_by("transfer of DIM-TI"),
    f"{WHITE} SSP": beaten_by("transfer of SSP"),
    "stronger than random noise of the same size": beaten_by("random noise"),
    "mean of losses, 8 at least as strong as mean of losses, 2": {("mean of losses, 8", 16.0): 20},
    "Square wins nowhere where gradients fail": {("Square", 16.0): (0, False)},
    "SPSA wins nowhere where gradients fail": {("SPSA", 16.0): (1, False)},
    "random corners wins nowhere where gradients fail": {("random corners", 16.0): (0, False)},
}
IN_ARGUMENTS = {
    "the loss is flat at the end": {"sure": np.array([[0.9] * 6, [0.08] * 6, [0.04] * 6])},
    "gradient as by finite differences": {"gradients": {"difference": np.array([1e-6, 0.01, 0.02])}},
    "float32 follows float64": {"gradients": {"float32": np.array([1, 0.98, 0.9])}},
    "no vanishing gradient": {"gradients": {"zeros": np.array([0, 0.02, 1])}},
    "saved as PNG and read again, budget and accuracy are the same": {"saved": {"moved": 17.0}},
}
SHOWN_ONLY = "bfloat16 follows float64 (not used here)"


def test_of_an_honest_attack_every_check_passes():
    verdicts = table(honest())["verdict"]
    assert verdicts.drop(SHOWN_ONLY).eq("pass").all() and verdicts[SHOWN_ONLY] == "-"
    assert set(verdicts.index) == {*IN_FRAME, *IN_ARGUMENTS, SHOWN_ONLY}  # each has a case in which it fails


@pytest.mark.parametrize("check", IN_FRAME)
def test_every_check_of_attackers_fails_where_it_should(check):
    verdicts = table(spoilt(honest(), IN_FRAME[check]))["verdict"]
    assert verdicts[check] == "FAIL"


@pytest.mark.parametrize("check", IN_ARGUMENTS)
def test_every_check_of_gradients_and_files_fails_and_no_other(check):
    verdicts = table(honest(), **IN_ARGUMENTS[check])["verdict"]
    assert verdicts.index[verdicts == "FAIL"].tolist() == [check]


def test_files_of_another_accuracy_fail_too():
    check = "saved as PNG and read again, budget and accuracy are the same"
    found = table(honest(), saved={"accuracy": 10.0}).loc[check]
    assert found["verdict"] == "FAIL" and "accuracy 10.0 %, 7.5 % before" in found["found"]


def test_a_weaker_attacker_within_the_noise_of_few_images_is_neither_passed_nor_failed():
    assert table(spoilt(honest(), {("aware, long", 16.0): 5})).loc["more steps at least as strong", "verdict"] == "-"


def test_a_comparison_says_the_paired_difference_and_on_how_many_images_the_weaker_alone_succeeds():
    right = honest()
    rng = np.random.default_rng(3)
    aware, one = (rng.random((SEEDS, IMAGES)) < rate for rate in (0.3, 0.4))
    right |= {("aware", 16.0): aware, ("one step", 16.0): one}
    # Of a random defense every cell has its draws.
    right |= {("aware", 0.0): np.repeat(right["aware", 0.0], SEEDS, 0)}
    right |= {("clean", 0.0): np.repeat(right["clean", 0.0], SEEDS, 0)}
    alone, reverse = (
        ((stays.mean(0) > 0.5) & (falls.mean(0) < 0.5)).sum() for stays, falls in ((aware, one), (one, aware))
    )
    assert 0 < alone != reverse
    found = table(right).loc["ten steps at least as strong as one", "found"]
    assert found == f"{difference(aware, one)} points; the weaker alone on {alone} of 40 images"


def test_gradient_free_attackers_are_judged_by_most_draws_and_on_their_own_images():
    right = honest()
    aware, square = np.zeros((SEEDS, IMAGES), bool), np.ones((SEEDS, 12), bool)
    aware[:2, 4] = aware[:, 5] = aware[:2, 6] = True  # mostly right under the gradient's attackers ...
    square[:2, 4] = square[:, 5] = square[0, 6] = False  # ... and mostly wrong, always wrong, once wrong
    several = {key: np.repeat(right[key], SEEDS, 0) for key in (("clean", 0.0), ("aware", 0.0))}
    several |= {("aware", 16.0): aware, ("Square", 16.0): square}
    several |= {(name, 16.0): aware for name in ("aware, long", "aware, restarts")}
    found = table(right | several).loc["Square wins nowhere where gradients fail"]
    assert tuple(found) == ("FAIL", "alone on 2 of 12 images")
    # Restarts that break those images do it as well as Square.
    several |= {("aware, restarts", 16.0): np.zeros((SEEDS, IMAGES), bool)}
    found = table(right | several).loc["Square wins nowhere where gradients fail"]
    assert tuple(found) == ("pass", "alone on 0 of 12 images")


def test_budget_0_is_checked_in_every_draw():
    right = honest()
    clean = np.repeat(right["clean", 0.0], SEEDS, 0)
    other = clean.copy()
    other[1, :2] = [False, True]
    other[1, 36] = True  # as many right as before, but others
    found = table(right | {("clean", 0.0): clean, ("aware", 0.0): other})
    assert tuple(found.loc["budget 0 changes no prediction, image by image"]) == ("FAIL", "2 of 3 cells")


def test_what_is_not_tried_is_neither_passed_nor_failed():
    kept = {key: right for key, right in honest().items() if key[0] in ("clean", "aware")}
    found = table(kept)
    of_others = [check for check, _, _ in protocol.PAIRS] + [check for check in found.index if "wins nowhere" in check]
    assert len(of_others) == 11
    for check in of_others:
        assert tuple(found.loc[check]) == ("-", "not tried")


def test_the_checks_of_all_defenses_stand_side_by_side():
    right = honest()
    fewer = {key: top1 for key, top1 in right.items() if not key[0].startswith("mean of losses")}
    made = join(
        cells(name, top1, eps=eps, defense=defense)
        for defense, part in (("D", right), ("E", fewer))
        for (name, eps), top1 in part.items()
    )
    gradients = {"difference": np.zeros(3), "float32": np.ones(3), "bfloat16": np.ones(3), "zeros": np.zeros(3)}
    sure, saved = np.zeros((3, 3)), {"moved": 16.0, "accuracy": 7.5}
    found = protocol.all_checks(
        made,
        {"D": gradients, "E": gradients | {"zeros": np.ones(3)}},
        dict.fromkeys("DE", sure),
        dict.fromkeys("DE", saved),
    )
    assert list(found.columns) == ["check", "D", "E"]
    found = found.set_index("check")
    assert found.loc["no vanishing gradient"].tolist() == [
        "pass: 0.00% of pixels are zero",
        "FAIL: 100.00% of pixels are zero",
    ]
    averaged = found.loc["mean of losses, 8 at least as strong as mean of losses, 2"]
    assert averaged["D"].startswith("pass") and averaged["E"] == "-"
    assert found["D"].str.startswith("pass").sum() == len(IN_FRAME) + len(IN_ARGUMENTS)


# Curves, what must stay up, the conclusion.


def test_curves_are_brute_force():
    right = honest() | {("paper's", eps): np.arange(IMAGES)[None] < 30 - eps / 4 for eps in (0.0, 16.0, 64.0)}
    made = join(cells(name, top1, eps=eps) for (name, eps), top1 in right.items())
    found = {(row["attacker"], row["eps"]): row for row in protocol.curves(made).to_dict("records")}
    assert set(found) == {(name, eps) for name in ("aware", "random noise", "paper's") for eps in (0.0, 16.0, 64.0)}
    for (name, eps), row in found.items():
        top1 = right["clean", 0.0] if eps == 0 else right[name, eps]
        by_hand = interval(100.0 * top1[0], 0, 100, clip=True)
        assert (row["value"], row["low"], row["high"]) == pytest.approx(by_hand, abs=1e-4)
        assert (row["defense"], row["n"]) == ("D", IMAGES)


def test_networks_that_must_stay_up_are_shown_at_their_budget():
    rows = {"A": (12, 8.0), "B": (5, 4.0)}
    made = [
        cells(
            name, np.arange(20) < (18 if name == "clean" else count), victim=victim, eps=eps if name != "clean" else 0
        )
        for victim, (count, eps) in rows.items()
        for name in ("unaware", "clean")
    ]
    for row in protocol.robust(join(made)).to_dict("records"):
        count, eps = rows[row["network"]]
        assert row["budget"] == f"{eps:g}" and row["clean"] == accuracy(np.arange(20) < 18)
        assert row["unaware"] == accuracy(np.arange(20) < count) and row["n"] == "20"


def test_other_victims_stand_under_every_attacker_with_every_defense():
    right = np.arange(20)
    made = [
        cells(name, right < count + 2 * (victim == "B"), victim=victim, defense=defense)
        for victim in "AB"
        for defense, counts in {
            "none": {"clean": 18, "unaware": 1},
            "D": {"clean": 16, "unaware": 9, "paper's": 4},
        }.items()
        for name, count in counts.items()
    ]
    found = protocol.victims(join(made)).set_index(["victim", "defense"])
    assert list(found) == ["clean", "unaware", "paper's", "n"] and set(found["n"]) == {20}
    assert found.loc[("B", "D"), "paper's"] == accuracy(right < 6) and found.loc[("A", "none"), "paper's"] == "-"


@pytest.mark.parametrize(("clean", "named"), [(85, "D"), (70, "none of these defenses")])
def test_the_conclusion_names_the_strongest_attacker_with_all_images_and_who_is_competent(clean, named):
    made = [cells("clean", np.arange(100) < 90, defense="none"), cells("clean", np.arange(100) < clean)]
    made += [cells("unaware, random target", np.arange(100) < 5, defense="none")]
    made += [cells("paper's", np.arange(100) < 63), cells("static", np.arange(100) < 4)]
    made += [cells("Square", np.zeros(12))]
    text = protocol.conclusion(join(made), join(made)).data
    bare, defended, competent = (line for line in text.split("\n") if line)
    assert "5.0 [" in bare and "*unaware, random target*" in bare
    assert bare.count("%") == 2  # one attacker, said once
    assert f"{accuracy(np.arange(100) < 63)} % under *paper's*" in defended
    assert f"{accuracy(np.arange(100) < 4)} % under *static*, the strongest" in defended
    assert competent.startswith(f"As competent as the paper's NRP on validation images: {named}.")


def test_the_board_ranks_by_each_image_s_worst_and_prints_cost_and_time():
    """A holds 8 of 10 under one attacker and 5 under both together; B 6 under each, on the same images."""
    right = np.arange(10)
    made = [
        cells("clean", right < 10, defense="A"), cells("unaware", right < 8, defense="A"),
        cells("aware", right >= 3, defense="A"), cells("clean", right < 10, defense="B"),
        cells("unaware", right < 6, defense="B"), cells("aware", right < 6, defense="B"),
        cells("clean", right < 10, defense="none"), cells("unaware", right < 0, defense="none"),
    ]  # fmt: skip
    gate = join(
        [cells("clean", right < 9, defense=name) for name in ("A", "none")] + [cells("clean", right < 7, defense="B")]
    )
    found = protocol.board(join(made), gate, {"A": 0.5, "B": 0.0012}).set_index("defense")
    assert found["rank"].to_dict() == {"B": 1, "A": 2, "none": 3}
    assert [found.loc[name, "each image's worst"].split()[0] for name in ("A", "B", "none")] == ["50.0", "60.0", "0.0"]
    assert found["strongest attacker alone"].to_dict() == {"A": "aware", "B": "unaware", "none": "unaware"}
    assert found.loc["B", "costs"].split()[0] == "20.0" and found.loc["A", "costs"].split()[0] == "0.0"
    assert found["ms per image"].to_dict() == {"A": "500", "B": "1.2", "none": "-"}
    assert set(found["n"]) == set(found["n (clean, costs)"]) == {10}


def test_frames_of_the_notebook_keep_their_labels_when_saved(tmp_path, frame):
    whole = protocol.labelled(waterfall=frame, gate=frame.where(attacker="clean"), robust=None)
    save_frame(whole, tmp_path / "frame.npz")
    again = load_frame(tmp_path / "frame.npz").where(experiment="waterfall")
    assert protocol.page(again, "D").equals(protocol.page(frame, "D"))
    assert len(load_frame(tmp_path / "frame.npz").where(experiment="gate")) == 1 + SEEDS


def test_a_slug_is_a_name_of_a_file():
    assert protocol.slug("NRP dynamic on ResNet50-NT") == "nrp_dynamic_on_resnet50_nt"
