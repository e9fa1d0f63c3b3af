"""lib on a GPU: every attack and defense gives what it gives on a CPU, within stated bounds."""

import copy

import pytest
import torch

from lib.attacks.registry import ATTACKS
from lib.defenses import defense
from lib.networks.purifier import NRPResG
from tests.attacks.test_contract import IDS, run
from tests.conftest import eight_bit_images, tiny_network

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def whole_floats(monkeypatch):
    """TF32 would round the products of a GPU's convolutions to ten bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_gives_the_cpu_s_adversaries(name):
    """Signs of gradients near zero may differ between devices, and iterations carry them on: few pixels may."""
    network, x, y = tiny_network(), eight_bit_images(6, 32, seed=1), torch.arange(6)
    here = run(name, network, x, y)
    there = run(name, copy.deepcopy(network).cuda(), x.cuda(), y.cuda(), ids=IDS)
    assert there.is_cuda
    # In levels: a division by 255 may round otherwise on a GPU.
    levels, expected = (255 * there.cpu()).round(), (255 * here).round()
    assert (levels - (255 * x).round()).abs().max() <= 16
    assert (levels != expected).float().mean() < 0.02


DEFENSES = [
    ("jpeg", {"quality": 50}),
    ("tvm", {"weight": 10}),
    ("median", {"window": 3}),
    ("nrp", {}),
    ("nrp", {"noise": 0.05}),
]


@pytest.mark.parametrize("kind, options", DEFENSES)
def test_a_defense_gives_the_cpu_s_images(kind, options):
    torch.manual_seed(0)
    x, network = eight_bit_images(3, 40), NRPResG(8, 2).eval()
    bound = {"cpu": options, "cuda": options}
    if kind == "nrp":
        bound = {device: options | {"network": copy.deepcopy(network).to(device)} for device in bound}
    with torch.no_grad():
        here, there = (defense(kind, **more)(x.to(device)) for device, more in bound.items())
    assert there.is_cuda and (there.cpu() - here).abs().max() < 2e-3
