"""The attacks of other libraries with the parameters of ours: functions of (network, images, labels)."""

import functools
from collections.abc import Callable

import foolbox
import torch
import torch.nn.functional as F
import torchattacks
from art.attacks.evasion import MomentumIterativeMethod, ProjectedGradientDescentPyTorch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from lib.attacks.ascent import EPS, STEP
from lib.attacks.diversity import RATIO, translation_kernel

STEPS, PROBABILITY = 10, 0.7
Attack = Callable[[nn.Module, Tensor, Tensor], object]


def torchattack(kind: type, **options) -> Attack:
    """An attack of torchattacks; its random sizes are those of the released code."""
    return lambda network, x, y: kind(network, eps=EPS, alpha=STEP, steps=STEPS, **options)(x, y)


def foolbox_attack(kind: type, **options) -> Attack:
    def run(network: nn.Module, x: Tensor, y: Tensor) -> object:
        attack = kind(abs_stepsize=STEP, steps=STEPS, **options)
        return attack(foolbox.PyTorchModel(network, bounds=(0, 1)), x, y, epsilons=EPS)

    return run


def art_attack(kind: type, **options) -> Attack:
    def run(network: nn.Module, x: Tensor, y: Tensor) -> object:
        shape = tuple(x.shape[1:])
        seen = PyTorchClassifier(network, nn.CrossEntropyLoss(), shape, 1000, clip_values=(0, 1), device_type="cpu")
        attack = kind(seen, eps=EPS, eps_step=STEP, max_iter=STEPS, batch_size=len(x), verbose=False, **options)
        return attack.generate(x.numpy(), y.numpy())

    return run


def transfer_attack(
    network: nn.Module, x: Tensor, y: Tensor, *, start="clean", decay=1.0, view=None, kernel: int | None = None
) -> Tensor:
    """TransferAttack's loop in our words (transferattack/attack.py, gradient/mifgsm.py, input_transformation/)."""
    delta = torch.empty_like(x).uniform_(-EPS, EPS) if start == "uniform" else torch.zeros_like(x)
    delta, momentum = torch.clamp(delta, -x, 1 - x).requires_grad_(True), 0
    smooth = None if kernel is None else translation_kernel(kernel).expand(3, 1, kernel, kernel)
    for _ in range(STEPS):
        seen = x + delta
        loss = F.cross_entropy(network(seen if view is None else view(seen)), y)
        (grad,) = torch.autograd.grad(loss, delta)
        if smooth is not None:
            grad = F.conv2d(grad, smooth, padding="same", groups=3)
        momentum = momentum * decay + grad / grad.abs().mean((1, 2, 3), keepdim=True)
        delta = torch.clamp(delta + STEP * momentum.sign(), -EPS, EPS)
        delta = torch.min(torch.max(delta, -x), 1 - x).detach().requires_grad_(True)
    return (x + delta).detach()


def enlarged(x: Tensor, back: bool = False) -> Tensor:
    """TransferAttack's input diversity, one draw for the batch; back: resized to the size of x, as it does."""
    if torch.rand(1) > PROBABILITY:
        return x
    side, large = x.shape[-1], round(x.shape[-1] * RATIO)
    size = int(torch.randint(side, large, (1,)))
    top, left = (int(torch.randint(0, large - size, (1,))) for _ in range(2))
    image = F.interpolate(x, (size, size), mode="bilinear", align_corners=False)
    image = F.pad(image, (left, large - size - left, top, large - size - top))
    return F.interpolate(image, (side, side), mode="bilinear", align_corners=False) if back else image


same = functools.partial(transfer_attack, view=enlarged)
DIVERSE = {"resize_rate": RATIO, "diversity_prob": PROBABILITY, "decay": 1.0}

PEERS: dict[str, dict[str, Attack]] = {
    "MI-FGSM": {
        "torchattacks": torchattack(torchattacks.MIFGSM, decay=1.0),
        "TransferAttack": transfer_attack,
        "foolbox": foolbox_attack(foolbox.attacks.LinfMomentumIterativeFastGradientMethod),
        "ART": art_attack(MomentumIterativeMethod),
    },
    "PGD": {
        "torchattacks": torchattack(torchattacks.PGD),
        "TransferAttack": functools.partial(transfer_attack, start="uniform", decay=0.0),
        "foolbox": foolbox_attack(foolbox.attacks.LinfPGD),
        "ART": art_attack(ProjectedGradientDescentPyTorch, num_random_init=1),
    },
    "DIM": {"torchattacks": torchattack(torchattacks.DIFGSM, **DIVERSE), "TransferAttack": same},
    "DIM-TI": {
        "torchattacks": torchattack(torchattacks.TIFGSM, **DIVERSE),
        "TransferAttack": functools.partial(same, kernel=15),
    },
}
# Another attack, with fewer pixels: shown, not compared.
back = functools.partial(transfer_attack, view=functools.partial(enlarged, back=True))
RESIZED_BACK = {"DIM": back, "DIM-TI": functools.partial(back, kernel=15)}
