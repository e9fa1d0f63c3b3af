"""Bad inputs, and unusual ones: every attack and every defense refuses them in one line, or does what it promises.

docs/reliability.md lists the kinds. The attacks' budget, independence of the batch and untouched models are in
tests/attacks/test_contract.py.
"""

import contextlib
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from lib import own as own_module
from lib.attacks import decision, search
from lib.attacks.adaptive import Adaptive
from lib.attacks.decision import bypass_nrp
from lib.attacks.features import add_perturbation, ssp
from lib.attacks.generators import cda
from lib.attacks.own import own_attack
from lib.attacks.registry import ATTACKS
from lib.checks import unchanged_networks
from lib.defenses import DEFENSES, defense
from lib.defenses.own import own_defense
from lib.networks.cda_generator import GENERATORS
from lib.networks.wrappers import Normalised, Tap
from lib.tasks.predictions import classify, detect, fidelity_of, segment
from lib.training import loop
from tests.attacks.test_contract import IDS, looked_at, run
from tests.conftest import eight_bit_images, tiny_network
from tests.doubles import Corner, Pixelwise

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

EPS = 16 / 255
LABELLED = [name for name, attack in ATTACKS.items() if "y" in attack.parameters]
GRADIENT = [name for name, attack in ATTACKS.items() if attack.transfers and name not in ("Noise", "CDA")]


def sign_step(network, x, y, *, eps):
    """An attack of a user's."""
    x_adv = x.clone().requires_grad_(True)
    network(x_adv).square().sum().backward()
    return (x + eps * x_adv.grad.sign()).clamp(0, 1)


def darker(x):
    """A defense of a user's."""
    return 0.9 * x


class Purifying(nn.Module):
    """A purifier with a parameter and every mode."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.01))

    def forward(self, x):
        return x + self.shift


def attacked(name, network, x, y, **parameters):
    """What an attack of the registry, or the user's, makes of six images."""
    if name == "own":
        return own_attack(sign_step, network, x, y, eps=parameters.pop("eps", EPS), **parameters)
    ids = IDS[: len(x)] if hasattr(x, "__len__") else IDS
    return run(name, network, x, y, ids=ids, **parameters)


def defended(name, x):
    """What a defense of the registry, or the user's, makes of images."""
    if name == "own":
        return own_defense(darker, x)
    # Noise is drawn by the image's own bits: of a rounded image other noise.
    options = {"nrp": {"network": Purifying()}, "noise": {"noise": 0.0}}
    return defense(name, **options.get(name, {}))(x)


every_attack = pytest.mark.parametrize("name", [*ATTACKS, "own"])
every_defense = pytest.mark.parametrize("name", [*DEFENSES, "own"])


def refusal(act, message="", kinds=(ValueError, TypeError)):
    """The one line with which something is refused."""
    with pytest.raises(kinds, match=message) as caught:
        act()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    return str(caught.value)


X = eight_bit_images(6)
NO_IMAGES = {
    "an array": (X.numpy(), "torch tensor"),
    "a list": (list(X), "torch tensor"),
    "8 bits": ((X * 255).byte(), "divide 8-bit images by 255"),
    "whole numbers": ((X * 255).long(), "divide 8-bit images by 255"),
    "truth values": (X > 0.5, "divide 8-bit images by 255"),
    "complex": (X.to(torch.complex64), "float in"),
    "channels last": (X.permute(0, 2, 3, 1), r"x\.permute\(0, 3, 1, 2\)"),
    "one image": (X[0], r"x\[None\]"),
    "grey": (X[:, :1], r"\[B,3,H,W\]"),
    "alpha": (torch.cat([X, X[:, :1]], 1), r"\[B,3,H,W\]"),
    "a film": (X[None], r"\[B,3,H,W\]"),
    "no image": (X[:0], "none of them 0"),
    "no row": (X[:, :, :0], "none of them 0"),
    "not a number": (X.clone().index_put((torch.tensor(0),) * 4, torch.tensor(torch.nan)), "not finite"),
    "infinite": (X.clone().index_put((torch.tensor(0),) * 4, torch.tensor(torch.inf)), "not finite"),
    "sparse": (X.to_sparse(), "must be a dense tensor"),
    "without numbers": (X.to("meta"), "must be a dense tensor"),
    "float8": (X.to(torch.float8_e4m3fn), "float in"),
}
NOT_IN_RANGE = {
    "0 to 255": (X * 255, "divide 0-255 levels by 255"),
    "-1 to 1": (2 * X - 1, "normalises them itself"),
    "normalised": ((X - 0.45) / 0.22, "normalises them itself"),
    "a little above": (X + 0.01, r"must lie in \[0,1\].*x\.clamp\(0, 1\)"),
    "rounded above": (X * 1.0000001, r"got \[0, 1\.0000001\].*x\.clamp\(0, 1\)"),
}


