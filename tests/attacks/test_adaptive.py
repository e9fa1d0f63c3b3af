"""lib/attacks/adaptive.py: the gradients of the three attackers, and attacks through them."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib.attacks import decision
from lib.attacks.adaptive import Adaptive
from lib.attacks.registry import ATTACKS
from lib.defenses import defense
from lib.networks.purifier import NRPResG, begin_as_identity
from tests.conftest import eight_bit_images, tiny_network

MODES = ("exact", "BPDA", "EOT")
IDS = list("abcdef")
ON_LOGITS = [name for name, attack in ATTACKS.items() if attack.on == "logits"]


def purifier(seed=0, amount=0.1):
    """A tiny purifier that is far from the identity; random weights of size `amount` are added to one."""
    torch.manual_seed(seed)
    network = NRPResG(width=8, blocks=2)
    begin_as_identity(network)
    for parameter in network.parameters():
        parameter.data += amount * torch.randn_like(parameter)
    return network.eval()


def dynamic(network, seeds=(1, 2, 3)):
    return [defense("nrp", network=network, noise=0.05, seed=seed) for seed in seeds]


def adaptive(mode, victim, network):
    """The victim with a purifier, as the attacker sees it."""
    draws = dynamic(network) if mode == "EOT" else [defense("nrp", network=network)]
    return Adaptive(victim, *draws, bpda=mode == "BPDA")


def coarse(x):
    """A defense without a gradient: sixteen levels."""
    return (x * 15).round() / 15


class Linear(nn.Module):
    """Logits `[B,5]`, linear in images of 12 x 12 pixels."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(3 * 12 * 12, 5)

    def forward(self, x):
        return self.layer(x.flatten(1))


def small_batch():
    return torch.rand(2, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def value(network, x):
    """One number with a different weight for every logit."""
    logits = network(x)
    return (logits * torch.arange(1, logits.numel() + 1).view_as(logits)).sum()


def gradient(network, x):
    x = x.detach().requires_grad_(True)
    return torch.autograd.grad(value(network, x), x)[0]


def test_exact_is_the_true_gradient():
    network = Adaptive(Linear().double(), defense("nrp", network=purifier().double()))
    x = small_batch()
    direction = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    slope = (value(network, x + 1e-7 * direction) - value(network, x - 1e-7 * direction)) / 2e-7
    assert (gradient(network, x) * direction).sum().item() == pytest.approx(slope.item(), rel=1e-4)


def test_exact_is_the_victim_of_the_purified_images(network, x):
    bound = defense("nrp", network=purifier())
    assert torch.equal(Adaptive(network, bound)(x), network(bound(x)))


@pytest.mark.parametrize("bound", [coarse, defense("nrp", network=purifier().double())])
def test_bpda_goes_forward_through_the_defense_and_back_past_it(bound):
    victim = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(400, 5)).double()
    x = small_batch()
    assert torch.equal(Adaptive(victim, bound, bpda=True)(x), victim(bound(x)))
    assert torch.equal(gradient(Adaptive(victim, bound, bpda=True), x), gradient(victim, bound(x)))
    assert not torch.allclose(gradient(victim, bound(x)), gradient(victim, x))


def test_bpda_leads_an_attack_through_a_defense_without_gradient(network, x, y):
    bound = defense("jpeg", quality=50)
    loss = functools.partial(F.cross_entropy, target=y)
    made = decision.pgd(Adaptive(network, bound, bpda=True), x, y, ids=IDS, step=4 / 255)
    assert loss(network(bound(made))) > loss(network(bound(x))) + 0.02


def test_eot_is_the_mean_over_the_draws():
    victim, network = Linear().double(), purifier().double()
    bound, x = dynamic(network), small_batch()
    draws = [Adaptive(victim, one) for one in bound]
    seen = Adaptive(victim, *bound)
    assert torch.allclose(seen(x), sum(draw(x) for draw in draws) / 3, atol=1e-12)
    assert torch.allclose(gradient(seen, x), sum(gradient(draw, x) for draw in draws) / 3, atol=1e-12)
    assert not torch.allclose(gradient(draws[0], x), gradient(draws[1], x), rtol=1e-3)


