"""lib/halving.py: where memory ends fewer images are computed at a time, and every result is the same."""

import pytest
import torch
from torch import nn

from lib import halving
from lib.attacks import decision
from lib.attacks.shards import attack_shard
from lib.attacks.transport import fsa
from lib.defenses import defense
from lib.halving import halved
from lib.tasks.predictions import classify, detect, fidelity_of, segment
from tests.doubles import Corner, Pixelwise

IMAGES = torch.randint(0, 256, (7, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
ERRORS = {
    "CUDA": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "CPU": RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory: you tried"),
    "cuDNN": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "Python": MemoryError(),
}


class Limited(nn.Module):
    """A network that memory holds for `most` images only; `tried` are the batches that it was given."""

    def __init__(self, network: nn.Module, most: int, error: Exception = ERRORS["CUDA"]):
        super().__init__()
        self.network, self.most, self.error, self.tried = network, most, error, []

    def forward(self, x):
        self.tried.append(len(x))
        if len(x) > self.most:
            raise self.error
        return self.network(x)


class Pixels(nn.Module):
    """Logits `[B,10]` of each image alone: sums of elementwise products, the same to the bit in every batch."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.rand(10, 3, 16, 16, generator=torch.Generator().manual_seed(1)) - 0.5)

    def forward(self, x):
        return torch.stack([(image * self.weight).flatten(1).sum(1) for image in x])


@pytest.fixture(autouse=True)
def forgotten():
    halving._fitting.clear()


def attacked(network, coupled=False):
    run, options = (fsa, {"batch": 60, "steps": 1}) if coupled else (decision.pgd, {"steps": 3, "target": "random"})
    given = {"ids": list("abcdefg"), "seed": 0} | ({} if coupled else {"y": torch.arange(7)})
    return attack_shard(run, [network], IMAGES, given, options, device="cpu", coupled=coupled)


NETWORKS = {"segment": Pixelwise(), "detect": Corner()}
WAYS = {
    "attack": attacked,
    "snapshots": lambda net: attack_shard(
        decision.i_fgsm, [net], IMAGES, {"y": torch.arange(7)}, {"steps": 3, "snapshots": [1, 3]}, device="cpu"
    ),
    "classify": lambda net: classify(net, IMAGES, defense("jpeg")),
    "segment": lambda net: segment(net, IMAGES, batch=7),
    "detect": lambda net: detect(net, list(IMAGES), batch=7),
    "fidelity": lambda net: fidelity_of(IMAGES, IMAGES.flip(0), None, net, batch=7, device="cpu"),
}


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("way", WAYS)
def test_where_memory_ends_the_batch_is_halved_and_no_byte_differs(way, error):
    network = NETWORKS.get(way, Pixels())
    short = Limited(network, 2, ERRORS[error])
    whole, made = WAYS[way](network), WAYS[way](short)
    assert made.keys() == whole.keys()
    for name in whole:
        assert made[name].dtype == whole[name].dtype and made[name].tobytes() == whole[name].tobytes()
    assert max(short.tried) == 7


def test_what_did_not_fit_is_not_tried_again_with_this_network():
    short, other = Limited(Pixels(), 2), Limited(nn.Sequential(Pixels()), 2)
    classify(short, IMAGES)
    assert short.tried == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    short.tried.clear()
    classify(short, IMAGES)
    assert short.tried == [1] * 7
    classify(other, IMAGES)
    assert other.tried[0] == 7


def test_one_image_that_does_not_fit_and_other_errors_end_it():
    with pytest.raises(MemoryError, match=r"memory is too small for one image in this network .CUDA out of memory"):
        classify(Limited(Pixels(), 0), IMAGES)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        classify(Limited(Pixels(), 0, RuntimeError("mat1 and mat2 differ")), IMAGES)


def test_images_that_an_attack_couples_are_never_parted():
    short = Limited(Pixels(), 2)
    with pytest.raises(torch.OutOfMemoryError):
        attacked(short, coupled=True)
    assert short.tried == [7]


def test_parts_come_in_order_and_all_of_them():
    assert halved(list, range(5), 2, "f") == [[0, 1], [2, 3], [4]] and halved(list, [], 2, "f") == []