@every_attack
@pytest.mark.parametrize("kind", [*NO_IMAGES, *NOT_IN_RANGE])
def test_no_attack_takes_what_are_no_images(name, kind, network, y):
    x, message = (NO_IMAGES | NOT_IN_RANGE)[kind]
    if name == "FFF":  # its perturbation has a shape of its own; the images meet it at the end
        perturbation = torch.zeros(1, 3, 16, 16)
        refusal(lambda: add_perturbation(x, perturbation, EPS), message)
    else:
        refusal(lambda: attacked(name, network, x, y), message)


@every_defense
@pytest.mark.parametrize("kind", [*NO_IMAGES, *NOT_IN_RANGE])
def test_no_defense_takes_what_are_no_images(name, kind):
    x, message = (NO_IMAGES | NOT_IN_RANGE)[kind]
    if name in ("nrp", "noise", "own") and kind in NOT_IN_RANGE:
        return  # the first iterate of PGD lies outside [0,1]
    refusal(lambda: defended(name, x), message)


# Units.


@every_attack
@pytest.mark.parametrize("eps", [16, 2, 8.0, 255, 1e6, -1 / 255, float("nan"), float("inf")])
def test_a_budget_in_levels_is_refused_with_both_readings(name, network, x, y, eps):
    line = refusal(lambda: attacked(name, network, x, y, eps=eps), "^eps must")
    assert not 1 < eps <= 255 or f"{eps:.4g} of {255} levels is eps={eps / 255:.4g}" in line


@every_attack
@pytest.mark.parametrize("eps", ["16/255", None, True, [EPS]])
def test_a_budget_that_is_no_number_is_refused(name, network, x, y, eps):
    refusal(lambda: attacked(name, network, x, y, eps=eps), "eps must be a number")


def test_the_issue_s_example_is_its_line():
    with pytest.raises(ValueError) as caught:
        ssp(Tap(tiny_network(), "2"), X, ids=IDS, eps=16)
    assert str(caught.value) == "eps must lie in [0,1]: 16 looks like levels; 16 of 255 levels is eps=0.06275"


@every_attack
@pytest.mark.parametrize("eps", [0.0, 0.2 / 255, 0.5 / 255, 1 / 255, 0.5, 1.0])
def test_every_budget_that_can_be_meant_is_taken(name, network, x, y, eps):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x_adv = attacked(name, network, x, y, eps=eps)
    assert (x_adv - x).abs().max() <= eps + 1e-6


STEPPING = [name for name, attack in ATTACKS.items() if "step" in attack.parameters]


@pytest.mark.parametrize("name", STEPPING)
@pytest.mark.parametrize("step", [1.6, 0.2, 16, float("nan"), -1 / 255])
def test_a_step_in_levels_is_refused(name, network, x, y, step):
    attack = ATTACKS[name]
    named = {"ids": IDS} if "ids" in attack.parameters else {}
    labels = [y] if "y" in attack.parameters else []
    refusal(lambda: attack.run(*looked_at(attack, network), x, *labels, **named, step=step), "^step must")
    attack.run(*looked_at(attack, network), x, *labels, **named, step=0.2 / 255, **steps_of(attack))


def steps_of(attack):
    return {"steps": 1} if "steps" in attack.parameters else {}


def test_a_random_step_in_levels_is_refused(network, x, y):
    refusal(lambda: decision.r_fgsm(network, x, y, ids=IDS, alpha=5.33), "5.33 of 255 levels is alpha=0.0209")


def test_noise_thresholds_and_means_in_levels_are_refused(x):
    nrp = {"network": Purifying()}
    refusal(lambda: defense("nrp", **nrp, noise=12.75)(x), "12.75 of 255 levels is noise=0.05")
    refusal(lambda: defense("nrp", **nrp, noise=0.05, eps=16)(x), "16 of 255 levels is eps=0.06275")
    refusal(lambda: defense("tvm", tolerance=2.55)(x), "2.55 of 255 levels is tolerance=0.01")
    refusal(lambda: Normalised(tiny_network(), mean=(123.7, 116.3, 103.5)), "123.7 of 255 levels is mean=0.4851")
    refusal(lambda: decision.dim(tiny_network(), x, None, ids=IDS, probability=70), "probability must lie in")


COUNTS = {
    "steps": ("I-FGSM", "PGD", "SSP", "FSA", "SPSA"),
    "queries": ("Square", "Random corners"),
    "samples": ("SPSA",),
}
COUNTS |= {"batch": ("FSA",), "iterations": ("FSA",), "kernel": ("DIM-TI",)}
AMOUNTS = {
    "decay": "MI-FGSM",
    "probability": "DIM",
    "edge": "DIM-TI",
    "share": "Square",
    "reg": "FSA",
    "tolerance": "FSA",
}


