"""Training of CDA's generator. No labels are read.

Cross-domain transferability (Naseer et al. 2019, [14] of the supplement; Muzammal-Naseer/CDA, train.py): a generator
learns to turn the images of a source domain into adversaries of one frozen classifier, its only critic. It then attacks
images and networks that it has never seen.

Ours, not train.py's: bfloat16, resizing by torch instead of Pillow, no incomplete last batch, random crops and a mirror
where a scale asks for them, images drawn as comic or painting first (`lib.data.renderings`), and sides that the
generator does not give back unchanged are filled up. A `spec` is `lib.settings.networks.GeneratorSpec`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import functional as vision

from lib import linf
from lib.attacks.generators import proposal
from lib.checks import evaluating
from lib.data.renderings import RENDERINGS
from lib.networks.cda_generator import GENERATORS
from lib.networks.wrappers import Bf16
from lib.rng import generator as numbers
from lib.rng import key
from lib.training import loop
from lib.training.augment import crops
from lib.training.loop import EXAMPLES, fingerprint, magnified
from lib.units import unit

BETAS = (0.5, 0.999)  # Adam's (train.py:60)
IN_MEMORY = 1000  # images, once they are read, resized and rendered


def training(spec: Any, network: Any, data: Sequence[Tensor], classifier: nn.Module) -> loop.Training:
    """The training of the generator `network` (`lib.settings.NetworkSpec`), on the classifier's device.

    data: uint8 images `[3,H,W]`.  classifier: images in [0,1] -> logits.
    """
    device = next(classifier.parameters()).device
    classifier = Bf16(classifier)
    loop.check_and_seed(spec.seed, data[0])
    generator = GENERATORS[network.architecture](network.width, network.blocks)
    generator = generator.to(device, memory_format=torch.channels_last).train()
    optimiser = torch.optim.Adam(generator.parameters(), spec.lr, BETAS, fused=True)
    read, eps = reader(data, spec.resize, spec.render), unit(spec.eps)
    examples = keyed_crops(spec, read, range(len(data))[:EXAMPLES], "sheet").to(device)

    def advance(step: int) -> dict[str, float]:
        chosen = loop.shuffled(len(data), spec.batch, step, spec.seed).tolist()
        x = loop.share(keyed_crops(spec, read, chosen, "crops", step)).to(device, memory_format=torch.channels_last)
        # Dropout draws from the global generator: keyed by the step, so that a resumed run draws the same.
        others = [number] if (number := loop.worker()[0]) else []
        torch.manual_seed(key(spec.seed, "dropout", step, *others))
        with torch.autocast(x.device.type, torch.bfloat16):
            proposed = proposal(generator, x).float()
        x_adv = linf.project(proposed, x, eps)
        with torch.no_grad():
            clean = classifier(x)
        logits = classifier(x_adv)
        fooled = (logits.argmax(1) != clean.argmax(1)).float().mean().item()
        return {"loss": loop.descend(optimiser, relativistic(logits, clean)), "fooled": fooled}

    @torch.no_grad()
    def sheet() -> list[Tensor]:
        """Clean, what the generator proposes, adversary and perturbation."""
        with evaluating(generator):
            proposed = proposal(generator, examples)
        x_adv = linf.project(proposed, examples, eps)
        return [examples, proposed, x_adv, magnified(x_adv - examples)]

    state = {"generator": generator, "optimiser": optimiser}
    inputs = [network.architecture, network.width, network.blocks, classifier, *fingerprint(data)]
    return loop.Training(training, generator, state, spec.steps, advance, inputs, len(data) // spec.batch, sheet)


def reader(data: Sequence[Tensor], side: int | None, render: str) -> Callable[[int], Tensor]:
    """Gives an image with its shorter side brought to `side` pixels and then, as lines have widths in pixels, rendered;
    side None: as it is."""
    if side is None:
        return data.__getitem__
    drawn = RENDERINGS.get(render, lambda image: image)
    return functools.lru_cache(IN_MEMORY)(lambda index: drawn(resized(data[index], side)))


def resized(image: Tensor, side: int) -> Tensor:
    """The image, uint8 `[3,H,W]`, with a shorter side of `side` pixels (bilinear, antialiased)."""
    ratio = side / min(image.shape[1:])
    return vision.resize(image, [round(length * ratio) for length in image.shape[1:]], antialias=True)


def keyed_crops(spec: Any, read: Callable[[int], Tensor], chosen: Sequence[int], *purpose: object) -> Tensor:
    """The crops of the chosen images as the spec wants them: the centre, or a random one keyed by the purpose."""
    return crops(spec.side, read, chosen, numbers(spec.seed, *purpose) if spec.crops == "random" else None)


def relativistic(logits: Tensor, clean: Tensor) -> Tensor:
    """Minus the cross-entropy of the change of the logits `[B,K]` to the class seen in the clean image (train.py:131).

    A plain cross-entropy stops teaching once an image is fooled by far; the change of the logits does not.
    """
    return -F.cross_entropy(logits.float() - clean.float(), clean.argmax(1))
