"""How fast the attacks are, as ratios measured in one run: `make bench`.

Floor: ten forward and backward passes with respect to the input, nothing else; an attack of ten steps cannot be faster
in the same precision. SSP is compared with the loop of the released ssp.py (clean features in every step, parameter
gradients), FSA's two gradients with each other. Random weights: they cost what trained ones cost. Images 224x224.
"""

import time

import torch
import torchvision
from tabulate import tabulate

from lib import machine
from lib.attacks import decision, features
from lib.attacks.transport import GRADIENTS, fsa, scattering
from lib.networks.wrappers import Bf16, Normalised, Tap

STEPS, BATCH, REPEATS = 10, 4, 3
IDS = range(BATCH)


def seconds(run) -> float:
    """The fastest of a few runs."""
    times = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return min(times)


def floor(network, x) -> None:
    """Ten plain forward and backward passes with respect to the input."""
    for _ in range(STEPS):
        image = x.clone().requires_grad_(True)
        torch.autograd.grad(network(image).square().mean(), image)


def released_ssp(vgg, x) -> torch.Tensor:
    """What the released ssp.py does per step: both images through the network, gradients for the parameters too."""
    x_adv = torch.randn_like(x)
    for _ in range(STEPS):
        image = x_adv.clone().requires_grad_(True)
        torch.nn.functional.mse_loss(vgg(image), vgg(x)).backward()
        x_adv = torch.clamp(
            torch.min(torch.max(image.detach() + 0.01 * image.grad.sign(), x - 16 / 255), x + 16 / 255), 0, 1
        )
    return x_adv


def against_floor(x: torch.Tensor, y: torch.Tensor) -> str:
    """Ten steps of each attack on ResNet-18, as multiples of the floor."""
    network = Normalised(torchvision.models.resnet18()).eval().to(x.device).requires_grad_(False)
    runs = {
        "I-FGSM": lambda: decision.i_fgsm(network, x, y),
        "MI-FGSM": lambda: decision.mi_fgsm(network, x, y),
        "DIM": lambda: decision.dim(network, x, y, ids=IDS),
        "DIM-TI": lambda: decision.dim(network, x, y, ids=IDS, kernel=15),
        "FSA": lambda: fsa(network, x, ids=IDS),
        "I-FGSM, bf16": lambda: decision.i_fgsm(Bf16(network), x, y),
    }
    base = seconds(lambda: floor(network, x))
    rows = [[name, seconds(run) / base] for name, run in runs.items()]
    return tabulate(rows, ["attack on ResNet-18", "time / floor"], tablefmt="github", floatfmt=".2f")


def against_released_ssp(x: torch.Tensor) -> str:
    """Ten steps of SSP from VGG-16's conv3-3, as speed-ups over the released loop."""
    vgg = torchvision.models.vgg16().features[:16]
    network = Normalised(vgg).eval().to(x.device)
    base = seconds(lambda: released_ssp(network, x))
    network.requires_grad_(False)
    rows = [["the released loop", 1.0]]

    def measure(name: str, extractor: torch.nn.Module) -> None:
        rows.append([name, base / seconds(lambda: features.ssp(extractor, x, ids=IDS, steps=STEPS))])

    measure("clean features once, no parameter gradients", Tap(network, "15"))
    network.to(memory_format=torch.channels_last)
    measure("and channels_last", Tap(network, "15"))
    measure("and bf16", Bf16(Tap(network, "15")))
    return tabulate(rows, ["SSP", "times faster"], tablefmt="github", floatfmt=".2f")


def scattering_gradients(device: str) -> str:
    """The transport distance of 60 images with 1,000 classes and its gradient, against the unrolled one."""
    clean, perturbed = torch.randn(2, 60, 1000, device=device)
    perturbed.requires_grad_(True)

    def run(gradient: str) -> float:
        return seconds(
            lambda: torch.autograd.grad(scattering(clean, perturbed, gradient=gradient).sum(), perturbed)[0].cpu()
        )

    times = {gradient: run(gradient) for gradient in GRADIENTS}
    rows = [[name, times["unrolled"] / time] for name, time in times.items()]
    return tabulate(rows, ["FSA's gradient", "times faster"], tablefmt="github", floatfmt=".2f")


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = (torch.randint(0, 256, (BATCH, 3, 224, 224)) / 255).to(device)
    y = torch.zeros(BATCH, dtype=torch.int64, device=device)
    print(
        __doc__.replace(": `make bench`", ""),
        f"On {machine.describe()}, one thread on CPUs; the fastest of {REPEATS} runs.",
        sep="\n",
    )
    print("", against_floor(x, y), against_released_ssp(x), scattering_gradients(device), sep="\n\n")


if __name__ == "__main__":
    main()
