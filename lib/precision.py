"""What float32 means while lib computes: float32, the same at each run, on every device (imports nothing of lib)."""

import contextlib
import os
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def stated(device: str, tf32: bool = False) -> Iterator[None]:
    """Within it products are rounded to float32 (tf32: on a GPU to ten bits, eight times as fast), and a GPU takes its
    algorithms by rule, not by trial, and deterministic ones where there are any (else PyTorch warns). Afterwards all is
    as found, but for $CUBLAS_WORKSPACE_CONFIG, which cuBLAS reads once."""
    found = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    strict = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without, cuBLAS is not deterministic
    try:
        _set("high" if tf32 else "highest", tf32, False)
        if device != "cpu":
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # takes time, and nothing here reads it
        yield
    finally:
        _set(*found)
        torch.use_deterministic_algorithms(strict[0], warn_only=strict[1])
        torch.utils.deterministic.fill_uninitialized_memory = filled


def _set(matmul: str, convolutions: bool, benchmark: bool) -> None:
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = convolutions, benchmark


def facts() -> dict[str, object]:
    """How PyTorch computes at present, for the record."""
    return {
        "threads": torch.get_num_threads(),
        "float32 products": torch.get_float32_matmul_precision(),
        "TF32 in cuDNN": torch.backends.cudnn.allow_tf32,
        "cuDNN picks by trial": torch.backends.cudnn.benchmark,
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
    }
