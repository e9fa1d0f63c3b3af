"""What the results were computed on, without importing PyTorch; and what other programs say."""

import os
import platform
import re
import subprocess
from pathlib import Path


def describe() -> str:
    """In words: "AMD EPYC, 2 cores, no GPU"."""
    return f"{processor()}, {cores()} core{'s' * (cores() != 1)}, {gpu() or 'no GPU'}"


def processor() -> str:
    """The processor's name, as the kernel or else Python knows it."""
    file = Path("/proc/cpuinfo")
    names = re.findall(r"(?m)^model name\s*:\s*(.*?)\s*$", file.read_text()) if file.exists() else []
    return names[0].removesuffix(" Processor") if names else platform.processor() or platform.machine()


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu() -> str:
    """The first GPU's name as NVIDIA's driver tells it, empty without one."""
    return output_of("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").partition("\n")[0].strip()


def output_of(*command: str) -> str:
    """What a program prints; empty where it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
