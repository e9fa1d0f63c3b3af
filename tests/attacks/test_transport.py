"""Feature scattering: its transport plan against POT and scipy, its loop against one written here."""

import math

import numpy as np
import ot
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import nn

from lib.attacks.ascent import gradient
from lib.attacks.decision import sign_noise
from lib.attacks.transport import cosine_cost, fsa, scattering, sinkhorn, transport_distance
from lib.rng import Streams
from tests.conftest import eight_bit_images, tiny_network

LEVEL = 1 / 255
IDS = list("abcdef")


def random(*shape, seed=0, dtype=torch.float64):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def logits(count, classes=10, seed=0):
    return torch.randn(count, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pot_plan(cost, reg, iterations):
    """POT's plan after exactly that many iterations. It fits columns before rows, so it gets the transposed cost."""
    n, m = cost.shape
    rows, columns = cost.new_full((n,), 1 / n), cost.new_full((m,), 1 / m)
    # Convergence is never reached: an error is not below zero.
    return ot.bregman.sinkhorn_log(columns, rows, cost.T, reg, numItermax=iterations, stopThr=-1, warn=False).T


@pytest.mark.parametrize("shape", [(6, 6), (5, 8), (8, 5), (60, 60)])
@pytest.mark.parametrize("reg, iterations", [(0.01, 1), (0.01, 7), (0.01, 100), (0.5, 100)])
def test_the_plan_is_pot_s_after_as_many_iterations(shape, reg, iterations):
    cost = random(*shape)
    plan, expected = sinkhorn(cost, reg, iterations), pot_plan(cost, reg, iterations)
    assert torch.allclose(plan, expected, rtol=1e-8, atol=1e-14)
    assert torch.allclose((plan * cost).sum(), (expected * cost).sum(), rtol=1e-10)


def test_the_converged_plan_is_that_of_pot_s_numpy_code():
    cost = random(7, 9)
    expected = ot.sinkhorn(np.full(7, 1 / 7), np.full(9, 1 / 9), cost.numpy(), 0.05, stopThr=1e-14, numItermax=10_000)
    assert np.abs(sinkhorn(cost, 0.05, 3000).numpy() - expected).max() < 1e-10


@pytest.mark.parametrize("iterations", [1, 5, 100])
def test_the_gradient_is_that_of_pot_on_torch(iterations):
    cost = random(6, 6).requires_grad_(True)
    (ours,) = torch.autograd.grad((sinkhorn(cost, 0.05, iterations) * cost).sum(), cost)
    (theirs,) = torch.autograd.grad((pot_plan(cost, 0.05, iterations) * cost).sum(), cost)
    assert torch.allclose(ours, theirs, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("count, classes", [(8, 10), (60, 10), (60, 100)])
def test_the_released_stop_ends_the_iterations_early(count, classes):
    cost, done = cosine_cost(logits(count, classes), logits(count, classes, seed=7)), 0
    # ot.py's potentials, in units of the cost, in the plain domain: u = reg * log(scaling of a row).
    kernel, columns, before = torch.exp(-cost / 0.01), torch.ones(count).double(), torch.zeros(count)
    moved = math.inf
    while moved >= 0.1:
        rows, done = 1 / count / (kernel @ columns), done + 1
        columns = 1 / count / (kernel.T @ rows)
        moved, before = (0.01 * rows.log() - before).abs().sum(), 0.01 * rows.log()
    assert 2 <= done < 100
    assert torch.allclose(sinkhorn(cost, 0.01, 100, 0.1), pot_plan(cost, 0.01, done), rtol=1e-8, atol=1e-14)
    assert not torch.allclose(sinkhorn(cost, 0.01, 100), pot_plan(cost, 0.01, done), rtol=1e-8, atol=1e-14)


def test_the_gradient_is_that_of_finite_differences():
    clean, perturbed = logits(4, 3, 1), logits(3, 3, 2).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda z: scattering(clean, z, reg=0.1, iterations=8), perturbed)


def test_with_little_regularisation_the_plan_is_the_best_assignment():
    cost, reg = random(12, 12), 1e-3
    plan = sinkhorn(cost, reg, 5000)
    rows, columns = linear_sum_assignment(cost.numpy())
    excess = (plan * cost).sum().item() - cost.numpy()[rows, columns].mean()
    # Entropy is at most log n above an assignment's, so the plan costs at most reg * log n more.
    assert -1e-6 <= excess <= reg * math.log(12)
    assert plan.argmax(1).tolist() == columns.tolist()


def test_columns_are_exact_and_rows_approach_their_marginal():
    cost = random(9, 5)
    few, many = sinkhorn(cost, 0.05, 3), sinkhorn(cost, 0.05, 1000)
    assert torch.allclose(few.sum(0), torch.full((5,), 1 / 5).double(), atol=1e-12)
    assert (few.sum(1) - 1 / 9).abs().max() > 1e-6 > (many.sum(1) - 1 / 9).abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "cost", [1e4 * random(8, 8), 1e4 * (1 - torch.eye(8)), torch.zeros(8, 8), random(8, 8) * 1e-30]
)
def test_extreme_costs_do_not_overflow(cost, dtype):
    cost = cost.to(dtype).requires_grad_(True)
    plan = sinkhorn(cost)
    (grad,) = torch.autograd.grad((plan * cost).sum(), cost)
    assert plan.dtype == dtype and torch.isfinite(grad).all()
    # Float32 holds exponents of a million to some hundredths.
    assert torch.allclose(
        plan.sum(0), torch.full((8,), 1 / 8, dtype=dtype), rtol=0.3 if dtype == torch.float32 else 1e-6
    )


