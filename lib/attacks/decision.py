"""Attacks on a network's decision: FGSM, R-FGSM, I-FGSM, MI-FGSM, DIM, DIM-TI, PGD; and noise, their baseline.

Defaults are the supplement's Appendix F. In all of them
- surrogate: a network (images `[B,3,H,W]` in [0,1] -> logits `[B,K]`) or a list of networks, whose logits are averaged;
- x: images `[B,3,H,W]`, float, in [0,1];  y: true labels `[B]`, or None for the surrogate's own prediction on x
  (what the released MI-FGSM and TI code uses);
- eps, step, alpha: in [0,1] units, a number or one per image `[B,1,1,1]`;
- ids, seed: the images' identifiers, which key their random draws together with the seed;
- snapshots, the result and errors: see `lib.attacks.ascent.ascend`.

The released Inception attacks add 0.4 times the cross-entropy of the auxiliary head, which timm's and torchvision's
networks do not have at inference.
"""

import functools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib import linf
from lib.attacks.ascent import EPS, STEP, ascend, draws, gradient, momentum, uniform_start
from lib.attacks.diversity import diverse, translation_kernel
from lib.checks import checked_images, checked_labels, checked_logits, evaluating, numbers
from lib.units import LEVELS, unit

TWO = unit(2)

Surrogate = nn.Module | Sequence[nn.Module]
Labels = Tensor | None
Loss = Callable[[Tensor, Tensor], Tensor]  # logits [B,K], labels [B] -> [B]


def sign_noise(x: Tensor, *, ids: Sequence, seed=0, eps=EPS) -> Tensor:
    """The baseline that every attack must beat: x plus or minus eps, the sign of every pixel drawn at random."""
    x = checked_images(x, eps)
    noise = draws(x, ids, seed, "noise").normal(*x.shape[1:]).to(x)
    return linf.quantise(x + eps * noise.sign(), x, eps)


def fgsm(surrogate: Surrogate, x: Tensor, y: Labels, *, eps=EPS, step=None) -> Tensor:
    """Fast gradient sign method: one step of size eps (supplement, Appendix F: step 16)."""
    return i_fgsm(surrogate, x, y, eps=eps, step=eps if step is None else step, steps=1)


def r_fgsm(surrogate: Surrogate, x: Tensor, y: Labels, *, ids: Sequence, seed=0, eps=EPS, alpha=None) -> Tensor:
    """FGSM after a random step: alpha in a random direction, the sign of normal noise (ensemble-adv-training,
    simple_eval.py:52-62), then eps - alpha along the gradient.

    alpha: default eps / 3, the supplement's 16/3 (Appendix F); ValueError where it exceeds eps.
    """
    x = checked_images(x, eps, members(surrogate), alpha=0.0 if alpha is None else alpha)
    alpha = eps / 3 if alpha is None else alpha
    if bool((torch.as_tensor(eps - alpha, device=x.device) < 0).any()):
        raise ValueError(f"alpha {alpha} exceeds the budget {eps}: the gradient step would go backwards")
    noise = draws(x, ids, seed, "r_fgsm").normal(*x.shape[1:]).to(x)
    start = (x + alpha * noise.sign()).clamp(0, 1)
    return _ascend_loss(surrogate, x, y, eps=eps, step=eps - alpha, steps=1, start=start)


def i_fgsm(surrogate: Surrogate, x: Tensor, y: Labels, *, eps=EPS, step=STEP, steps=10, snapshots=None) -> Tensor:
    """Iterative FGSM from the clean image (supplement, Appendix F: 10 iterations, step 1.6)."""
    return _ascend_loss(surrogate, x, y, eps=eps, step=step, steps=steps, snapshots=snapshots)


def mi_fgsm(
    surrogate: Surrogate, x: Tensor, y: Labels, *, eps=EPS, step=STEP, steps=10, decay=1.0, snapshots=None
) -> Tensor:
    """Momentum iterative FGSM (supplement, Appendix F: 10 iterations, step 1.6, decay 1; Dong et al. 2018)."""
    rule = momentum(decay)
    return _ascend_loss(surrogate, x, y, eps=eps, step=step, steps=steps, rule=rule, snapshots=snapshots)


