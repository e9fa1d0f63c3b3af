"""Training of NRP. No labels are read, and no classifier is protected.

Algorithm 1 of the paper: SSP finds adversaries of each batch in the features of VGG-16's conv3-3; the purifier learns
to give back the clean images, by a loss of their features, their pixels and a critic (a relativistic average GAN).

The weights of the losses, the crops and Adam are recalled from the main paper or are those of BasicSR's ESRGAN, which
the authors name as their framework (issues 2 and 6 of Muzammal-Naseer/NRP). Ours: the learning rate's warm-up and
cosine, mirroring alone (BasicSR rotates too), crops without resizing the photograph first, and features compared as a
share of their size. A `spec` is `lib.settings.networks.PurifierSpec`.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from lib.attacks.decision import mi_fgsm, sign_noise
from lib.attacks.features import ssp
from lib.networks.purifier import PURIFIERS, Critic, begin_as_identity
from lib.networks.wrappers import Bf16
from lib.rng import generator
from lib.training import loop
from lib.training.augment import crops
from lib.training.loop import EXAMPLES, fingerprint, magnified
from lib.units import unit

BETAS = (0.9, 0.99)  # Adam's, in BasicSR's train_ESRGAN_x4.yml


def training(
    spec: Any, network: Any, data: Sequence[Tensor], extractor: nn.Module, classifier: nn.Module | None = None
) -> loop.Training:
    """The training of the purifier `network` (`lib.settings.NetworkSpec`), on the extractor's device.

    data: uint8 images `[3,H,W]`.  extractor: images in [0,1] -> features.  classifier: images -> logits, where the
    purifier learns from MI-FGSM's adversaries.
    """
    device = next(extractor.parameters()).device
    extractor = Bf16(extractor)
    loop.check_and_seed(spec.seed, data[0])
    purifier = PURIFIERS[network.architecture](network.width, network.blocks)
    if spec.init == "identity":
        begin_as_identity(purifier)
    critic = Critic(spec.critic_width, spec.crop)
    for built in (purifier, critic):
        built.to(device, memory_format=torch.channels_last).train()
    optimiser, critic_optimiser = (Adam(built.parameters(), betas=BETAS, fused=True) for built in (purifier, critic))
    examples = crops(spec.crop, data.__getitem__, range(len(data))[:EXAMPLES], generator(spec.seed, "sheet")).to(device)
    seen = classifier or extractor
    examples_adv = adversarial_crops(spec, seen, examples, "sheet")

    def advance(step: int) -> dict[str, float]:
        x = loop.share(batch(spec, data, step)).to(device, memory_format=torch.channels_last)
        x_adv = adversarial_crops(spec, seen, x, f"{step}/0", loop.share(range(spec.batch)))
        return update(spec, state, extractor, x, x_adv, loop.warmup_cosine(spec.lr, step / spec.steps))

    @torch.no_grad()
    def sheet() -> list[Tensor]:
        """Clean, adversary, purified and what the purifier took away."""
        purified = purifier(examples_adv).clamp(0, 1)
        return [examples, examples_adv, purified, magnified(examples_adv - purified)]

    inputs = [network.architecture, network.width, network.blocks, extractor, *fingerprint(data)]
    inputs += [classifier] if classifier else []
    state = {"purifier": purifier, "critic": critic, "optimiser": optimiser, "critic_optimiser": critic_optimiser}
    return loop.Training(training, purifier, state, spec.steps, advance, inputs, len(data) // spec.batch, sheet)


def batch(spec: Any, data: Sequence[Tensor], step: int) -> Tensor:
    """The clean crops of one step, `[batch,3,crop,crop]` in [0,1]; every epoch is one shuffled pass."""
    chosen = loop.shuffled(len(data), spec.batch, step, spec.seed).tolist()
    return crops(spec.crop, data.__getitem__, chosen, generator(spec.seed, "crops", step, 0))


def adversarial_crops(spec: Any, seen: nn.Module, x: Tensor, key: str, rows: range | None = None) -> Tensor:
    """Adversaries of the crops: SSP's as in the paper; for comparison random noise, or MI-FGSM's away from the
    classifier's own predictions.  seen: the extractor, or that classifier.  rows: of the batch (default: all)."""
    eps, rows = unit(spec.eps), rows or range(len(x))
    if spec.budgets == "uniform":
        budgets = torch.rand(rows.stop, 1, 1, 1, generator=generator(spec.seed, "budgets", key))
        eps = eps * budgets[rows.start :: rows.step].to(x)
    ids, schedule = [f"{key}/{k}" for k in rows], {"eps": eps, "step": unit(spec.step), "steps": spec.ssp_steps}
    if spec.adversaries == "noise":
        return sign_noise(x, ids=ids, seed=spec.seed, eps=eps)
    if spec.adversaries == "mi_fgsm":
        return mi_fgsm(seen, x, None, **schedule)
    return ssp(seen, x, ids=ids, seed=spec.seed, start=spec.ssp_start, **schedule)


def update(
    spec: Any, state: dict[str, Any], extractor: nn.Module, x: Tensor, x_adv: Tensor, lr: float
) -> dict[str, float]:
    """One step of the purifier, then one of the critic, on clean images and their adversaries; the losses."""
    critic = state["critic"].requires_grad_(False)
    with torch.autocast(x.device.type, torch.bfloat16):
        y = state["purifier"](x_adv).float()
    losses = torch.stack([adversarial_loss(critic, x, y), F.l1_loss(y, x), feature_loss(extractor, x, y)])
    weights = torch.tensor([spec.adversarial, spec.pixel, spec.feature]).to(losses)
    loop.descend(state["optimiser"], losses @ weights, lr)
    critic.requires_grad_(True)
    last = loop.descend(state["critic_optimiser"], critic_loss(critic, x, y.detach()), lr)
    return dict(zip(("adversarial", "pixel", "feature"), losses.tolist(), strict=True)) | {"critic": last}


def feature_loss(extractor: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mean distance of the features of y to those of x, as a share of the latter's mean size: a weight of 1 would else
    mean something else for every extractor (the features of Oxford's VGG-16, which takes levels, are hundreds)."""
    with torch.no_grad():
        clean = extractor(x)
    return (extractor(y) - clean).abs().mean() / clean.abs().mean()


def adversarial_loss(critic: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The purifier's loss in a relativistic average GAN: purified images should look more real than the clean ones do
    on average, and the other way round (BasicSR, esrgan_model.py)."""
    real, fake = critic_logits(critic, x, y)
    real = real.detach()
    return 0.5 * (entropy(real - fake.mean(), 0) + entropy(fake - real.mean(), 1))


def critic_loss(critic: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The critic's loss in a relativistic average GAN; y carries no gradient (BasicSR, esrgan_model.py)."""
    real, fake = critic_logits(critic, x, y)
    return 0.5 * (entropy(real - fake.mean().detach(), 1) + entropy(fake - real.mean().detach(), 0))


def critic_logits(critic: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The critic's logits of clean images and of purified ones, `[B]` each; higher: more real."""
    # Under one autocast, which rounds the weights once: under two, gradients would add up in other last bits.
    with torch.autocast(x.device.type, torch.bfloat16):
        return critic(x).float(), critic(y).float()


def entropy(logits: Tensor, truth: int) -> Tensor:
    """Binary cross-entropy of the logits to one truth for all."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, truth))