@pytest.mark.parametrize("level", [0.0, 0.3, 2.0, 1e4])
def test_equal_costs_give_the_uniform_plan(level):
    assert torch.allclose(sinkhorn(torch.full((4, 6), level)), torch.full((4, 6), 1 / 24), rtol=1e-5)


def test_a_far_diagonal_is_matched_completely():
    assert torch.allclose(sinkhorn(1e4 * (1 - torch.eye(5))), torch.eye(5) / 5)


def test_the_plan_follows_a_permutation_of_its_rows_and_columns():
    cost, rows, columns = random(5, 7), [3, 0, 4, 1, 2], [6, 2, 0, 5, 1, 3, 4]
    assert torch.allclose(sinkhorn(cost)[rows][:, columns], sinkhorn(cost[rows][:, columns]), rtol=1e-9)


def test_shares_follow_the_perturbed_images_and_ignore_the_order_of_the_clean():
    clean, perturbed, order = logits(6), logits(6, seed=1), [4, 1, 0, 5, 3, 2]
    shares = scattering(clean, perturbed)
    assert torch.allclose(scattering(clean, perturbed[order]), shares[order], rtol=1e-8)
    assert torch.allclose(scattering(clean[order], perturbed), shares, rtol=1e-8)


def test_shares_sum_to_the_distance():
    clean, perturbed = logits(6), logits(4, seed=1)
    cost = cosine_cost(clean, perturbed)
    expected = (pot_plan(cost, 0.01, 100) * cost).sum()
    for spelling in ("unrolled", "envelope"):
        shares = scattering(clean, perturbed, tolerance=0, gradient=spelling)
        assert shares.shape == (4,) and torch.allclose(shares.sum(), expected, rtol=1e-9)


def test_the_cost_is_one_minus_the_cosine():
    clean, perturbed = logits(4), logits(3, seed=1)
    perturbed[1] = 2 * clean[2]
    perturbed[2] = 0
    cost = cosine_cost(clean, perturbed)
    expected = 1 - F.cosine_similarity(clean[:, None], perturbed[None], dim=2, eps=1e-6)
    assert torch.allclose(cost, expected, atol=1e-12) and (cost >= 0).all()
    assert cost[2, 1] < 1e-12 and (cost[:, 2] == 1).all()


def test_rounding_makes_no_cost_negative():
    z = logits(200, seed=5).float()
    assert (1 - F.normalize(z, dim=1) @ F.normalize(z, dim=1).T).min() < 0 <= cosine_cost(z, z).min()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised(dtype):
    clean, perturbed = logits(5).to(dtype), logits(5, seed=1).to(dtype)
    assert torch.equal(scattering(clean, perturbed), scattering(clean.float(), perturbed.float()))
    assert cosine_cost(clean, perturbed).dtype == torch.float32


