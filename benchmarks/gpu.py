"""What a GPU does in a second: images per second of each attack and defense, and the share of the bare network's pace.

    python benchmarks/gpu.py

Floor: the same network's forward and backward pass with respect to the input, captured as a CUDA graph, as many times
as the attack has steps; of a training, the same for the purifier alone, with its parameters. Random weights: they cost
what trained ones cost. Images 224x224, frozen copies, float32 as lib states it (`lib.precision`), and TF32 and bf16.
"""

import functools
import itertools
import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import torch
import torchvision
from section import write
from tabulate import tabulate
from torch import Tensor, nn

from lib.attacks import decision, features
from lib.attacks.adaptive import Adaptive
from lib.defenses import defense
from lib.networks.frozen import folded
from lib.networks.purifier import NRP, NRPResG
from lib.networks.wrappers import SURROGATES, Normalised, Tap
from lib.precision import stated
from lib.settings.networks import PurifierSpec
from lib.training import purifier

BATCH, FEW, SIDE, STEPS, REPEATS = 50, 10, 224, 10, 3
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


def floor(network: nn.Module, x: Tensor, parameters: Sequence[Tensor] = ()) -> float:
    """Seconds of one forward and backward pass of the bare network, replayed from a graph, through a purifier (which
    may compute parts twice) without one; parameters: whose gradients are computed too."""
    image = x.clone().requires_grad_(True)

    def once() -> None:
        torch.autograd.grad(network(image).square().mean(), [image, *parameters])

    if isinstance(network, Adaptive):
        return seconds(once)
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
    resnet = fast(torchvision.models.resnet50())
    vgg = Tap(fast(torchvision.models.vgg16().features[:16]), "15")
    light, heavy = (Adaptive(resnet, purify(kind())) for kind in (NRPResG, NRP))
    eot = Adaptive(resnet, *(purify(NRPResG(), noise=0.05, seed=k) for k in range(8)))
    rows = []
    for name, network, count, steps, attack in [
        ("MI-FGSM, ResNet-50", resnet, BATCH, STEPS, decision.mi_fgsm),
        ("DIM, ResNet-50", resnet, BATCH, STEPS, functools.partial(decision.dim, ids=IDS)),
        ("DIM-TI, ResNet-50", resnet, BATCH, STEPS, functools.partial(decision.dim, ids=IDS, kernel=15)),
        ("SSP 100, VGG-16 conv3-3", vgg, BATCH, 100, lambda net, x, y: features.ssp(net, x, ids=IDS)),
        ("PGD through NRP_resG", light, FEW, STEPS, functools.partial(decision.pgd, ids=range(FEW))),
        ("PGD through NRP", heavy, FEW, STEPS, functools.partial(decision.pgd, ids=range(FEW))),
        ("PGD through NRP_resG, EOT 8", eot, FEW, STEPS, functools.partial(decision.pgd, ids=range(FEW))),
    ]:
        bare = steps * floor(network, x[:count])
        for precision, wrapper in SURROGATES.items() if network in (resnet, vgg) else [("float32", None)]:
            seen = wrapper(network) if wrapper else network
            with stated("cuda", tf32=precision == "tf32"):
                spent = seconds(lambda attack=attack, seen=seen, n=count: attack(seen, x[:n], y[:n]))
            rows.append([name, precision, count / spent, bare / spent])
            print(*rows[-1], file=sys.stderr)
    return tabulate(rows, ["attack", "precision", "images a second", "floor in float32 / time"], floatfmt=".2f")


def fast(network: nn.Module) -> nn.Module:
    frozen = folded(Normalised(network).eval()).requires_grad_(False)
    return frozen.cuda().to(memory_format=torch.channels_last)


def purify(network: nn.Module, **options) -> Callable[[Tensor], Tensor]:
    return defense("nrp", network=network.eval().cuda().requires_grad_(False), **options)


def trainings(x: Tensor) -> str:
    """Crops per second of a step of NRP's training: SSP of 10 steps, purifier and critic."""
    vgg = Tap(Normalised(torchvision.models.vgg16().features[:16]).eval().cuda().requires_grad_(False), "15")
    data, rows = list((x * 255).byte().cpu()), []
    for architecture, kind in (("nrp_resg", NRPResG), ("nrp", NRP)):
        spec = PurifierSpec(images="made", extractor="VGG-16", batch=8, steps=10, ssp_steps=10)
        shape = SimpleNamespace(architecture=architecture, width=64, blocks=23)
        advance, steps = purifier.training(spec, shape, data, vgg).advance, itertools.count()
        spent = seconds(lambda advance=advance, steps=steps: advance(next(steps) % 10))
        network = kind().cuda().to(memory_format=torch.channels_last)
        bare = floor(network, x[:8, :, :128, :128], list(network.parameters()))
        rows.append([architecture, 8 / spent, bare / spent])
    return tabulate(rows, ["training", "crops a second", "purifier alone / time"], floatfmt=".2f")


def defenses(x: Tensor) -> str:
    """Images per second of each defense."""
    runs = {
        "JPEG 75": defense("jpeg", quality=75),
        "TVM 30": defense("tvm", weight=30),
        "TVM 10": defense("tvm", weight=10),
        "median 3": defense("median", window=3),
        "median 5": defense("median", window=5),
        "NRP_resG": purify(NRPResG()),
        "NRP_resG dynamic": purify(NRPResG(), noise=0.05),
        "NRP": purify(NRP()),
    }
    with torch.no_grad():
        rows = [[name, len(x) / seconds(functools.partial(run, x))] for name, run in runs.items()]
    return tabulate(rows, ["defense", "images a second"], floatfmt=".1f")


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py: no GPU here")
    torch.manual_seed(0)
    x = (torch.randint(0, 256, (BATCH, 3, SIDE, SIDE)) / 255).cuda()
    y = torch.zeros(BATCH, dtype=torch.int64, device="cuda")
    with stated("cuda"):
        tables = [attacks(x, y), defenses(x), trainings(x)]
    write("benchmarks/gpu.py", f"## On a GPU\n\n{__doc__}\nOn {torch.cuda.get_device_name()}.", *tables)


if __name__ == "__main__":
    main()