def changed(name, network, x, y, option, value):
    """An attack with one option of another value."""
    attack, other = ATTACKS[name], {"kernel": 15} if name == "DIM-TI" and option != "kernel" else {}
    named = {"ids": IDS} if "ids" in attack.parameters else {}
    labels = [y] if "y" in attack.parameters else []
    attack.run(*looked_at(attack, network), x, *labels, **named, **other, **{option: value})


@pytest.mark.parametrize("option, name", [(option, name) for option, names in COUNTS.items() for name in names])
@pytest.mark.parametrize("value", [0, -1, 2.5, 10.0, "10", None, True, float("nan")])
def test_counts_are_whole_numbers_from_1_on(option, name, value, network, x, y):
    if value is not None or option != "kernel":
        refusal(lambda: changed(name, network, x, y, option, value), f"^{option} must be")


@pytest.mark.parametrize("option, name", AMOUNTS.items())
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "0.7", None, True])
def test_amounts_without_a_unit_are_numbers_that_mean_something(option, name, value, network, x, y):
    refusal(lambda: changed(name, network, x, y, option, value), f"^{option} must")


def test_what_else_an_option_cannot_be_is_said(network, x, y):
    refusal(lambda: changed("DIM-TI", network, x, y, "kernel", 4), "kernel must be odd")
    refusal(lambda: changed("SPSA", network, x, y, "delta", 0), "^delta must")
    refusal(
        lambda: changed("PGD", tiny_network(classes=2), x, y % 2, "loss", "dlr"), "classes of the loss dlr must be 3"
    )
    refusal(lambda: bypass_nrp(network, x, ids=IDS, steps=0), "^steps must")
    refusal(lambda: defense("jpeg", quality=1.0)(x), "whole number from 1 to 100, got 1.0")
    refusal(lambda: defense("tvm", weight="30")(x), "^weight must be a number")
    refusal(lambda: defense("tvm", max_iterations=2.5)(x), "^max_iterations must be a whole number")
    refusal(lambda: Normalised(network, std=(0.2, 0.2, 0.0)), "std above 0")
    refusal(lambda: Normalised(network, mean=(0.5, 0.5)), "three numbers each")
    for wrong in ("nan", "inf"):
        perturbation = torch.full((1, 3, 16, 16), float(wrong))
        refusal(lambda p=perturbation: add_perturbation(x, p, EPS), "not finite", FloatingPointError)
    refusal(lambda: add_perturbation(x, torch.zeros(2, 3, 16, 16), EPS), "does not fit")


@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if "ids" in attack.parameters])
@pytest.mark.parametrize("ids", [None, set("abcdef"), iter("abcdef"), list("aabcde"), [1, "1", 2, 3, 4, 5]])
def test_every_image_has_an_id_of_its_own(name, ids, network, x, y):
    refusal(lambda: run(name, network, x, y, ids=ids), "^ids must be a list|is given twice")


def test_a_budget_per_image_has_one_number_per_image(network, x, y):
    for shape in ((6,), (6, 1), (5, 1, 1, 1), (1, 3, 1, 1)):
        refusal(lambda shape=shape: decision.fgsm(network, x, y, eps=torch.full(shape, EPS)), r"\[6,1,1,1\]")
    refusal(lambda: decision.fgsm(network, x, y, eps=torch.full((6, 1, 1, 1), 16.0)), "16 of 255 levels")


# Sizes and types.

SIZES = [(1, 1), (1, 2), (2, 2), (3, 3), (4, 4), (5, 5), (7, 6), (1, 300)]


