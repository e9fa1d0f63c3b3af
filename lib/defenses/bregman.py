"""Total-variation denoising by split Bregman: scikit-image's, to rounding, for many planes at once on any device.

scikit-image's `_denoise_tv_bregman` (restoration/_denoise_cy.pyx) sweeps over the pixels; each takes the new values of
its neighbours above and to the left, and the old ones of those to the right and below:

    u = S + a (u above + u left),    a = lam / (weight + 4 lam) = 2/9    whatever the weight, as lam = 2 weight.

S holds only what is known before the sweep, because the split variables of a pixel are computed from values that the
sweep has not reached. So a sweep is one convolution, 1 / (1 - a (up + left)), and is done for all planes at once as a
product in the Fourier domain, exact but for float32 rounding. Its response falls by a / (1 - a) = 2/7 per row, so that
PAD rows and columns of zeros keep what wraps around below 1e-9.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

GAIN = 2 / 9
PAD = 16


def batched(planes: Tensor, weight: float, max_iterations: int, tolerance: float) -> Tensor:
    """Planes float32 `[N,H,W]` in [0,1], H and W at least 2 -> the same shape, not clipped; a plane that has converged
    keeps its result while others go on.

    d and b below are the split variables and Bregman's residuals, for the differences to the right and down; only b and
    d - b enter the next sweep.
    """
    lam, device, (height, width) = 2 * weight, planes.device, planes.shape[1:]
    shape, response = convolution(height, width, device)
    # Outside the image stand fixed copies: the second row and column before it, the last ones after it.
    fixed = planes / 9
    fixed[:, 0] += GAIN * planes[:, 1]
    fixed[:, :, 0] += GAIN * planes[:, :, 1]
    # The values of the sweep before, and the fixed copies to their right and below. What a sweep needs is allocated
    # once: on CPUs fresh memory costs more than the arithmetic in it.
    u = F.pad(planes, (0, 1, 0, 1))
    u[:, :height, width], u[:, height, :width] = planes[:, :, -1], planes[:, -1]
    inside, right, below = u[:, :height, :width], u[:, :height, 1:], u[:, 1:, :width]
    t, b, d_minus_b = (planes.new_zeros(2, *planes.shape) for _ in range(3))
    result, size, padded = planes.clone(), torch.empty_like(planes), planes.new_zeros(len(planes), *shape)
    known, product, back = padded[:, :height, :width], torch.fft.rfft2(padded), torch.empty_like(padded)
    swept, active = back[:, :height, :width], torch.ones(len(planes), dtype=torch.bool, device=device)
    for _ in range(max_iterations):
        torch.sub(right, inside, out=t[0])
        torch.sub(below, inside, out=t[1])
        t += b
        torch.add(right, below, out=known).sub_(d_minus_b[0]).sub_(d_minus_b[1])
        torch.mul(t[0], t[0], out=size).addcmul_(t[1], t[1]).sqrt_()
        torch.mul(t, size.mul_(lam).add_(1).reciprocal_(), out=b)
        torch.sub(t, b, alpha=2, out=d_minus_b)
        known[:, :, 1:] += d_minus_b[0, :, :, :-1]
        known[:, 1:] += d_minus_b[1, :, :-1]
        known.mul_(GAIN).add_(fixed)
        torch.fft.irfft2(torch.fft.rfft2(padded, out=product).mul_(response), s=shape, out=back)
        change = torch.sub(swept, inside, out=size).square_().mean((1, 2)).sqrt_()
        inside.copy_(swept)
        if len(planes) == 1:
            result.copy_(swept)
        else:
            torch.where(active[:, None, None], swept, result, out=result)
        active &= change > tolerance
        if not active.any():
            break
    return result


@functools.lru_cache(maxsize=8)
def convolution(height: int, width: int, device: torch.device) -> tuple[list[int], Tensor]:
    """A sweep in the Fourier domain: the padded sides, multiples of 16, which suit the transforms, and the response."""
    shape = [-(-(size + PAD) // 16) * 16 for size in (height, width)]
    # In float64, which not every device has.
    up, left = (torch.exp(-2j * torch.pi * torch.arange(n, dtype=torch.float64, device="cpu") / n) for n in shape)
    response = 1 / (1 - GAIN * (up[:, None] + left[None, : shape[1] // 2 + 1]))
    return shape, response.to(torch.complex64).to(device)