def gradients(clean, perturbed, **keywords):
    """d distance / d perturbed, unrolled and envelope."""
    perturbed = perturbed.clone().requires_grad_(True)
    return [
        torch.autograd.grad(scattering(clean, perturbed, gradient=spelling, **keywords).sum(), perturbed)[0]
        for spelling in ("unrolled", "envelope")
    ]


def test_the_envelope_holds_the_plan_constant():
    clean, perturbed = logits(6), logits(6, seed=1).requires_grad_(True)
    cost = cosine_cost(clean, perturbed)
    (expected,) = torch.autograd.grad(cost, perturbed, grad_outputs=pot_plan(cost.detach(), 0.01, 100))
    assert torch.allclose(gradients(clean, perturbed.detach(), tolerance=0)[1], expected, atol=1e-10)


def test_the_envelope_is_the_gradient_of_the_distance_with_its_entropy():
    # Finite differences of min <plan, cost> - reg * entropy, which POT's converged plan attains.
    cost, reg, bump = random(4, 4), 0.1, 1e-5

    def regularised(c):
        plan = pot_plan(c, reg, 2000)
        return ((plan * c).sum() + reg * (plan * plan.log()).sum()).item()

    change = torch.zeros(4, 4).double()
    change[1, 2] = bump
    slope = (regularised(cost + change) - regularised(cost - change)) / (2 * bump)
    assert sinkhorn(cost, reg, 2000)[1, 2].item() == pytest.approx(slope, rel=1e-5)


def test_both_gradients_agree_where_batches_match_and_not_elsewhere():
    def agreement(clean, perturbed):
        unrolled, envelope = gradients(clean, perturbed)
        return (unrolled.sign() == envelope.sign()).double().mean().item()

    # Random directions of 200 dimensions are far from each other, so each image is matched with itself.
    far = logits(30, 200)
    assert agreement(far, far + 0.1 * logits(30, 200, seed=1)) == 1
    assert 0.7 < agreement(logits(30), logits(30, seed=1)) < 0.99


def test_one_image_s_distance_is_the_cosine_s():
    clean, perturbed = logits(1), logits(1, seed=1)
    expected = 1 - F.cosine_similarity(clean, perturbed)
    assert torch.allclose(scattering(clean, perturbed), expected, rtol=1e-12)
    unrolled, envelope = gradients(clean, perturbed)
    assert torch.allclose(unrolled, envelope, rtol=1e-12) and unrolled.abs().max() > 0


def test_from_the_clean_image_nothing_would_move(x):
    network = tiny_network().double()
    still = gradient(transport_distance([network], x[:1].double()), x[:1].double())
    moved = gradient(transport_distance([network], x[:1].double()), x[:1].double() + LEVEL * random(1, 3, 16, 16))
    assert still.abs().max() < 1e-9 * moved.abs().max()


def uniform_start(x, ids, eps):
    return x + eps * (2 * Streams(0, ids, "fsa").uniform(*x.shape[1:]).double() - 1)


def reference(network, x, ids, plan_of, eps=16 * LEVEL, step=1.6 * LEVEL, steps=4):
    """One batch by autograd through POT's iterations and torch's cosine."""
    x_adv, clean = uniform_start(x, ids, eps), network(x).detach()
    for _ in range(steps):
        image = x_adv.clone().requires_grad_(True)
        cost = (1 - F.cosine_similarity(clean[:, None], network(image)[None], dim=2, eps=1e-6)).clamp(min=0)
        (grad,) = torch.autograd.grad((plan_of(cost) * cost).sum(), image)
        x_adv = torch.minimum(torch.maximum(x_adv + step * grad.sign(), x - eps), x + eps).clamp(0, 1)
    return (x_adv * 255).round() / 255