class AnySize(nn.Module):
    """A classifier of images of any size."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleDict({"2": nn.Conv2d(3, 8, 3, padding=1), "4": nn.Conv2d(8, 10, 1)})

    def forward(self, x):
        return self.layers["4"](self.layers["2"](x)).mean((2, 3))

    def named_modules(self, *arguments, **named):
        yield from self.layers.named_modules(*arguments, **named)


@every_attack
@pytest.mark.parametrize("size", SIZES)
def test_every_attack_works_at_every_size_or_says_the_least(name, size):
    torch.manual_seed(0)
    x, network = (torch.rand(2, 3, *size) * 255).round() / 255, AnySize()
    if name.startswith("DIM") and min(size) < 5:
        assert "the least size is 5x5" in refusal(lambda: attacked(name, network, x, torch.arange(2)))
        return
    if name == "CDA":
        for kind in GENERATORS.values():
            moved = (cda(kind(4, 1), x) - x).abs().max()
            assert 0 < moved <= EPS + 1e-6
        return
    if name == "SSP":
        assert ssp(Tap(network, "2"), x, ids="ab", steps=2).shape == x.shape
        return
    x_adv = attacked(name, network, x, torch.arange(2))
    assert x_adv.shape == x.shape and 0 < (x_adv - x).abs().max() <= EPS + 1e-6


@every_defense
@pytest.mark.parametrize("size", [*SIZES, (2, 65_536), (65_536, 2), (65_500, 2)])
def test_every_defense_works_at_every_size_or_says_which(name, size):
    x = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    if name == "jpeg" and max(size) > 65_500:
        refusal(lambda: defended(name, x), f"at most 65500 pixels, got {size[0]}x{size[1]}")
    elif name == "tvm" and min(size) < 2:
        refusal(lambda: defended(name, x), "at least 2x2")
    else:
        result = defended(name, x)
        assert result.shape == x.shape and result.dtype == torch.float32 and 0 <= result.min() <= result.max() <= 1


@every_defense
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_defense_takes_every_float_type(name, dtype):
    result = defended(name, X.to(dtype))
    tolerance = 0.02 if dtype == torch.bfloat16 else 2e-3 if dtype == torch.float16 else 1e-5
    assert result.dtype in (torch.float32, torch.float64)
    if name != "jpeg" or dtype == torch.float64:  # 8 bits of a rounded image may be other ones
        assert (result - defended(name, X)).abs().max() <= tolerance + (name == "jpeg") / 255


@every_attack
def test_images_are_brought_to_the_network_s_type(name, network, x, y):
    kinds = {attacked(name, network, given, y).dtype for given in (x.double(), x.half())}
    # Noise looks at no network, and FFF's perturbation is added to images without one.
    assert kinds == ({torch.float64, torch.float32} if name in ("Noise", "FFF") else {torch.float32})
    if name != "Noise":
        refusal(lambda: attacked(name, tiny_network().half(), x, y), "float16")


@every_attack
@pytest.mark.parametrize("layout", ["expanded", "strided", "channels_last", "needs a gradient"])
def test_the_layout_in_memory_does_not_matter(name, layout, network, x, y):
    given = {
        "expanded": x[:1].expand(6, -1, -1, -1),
        "strided": torch.cat([x, x], 3)[..., :16],
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "needs a gradient": x.clone().requires_grad_(True),
    }[layout]
    before = given.detach().clone()
    result = attacked(name, network, given, y)
    plain = attacked(name, network, before.contiguous(), y)
    assert (result != plain).float().mean() < 0.002 and not result.requires_grad and torch.equal(given, before)


# Labels.

BAD_LABELS = {
    "counted from 1": (torch.arange(1, 11)[:6] + 4, "counted from 1"),
    "beyond": (torch.tensor([0, 1, 2, 3, 4, 99]), "0 to 9, got 99"),
    "negative": (torch.tensor([0, 1, 2, 3, 4, -1]), "got -1"),
    "real": (torch.arange(6).float(), "whole numbers"),
    "truth values": (torch.arange(6) > 2, "whole numbers"),
    "one-hot": (torch.eye(10, dtype=torch.long)[:6], r"\[6\], a class per image, got \[6, 10\]"),
    "too few": (torch.arange(5), r"\[6\]"),
    "a column": (torch.arange(6)[:, None], r"\[6\]"),
    "a list": ([0, 1, 2, 3, 4, 5], "got list"),
    "an array": (np.arange(6), "got ndarray"),
}


@pytest.mark.parametrize("name", [*LABELLED, "own"])
@pytest.mark.parametrize("kind", BAD_LABELS)
def test_labels_that_are_none_are_refused(name, kind, network, x):
    y, message = BAD_LABELS[kind]
    if name == "own" and kind in ("counted from 1", "beyond"):
        return  # nobody knows the classes of what an own attack looks at
    refusal(lambda: attacked(name, network, x, y), message)


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.uint16, torch.uint64])
def test_labels_of_every_whole_type_are_taken(name, dtype, network, x, y):
    assert torch.equal(attacked(name, network, x, y.to(dtype)), attacked(name, network, x, y))


class Giving(nn.Module):
    """A network that gives something else than logits."""

    def __init__(self, change):
        super().__init__()
        self.inner, self.change = tiny_network(), change

    def forward(self, x):
        return self.change(self.inner(x))


@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if attack.on == "logits"])
@pytest.mark.parametrize(
    "change, message",
    [
        (lambda z: {"logits": z}, "got dict"),
        (lambda z: (z, z), "got tuple"),
        (lambda z: z[:, :, None, None], r"got \[6, 10, 1, 1\]|got \["),
        (lambda z: z.sum(1), r"logits \[\d,K\], got"),
        (lambda z: z.detach(), "passes no gradient"),
        (lambda z: z[:, :1], r"logits \[\d,K\], got \[\d, 1\]"),
        (lambda z: (100 * z).long(), "a float tensor, got torch.int64"),
        (lambda z: z.to(torch.complex64), "a float tensor, got torch.complex64"),
    ],
)
def test_what_are_no_logits_is_said(name, change, message, x, y):
    if message == "passes no gradient" and name not in GRADIENT:
        return
    refusal(lambda: attacked(name, Giving(change), x, y), message)


def test_what_is_no_network_is_said(x, y):
    for wrong in (lambda images: images, "resnet50", [], [tiny_network(), "resnet50"], None):
        refusal(lambda wrong=wrong: decision.i_fgsm(wrong, x, y), "torch.nn.Module or a list of them")
        refusal(lambda wrong=wrong: ssp(wrong, x, ids=IDS), "must be a torch.nn.Module")
        refusal(lambda wrong=wrong: Tap(wrong, "2"), "must be a torch.nn.Module")
        refusal(lambda wrong=wrong: cda(wrong, x), "must be a torch.nn.Module")
        refusal(lambda wrong=wrong: Adaptive(wrong, darker), "must be a torch.nn.Module")
    refusal(lambda: cda(tiny_network(), x), "CDA needs a generator")


def by_the_way(x):
    """Normalises its input in place, as many networks do."""
    return x.sub_(0.45).div_(0.22)


@every_attack
def test_networks_that_change_their_input_in_place_change_no_image(name, x, y):
    if name in ("Noise", "own", "CDA", "FFF"):
        return  # an own attack hands over its images itself
    network = tiny_network()
    expected, before = attacked(name, Own(network, lambda x: (x - 0.45) / 0.22), x, y), x.clone()
    assert torch.equal(attacked(name, Own(network, by_the_way), x, y), expected) and torch.equal(x, before)


def test_defenses_that_change_their_input_in_place_change_no_image(x, y):
    before, adaptive = x.clone(), Adaptive(tiny_network(), lambda x: x.mul_(0.9))
    assert (search.square(adaptive, x, y, ids=IDS, queries=5) - x).abs().max() <= EPS + 1e-6
    defense("nrp", network=Own(nn.Identity(), by_the_way))(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: None,
        lambda x: x[:, :1],
        lambda x: x[..., :8],
        lambda x: x[:1],
        lambda x: x.mean((2, 3)),
        lambda x: (x, x),
    ],
)
def test_what_a_defense_or_a_purifier_gives_must_be_images_of_the_same_shape(change, x, y):
    message = r"must return images of shape \[6, 3, 16, 16\], got"
    refusal(lambda: defense("nrp", network=Own(nn.Identity(), change))(x), message)
    for bpda in (False, True):
        refusal(lambda bpda=bpda: decision.pgd(Adaptive(tiny_network(), change, bpda=bpda), x, y, ids=IDS), message)
    refusal(lambda: classify(tiny_network(), (X * 255).byte(), change), message)


class Own(nn.Module):
    """A network behind a change of the images."""

    def __init__(self, inner, change):
        super().__init__()
        self.inner, self.change = inner, change

    def forward(self, x):
        return self.inner(self.change(x))

    def named_modules(self, *arguments, **named):
        yield from self.inner.named_modules(*arguments, **named)


# Numbers that are not finite, and gradients that are zero.


class Saturated(nn.Module):
    """Logits so far apart that the first images' loss has no gradient in float32."""

    def __init__(self, count):
        super().__init__()
        self.count = count

    def forward(self, x):
        size = torch.full((len(x), 1), 1.0)
        size[: self.count] = 1e6
        return x.flatten(1)[:, :10] * size + size * torch.eye(10)[: len(x)] * 10


