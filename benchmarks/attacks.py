"""How fast the attacks are beside other libraries, as ratios measured in one run: `make bench`.

Ten steps at the same budget, step and probabilities; one thread, CPU time, in turns, medians; random weights, which
cost what trained ones cost. The peers attack the plain network as their users do, ours its frozen copy (BatchNorm
folded, channels last). TransferAttack: its loops in our words, with the enlarged view of the released DIM (which makes
the network see 22 % more pixels); its own resizes the view back, another attack, in a column that is not compared.
Seeds are chosen so that 7 of 10 views are enlarged in all of them. SSP is compared with the loop of the released ssp.py
(clean features in every step, gradients of the parameters), 30 steps.
"""

import copy
import functools
import math
import sys
from collections.abc import Callable, Iterator

import torch
import torchvision
from peers import PEERS, PROBABILITY, RESIZED_BACK, STEPS, Attack
from section import medians, write
from tabulate import tabulate
from torch import Tensor, nn

from lib import machine
from lib.attacks import decision, features
from lib.attacks.transport import GRADIENTS, scattering
from lib.networks.frozen import folded
from lib.networks.wrappers import Bf16, Normalised, Tap

BATCH, REPEATS = 4, 3
NETWORKS = {
    "ResNet-18": (torchvision.models.resnet18, 224),
    "ResNet-50": (torchvision.models.resnet50, 224),
    "MobileNetV2": (torchvision.models.mobilenet_v2, 224),
    "Inception-v3": (functools.partial(torchvision.models.inception_v3, init_weights=False), 299),
}
OURS = {
    "MI-FGSM": decision.mi_fgsm,
    "PGD": functools.partial(decision.pgd, ids=range(BATCH)),
    "DIM": functools.partial(decision.dim, ids=range(BATCH)),
    "DIM-TI": functools.partial(decision.dim, ids=range(BATCH), kernel=15),
}


class Sizes(nn.Module):
    """A network that counts the enlarged images that it sees."""

    def __init__(self, side: int):
        super().__init__()
        self.side, self.count, self.head = side, 0, nn.Linear(3, 1000)

    def forward(self, x: Tensor) -> Tensor:
        self.count += len(x) * (x.shape[-1] > self.side)
        return self.head(x.mean((2, 3)))


def peer_at(run: Attack, seed: int) -> Attack:
    """A peer's attack with its random numbers, which are torch's own."""

    def seeded(network: nn.Module, x: Tensor, y: Tensor) -> object:
        torch.manual_seed(seed)
        return run(network, x, y)

    return seeded


def ours_at(run: Attack, seed: int) -> Attack:
    return functools.partial(run, seed=seed)


def seed_of(at: Callable[[Attack, int], Attack], run: Attack) -> int:
    """The first seed with which the share of enlarged views is the probability."""
    x, y = torch.rand(BATCH, 3, 32, 32), torch.zeros(BATCH, dtype=torch.int64)
    for seed in range(500):
        seen = Sizes(32)
        at(run, seed)(seen, x, y)
        if seen.count == round(PROBABILITY * STEPS * BATCH):
            return seed
    raise RuntimeError("no seed gives the share of enlarged views")