@pytest.mark.parametrize("spelling", ["unrolled", "envelope"])
@pytest.mark.parametrize("reg, iterations", [(0.01, 100), (0.2, 3)])
def test_fsa_is_the_released_loop(spelling, reg, iterations):
    network, x = tiny_network().double(), eight_bit_images(6).double()

    def plan(cost):
        return pot_plan(cost if spelling == "unrolled" else cost.detach(), reg, iterations)

    options = {"reg": reg, "iterations": iterations, "tolerance": 0, "gradient": spelling}
    result = fsa(network, x, ids=IDS, steps=4, batch=4, **options)
    expected = torch.cat([reference(network, x[part], IDS[part], plan) for part in (slice(4), slice(4, 6))])
    # A gradient of almost zero may change its sign with the order of additions.
    assert ((result - expected).abs() > 1e-6).double().mean() < 1e-3


def test_a_batch_of_one_ascends_the_cosine_distance():
    network, x = tiny_network().double(), eight_bit_images(2).double()
    result = fsa(network, x, ids="ab", steps=4, batch=1)
    single = [reference(network, x[i : i + 1], "ab"[i], lambda cost: torch.ones_like(cost)) for i in range(2)]
    assert ((result - torch.cat(single)).abs() > 1e-6).double().mean() < 1e-3
    assert torch.equal(result[:1], fsa(network, x[:1], ids="a", steps=4))


@pytest.mark.parametrize("eps", [1, 8, 16])
@pytest.mark.parametrize("steps", [1, 10])
def test_the_budget_holds_on_the_8_bit_grid(network, x, eps, steps):
    x_adv = fsa(network, x, ids=IDS, eps=eps * LEVEL, step=1.6 * LEVEL, steps=steps, batch=4)
    levels = x_adv * 255
    assert x_adv.shape == x.shape and x_adv.dtype == torch.float32
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    assert (levels.round() - (x * 255).round()).abs().max() == eps
    assert x_adv.min() >= 0 and x_adv.max() <= 1


def test_the_budget_may_differ_from_image_to_image(network, x):
    levels = [4, 16, 0, 8, 1, 2]
    eps = torch.tensor(levels).view(6, 1, 1, 1) / 255
    moved = fsa(network, x, ids="cafebd", eps=eps, step=eps, steps=2, batch=4) - x
    assert (moved.abs().amax((1, 2, 3)) * 255).round().tolist() == levels


def test_the_order_of_the_images_does_not_matter(network, x):
    order = [3, 0, 5, 1, 4, 2]
    shuffled = fsa(network, x[order], ids=[IDS[i] for i in order], steps=5, batch=4, snapshots=[2, 5])
    assert torch.equal(shuffled, fsa(network, x, ids=IDS, steps=5, batch=4, snapshots=[2, 5])[:, order])


def test_ids_are_ordered_as_text(network, x):
    # As text "10" comes before "8": the images 10 and 8, not 8 and 9, share the first batch.
    together = fsa(network, x[:3], ids=[9, 10, 8], steps=3, batch=2)
    assert torch.equal(together[[1, 2]], fsa(network, x[[1, 2]], ids=[10, 8], steps=3))


def test_the_batch_is_a_part_of_the_result(network, x):
    two, four = (fsa(network, x, ids=IDS, steps=5, batch=batch) for batch in (2, 4))
    assert (two != four).float().mean() > 0.01


def test_other_batches_do_not_matter(network, x):
    assert torch.equal(fsa(network, x, ids=IDS, steps=5, batch=4)[:4], fsa(network, x[:4], ids=IDS[:4], steps=5))


def test_snapshots_are_the_shorter_runs(network, x):
    recorded = fsa(network, x, ids=IDS, steps=7, batch=4, snapshots=[1, 3, 7])
    assert recorded.shape == (3, *x.shape)
    for steps, snapshot in zip([1, 3, 7], recorded, strict=True):
        assert torch.equal(snapshot, fsa(network, x, ids=IDS, steps=steps, batch=4))


class Watching(nn.Module):
    """Its inner network, and every batch that it saw."""

    def __init__(self):
        super().__init__()
        self.inner, self.seen = tiny_network(), []

    def forward(self, images):
        self.seen.append(images.detach().clone())
        return self.inner(images)


