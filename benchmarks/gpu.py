"""What a GPU does in a second: images per second of each attack and defense, and the share of the bare network's pace.

    python benchmarks/gpu.py

Floor: the same network's forward and backward pass with respect to the input, captured as a CUDA graph, as many times
as the attack has steps. Random weights: they cost what trained ones cost. Images 224x224, float32 without TF32.
"""

import functools
import sys
from collections.abc import Callable

import torch
import torchvision
from tabulate import tabulate
from torch import Tensor, nn

from lib.attacks import decision, features
from lib.attacks.adaptive import Adaptive
from lib.defenses import defense
from lib.networks.purifier import NRPResG
from lib.networks.wrappers import Normalised, Tap

BATCH, SIDE, STEPS, REPEATS = 50, 224, 10, 3
IDS = range(BATCH)


def seconds(run: Callable[[], object]) -> float:
    """The fastest of a few runs after one to warm up, by CUDA events."""
    run()
    times = []
    for _ in range(REPEATS):
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        run()
        ended.record()
        torch.cuda.synchronize()
        times.append(begun.elapsed_time(ended) / 1000)
    return min(times)


def floor(network: nn.Module, x: Tensor) -> float:
    """Seconds of one forward and backward pass of the bare network, replayed from a graph."""
    image = x.clone().requires_grad_(True)

    def once() -> None:
        torch.autograd.grad(network(image).square().mean(), image)

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            once()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        once()
    return seconds(graph.replay)


def attacks(x: Tensor, y: Tensor) -> str:
    """Images per second and the floor's share, per attack of ten steps (SSP: of 100)."""
    resnet = Normalised(torchvision.models.resnet50()).eval().cuda().requires_grad_(False)
    vgg = Tap(Normalised(torchvision.models.vgg16().features[:16]).eval().cuda().requires_grad_(False), "15")
    purified = Adaptive(resnet, defense("nrp", network=NRPResG().eval().cuda().requires_grad_(False)))
    few = x[:10]
    rows = []
    for name, network, images, steps, run in [
        ("MI-FGSM, ResNet-50", resnet, x, STEPS, lambda: decision.mi_fgsm(resnet, x, y)),
        ("DIM, ResNet-50", resnet, x, STEPS, lambda: decision.dim(resnet, x, y, ids=IDS)),
        ("DIM-TI, ResNet-50", resnet, x, STEPS, lambda: decision.dim(resnet, x, y, ids=IDS, kernel=15)),
        ("SSP 100, VGG-16 conv3-3", vgg, x, 100, lambda: features.ssp(vgg, x, ids=IDS)),
        ("PGD through NRP_resG", purified, few, STEPS, lambda: decision.pgd(purified, few, y[:10], ids=range(10))),
    ]:
        spent, bare = seconds(run), steps * floor(network, images)
        rows.append([name, len(images) / spent, bare / spent])
        print(*rows[-1], file=sys.stderr)
    return tabulate(rows, ["attack", "images a second", "floor / time"], floatfmt=".2f")


def defenses(x: Tensor) -> str:
    """Images per second of each defense."""
    runs = {
        "JPEG 75": defense("jpeg", quality=75),
        "TVM 30": defense("tvm", weight=30),
        "TVM 10": defense("tvm", weight=10),
        "median 3": defense("median", window=3),
        "NRP_resG": defense("nrp", network=NRPResG().eval().cuda().requires_grad_(False)),
        "NRP_resG dynamic": defense("nrp", network=NRPResG().eval().cuda().requires_grad_(False), noise=0.05),
    }
    with torch.no_grad():
        rows = [[name, len(x) / seconds(functools.partial(run, x))] for name, run in runs.items()]
    return tabulate(rows, ["defense", "images a second"], floatfmt=".1f")


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py: no GPU here")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    x = (torch.randint(0, 256, (BATCH, 3, SIDE, SIDE)) / 255).cuda()
    y = torch.zeros(BATCH, dtype=torch.int64, device="cuda")
    print(torch.cuda.get_device_name(), attacks(x, y), defenses(x), sep="\n\n")


if __name__ == "__main__":
    main()
