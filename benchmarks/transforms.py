"""How fast the transforms are, as ratios to their peers measured in one run, and how far they are from them.

Peers: Pillow in a loop, scikit-image's and scipy's functions plane by plane, torch's median over unfolded windows.
Images: crops of photographs in scikit-image's wheel, 224x224. Where there is a GPU, also there, against the same peers
on the CPU. Distances are in grey levels, RMSE.
"""

import functools
import io
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from skimage import data
from skimage.restoration import denoise_tv_bregman
from tabulate import tabulate
from torch import Tensor

from lib.defenses import bregman
from lib.defenses.transforms import jpeg, median, tvm

SIDE, REPEATS, GPU_BATCH = 224, 5, 32


def seconds(run: Callable[[], Tensor]) -> float:
    """Per image, the fastest of a few runs after one to warm up; `run` returns its images."""
    run()
    times = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        count = len(run())
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append((time.perf_counter() - begun) / count)
    return min(times)


def rmse(a: Tensor, b: Tensor) -> float:
    """Root mean square difference in grey levels."""
    return 255 * (a.cpu() - b.cpu()).double().square().mean().sqrt().item()


def photographs() -> Tensor:
    """Crops of three photographs, `[3,3,SIDE,SIDE]`."""
    crops = [getattr(data, name)()[40 : 40 + SIDE, 100 : 100 + SIDE] for name in ("astronaut", "coffee", "chelsea")]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous() / 255


def per_plane(function: Callable, x: Tensor) -> Tensor:
    """A function of one plane, on each plane of the images."""
    return torch.from_numpy(np.stack([function(plane) for plane in x.flatten(0, 1).numpy()])).view_as(x)


def pillow(x: Tensor, quality: int = 75) -> Tensor:
    """Each image written and read by Pillow."""
    images = []
    for levels in (x * 255).round().byte().permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(levels).save(file, "JPEG", quality=quality)
        images.append(np.array(Image.open(file)))
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255


def torch_median(x: Tensor, window: int) -> Tensor:
    """The median as torch's own selection over unfolded windows; its border is replicated."""
    padded = F.pad(x, (window // 2,) * 4, mode="replicate")
    return padded.unfold(2, window, 1).unfold(3, window, 1).flatten(-2).median(-1).values


def compare(title: str, peer: Callable[[], Tensor], runs: dict[str, Callable[[], Tensor]]) -> str:
    """Each run's time per image, as a speed-up over the peer, and its distance from it on the photographs."""
    base, reference = seconds(peer), peer()
    rows = [["the peer", 1000 * base, 1.0, 0.0]]
    for name, run in runs.items():
        spent = seconds(run)
        rows.append([name, 1000 * spent, base / spent, rmse(run()[: len(reference)], reference)])
    headers = [title, "ms per image", "times faster", "RMSE in levels"]
    return tabulate(rows, headers, tablefmt="github", floatfmt=("", ".2f", ".2f", ".5f"))


def tvm_table(x: Tensor, on_gpu: dict[str, Tensor], weight: float) -> str:
    """TVM and, on the CPU, both of its forms."""
    runs = {
        "tvm": lambda: tvm(x, weight=weight),
        "batched, CPU": lambda: bregman.batched(x.flatten(0, 1), weight, 100, 1e-3).view_as(x),
    }
    runs |= {name: lambda y=y: tvm(y, weight=weight) for name, y in on_gpu.items()}
    peer = functools.partial(denoise_tv_bregman, weight=weight)
    return compare(f"TVM {weight} against scikit-image", lambda: per_plane(peer, x), runs)


def jpeg_table(x: Tensor, on_gpu: dict[str, Tensor]) -> str:
    """JPEG at quality 75."""
    runs = {"jpeg": lambda: jpeg(x)} | {name: lambda y=y: jpeg(y) for name, y in on_gpu.items()}
    return compare("JPEG 75 against Pillow", lambda: pillow(x), runs)


def median_table(x: Tensor, on_gpu: dict[str, Tensor], window: int) -> str:
    """Ours and torch's selection, whose replicated border differs from scipy's for window 5."""
    runs = {"median": lambda: median(x, window=window), "torch.median": lambda: torch_median(x, window)}
    runs |= {name: lambda y=y: median(y, window=window) for name, y in on_gpu.items()}
    peer = functools.partial(ndimage.median_filter, size=window, mode="reflect")
    return compare(f"median {window} against scipy", lambda: per_plane(peer, x), runs)


def main() -> None:
    torch.set_num_threads(1)
    x = photographs()
    on_gpu = {}
    if torch.cuda.is_available():
        on_gpu = {torch.cuda.get_device_name(): x.repeat(-(-GPU_BATCH // len(x)), 1, 1, 1).cuda()}
    tvms = [tvm_table(x, on_gpu, weight) for weight in (30, 10)]
    medians = [median_table(x, on_gpu, window) for window in (3, 5)]
    print(f"\n{__doc__}", *tvms, jpeg_table(x, on_gpu), *medians, sep="\n\n")


if __name__ == "__main__":
    main()
