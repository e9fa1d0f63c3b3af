"""lib/defenses/purifier.py and what lib.defenses.defense binds: noise alone is the dynamic NRP without its network."""

import pytest
import torch
from torch import nn

from lib import defenses
from lib.defenses import defense
from lib.defenses.purifier import NOISE, contents, noise, nrp
from lib.rng import Streams
from tests.conftest import NO_BATCH

EPS = 16 / 255


@pytest.mark.parametrize("options", [{}, {"seed": 3}, {"noise": 0.2, "eps": 4 / 255}, {"noise": 0.0}])
def test_noise_is_nrp_with_the_identity(x, options):
    assert torch.equal(noise(x, **options), nrp(x, network=nn.Identity(), **({"noise": NOISE} | options)))


def test_noise_is_the_definition_s(x):
    """Normal noise of 12.75 levels, within 16 of the image and in [0,1]."""
    normal = Streams(5, contents(x), "nrp").normal(3, 16, 16)
    expected = (x + (12.75 / 255 * normal).clamp(-EPS, EPS)).clamp(0, 1)
    assert torch.allclose(noise(x, seed=5), expected, atol=1e-6)
    assert not torch.equal(noise(x, seed=5), noise(x, seed=6))


def test_a_gradient_passes_where_nothing_is_cut():
    x = torch.full((1, 3, 4, 4), 0.5, requires_grad=True)
    noise(x, noise=0.01, eps=1.0).sum().backward()
    assert (x.grad == 1).all()


@pytest.mark.parametrize(("batch", "reason"), NO_BATCH)
def test_what_is_no_batch_of_images_is_refused_in_one_line(batch, reason):
    with pytest.raises((ValueError, TypeError), match=reason) as caught:
        noise(batch)
    assert "\n" not in str(caught.value)


def test_options_that_are_the_function_s_own_are_left_out():
    network = nn.Identity()
    assert defense("noise", noise=12.75 / 255, eps=16 / 255, seed=0).keywords == {}
    assert defense("noise", noise=12 / 255, eps=16 / 255, seed=1).keywords == {"noise": 12 / 255, "seed": 1}
    assert defense("nrp", network=network, noise=0, tile=None).keywords == {"network": network}
    assert defense("nrp", network=network, noise=NOISE, eps=8 / 255).keywords == {
        "network": network,
        "noise": NOISE,
        "eps": 8 / 255,
    }
    assert defense("jpeg", quality=75).keywords == {} and defense("jpeg", quality=20).keywords == {"quality": 20}


def test_what_is_left_out_changes_no_result(x):
    for name, options in (("jpeg", {"quality": 75}), ("tvm", {"weight": 30.0}), ("median", {"window": 3})):
        assert torch.equal(defense(name, **options)(x), defenses.DEFENSES[name](x, **options))
        assert torch.equal(defense(name, **options)(x), defense(name)(x))


def test_an_option_that_does_not_exist_is_refused_even_with_a_usual_value():
    with pytest.raises(ValueError, match="the defense noise has no option 'sede'; did you mean 'seed'"):
        defense("noise", sede=0)