def test_eot_of_losses_ascends_the_mean_of_the_draws_losses():
    victim, network = Linear().double(), purifier().double()
    bound, x, y = dynamic(network), small_batch(), torch.tensor([3, 1])

    def ascended(seen):
        given = x.clone().requires_grad_(True)
        return torch.autograd.grad(decision.by_draw(decision.LOSSES["cross-entropy"], seen(given), y).sum(), given)[0]

    def loss(z, label):  # of one image's logits
        return z.logsumexp(0) - z[label]

    given = x.clone().requires_grad_(True)
    draws = [victim(draw(given)) for draw in bound]
    hand = sum(loss(z[k], y[k]) for z in draws for k in range(2)) / 3
    (expected,) = torch.autograd.grad(hand, given)
    found, of_mean_logits = (ascended(Adaptive(victim, *bound, losses=losses)) for losses in (True, False))
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-15)
    assert not torch.allclose(found, of_mean_logits, rtol=1e-3)
    # Without a gradient it predicts as the mean logits do.
    assert torch.equal(Adaptive(victim, *bound, losses=True)(x), Adaptive(victim, *bound)(x))


def test_eot_of_losses_of_one_draw_is_exact_and_of_many_another_attack(network, x, y):
    one, many = dynamic(purifier(), seeds=[4]), dynamic(purifier(amount=0.3))
    for run in (decision.pgd, decision.dim):
        attack = functools.partial(run, x=x, y=y, ids=IDS, steps=3)
        assert torch.equal(attack(Adaptive(network, *one, losses=True)), attack(Adaptive(network, *one)))
        assert not torch.equal(attack(Adaptive(network, *many, losses=True)), attack(Adaptive(network, *many)))


def test_eot_of_one_draw_is_exact(network, x):
    bound = dynamic(purifier(), seeds=[4])
    assert torch.equal(Adaptive(network, *bound)(x), Adaptive(network, bound[0])(x))


@pytest.mark.parametrize("bound", [coarse, defense("jpeg")])
def test_a_defense_without_gradient_is_refused_where_one_is_needed(bound, network, x, y):
    blind = (lambda x: bound(x.detach())) if bound is coarse else bound
    for seen in (Adaptive(network, blind), Adaptive(network, blind, blind)):
        with pytest.raises(ValueError, match="passes no gradient; attack it with BPDA") as error:
            decision.fgsm(seen, x, y)
        assert "\n" not in str(error.value)
        with torch.no_grad():
            assert torch.equal(seen(x), network(blind(x)))


def test_eot_needs_a_draw(network):
    with pytest.raises(ValueError, match="at least one draw"):
        Adaptive(network)


@pytest.mark.parametrize("seed", range(4))
def test_the_exact_attack_comes_nearer_to_its_target_than_one_that_ignores_the_purifier(seed):
    victim, network = tiny_network(seed), purifier(seed, amount=0.2)
    x, y = eight_bit_images(6, seed=seed), torch.arange(6)
    target = decision.random_targets(y, 10, ids=IDS)
    seen = adaptive("exact", victim, network)

    def loss(images):
        return F.cross_entropy(seen(images), target).item()

    exact, ignorant = (loss(x) - loss(decision.pgd(one, x, y, ids=IDS, target="random")) for one in (seen, victim))
    assert exact > 0.03 and exact > 3 * ignorant


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ON_LOGITS)
def test_every_attack_on_logits_takes_every_mode(name, mode, x, y):
    attack = ATTACKS[name]
    keyed = {"ids": IDS} if "ids" in attack.parameters else {}
    steps = {"steps": 2} if "snapshots" in attack.parameters else {}
    labels = [y] if "y" in attack.parameters else []
    made = attack.run(adaptive(mode, tiny_network(), purifier()), x, *labels, **keyed, **steps)
    levels = ((made - x) * 255).abs().round()
    assert 0 < levels.max() <= 16


