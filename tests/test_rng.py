import torch

from lib.rng import Streams, generator, key


def test_an_image_draws_the_same_whatever_its_neighbours():
    together = Streams(0, ["a", "b", "c"], "start").normal(3, 4)
    alone = Streams(0, ["b"], "start").normal(3, 4)
    assert torch.equal(together[1], alone[0])


def test_seed_image_and_purpose_all_matter():
    keys = [(0, ["a"], "p"), (1, ["a"], "p"), (0, ["b"], "p"), (0, ["a"], "q")]
    draws = [Streams(*parts).uniform(8) for parts in keys]
    assert all(not torch.equal(draws[0], other) for other in draws[1:])


def test_a_stream_moves_on():
    streams = Streams(0, ["a"], "start")
    assert not torch.equal(streams.uniform(4), streams.uniform(4))


def test_keys_do_not_depend_on_how_parts_are_joined():
    assert key("a", "bc") != key("ab", "c")


def test_the_key_is_the_same_on_every_machine():
    # By coreutils: printf '0\x1ftest-00000\x1fssp' | b2sum -l 64, shifted right by one bit. A change of this number
    # would silently change every result.
    assert key(0, "test-00000", "ssp") == 5709523569993957150


def test_whole_numbers_cover_their_range_evenly():
    draws = Streams(0, range(4000), "n").integers(3, 7)
    assert set(draws.tolist()) == {3, 4, 5, 6}
    counts = torch.bincount(draws)[3:].float() / len(draws)
    # Four standard deviations of a share of 1/4 in 4,000 draws.
    assert (counts - 0.25).abs().max() < 0.028


def test_whole_numbers_take_bounds_per_image():
    low, high = torch.tensor([0, 10]), torch.tensor([1, 11])
    assert Streams(0, ["a", "b"], "n").integers(low, high).tolist() == [0, 10]


def test_generators_with_equal_parts_agree():
    assert torch.equal(torch.rand(3, generator=generator(1, "x")), torch.rand(3, generator=generator(1, "x")))