def dim(
    surrogate: Surrogate,
    x: Tensor,
    y: Labels,
    *,
    ids: Sequence,
    seed=0,
    eps=EPS,
    step=STEP,
    steps=10,
    decay=1.0,
    probability=0.7,
    kernel: int | None = None,
    edge=3.0,
    snapshots=None,
) -> Tensor:
    """Diverse-input MI-FGSM (supplement, Appendix F: probability 0.7; Xie et al. 2018). Each network of an ensemble
    sees its own random resize. DI-2-FGSM itself is probability=0.5, decay=0.

    kernel: DIM-TI, with 15: the gradient is first smoothed by the Gaussian `translation_kernel(kernel, edge)` (Dong et
    al. 2019).
    """
    networks = members(surrogate)
    x = checked_images(x, eps, networks, step=step)
    numbers(0, 1, probability=probability)
    views = [diverse(net, draws(x, ids, seed, f"dim/{k}"), probability) for k, net in enumerate(networks)]
    rule = momentum(decay, None if kernel is None else translation_kernel(kernel, edge))
    schedule = {"eps": eps, "step": step, "steps": steps, "rule": rule, "snapshots": snapshots}
    return _ascend_loss(networks, x, y, views=views, **schedule)


def pgd(
    surrogate: Surrogate,
    x: Tensor,
    y: Labels,
    *,
    ids: Sequence = (),
    seed=0,
    eps=EPS,
    step=STEP,
    steps=10,
    start="uniform",
    loss="cross-entropy",
    target: Tensor | str | None = None,
    snapshots=None,
) -> Tensor:
    """Projected gradient: away from y, or towards `target`.

    loss: of LOSSES.  target: classes `[B]`, or one of TARGETS: a random wrong class of each image (Table 1; supplement,
    Appendix B.1), the wrong class that is least or most likely ("runner-up") on the clean image.
    Defaults as Feature Denoising evaluates (adv_model.py: step max(1, 16/steps), start uniform in the ball and not
    clipped to [0,1]). NRP's released script instead takes step=2/255, start="clean" (`bypass_nrp`).
    """
    x = checked_images(x, eps, members(surrogate), step=step)
    if start not in ("uniform", "clean"):
        raise ValueError(f"start must be 'uniform' or 'clean', got '{start}'")
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got '{loss}'")
    if loss == "dlr" and target is not None:
        raise ValueError("the loss dlr takes no target")
    if isinstance(target, str):
        target = wrong_classes(surrogate, x, y, target, ids=ids, seed=seed)
    first = uniform_start(x, eps, draws(x, ids, seed, "pgd")) if start == "uniform" else None
    schedule = {"eps": eps, "step": step, "steps": steps, "start": first, "snapshots": snapshots, "loss": LOSSES[loss]}
    return _ascend_loss(surrogate, x, y if target is None else target, sign=1 if target is None else -1, **schedule)


@torch.inference_mode(False)
def bypass_nrp(surrogate: Surrogate, x: Tensor, *, ids: Sequence, seed=0, eps=EPS, step=TWO, steps=10) -> Tensor:
    """The authors' targeted PGD on the victim behind NRP (Muzammal-Naseer/NRP, bypass_nrp.py), mistakes included: a row
    of the protocol (notebooks/h_protocol.ipynb), so that what the script does is told from what is meant, see `pgd`.

    Targets are uniform over all classes but the first: the script means to leave out the true one. The result is
    truncated to 8 bits, not rounded, so it may leave the budget by a level: k / 255 * 255 is below k for some levels k.
    """
    networks = members(surrogate)
    x = checked_images(x, eps, networks, step=step)
    numbers(1, whole=True, steps=steps)
    logits, x_adv, classes = mean_logits(networks), x, clean_logits(networks, x[:1]).shape[-1]
    target = draws(x, ids, seed, "bypass_nrp").integers(1, classes).to(x.device)
    with evaluating(*networks):
        for _ in range(steps):
            grad = gradient(lambda images: cross_entropy(logits(images), target), x_adv)
            x_adv = linf.project(x_adv - step * grad.sign(), x, eps)
    return (LEVELS * x_adv).floor() / LEVELS