@pytest.mark.parametrize("mode", MODES)
def test_batch_size_and_order_do_not_matter(mode, y):
    x = eight_bit_images(6, 24)
    attack = functools.partial(decision.pgd, adaptive(mode, tiny_network(), purifier()), steps=5, target="random")
    whole = attack(x, y, ids=IDS)
    single = torch.cat([attack(x[i : i + 1], y[i : i + 1], ids=IDS[i : i + 1]) for i in range(6)])
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = attack(x[order], y[order], ids=[IDS[i] for i in order])[order.argsort()]
    for other in (single, shuffled):
        assert (other != whole).float().mean() <= 0.001


@pytest.mark.parametrize("mode", MODES)
def test_victim_and_purifier_are_left_as_found(mode, x, y):
    victim, network = tiny_network().train(), purifier()
    network.train()
    network.recon_trunk[0].eval()
    network.conv_last.requires_grad_(False)
    modules = [*victim.modules(), *network.modules()]
    parameters = [*victim.parameters(), *network.parameters()]
    before = [module.training for module in modules], [parameter.requires_grad for parameter in parameters]
    weights = [tensor.clone() for part in (victim, network) for tensor in part.state_dict().values()]
    seen = adaptive(mode, victim, network)
    during = []
    network.register_forward_pre_hook(lambda module, inputs: during.append(module.training))
    decision.pgd(seen, x, y, ids=IDS, steps=2, target="random")
    assert ([module.training for module in modules], [parameter.requires_grad for parameter in parameters]) == before
    assert all(parameter.grad is None for parameter in parameters)
    after = [tensor for part in (victim, network) for tensor in part.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(weights, after, strict=True))
    assert during and not any(during)


@pytest.mark.parametrize("mode", MODES)
def test_the_networks_are_registered_once_and_not_copied(mode):
    victim, network = tiny_network(), purifier()
    seen = adaptive(mode, victim, network)
    assert set(seen.modules()) >= {victim, network}
    assert len(list(seen.parameters())) == len(list(victim.parameters())) + len(list(network.parameters()))
    assert not seen.training and adaptive(mode, tiny_network().train(), network).training


def test_a_network_may_be_the_defense_itself_or_bound_deeper(network, x):
    itself = purifier()
    assert set(Adaptive(network, itself, bpda=True).modules()) >= set(itself.modules())
    bound = functools.partial(functools.partial(lambda x, f: f(x), f=itself))
    assert set(Adaptive(network, bound).modules()) >= set(itself.modules())
    assert torch.equal(Adaptive(network, itself)(x), Adaptive(network, bound)(x))


def test_the_representation_says_mode_and_options_but_no_address():
    network = tiny_network()
    bound = defense("nrp", network=purifier(), noise=0.05, seed=7)
    for how in ({"bpda": True, "losses": False}, {"bpda": False, "losses": True}):
        shown = Adaptive(network, bound, **how).extra_repr()
        assert shown == f"bpda={how['bpda']}, losses={how['losses']}, defense=nrp(network=NRPResG, noise=0.05, seed=7)"
    assert Adaptive(network, coarse, bpda=True).extra_repr() == "bpda=True, losses=False, defense=coarse"
    assert "defense=NRPResG" in repr(Adaptive(network, purifier()))


def test_many_draws_take_the_memory_of_one_and_give_the_mean_s_gradient():
    torch.manual_seed(0)
    victim, x = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), torch.rand(2, 3, 2, 2)
    draws = [functools.partial(torch.mul, other=torch.rand(3, 2, 2)) for _ in range(6)]

    def gradient(network):
        sizes, given = [], x.clone().requires_grad_(True)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            total = network(given).square().sum()
        return torch.autograd.grad(total, given)[0], sum(sizes)

    found, kept = gradient(Adaptive(victim, *draws))
    expected, all_kept = gradient(lambda given: torch.stack([victim(draw(given)) for draw in draws]).mean(0))
    assert torch.allclose(found, expected, atol=1e-6) and kept < all_kept / 2
