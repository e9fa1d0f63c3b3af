"""How near images, or what a defense makes of them, are to the clean ones."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from lib.units import same_size, unit_images


@torch.no_grad()
def fidelity_of(
    clean: Tensor | list[Tensor],
    images: Tensor | list[Tensor],
    defense: Callable[[Tensor], Tensor] | None,
    tap: nn.Module | None,
    *,
    batch: int,
    device: str,
) -> dict[str, np.ndarray]:
    """One number per image `[N]`: psnr, the peak signal-to-noise ratio in dB (infinite where nothing differs); and with
    a tap, features: the squared distance of its features, as a share of the clean features' squared size.

    clean, images: 8-bit, `[N,3,H,W]` or a list of `[3,H,W]`.  defense: applied to `images` first.
    """
    found: dict[str, list[Tensor]] = {"psnr": []} | ({"features": []} if tap else {})
    groups = same_size(clean, batch)
    for group in groups:
        x, other = (unit_images(torch.stack([of[index] for index in group]), device) for of in (clean, images))
        other = defense(other) if defense else other
        found["psnr"].append(-10 * (other - x).square().flatten(1).mean(1).log10())
        if tap:
            features = tap(x)
            away = (tap(other) - features).square().flatten(1).sum(1)
            found["features"].append(away / features.square().flatten(1).sum(1))
    order = np.argsort(np.concatenate(groups))
    return {name: torch.cat(parts).cpu().numpy()[order] for name, parts in found.items()}
