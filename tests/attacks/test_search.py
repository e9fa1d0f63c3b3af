"""Attacks without gradients, losses and targets: against loops, linear networks whose optimum is known, invariances."""

import itertools

import pytest
import torch
from torch import nn

from lib.attacks.decision import TARGETS, dlr, margin, pgd, wrong_classes
from lib.attacks.search import corners, spsa, square
from lib.rng import Streams
from lib.units import unit
from tests.conftest import eight_bit_images, tiny_network

IDS = list("abcdef")
EPS = unit(8)


def linear(classes=3, side=8):
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, classes, bias=False)).eval()


def middle(count=6, side=8):
    """Images of which none of the ball leaves [0,1]."""
    return (eight_bit_images(count, side) * 0.5 + 0.25).mul(255).round() / 255


def best_margin(network, x, y, eps):
    """The highest margin in the ball, which a linear network reaches at the corner of its weights' signs."""
    weights, found = network[1].weight, []
    for image, label in zip(x, y, strict=True):
        others = [weights[k] - weights[label] for k in range(len(weights)) if k != label]
        found += [max((w @ image.flatten() + eps * w.abs().sum()).item() for w in others)]
    return torch.tensor(found)


def test_the_margin_is_the_best_other_logit_less_the_label_s():
    logits, y = torch.randn(20, 7, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 7
    expected = [max(v for k, v in enumerate(row) if k != c) - row[c] for row, c in zip(logits.tolist(), y.tolist())]  # noqa: B905
    assert torch.allclose(margin(logits, y), torch.tensor(expected))
    assert ((margin(logits, y) > 0) == (logits.argmax(1) != y)).all()


def test_dlr_is_the_paper_s_ratio_and_forgets_scale_and_shift():
    logits, y = torch.randn(20, 7, generator=torch.Generator().manual_seed(0)).double(), torch.arange(20) % 7
    ordered = logits.sort(1, descending=True).values
    other = torch.where(logits.argmax(1) == y, ordered[:, 1], ordered[:, 0])
    expected = -(logits.gather(1, y[:, None])[:, 0] - other) / (ordered[:, 0] - ordered[:, 2])
    assert torch.allclose(dlr(logits, y), expected)
    assert torch.allclose(dlr(50 * logits - 3, y), dlr(logits, y))


def test_targets_are_the_classes_they_are_called_after():
    network, x = tiny_network(), eight_bit_images(6)
    y = network(x).argsort(1)[:, -2]  # the label is the second guess, so that the first is the runner-up
    ranked = network(x).argsort(1)
    assert torch.equal(wrong_classes(network, x, y, "runner-up", ids=IDS), ranked[:, -1])
    assert torch.equal(wrong_classes(network, x, y, "least likely", ids=IDS), ranked[:, 0])
    assert torch.equal(wrong_classes(network, x, ranked[:, 0], "least likely", ids=IDS), ranked[:, 1])
    assert (wrong_classes(network, x, y, "random", ids=IDS) != y).all()


AIMS = [("dlr", None), *itertools.product(["cross-entropy", "margin"], [None, *TARGETS])]


@pytest.mark.parametrize("loss, target", AIMS)
def test_every_loss_reaches_the_optimum_of_a_linear_network_that_it_aims_at(loss, target):
    network, x = linear(2), middle()
    y = network(x).argmax(1)
    if loss == "dlr":
        network = linear(3)
        y = network(x).argmax(1)
    found = pgd(network, x, y, ids=IDS, eps=EPS, step=EPS / 4, steps=10, loss=loss, target=target)
    if len(network[1].weight) == 2:  # one wrong class, so that every target is it
        assert torch.allclose(margin(network(found), y), best_margin(network, x, y, EPS), atol=1e-4)
    else:
        assert (margin(network(found), y) > margin(network(x), y)).all()


def test_an_unknown_loss_or_target_is_one_line_with_the_known_ones():
    network, x = tiny_network(), eight_bit_images(6)
    with pytest.raises(ValueError, match=r"^loss must be one of cross-entropy, margin, dlr, got 'hinge'$"):
        pgd(network, x, torch.zeros(6).long(), ids=IDS, loss="hinge")
    with pytest.raises(ValueError, match=r"^the loss dlr takes no target$"):
        pgd(network, x, torch.zeros(6).long(), ids=IDS, loss="dlr", target="random")
    with pytest.raises(ValueError, match=r"^target must be classes or one of random, least likely, runner-up, got"):
        pgd(network, x, torch.zeros(6).long(), ids=IDS, target="any")


def test_random_corners_are_the_best_of_those_drawn():
    network, x = tiny_network(), middle(2, 16)
    y = network(x).argmax(1)
    found = corners(network, x, y, ids="ab", eps=EPS, queries=20)
    for place, image in enumerate("ab"):
        streams, tried = Streams(0, [image], "corners"), [x[place]]
        tried += [x[place] + EPS * (2 * (streams.uniform(3, 16, 16)[0] < 0.5) - 1) for _ in range(20)]
        margins = margin(network(torch.stack(tried)), y[place].expand(21))
        reached = margin(network(found[place][None]), y[place][None])
        assert reached.item() == pytest.approx(margins.max().item(), abs=1e-5)


def test_square_nears_the_optimum_of_a_linear_network_and_only_gains():
    network, x = linear(), middle()
    y = network(x).argmax(1)
    gained = [margin(network(square(network, x, y, ids=IDS, eps=EPS, queries=n)), y) for n in (1, 30, 2000)]
    best, clean = best_margin(network, x, y, EPS), margin(network(x), y)
    assert ((gained[2] - clean) > 0.8 * (best - clean)).all() and (gained[2] <= best + 1e-4).all()
    assert (gained[1] >= gained[0]).all()


def test_square_begins_with_vertical_stripes():
    x = middle()
    first = square(linear(), x, torch.zeros(6).long(), ids=IDS, eps=EPS, queries=1) - x
    assert torch.allclose(first.abs(), torch.full_like(x, EPS), atol=1e-5)
    assert torch.equal(first.sign(), first.sign()[:, :, :1].expand_as(x))


def test_spsa_follows_the_gradient_where_it_samples_enough():
    network, x = linear(2), middle()
    y = network(x).argmax(1)
    weights = network[1].weight[1 - y] - network[1].weight[y]
    moved = (spsa(network, x, y, ids=IDS, eps=EPS, step=EPS, steps=1, samples=2000) - x).flatten(1)
    assert ((moved.sign() == weights.sign()) | (weights.abs() < 0.02)).float().mean() > 0.95
    few = (spsa(network, x, y, ids=IDS, eps=EPS, step=EPS, steps=1, samples=4) - x).flatten(1)
    assert 0.5 < (few.sign() == weights.sign()).float().mean() < 0.75