@pytest.mark.parametrize("name", [n for n in LABELLED if n in GRADIENT and "DIM" not in n and "targeted" not in n])
def test_a_zero_gradient_is_said_with_the_share_of_images(name, x, y):
    with pytest.warns(UserWarning, match=r"^3 of 6 images \(50 %\): the gradient is zero at the first step") as caught:
        attacked(name, Saturated(3), x, y)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attacked(name, Saturated(0), x, y)


def test_an_own_attack_that_leaves_images_unchanged_is_said(network, x, y):
    def idle(network, x, y, *, eps):
        return torch.cat([x[:2], (x[2:] + eps).clamp(0, 1)])

    with pytest.warns(UserWarning, match=r"^2 of 6 images \(33 %\): .* leaves them unchanged"):
        own_attack(idle, network, x, y, eps=EPS)


class Broken(nn.Module):
    """Gives a number that is not finite for the last image."""

    def __init__(self, value, segments=False):
        super().__init__()
        self.value, self.segments = value, segments

    def forward(self, x):
        z = x.repeat(1, 4, 1, 1) if self.segments else x.flatten(1)[:, :10].clone()
        return torch.cat([z[:-1], z[-1:] + self.value])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_no_result(value):
    images = (X * 255).byte()
    refused = {"kinds": FloatingPointError, "message": "not finite"}
    refusal(lambda: classify(Broken(value), images), **refused)
    refusal(lambda: segment(Broken(value, True), images), **refused)
    refusal(
        lambda: detect(lambda x: [found | {"scores": found["scores"] * value} for found in Corner()(x)], images),
        **refused,
    )
    refusal(lambda: fidelity_of(images, images, lambda x: x * value, None, batch=3, device="cpu"), **refused)
    for attack in (search.square, search.corners):
        refusal(lambda attack=attack: attack(Broken(value), X, torch.arange(6), ids=IDS, queries=3), **refused)
    refusal(lambda: defense("nrp", network=Own(nn.Identity(), lambda x: x * value))(X), **refused)
    broken = GENERATORS["cda_generator"](4, 1)
    broken.blockf[1].bias.data.fill_(float("nan"))
    refusal(lambda: cda(broken, X), **refused)
    refusal(lambda: own_defense(lambda x: x * value, X), "must return images")


