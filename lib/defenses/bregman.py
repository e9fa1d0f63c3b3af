"""Total-variation denoising by split Bregman, twice: scikit-image's own, plane by plane, and a batched form of it.

scikit-image's `_denoise_tv_bregman` (restoration/_denoise_cy.pyx) sweeps over the pixels; each takes the new values of
its neighbours above and to the left, and the old ones of those to the right and below:

    u = S + a (u above + u left),    a = lam / (weight + 4 lam) = 2/9    whatever the weight, as lam = 2 weight.

S holds only what is known before the sweep, because the split variables of a pixel are computed from values that the
sweep has not reached. So a sweep is one convolution, 1 / (1 - a (up + left)), and is done for all planes at once as a
product in the Fourier domain, exact but for float32 rounding. Its response falls by a / (1 - a) = 2/7 per row, so that
PAD rows and columns of zeros keep what wraps around below 1e-9.

Both functions: planes float32 `[N,H,W]` in [0,1], H and W at least 2 -> the same shape, not clipped.
"""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

GAIN = 2 / 9
PAD = 16


def scikit_image(planes: Tensor, weight: float, max_iterations: int, tolerance: float) -> Tensor:
    """scikit-image's function on each plane, on as many threads as torch uses (it releases the interpreter lock)."""
    # Imported here: it takes seconds, and no other transform needs it.
    from skimage.restoration import denoise_tv_bregman

    def denoise(plane):
        return torch.from_numpy(denoise_tv_bregman(plane, weight, max_iterations, tolerance))

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return torch.stack(list(pool.map(denoise, planes.numpy())))


def batched(planes: Tensor, weight: float, max_iterations: int, tolerance: float) -> Tensor:
    """The same for all planes at once, on any device; a plane that has converged keeps its result while others go on.

    d and b below are the split variables and Bregman's residuals, for the differences to the right and down; only b and
    d - b enter the next sweep.
    """
    lam, device, (height, width) = 2 * weight, planes.device, planes.shape[1:]
    # The convolution in the Fourier domain, padded to multiples of 32, which suit the transforms.
    shape = [-(-(size + PAD) // 32) * 32 for size in (height, width)]
    up, left = (torch.exp(-2j * torch.pi * torch.arange(n, dtype=torch.float64, device=device) / n) for n in shape)
    response = (1 / (1 - GAIN * (up[:, None] + left[None, : shape[1] // 2 + 1]))).to(torch.complex64)
    # Outside the image stand fixed copies: the second row and column before it, the last ones after it.
    fixed = planes / 9
    fixed[:, 0] += GAIN * planes[:, 1]
    fixed[:, :, 0] += GAIN * planes[:, :, 1]
    u = result = planes
    b = d_minus_b = planes.new_zeros(2, *planes.shape)
    active = torch.ones(len(planes), dtype=torch.bool, device=device)
    for _ in range(max_iterations):
        after = torch.stack([torch.cat([u[:, :, 1:], planes[:, :, -1:]], 2), torch.cat([u[:, 1:], planes[:, -1:]], 1)])
        t = after - u + b
        size = lam * torch.hypot(t[0], t[1])
        shrunk = size / (1 + size)
        known = (after - d_minus_b).sum(0)
        b, d_minus_b = (1 - shrunk) * t, (2 * shrunk - 1) * t
        known[:, :, 1:] += d_minus_b[0, :, :, :-1]
        known[:, 1:] += d_minus_b[1, :, :-1]
        swept = torch.fft.rfft2(fixed + GAIN * known, s=shape) * response
        previous, u = u, torch.fft.irfft2(swept, s=shape)[:, :height, :width]
        result = torch.where(active[:, None, None], u, result)
        active = active & ((u - previous).square().mean((1, 2)).sqrt() > tolerance)
        if not active.any():
            break
    return result
