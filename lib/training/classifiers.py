"""Training of one stand-in classifier: naturally, or on adversaries (recipes fgsm, pgd, ensemble, scatter).

A `spec` is `lib.settings.networks.StandIn`; its eps and step are in levels.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.attacks.decision import fgsm, pgd
from lib.attacks.transport import fsa
from lib.networks.small import ARCHITECTURES, MEAN, STD
from lib.networks.wrappers import Normalised
from lib.rng import Streams, generator
from lib.training import loop
from lib.training.augment import MOST_NOISE, augmented
from lib.units import unit, unit_images

RAMP = (0.3, 0.6)  # shares of the steps at which the adversaries begin, and reach their full budget


def kurakin_eps(count: int, eps: float, g: torch.Generator) -> Tensor:
    """Budgets `[count,1,1,1]` from |N(0, eps/2)| truncated to [0, eps] (Kurakin et al. 2017, section 4)."""
    # The inverse of the normal distribution function turns uniform numbers into truncated normal ones.
    uniform = torch.rand(count, 1, 1, 1, generator=g) * math.erf(math.sqrt(2))
    return math.sqrt(2) * torch.erfinv(uniform) * eps / 2


def adversarial_batch(
    spec: Any, victim: nn.Module, sources: Sequence[nn.Module], x: Tensor, y: Tensor, step: int, done: float
) -> Tensor:
    """The batch as the recipe wants it: unchanged, half of it attacked (fgsm, ensemble), or all of it (pgd, scatter).

    x, y: this worker's rows of the batch.  done: the finished share of the training.
    """
    # With the full budget from the start small networks learn next to nothing in a few epochs.
    begin, full = RAMP
    share = min(1.0, max(0.0, (done - begin) / (full - begin)))
    if spec.recipe == "natural" or share == 0:
        return x
    eps, count = unit(share * spec.eps), len(x) * loop.worker()[1]
    schedule = {"eps": eps, "step": unit(share * spec.step), "steps": spec.steps}
    keyed = {"ids": loop.share(range(count)), "seed": spec.seed + step}
    if spec.recipe == "pgd":
        return pgd(victim, x, y, **keyed, **schedule)
    if spec.recipe == "scatter":
        return fsa(victim, x, batch=len(x), **keyed, **schedule)
    budgets = loop.share(kurakin_eps(count // 2, eps, generator(spec.seed, "eps", step))).to(x.device)
    if not (half := len(budgets)):
        raise ValueError(f"recipe {spec.recipe} attacks half of each batch, and a batch of {len(x)} has none")
    # Tramer et al. 2018, section 4.1: each batch takes its adversaries from one network of the ensemble in turn.
    networks = [victim, *sources] if spec.recipe == "ensemble" else [victim]
    x_adv = fgsm(networks[step % len(networks)], x[:half], y[:half], eps=budgets)
    return torch.cat([x_adv, x[half:]])


def training(
    spec: Any, network: Any, images: Tensor, labels: Tensor, sources: Sequence[nn.Module] = (), device: str = "cpu"
) -> loop.Training:
    """The training of the stand-in `network` (`lib.settings.NetworkSpec`) on uint8 images `[N,3,H,W]` and labels `[N]`.

    sources: trained networks for the recipe "ensemble", on the same device.
    """
    loop.check_and_seed(spec.seed, images, labels, network.classes)
    victim = Normalised(ARCHITECTURES[network.architecture](network.classes), MEAN, STD)
    victim = victim.to(device, memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(victim.parameters(), weight_decay=0.05, fused=True)
    steps = spec.epochs * (len(images) // spec.batch)
    # FeatureScatter's ls_factor is what the other classes get in all; PyTorch's share goes to the true class too.
    smoothing = spec.smoothing * network.classes / (network.classes - 1)

    def advance(step: int) -> dict[str, float]:
        chosen, done = loop.shuffled(len(images), spec.batch, step, spec.seed), step / steps
        x = augmented(images[chosen], generator(spec.seed, "batch", step))
        x, y = loop.share(x).to(device), loop.share(labels[chosen]).to(device)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16):
            x = adversarial_batch(spec, victim, sources, x, y, step, done)
            logits = victim(x)
        loss = F.cross_entropy(logits.float(), y, label_smoothing=smoothing)
        return {"loss": loop.descend(optimiser, loss, loop.warmup_cosine(spec.lr, done))}

    state = {"victim": victim, "optimiser": optimiser}
    inputs = [network.architecture, network.classes, images, labels, *sources]
    return loop.Training(training, victim.network, state, steps, advance, inputs)


def accuracies_under_attack(victim: nn.Module, images: Tensor, labels: Tensor, ids: Sequence[str]) -> dict[str, float]:
    """Accuracy on uint8 images `[N,3,H,W]`, under sign noise of 16 levels keyed by their ids, and under FGSM of 16."""
    device = next(victim.parameters()).device
    x, y = unit_images(images, device), labels.to(device)
    noise = Streams(0, ids, "sign noise").normal(*x.shape[1:]).sign().to(x)
    x_adv = torch.cat([fgsm(victim, a, b, eps=MOST_NOISE) for a, b in zip(x.split(100), y.split(100), strict=True)])
    shown = {"accuracy": x, "accuracy_noise": (x + MOST_NOISE * noise).clamp(0, 1), "accuracy_fgsm": x_adv}
    with torch.inference_mode():
        predicted = {name: torch.cat([victim(part).argmax(1) for part in z.split(100)]) for name, z in shown.items()}
    return {"images": len(x)} | {name: found.eq(y).double().mean().item() for name, found in predicted.items()}