def wrong_classes(surrogate: Surrogate, x: Tensor, y: Labels, which: str, *, ids: Sequence, seed=0) -> Tensor:
    """The targets `[B]` of these names, TARGETS; ValueError for another name, and without the true labels."""
    if which not in TARGETS:
        raise ValueError(f"target must be classes or one of {', '.join(TARGETS)}, got '{which}'")
    if y is None:
        raise ValueError("targeted PGD needs the true labels, to draw wrong ones")
    logits = clean_logits(members(surrogate), x)
    y = checked_labels(y, len(x), logits.shape[1]).to(x.device)
    if which == "random":
        return random_targets(y, logits.shape[1], ids=ids, seed=seed)
    return without(logits, y, math.inf).argmin(1) if which == "least likely" else without(logits, y).argmax(1)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """The highest other logit less that of y, `[B]` (Carlini and Wagner 2017, without their constant)."""
    return without(logits, y).amax(1) - logits.gather(1, y[:, None]).flatten()


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """The margin divided by the distance from the first to the third logit, which no scale or shift of the logits
    changes (difference of logits ratio; Croce and Hein 2020)."""
    numbers(3, whole=True, **{"classes of the loss dlr": logits.shape[1]})
    first, _, third = logits.topk(3, dim=1).values.unbind(1)
    return margin(logits, y) / (first - third + 1e-12)


def without(logits: Tensor, y: Tensor, instead: float = -math.inf) -> Tensor:
    """The logits with another value in place of that of y."""
    return logits.masked_fill(F.one_hot(y, logits.shape[1]).bool(), instead)


cross_entropy = functools.partial(F.cross_entropy, reduction="none")
TARGETS = ("random", "least likely", "runner-up")
LOSSES = {"cross-entropy": cross_entropy, "margin": margin, "dlr": dlr}


def random_targets(y: Tensor, classes: int, *, ids: Sequence, seed=0) -> Tensor:
    """One target per image, uniform over the wrong classes, `[B]` (ImageNet-Adversarial-Training, adv_model.py)."""
    if classes < 2:
        raise ValueError(f"{classes} class has no wrong one to target")
    shift = draws(y, ids, seed, "target").integers(1, classes)
    return (y + shift.to(y.device)) % classes


def members(surrogate: Surrogate) -> list[nn.Module]:
    """The networks of an ensemble, or the one network in a list. TypeError in one line for anything else."""
    found = [surrogate] if isinstance(surrogate, nn.Module) else surrogate
    if not isinstance(found, list | tuple) or not found or not all(isinstance(each, nn.Module) for each in found):
        raise TypeError(f"the network must be a torch.nn.Module or a list of them, got {type(surrogate).__name__}")
    return list(found)


def mean_logits(networks: Sequence[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    """The unweighted mean of the networks' logits (Dong et al. 2018, ensemble in logits)."""
    # Of a copy: networks that normalise their input in place would change the adversaries.
    return lambda x: torch.stack([checked_logits(network(x.clone()), len(x)) for network in networks]).mean(0)


def clean_logits(networks: Sequence[nn.Module], x: Tensor) -> Tensor:
    """`mean_logits` in inference mode, without a gradient."""
    with evaluating(*networks), torch.no_grad():
        return mean_logits(networks)(x)


@torch.inference_mode(False)
def _ascend_loss(
    surrogate: Surrogate, x: Tensor, y: Labels, *, sign=1, loss: Loss = cross_entropy, views: Sequence = (), **schedule
) -> Tensor:
    """Ascend `sign` times the loss of y; views: the networks as the loss sees them."""
    networks = members(surrogate)
    x, labels = checked_images(x, schedule["eps"], networks, step=schedule["step"]), None
    logits = mean_logits(views or networks)

    def objective(x_adv: Tensor) -> Tensor:
        nonlocal labels
        found = logits(x_adv)
        labels = checked_labels(y, len(x), found.shape[-1]).to(x.device) if labels is None else labels
        return sign * by_draw(loss, found, labels)

    y = clean_logits(networks, x).argmax(1) if y is None else y
    with evaluating(*networks):
        return ascend(objective, x, **schedule)


def by_draw(loss: Loss, logits: Tensor, y: Tensor) -> Tensor:
    """The loss `[B]` of logits `[B,K]`; of those of several draws of a defense, `[D,B,K]`, the mean over the draws."""
    return torch.stack([loss(draw, y) for draw in logits]).mean(0) if logits.ndim == 3 else loss(logits, y)
