"""What a frozen copy and half precision change: `COMPANION_ASSETS=... python benchmarks/precision.py`.

Photographs of NeurIPS-2017, 224x224. Real weights: ResNet-50 and MobileNetV2 of the sample scale and EfficientNet-
Lite0; random weights, with statistics from one batch: ResNet-18 and Inception-v3. Signs: the share of the signs of the
cross-entropy's gradient that differ from those of the plain network in float32; the zeros of both count as equal.
Fooling rate: of MI-FGSM (eps 16, ten steps, the network's own first class as label) made in the precision, on the
network itself and on the other ones with real weights; these predict with their plain networks in float32.
"""

import copy
import functools
import sys
from collections.abc import Callable

import torch
import torchvision
from section import write
from tabulate import tabulate
from torch import Tensor, nn

from lib import machine, settings, zoo
from lib.attacks import decision
from lib.attacks.ascent import gradient
from lib.data.sets import load_set
from lib.networks.frozen import folded
from lib.networks.wrappers import SURROGATES, Normalised, Tf32
from lib.precision import stated

COUNT, BATCH = 50, 10
REAL = ("ResNet-50", "MobileNetV2", "EfficientNet-Lite0")
RANDOM = {
    "ResNet-18": torchvision.models.resnet18,
    "Inception-v3": functools.partial(torchvision.models.inception_v3, aux_logits=False, init_weights=False),
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PRECISIONS = [name for name in SURROGATES if name != "tf32" or DEVICE == "cuda"]


def in_batches(function: Callable[[nn.Module, Tensor], Tensor], network: nn.Module, x: Tensor) -> Tensor:
    """What the function of a network and images gives, with the precision that the network asks for."""
    with stated(DEVICE, tf32=isinstance(network, Tf32)):
        return torch.cat([function(network, part.to(DEVICE)).cpu() for part in x.split(BATCH)])


def classes(network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return network(x).argmax(1)


def slopes(network: nn.Module, x: Tensor) -> Tensor:
    y = classes(network, x)
    return gradient(lambda image: nn.functional.cross_entropy(network(image), y, reduction="none"), x).sign()


def random_network(build: Callable[[], nn.Module], x: Tensor) -> nn.Module:
    torch.manual_seed(0)
    network = Normalised(build()).train().to(DEVICE)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches: of one, its own statistics
    with torch.no_grad():
        network.network((x.to(DEVICE) - network.mean) / network.std)
    return network.eval().requires_grad_(False)


def main() -> None:
    torch.set_num_threads(1)
    sample = settings.load("sample")
    x = load_set(sample.data, count=COUNT).images / 255
    plain = {name: zoo.load(name, sample, DEVICE) for name in REAL}
    fast = {name: zoo.load(name, sample, DEVICE, fast=True) for name in REAL}
    for name, build in RANDOM.items():
        plain[name] = random_network(build, x[:BATCH])
        fast[name] = folded(copy.deepcopy(plain[name])).to(memory_format=torch.channels_last)
    known = {name: in_batches(classes, plain[name], x) for name in REAL}
    signs, fooled = [], []
    for name in plain:
        expected = in_batches(slopes, plain[name], x)
        seen = {precision: SURROGATES[precision](fast[name]) for precision in PRECISIONS}
        differ = [(in_batches(slopes, network, x) != expected).float().mean().item() for network in seen.values()]
        signs.append([name, *(f"{100 * share:.2f} %" for share in differ)])
        print(*signs[-1], file=sys.stderr)
        for precision, network in {"float32, plain network": plain[name], **seen}.items() if name in REAL else ():
            adversarial = in_batches(lambda net, part: decision.mi_fgsm(net, part, None), network, x)
            rates = [
                (in_batches(classes, plain[victim], adversarial) != known[victim]).float().mean() for victim in REAL
            ]
            fooled.append([name, precision, *(f"{100 * rate:.0f} %" for rate in rates)])
            print(*fooled[-1], file=sys.stderr)
    tf32 = "" if "tf32" in PRECISIONS else " TF32: not measured, it needs a GPU; the same command measures it there."
    head = f"## Precision\n\n{__doc__}\nOn {machine.describe()}, {COUNT} images.{tf32}"
    frozen = [f"frozen copy, {precision}" for precision in PRECISIONS]
    tables = [
        tabulate(signs, ["signs that differ", *frozen], tablefmt="github"),
        tabulate(
            fooled, ["fooling rate of MI-FGSM from", "made in", *(f"on {name}" for name in REAL)], tablefmt="github"
        ),
    ]
    write("benchmarks/precision.py", head, *tables)


if __name__ == "__main__":
    main()
