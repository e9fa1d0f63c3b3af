"""What every attack promises: budget, independence of batch and order, an untouched model, clear errors."""

import pytest
import torch
from torch import nn

from lib.attacks import decision, features
from lib.attacks.ascent import ascend, gradient
from lib.attacks.registry import ATTACKS
from lib.networks.wrappers import Tap
from tests.conftest import eight_bit_images, tiny_network

IDS = list("abcdef")
LABELLED = ["FGSM", "I-FGSM", "MI-FGSM"]


def looked_at(attack, network):
    """The attack's first argument, if it takes one."""
    if attack.on == "nothing":
        return []
    return [{"features": lambda net: Tap(net, "2"), "generator": Proposing}.get(attack.on, lambda net: net)(network)]


def run(name, network, x, y, ids=IDS, **parameters):
    """One attack by its name, whatever it takes. `ids` and labels belong to the images."""
    attack = ATTACKS[name]
    if name == "FFF":
        dtype = next(network.parameters()).dtype
        shape = tuple(x.shape[1:])
        delta = features.fff(Normal(network).to(dtype), ["2", "4"], shape, iterations=20, **parameters)
        return features.add_perturbation(x, delta, parameters.get("eps", 16 / 255))
    first = looked_at(attack, network)
    labels = [y] if "y" in attack.parameters else []
    keyed = {"ids": ids} if "ids" in attack.parameters else {}
    steps = {"steps": 5, "step": 4 / 255} if "snapshots" in attack.parameters else {}
    return attack.run(*first, x, *labels, **keyed, **steps, **parameters)


class Normal(nn.Module):
    """A network with the mean that FFF starts from."""

    def __init__(self, network):
        super().__init__()
        self.inner = network
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.45))

    def forward(self, x):
        return self.inner(x - self.mean)

    def named_modules(self, *args, **kwargs):
        yield from self.inner.named_modules(*args, **kwargs)


class Proposing(nn.Module):
    """A generator: what it proposes is far from the image, and depends on the network inside."""

    remainder = 0

    def __init__(self, network):
        super().__init__()
        self.inner, self.training = network, network.training

    def forward(self, x):
        return torch.sigmoid(8 * x.flip(1) - 4 + self.inner(x)[:, :1, None, None])


every_attack = pytest.mark.parametrize("name", ATTACKS)


@every_attack
@pytest.mark.parametrize("eps", [1, 8, 16])
def test_the_budget_holds_exactly_on_the_8_bit_grid(name, network, x, y, eps):
    x_adv = run(name, network, x, y, eps=eps / 255)
    levels = x_adv * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    assert (levels.round() - (x * 255).round()).abs().max() == eps
    assert x_adv.min() >= 0 and x_adv.max() <= 1 and x_adv.dtype == torch.float32


@every_attack
def test_a_budget_of_zero_gives_the_images_back(name, network, x, y):
    assert torch.allclose(run(name, network, x, y, eps=0.0), x, atol=1e-6)


@every_attack
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_budget_holds_for_every_float_type(name, network, x, y, dtype):
    if dtype == torch.float64:
        network = network.double()
    given = x.to(dtype)
    x_adv = run(name, network, given, y)
    assert ((x_adv * 255).round() - (given.to(x_adv.dtype) * 255).round()).abs().max() == 16


@every_attack
def test_batch_size_and_order_do_not_matter(name, network, y):
    x = eight_bit_images(6, 32, seed=1)
    whole = run(name, network, x, y)
    # An attack that couples its images depends on who is attacked together, not on their order.
    size = 6 if ATTACKS[name].coupled else 1
    parts = [slice(start, start + size) for start in range(0, 6, size)]
    single = torch.cat([run(name, network, x[part], y[part], ids=IDS[part]) for part in parts])
    order = [3, 0, 5, 1, 4, 2]
    shuffled = run(name, network, x[order], y[order], ids=[IDS[i] for i in order])
    for other in (single, shuffled[torch.tensor(order).argsort()]):
        assert (other != whole).float().mean() <= 0.001


@every_attack
def test_seeds_matter_where_an_attack_is_random(name, network, x, y):
    if "ids" not in ATTACKS[name].parameters or name == "FFF":
        assert torch.equal(run(name, network, x, y), run(name, network, x, y))
    else:
        assert not torch.equal(run(name, network, x, y, seed=0), run(name, network, x, y, seed=1))


@every_attack
def test_the_model_is_left_as_found(name, x, y):
    network = tiny_network().train()
    network[6].eval()
    network[0].weight.requires_grad_(False)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    modes, given = [module.training for module in network.modules()], x.clone()
    run(name, network, x, y)
    assert [module.training for module in network.modules()] == modes and torch.equal(x, given)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert [p.requires_grad for p in network.parameters()][:2] == [False, True]
    assert not any(module._forward_hooks for module in network.modules())