def network_and_copy(name: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    plain = Normalised(NETWORKS[name][0]()).eval()
    return plain, folded(copy.deepcopy(plain)).requires_grad_(False).to(memory_format=torch.channels_last)


def against_peers(name: str) -> Iterator[list]:
    """A row per attack on a network: times as multiples of the floor, and the ratios."""
    plain, fast = network_and_copy(name)
    side = NETWORKS[name][1]
    x, y = torch.randint(0, 256, (BATCH, 3, side, side)) / 255, torch.zeros(BATCH, dtype=torch.int64)
    for attack, peers in PEERS.items():
        ours = OURS[attack]
        runs = {"floor": lambda: floor(plain, x)}
        if attack in RESIZED_BACK:
            ours = ours_at(ours, seed_of(ours_at, ours))
            seeds = {peer: seed_of(peer_at, run) for peer, run in peers.items()}
            peers = {peer: peer_at(run, seeds[peer]) for peer, run in peers.items()}
            runs["back"] = functools.partial(peer_at(RESIZED_BACK[attack], seeds["TransferAttack"]), plain, x, y)
        runs |= {"ours": functools.partial(ours, fast, x, y), "bf16": functools.partial(ours, Bf16(fast), x, y)}
        runs |= {peer: functools.partial(run, plain, x, y) for peer, run in peers.items()}
        runs |= {f"{peer}, frozen": functools.partial(run, fast, x, y) for peer, run in peers.items()}
        spent = medians(runs, REPEATS)
        best, frozen = (min(spent[f"{peer}{kind}"] for peer in peers) for kind in ("", ", frozen"))
        columns = [spent.get(one, math.nan) / spent["floor"] for one in ("ours", "bf16", *PEERS["PGD"], "back")]
        yield [attack, name, *columns, spent["ours"] / best, spent["ours"] / frozen]
        print(attack, name, f"{spent['ours'] / best:.2f} of the best peer", file=sys.stderr)


def floor(network: nn.Module, x: Tensor) -> None:
    """As many plain forward and backward passes with respect to the input."""
    for _ in range(STEPS):
        image = x.clone().requires_grad_(True)
        torch.autograd.grad(network(image).square().mean(), image)


def table(names: list[str]) -> str:
    """All networks, and the geometric mean of each attack's ratios."""
    rows = sorted((row for name in names for row in against_peers(name)), key=lambda row: list(PEERS).index(row[0]))
    for attack in PEERS:
        ratios = [row[-2:] for row in rows if row[0] == attack]
        means = [math.exp(sum(map(math.log, column)) / len(ratios)) for column in zip(*ratios, strict=True)]
        rows.append([attack, "geometric mean", *[""] * 7, *means])
    headers = ["attack", "network", "ours", "ours, bf16", *PEERS["PGD"], "resized back", "ours / best peer"]
    headers += ["ours / best peer on our frozen copy"]
    text = tabulate(rows, headers, tablefmt="github", floatfmt=".2f", missingval="-").replace(" nan ", "   - ")
    return f"Times are multiples of ten bare forward and backward passes of the plain network.\n\n{text}"


def released_ssp(network: nn.Module, x: Tensor, steps: int) -> Tensor:
    """What the released ssp.py does per step: both images through the network, gradients for the parameters too."""
    x_adv = torch.randn_like(x)
    for _ in range(steps):
        image = x_adv.clone().requires_grad_(True)
        torch.nn.functional.mse_loss(network(image), network(x)).backward()
        image = image.detach() + 0.01 * image.grad.sign()
        x_adv = torch.clamp(torch.min(torch.max(image, x - 16 / 255), x + 16 / 255), 0, 1)
    return x_adv


def against_released_ssp(steps: int = 30) -> str:
    """SSP from VGG-16's conv3-3, as shares of the time of the released loop."""
    torch.manual_seed(0)
    x = torch.randint(0, 256, (BATCH, 3, 224, 224)) / 255
    plain = Normalised(torchvision.models.vgg16().features[:16]).eval()
    fast = copy.deepcopy(plain).requires_grad_(False).to(memory_format=torch.channels_last)
    ssp = functools.partial(features.ssp, ids=range(BATCH), steps=steps)
    runs = {
        "the released loop": lambda: released_ssp(plain, x, steps),
        "ours": lambda: ssp(Tap(fast, "15"), x),
        "ours, bf16": lambda: ssp(Bf16(Tap(fast, "15")), x),
    }
    spent = medians(runs, REPEATS)
    rows = [[name, seconds / spent["the released loop"]] for name, seconds in spent.items()]
    return tabulate(rows, ["SSP", "time / released loop"], tablefmt="github", floatfmt=".3f")


def scattering_gradients() -> str:
    """The transport distance of 60 images with 1,000 classes and its gradient."""
    clean, perturbed = torch.randn(2, 60, 1000)
    perturbed.requires_grad_(True)

    def run(gradient: str) -> None:
        torch.autograd.grad(scattering(clean, perturbed, gradient=gradient).sum(), perturbed)

    spent = medians({gradient: functools.partial(run, gradient) for gradient in GRADIENTS}, REPEATS)
    rows = [[name, time / spent["unrolled"]] for name, time in spent.items()]
    return tabulate(rows, ["FSA's gradient", "time / unrolled"], tablefmt="github", floatfmt=".2f")


def main() -> None:
    torch.set_num_threads(1)
    head = f"## Attacks\n\n{__doc__}\nOn {machine.describe()}; medians of {REPEATS}."
    names = sys.argv[1:] or list(NETWORKS)
    write("benchmarks/attacks.py", head, table(names), against_released_ssp(), scattering_gradients())


if __name__ == "__main__":
    main()