def test_the_start_is_uniform_around_the_image_and_not_clipped(x):
    network = Watching()
    fsa(network, x, ids=IDS, steps=1)
    clean, start = network.seen
    assert torch.equal(clean, x) and start.min() < -10 * LEVEL and start.max() > 1 + 10 * LEVEL
    moved = ((start - x) * 255).abs()
    # Uniform in [-16,16]: a mean of 8 and a quarter above 12, known to four standard deviations in 4608 pixels.
    assert 15.9 < moved.max() < 16.001 and moved.mean() == pytest.approx(8, abs=0.28)
    assert (moved > 12).float().mean().item() == pytest.approx(0.25, abs=0.026)


def test_clean_logits_are_computed_once_per_batch(x):
    network = Watching()
    fsa(network, x, ids=IDS, steps=5, batch=4)
    assert [len(images) for images in network.seen] == [4] * 6 + [2] * 6


def test_the_start_depends_on_the_seed_and_the_spelling_on_the_result(network, x):
    base = fsa(network, x, ids=IDS, steps=5)
    assert torch.equal(base, fsa(network, x, ids=IDS, steps=5))
    assert not torch.equal(base, fsa(network, x, ids=IDS, steps=5, seed=1))
    assert not torch.equal(base, fsa(network, x, ids=IDS, steps=5, gradient="envelope"))


@pytest.mark.parametrize("spelling", ["unrolled", "envelope"])
def test_steps_carry_the_batch_farther_than_noise_does(network, spelling):
    x = eight_bit_images(12)
    recorded = fsa(network, x, ids="abcdefghijkl", snapshots=[1, 3, 10], gradient=spelling)
    with torch.no_grad():
        distance = transport_distance([network], x)
        start = distance(uniform_start(x, "abcdefghijkl", 16 * LEVEL).float()).sum()
        noise = distance(sign_noise(x, ids="abcdefghijkl")).sum()
        first, middle, last = (distance(x_adv).sum() for x_adv in recorded)
    assert start < first < middle < last and last > 3 * noise and last > 3 * start


def test_a_single_step_of_the_released_size_works(network, x):
    x_adv = fsa(network, x, ids=IDS, eps=8 * LEVEL, step=8 * LEVEL, steps=1)
    with torch.no_grad():
        distance = transport_distance([network], x)
        assert distance(x_adv).sum() > distance(uniform_start(x, IDS, 8 * LEVEL).float()).sum()


def test_an_ensemble_averages_logits():
    x = eight_bit_images(4, 8).double()
    torch.manual_seed(0)
    networks = [nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).double() for _ in range(3)]
    mean = nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).double()
    for name in ("weight", "bias"):
        getattr(mean[1], name).data = torch.stack([getattr(n[1], name).data for n in networks]).mean(0)
    assert torch.equal(fsa(networks, x, ids="abcd"), fsa(mean, x, ids="abcd"))
    assert not torch.equal(fsa(networks, x, ids="abcd"), fsa(networks[:1], x, ids="abcd"))


@pytest.mark.parametrize(
    "keywords, message",
    [
        ({"batch": 0}, "batch must be 1 or more, got 0"),
        ({"ids": list("abcabd")}, "id 'a' is given twice"),
        ({"ids": [1, "1", 2, 3, 4, 5]}, "id '1' is given twice"),
        ({"ids": list("abc")}, "3 ids for 6 images"),
        ({"gradient": "implicit"}, "gradient must be 'unrolled' or 'envelope', got 'implicit'"),
        ({"reg": 0}, "reg must be 1e-09 or more, got 0"),
        ({"iterations": 0}, "iterations must be 1 or more, got 0"),
        ({"tolerance": -0.1}, "tolerance must be 0 or more, got -0.1"),
        ({"eps": -LEVEL}, "eps must be 0 or more"),
        ({"steps": 0}, "steps must be 1 or more, got 0"),
        ({"snapshots": [11]}, r"snapshots must ascend within 1\.\.10"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(network, x, keywords, message):
    with pytest.raises(ValueError, match=message) as error:
        fsa(network, x, **{"ids": IDS, **keywords})
    assert "\n" not in str(error.value)


def test_the_parts_refuse_bad_arguments_too():
    with pytest.raises(ValueError, match="gradient must be"):
        scattering(logits(2), logits(2), gradient="none")
    with pytest.raises(ValueError, match="reg must be 1e-09 or more"):
        sinkhorn(random(2, 2), reg=-1)