@every_attack
def test_integer_images_are_refused(name, network, x, y):
    with pytest.raises(TypeError, match="divide 8-bit images by 255"):
        run(name, network, (x * 255).to(torch.uint8), y)


@every_attack
def test_normalised_images_are_refused(name, network, x, y):
    with pytest.raises(ValueError, match=r"images must lie in \[0,1\].*normalises them itself"):
        run(name, network, (x - 0.45) / 0.22, y)


@every_attack
def test_images_that_are_not_finite_are_refused(name, network, x, y):
    x[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="must lie in"):
        run(name, network, x, y)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "FFF"])
def test_a_single_image_without_batch_is_refused(name, network, x, y):
    with pytest.raises(ValueError, match=r"shape \[B,3,H,W\]"):
        run(name, network, x[0], y)


@pytest.mark.parametrize("name", ["FGSM", "DIM", "SSP"])
def test_a_negative_budget_is_refused(name, network, x, y):
    with pytest.raises(ValueError, match="eps must be 0 or more"):
        run(name, network, x, y, eps=-1 / 255)


class Broken(nn.Module):
    """Its gradient is not finite for the second image."""

    def forward(self, x):
        scale = torch.ones(len(x), 1)
        scale[1] = float("nan")
        return x.flatten(1)[:, :10] * scale


@pytest.mark.parametrize("name", LABELLED)
def test_a_gradient_that_is_not_finite_names_the_images(name, x, y):
    with pytest.raises(FloatingPointError, match=r"images \[1\]"):
        run(name, Broken(), x, y)


@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if "ids" in attack.parameters])
@pytest.mark.parametrize("ids", [[], ["a"], list("abcdefg")])
def test_every_image_needs_its_own_id(name, network, x, y, ids):
    with pytest.raises(ValueError, match=f"{len(ids)} ids for 6 images"):
        run(name, network, x, y, ids=ids)


def test_a_random_step_larger_than_the_budget_is_refused(network, x, y):
    with pytest.raises(ValueError, match="exceeds the budget"):
        decision.r_fgsm(network, x, y, ids=IDS, eps=4 / 255, alpha=5 / 255)


def test_targets_cannot_be_drawn_without_labels(network, x):
    with pytest.raises(ValueError, match="needs the true labels"):
        decision.pgd(network, x, None, ids=IDS, target="random")


def test_steps_and_snapshots_must_make_sense(network, x, y):
    with pytest.raises(ValueError, match="steps must be 1 or more"):
        decision.i_fgsm(network, x, y, steps=0)
    for snapshots in ([5, 2], [0, 1], [1, 11], [2, 2]):
        with pytest.raises(ValueError, match=r"snapshots must ascend within 1\.\.10"):
            decision.i_fgsm(network, x, y, snapshots=snapshots)


@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if "snapshots" in attack.parameters])
def test_snapshots_are_the_shorter_runs(name, network, x, y):
    attack = ATTACKS[name]
    first = looked_at(attack, network)
    labels = [y] if "y" in attack.parameters else []
    keyed = {"ids": IDS} if "ids" in attack.parameters else {}
    recorded = attack.run(*first, x, *labels, **keyed, steps=7, snapshots=[1, 3, 7])
    assert recorded.shape == (3, *x.shape)
    for steps, snapshot in zip([1, 3, 7], recorded, strict=True):
        assert torch.equal(snapshot, attack.run(*first, x, *labels, **keyed, steps=steps))


def test_the_budget_may_differ_from_image_to_image(network, x, y):
    eps = torch.tensor([0, 1, 2, 4, 8, 16]).view(6, 1, 1, 1) / 255
    moved = (decision.fgsm(network, x, y, eps=eps) - x).abs().amax((1, 2, 3)) * 255
    assert moved.round().tolist() == [0, 1, 2, 4, 8, 16]


def test_the_gradient_is_that_of_finite_differences():
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def objective(images):
        return (images**3).sum((1, 2, 3))

    bump = torch.zeros_like(x)
    bump[1, 2, 3, 0] = 1e-6
    slope = (objective(x + bump) - objective(x - bump))[1] / 2e-6
    assert gradient(objective, x)[1, 2, 3, 0].item() == pytest.approx(slope.item(), rel=1e-5)


def test_a_start_outside_the_ball_is_projected_by_the_first_step(x):
    far = torch.full_like(x, 5.0)
    result = ascend(lambda images: images.sum((1, 2, 3)), x, eps=4 / 255, step=1 / 255, steps=1, start=far)
    assert torch.allclose(result, (x + 4 / 255).clamp(max=1), atol=1e-6)


def test_noise_uses_its_whole_budget_in_both_directions():
    x = torch.full((2, 3, 32, 32), 128 / 255)
    moved = ((decision.sign_noise(x, ids="ab") - x) * 255).round()
    assert set(moved.unique().tolist()) == {-16.0, 16.0}
    assert abs((moved > 0).float().mean() - 0.5) < 0.05
