"""The same results from less memory (imports nothing of lib)."""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

SHORT = ("out of memory", "can't allocate memory", "ALLOC_FAILED")  # of CUDA and MPS, of CPUs, of cuDNN and cuBLAS

_fitting: dict[str, int] = {}  # by the function and its networks, the batch that memory was found to hold


def halved(compute: Callable, places: Sequence[int], batch: int, *of: object) -> list:
    """What `compute` gives of these places, at most `batch` at a time; half as many wherever memory ends.

    of: the function and the networks, known by their structure: what did not fit is not tried again in this process.
    MemoryError in one line where a single place does not fit.
    """
    made, first = [], 0
    while first < len(places):
        batch = min(batch, _fitting.get(repr(of), batch)) if _fitting else batch
        part = places[first : first + max(batch, 1)]
        try:
            made.append(compute(part))
            first += len(part)
            continue
        except (MemoryError, RuntimeError) as error:  # its traceback holds what was allocated until the block ends
            if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not any(w in str(error) for w in SHORT):
                raise
            if len(part) == 1:
                line = " ".join(str(error).split())[:200]
                raise MemoryError(f"memory is too small for one image in this network ({line})") from None
            _fitting[repr(of)] = len(part) // 2
        torch.cuda.empty_cache()
    return made


def recomputed(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function(x)`, of which nothing but x is kept; what is inside is computed again when its gradient (with respect
    to x alone) is due.

    torch.utils.checkpoint serves parameters too; a process that attacked one image of 224x224 through NRP with it grew
    by 1.6 GB, with 8 draws by 9.0 GB; with this one and 2 draws by 0.7.
    """
    return _Recomputed.apply(function, x)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        kind = x.device.type
        enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        ctx.function = function
        ctx.as_now = functools.partial(torch.autocast, kind, dtype, enabled)  # backward may run under another
        ctx.save_for_backward(x)
        return function(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[None, Tensor]:
        (x,) = (saved.detach().requires_grad_() for saved in ctx.saved_tensors)
        with torch.enable_grad(), ctx.as_now():
            result = ctx.function(x)
        return None, torch.autograd.grad(result, x, gradient)[0]
