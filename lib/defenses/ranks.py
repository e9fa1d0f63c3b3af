"""The median of a window by a network of minima and maxima: elementwise, so that whole images are one operand."""

from collections.abc import Sequence

import torch
from torch import Tensor


def window_median(planes: Tensor, window: int) -> Tensor:
    """The median over `window` x `window` pixels of planes `[N,H,W]`, the border reflected with its edge repeated.

    The columns of the window are sorted once for all windows that share them, then its rows. After that i*j - 1 values
    are not above the one in row i and column j (from 1), which rules out two corners; the median is that of the rest,
    since as many high as low ones are gone. 20 minima and maxima for window 3, 156 for window 5.
    """
    height, width = planes.shape[1:]
    rows, columns = (reflected(size, window // 2).to(planes.device) for size in (height, width))
    padded = planes.index_select(1, rows).index_select(2, columns)
    sorted_rows = ranked([padded[:, i : i + height] for i in range(window)], range(window))
    middle = (window**2 + 1) // 2
    candidates = []
    for i, row in enumerate(sorted_rows):
        wanted = [j for j in range(window) if (i + 1) * (j + 1) <= middle and (window - i) * (window - j) <= middle]
        candidates += ranked([row[:, :, j : j + width] for j in range(window)], wanted)
    return ranked(candidates, [len(candidates) // 2])[0]


def reflected(size: int, radius: int) -> Tensor:
    """Indices that extend `size` pixels by `radius` on both sides: 1 0 | 0 1 2 | 2 1 for size 3, radius 2."""
    index = torch.arange(-radius, size + radius) % (2 * size)
    return torch.minimum(index, 2 * size - 1 - index)


def ranked(values: Sequence[Tensor], wanted: Sequence[int]) -> list[Tensor]:
    """The elementwise order statistics number `wanted` (0 the smallest) of the values, all of one shape.

    A sorting network of which only what leads to the wanted outputs is computed.
    """
    needed, plan = set(wanted), []
    for i, j in reversed(sorting_network(len(values))):
        if i in needed or j in needed:
            plan.append((i, j, i in needed, j in needed))
            needed |= {i, j}
    outputs = list(values)
    for i, j, low, high in reversed(plan):
        a, b = outputs[i], outputs[j]
        if low:
            outputs[i] = torch.minimum(a, b)
        if high:
            outputs[j] = torch.maximum(a, b)
    return [outputs[i] for i in wanted]


def sorting_network(n: int) -> list[tuple[int, int]]:
    """Pairs i < j to put in order, one after the other, which sort any n values (Batcher's odd-even merge sort)."""
    pairs = []
    run = 1
    while run < n:
        gap = run
        while gap:
            for start in range(gap % run, n - gap, 2 * gap):
                block = range(start, min(start + gap, n - gap))
                # Only within the two runs that are being merged.
                pairs += [(i, i + gap) for i in block if i // (2 * run) == (i + gap) // (2 * run)]
            gap //= 2
        run *= 2
    return pairs
