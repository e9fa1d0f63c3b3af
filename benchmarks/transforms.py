"""How fast the transforms are beside other libraries, as ratios measured in one run, and how far they are from them:
`make bench`.

Peers: Pillow in a loop, the functions of scikit-image and scipy plane by plane, kornia's, torch's median over unfolded
windows. Crops of three photographs in scikit-image's wheel, 224x224; one thread, CPU time, in turns. Where there is a
GPU, also there, against the same peers on the CPU. Distances are from the first peer, in grey levels.
"""

import functools
import io
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from kornia.enhance import jpeg_codec_differentiable
from kornia.filters import median_blur
from PIL import Image
from scipy import ndimage
from section import medians, write
from skimage import data
from skimage.filters import median as skimage_median
from skimage.restoration import denoise_tv_bregman
from tabulate import tabulate
from torch import Tensor

from lib import machine
from lib.defenses.transforms import jpeg, median, tvm

SIDE, REPEATS, GPU_BATCH = 224, 9, 32


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


def compare(title: str, peers: dict[str, Callable[[], Tensor]], runs: dict[str, Callable[[], Tensor]]) -> str:
    """Times per image, as shares of the best peer's, and distances from the first peer's images."""
    reference = next(iter(peers.values()))()
    spent = medians(peers | runs, REPEATS)
    best = min(spent[name] for name in peers)
    rows = []
    for name, run in (peers | runs).items():
        made = run()
        rows.append([name, 1000 * spent[name] / len(made), spent[name] / best * len(reference) / len(made)])
        rows[-1].append(rmse(made[: len(reference)], reference))
    headers = [title, "ms per image", "time / best peer", "RMSE in levels"]
    return tabulate(rows, headers, tablefmt="github", floatfmt=("", ".2f", ".2f", ".5f"))


def tvm_table(x: Tensor, on_gpu: dict[str, Tensor], weight: float) -> str:
    peer = functools.partial(denoise_tv_bregman, weight=weight)
    runs = {"ours": x} | on_gpu
    runs = {name: functools.partial(tvm, images, weight=weight) for name, images in runs.items()}
    return compare(f"TVM {weight}", {"scikit-image": lambda: per_plane(peer, x)}, runs)


def jpeg_table(x: Tensor, on_gpu: dict[str, Tensor]) -> str:
    """At quality 75; kornia's is differentiable."""
    quality = torch.full((len(x),), 75.0)
    peers = {"Pillow": lambda: pillow(x), "kornia": lambda: jpeg_codec_differentiable(x, quality)}
    runs = {"ours": x} | on_gpu
    return compare("JPEG 75", peers, {name: functools.partial(jpeg, images) for name, images in runs.items()})


def median_table(x: Tensor, on_gpu: dict[str, Tensor], window: int) -> str:
    """kornia and torch fill the border differently."""
    peer = functools.partial(ndimage.median_filter, size=window, mode="reflect")
    peers = {
        "scipy": lambda: per_plane(peer, x),
        "scikit-image": lambda: per_plane(functools.partial(skimage_median, footprint=np.ones((window, window))), x),
        "kornia": lambda: median_blur(x, (window, window)),
        "torch.median": lambda: torch_median(x, window),
    }
    runs = {"ours": x} | on_gpu
    runs = {name: functools.partial(median, images, window=window) for name, images in runs.items()}
    return compare(f"median {window}", peers, runs)


def main() -> None:
    torch.set_num_threads(1)
    x, on_gpu = photographs(), {}
    if torch.cuda.is_available():
        on_gpu = {torch.cuda.get_device_name(): x.repeat(-(-GPU_BATCH // len(x)), 1, 1, 1).cuda()}
    tables = [tvm_table(x, on_gpu, weight) for weight in (30, 10)] + [jpeg_table(x, on_gpu)]
    tables += [median_table(x, on_gpu, window) for window in (3, 5)]
    head = f"## Transforms\n\n{__doc__}\nOn {machine.describe()}; medians of {REPEATS}."
    write("benchmarks/transforms.py", head, *tables)


if __name__ == "__main__":
    main()