def test_a_training_with_a_loss_that_is_not_finite_stores_nothing(tmp_path):
    network = nn.Linear(1, 1)
    training = loop.Training(
        None, network, {"network": network}, 5, lambda step: {"loss": 1.0 if step < 3 else float("nan")}, []
    )
    refusal(lambda: loop.run_steps(training, tmp_path / "x.ckpt", "", 0.0), "loss.*at step 4 of 5", FloatingPointError)
    assert torch.load(tmp_path / "x.ckpt")["step"] <= 3
    network.weight.data.fill_(float("inf"))
    training = training._replace(advance=lambda step: {"loss": 1.0})
    refusal(lambda: loop.run_steps(training, tmp_path / "y.ckpt", "", 1e9), "trained weight", FloatingPointError)


# The tasks' inputs.


@pytest.mark.parametrize("images", [X, X.numpy(), (X * 255).byte()[0], (X * 255).byte()[:0], (X * 255).long()])
def test_tasks_take_8_bit_images_alone(images):
    for compute, network in ((classify, tiny_network()), (segment, Pixelwise())):
        refusal(lambda compute=compute, network=network: compute(network, images), "8-bit images must")


def test_tasks_leave_the_victim_as_found_and_in_inference_mode():
    network, images = tiny_network().train(), (X * 255).byte()
    expected = classify(tiny_network(), images)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        found = classify(network, images)
    assert np.array_equal(found["classes"], expected["classes"]) and network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


ONE = {"boxes": torch.zeros(1, 4), "scores": torch.ones(1), "labels": torch.ones(1, dtype=torch.long)}


@pytest.mark.parametrize(
    "found",
    [None, torch.zeros(3, 6), {"boxes": ONE["boxes"]}, ONE | {"labels": torch.ones(2)}, ONE | {"scores": [0.5]}],
)
def test_what_are_no_detections_is_said(found):
    refusal(lambda: detect(lambda images: [found for _ in images], (X * 255).byte()), r"boxes \[n,4\]")


def test_distances_are_of_8_bit_images():
    refusal(lambda: fidelity_of(X, X, None, None, batch=3, device="cpu"), "8-bit images must")


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_of_none_ends(batch):
    images = (X * 255).byte()
    assert np.array_equal(
        classify(tiny_network(), images, batch=batch)["classes"], classify(tiny_network(), images)["classes"]
    )


def test_torchscript_networks_are_evaluated_and_attacked_but_have_no_layers(x, y):
    network, images = tiny_network(), (X * 255).byte()
    scripted = torch.jit.trace(network, x)
    assert np.array_equal(classify(scripted, images)["classes"], classify(network, images)["classes"])
    assert (decision.i_fgsm(scripted, x, y) != decision.i_fgsm(network, x, y)).float().mean() < 0.002
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own_attack(sign_step, scripted, x, y, eps=EPS)
    refusal(lambda: Tap(scripted, "2"), "TorchScript")


