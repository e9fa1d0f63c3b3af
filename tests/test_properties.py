"""What holds for every attack and every defense, whatever the images' number and shape, the budget and the batches."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.attacks.registry import ATTACKS
from lib.defenses import DEFENSES, defense
from lib.networks.purifier import NRPResG, begin_as_identity
from lib.units import to_bytes
from tests.attacks.test_contract import run
from tests.conftest import tiny_network

# The same cases in every run, so that a failure is never a matter of luck.
FEW = settings(max_examples=8, deadline=None, derandomize=True, database=None)
SMALLEST = 8  # side of the images; what smaller ones do belongs to each attack's own tests


@st.composite
def batches(draw):
    """Images `[B,3,H,W]` on the 8-bit grid in float64, in which no two networks' rounding decides a sign; with labels
    and names, and how to split and order them."""
    count, height, width = draw(st.integers(1, 4)), *(draw(st.integers(SMALLEST, 24)) for _ in range(2))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    # Plain, dark, bright and empty images among them, where the budget meets the ends of the range.
    low, high = draw(st.sampled_from([(0, 256), (0, 4), (250, 256), (0, 1), (255, 256)]))
    x = torch.randint(low, high, (count, 3, height, width), generator=generator).double() / 255
    order = draw(st.permutations(range(count)))
    return x, torch.arange(count), [f"image {k}" for k in range(count)], draw(st.integers(1, count)), order


@functools.cache
def network():
    return tiny_network().double()


def parameters(draw, name):
    """A budget, steps and a seed, as far as the attack takes them."""
    found = {"eps": draw(st.integers(0, 40)) / 255}
    taken = ATTACKS[name].parameters
    if "step" in taken and "snapshots" not in taken:
        found["step"] = draw(st.integers(1, 40)) / 255
    return found | ({"seed": draw(st.integers(0, 99))} if "seed" in taken else {})


@pytest.mark.parametrize("name", ATTACKS)
@FEW
@given(data=st.data())
def test_an_attack_keeps_its_budget_and_depends_on_the_image_alone(name, data):
    x, y, ids, size, order = data.draw(batches())
    chosen = parameters(data.draw, name)
    attack = functools.partial(run, name, network(), **chosen)
    x_adv = attack(x, y, ids=ids)
    levels, clean = x_adv * 255, to_bytes(x).int()
    assert x_adv.shape == x.shape and x_adv.dtype == x.dtype
    assert torch.allclose(levels, levels.round(), atol=1e-6) and 0 <= x_adv.min() and x_adv.max() <= 1
    assert (levels.round().int() - clean).abs().max() <= round(255 * chosen["eps"])
    assert torch.equal(attack(x, y, ids=ids), x_adv)
    shuffled = attack(x[order], y[order], ids=[ids[place] for place in order])
    assert torch.equal(to_bytes(shuffled), to_bytes(x_adv[order]))
    if not ATTACKS[name].coupled:  # of which the ids say who is attacked together
        parts = [slice(begin, begin + size) for begin in range(0, len(x), size)]
        assert torch.equal(torch.cat([to_bytes(attack(x[p], y[p], ids=ids[p])) for p in parts]), to_bytes(x_adv))


@functools.cache
def purifier():
    torch.manual_seed(0)
    made = NRPResG(width=4, blocks=1)
    begin_as_identity(made)
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made.eval().requires_grad_(False).double()


OPTIONS = {
    "jpeg": st.fixed_dictionaries({"quality": st.integers(1, 100)}),
    "tvm": st.fixed_dictionaries({"weight": st.floats(1, 200)}),
    "median": st.fixed_dictionaries({"window": st.sampled_from([3, 5])}),
    "noise": st.fixed_dictionaries({"noise": st.sampled_from([0.0, 0.05]), "seed": st.integers(0, 99)}),
    "nrp": st.fixed_dictionaries({"noise": st.sampled_from([0.0, 0.05]), "seed": st.integers(0, 99)}),
}


def test_every_defense_is_here():
    assert set(OPTIONS) == set(DEFENSES)


@pytest.mark.parametrize("kind", DEFENSES)
@FEW
@given(data=st.data())
def test_a_defense_gives_images_and_depends_on_the_image_alone(kind, data):
    x, _, _, size, order = data.draw(batches())
    options = data.draw(OPTIONS[kind]) | ({"network": purifier()} if kind == "nrp" else {})
    applied, given_ = defense(kind, **options), x.clone()
    out = applied(x)
    assert out.shape == x.shape and out.is_floating_point() and 0 <= out.min() and out.max() <= 1
    if kind in ("jpeg", "median"):  # which give 8-bit images of 8-bit images
        assert torch.allclose(out * 255, (out * 255).round(), atol=1e-4)
    assert torch.equal(x, given_) and torch.equal(applied(x), out)
    for other in (applied(x[order]), torch.cat([applied(part) for part in x.split(size)])[order]):
        assert torch.allclose(other, out[order], rtol=0, atol=1e-9)