class Counting(nn.Module):
    """A victim that keeps a state."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x.flatten(1)[:, :10]


def test_a_victim_that_changes_itself_is_refused():
    refusal(lambda: classify(Counting(), (X * 255).byte()), "Counting's forward pass changes the network")


def test_few_classes_are_enough():
    network = nn.Sequential(nn.Flatten(), nn.Linear(768, 2))
    assert classify(network, (X * 255).byte())["classes"].shape == (6, 2)


# The caller's PyTorch.


@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


STATES = {
    "no_grad": torch.no_grad,
    "inference mode": torch.inference_mode,
    "float64 by default": lambda: default_dtype(torch.float64),
    "half by default": lambda: default_dtype(torch.float16),
    "another device by default": lambda: default_device("meta"),
}


@every_attack
@pytest.mark.parametrize("state", STATES)
def test_the_caller_s_pytorch_changes_no_attack_and_is_left_as_found(name, state, network, x, y):
    plain = attacked(name, network, x, y)
    with STATES[state]():
        before = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype())
        if name == "FFF" and "default" in state:
            return  # the test's wrapper builds a mean image by the caller's defaults
        result = attacked(name, network, x, y)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()) == before
    assert torch.equal(result, plain) and result.dtype == torch.float32


@every_attack
def test_images_and_labels_of_inference_mode_are_taken(name, network, x, y):
    with torch.inference_mode():
        given, labels = x.clone(), y.clone()
    assert torch.equal(attacked(name, network, given, labels), attacked(name, network, x, y))


@pytest.mark.parametrize("name", GRADIENT)
def test_a_network_of_inference_mode_is_said(name, x, y):
    with torch.inference_mode():
        network = tiny_network()
    refusal(lambda: attacked(name, network, x, y), "made in torch.inference_mode")


@every_attack
def test_the_budget_holds_under_autocast(name, network, x, y):
    with torch.autocast("cpu", torch.bfloat16):
        result = attacked(name, network, x, y)
        assert torch.is_autocast_enabled("cpu")
    assert result.dtype == torch.float32 and ((result - x).abs().max() * 255).round() <= 16
    assert torch.allclose(result * 255, (result * 255).round(), atol=1e-4)


@every_defense
@pytest.mark.parametrize("state", [*STATES, "autocast"])
def test_the_caller_s_pytorch_changes_no_defense(name, state, x):
    plain = defended(name, x)
    purifying = defense("nrp", network=Purifying(), noise=0.05) if name == "nrp" else None
    noisy = purifying(x) if purifying else None
    with (STATES | {"autocast": lambda: torch.autocast("cpu", torch.bfloat16)})[state]():
        if name != "nrp":
            assert torch.equal(defended(name, x), plain)
        else:
            assert torch.equal(purifying(x), noisy)


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda net: torch.compile(net, backend="eager")])
@every_attack
def test_wrapped_networks_are_attacked_as_what_is_in_them(name, wrap, network, x, y):
    if name in ("Noise", "FFF", "CDA"):
        return  # they look at no logits; below
    wrapped = wrap(network.train())
    expected = attacked(name, network, x, y)
    assert torch.equal(attacked(name, wrapped, x, y), expected) and network.training


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda net: torch.compile(net, backend="eager")])
def test_layers_of_wrapped_networks_are_found(wrap, x):
    network = tiny_network()
    plain = Normalised(network, (0.5,) * 3, (0.2,) * 3)
    expected = Tap(plain, "2")(x)
    for wrapped in (wrap(plain), Normalised(wrap(network), (0.5,) * 3, (0.2,) * 3)):
        assert torch.equal(Tap(wrapped, "2")(x), expected)
    assert cda(wrap(GENERATORS["cda_generator"](4, 1)), x).shape == x.shape


def test_a_step_of_a_training_needs_gradients():
    network = nn.Linear(1, 1)
    with torch.no_grad():
        loss = network(torch.ones(1, 1)).sum()
    refusal(lambda: loop.descend(torch.optim.SGD(network.parameters(), 0.1), loss), "^trainings need gradients")


@pytest.mark.parametrize("state", ["inference mode", "float64 by default", "another device by default"])
def test_trainings_say_what_of_the_caller_s_pytorch_they_cannot_take(state):
    with STATES[state]():
        refusal(lambda: loop.check_and_seed(0, (X * 255).byte(), torch.arange(6, device="cpu"), 10), "^trainings need")


@pytest.mark.parametrize("labels", [torch.arange(6) + 5, torch.arange(5), torch.arange(6).float(), None])
def test_trainings_check_their_images_and_labels(labels):
    refusal(lambda: loop.check_and_seed(0, (X * 255).byte(), labels, 10), "labels must")
    refusal(lambda: loop.check_and_seed(0, X, torch.arange(6), 10), "uint8")
    refusal(
        lambda: loop.check_and_seed(0, (X * 255).byte(), torch.zeros(6, 8, 8, dtype=torch.uint8)), "labels of pixels"
    )


# A user's own code.


def own(tmp_path, monkeypatch, text, name):
    """A function of a file in own/."""
    monkeypatch.setattr(own_module, "ROOT", tmp_path)
    (tmp_path / "own").mkdir(exist_ok=True)
    (tmp_path / "own" / f"{name}.py").write_text("import torch\n" + text)
    own_module._module.cache_clear()
    return own_module.function_in(f"own/{name}.py", name)


RUDE_ATTACKS = {
    "a hook": "network[0].register_forward_hook(lambda *given: given[-1] * 0)",
    "a hook before": "network.register_forward_pre_hook(lambda *given: None)",
    "a hook on the gradient": "network[0].register_full_backward_hook(lambda *given: None)",
    "a hook on all": "torch.nn.modules.module.register_module_forward_hook(lambda *given: None)",
    "a mode": "network[3].train()",
    "a parameter in place": "torch.nn.init.zeros_(network[0].weight)",
    "a parameter's data": "network[0].weight.data.mul_(0.5)",
    "another parameter": "network[0].weight = torch.nn.Parameter(network[0].weight * 2)",
    "a buffer": "network[1].running_mean.add_(1)",
    "a flag": "network.requires_grad_(False)",
    "a part": "network[2] = torch.nn.Identity()",
    "a number": "network[3].p = 0.0",
    "a method": "network[6].forward = lambda x: x[:, :10]",
}


@pytest.mark.parametrize("kind", RUDE_ATTACKS)
def test_an_attack_that_changes_what_it_is_given_is_refused(kind, tmp_path, monkeypatch, x, y):
    text = f"def attack(network, x, y, *, eps):\n    clean = x.clone()\n    {RUDE_ATTACKS[kind]}\n"
    function, network = own(tmp_path, monkeypatch, text + "    return clean\n", "attack"), tiny_network()
    torch.nn.modules.module._global_forward_hooks.clear()
    clean = network(x)
    refusal(lambda: own_attack(function, network, x, y, eps=EPS), "own/attack.py")
    torch.nn.modules.module._global_forward_hooks.clear()
    assert torch.equal(x, eight_bit_images(6)) and torch.equal(y, torch.arange(6))
    if kind not in ("a parameter in place", "a parameter's data", "a buffer"):  # contents cannot be put back
        assert torch.equal(network(x), clean) and not network.training


def test_an_attack_that_keeps_the_rules_is_taken(tmp_path, monkeypatch, network, x, y):
    text = "def attack(network, x, y, *, eps):\n    x_adv = x.clone().requires_grad_(True)\n"
    text += "    torch.nn.functional.cross_entropy(network(x_adv), y).backward()\n"
    function = own(tmp_path, monkeypatch, text + "    return x + eps * x_adv.grad.sign()\n", "attack")
    for _ in range(2):
        assert (own_attack(function, network, x, y, eps=EPS) - x).abs().max() <= EPS + 1e-6


RUDE_DEFENSES = {
    "its input": "x.mul_(0.5); return x",
    "a count": "global calls; calls += 1; return x * 0.9",
    "a batch's mean": "return x - x.mean() + x.mean((1, 2, 3), keepdim=True)",
    "random numbers": "return (x + 0.1 * torch.randn_like(x)).clamp(0, 1)",
    "an attribute": "defense.last = x.sum().item(); return x * 0.9",
    "its network": "network.shift.data.add_(0.1); return network(x).clamp(0, 1)",
    "its network's hooks": "network.register_forward_hook(lambda *given: None); return network(x).clamp(0, 1)",
}


@pytest.mark.parametrize("kind", RUDE_DEFENSES)
def test_a_defense_that_keeps_a_state_or_changes_its_input_is_refused(kind, tmp_path, monkeypatch, x):
    text = f"calls = 0\ndef defense(x, *, network=None):\n    {RUDE_DEFENSES[kind]}\n"
    function = own(tmp_path, monkeypatch, text, "defense")
    refusal(lambda: own_defense(function, x, network=Purifying()), "own/defense.py")
    assert torch.equal(x, eight_bit_images(6))


SETTINGS = {
    "the default type": ("torch.set_default_dtype(torch.float64)", lambda: torch.set_default_dtype(torch.float32)),
    "the default device": ("torch.set_default_device('meta')", lambda: torch.set_default_device(None)),
    "the threads": ("torch.set_num_threads(torch.get_num_threads() + 1)", lambda: torch.set_num_threads(1)),
    "the precision": (
        "torch.set_float32_matmul_precision('medium')",
        lambda: torch.set_float32_matmul_precision("highest"),
    ),
    "the algorithms": (
        "torch.use_deterministic_algorithms(True)",
        lambda: torch.use_deterministic_algorithms(False),
    ),
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_own_code_that_changes_pytorch_s_settings_is_refused(kind, tmp_path, monkeypatch, network, x, y):
    change, back = SETTINGS[kind]
    attack = own(tmp_path, monkeypatch, f"def attack(network, x, y, *, eps):\n    {change}\n    return x\n", "attack")
    defend = own(tmp_path, monkeypatch, f"def defense(x):\n    {change}\n    return x\n", "defense")
    threads = torch.get_num_threads()
    for act in (lambda: own_attack(attack, network, x, y, eps=EPS), lambda: own_defense(defend, x)):
        try:
            refusal(act, "PyTorch's settings")
        finally:
            back()
            torch.set_num_threads(threads)


def test_what_is_put_back_after_an_error_is_all_but_the_error():
    network = tiny_network()
    with pytest.raises(RuntimeError, match="mine"), unchanged_networks("own/x.py", network):
        network.train()
        network[0].register_forward_hook(lambda *given: None)
        raise RuntimeError("mine")
    assert not network.training and not network[0]._forward_hooks
