"""How much memory the computations of a study take, each in a process of its own: the numbers of docs/scale.md.

    python benchmarks/memory.py chain 5000      # attack, evaluation and frame of 5,000 images of 224x224
    python benchmarks/memory.py step nrp 8      # one step through a purifier and ResNet-50, EOT with 8 draws

The peak is that of the process's resident memory (VmHWM of Linux), less what is resident after a run with a few images
or small ones, which brings in code and weights.
"""

import argparse
import ctypes
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from lib import settings
from lib.attacks.adaptive import Adaptive
from lib.attacks.decision import i_fgsm
from lib.data.images import ImageSet
from lib.defenses import defense
from lib.engine import one_thread
from lib.experiment import Study, adversaries, clean, evaluate
from lib.frames import save_frame
from lib.networks.purifier import PURIFIERS
from lib.networks.wrappers import Normalised
from lib.store import Store

SIDE = 224


def one_layer() -> nn.Module:
    """Logits `[B,10]`: the mean of a strided convolution."""
    network = nn.Sequential(nn.Conv2d(3, 10, 16, stride=16), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return network.eval().requires_grad_(False)


def resident(what: str = "VmHWM") -> int:
    """The largest resident memory of this process since `begin`, in bytes; or the present one (VmRSS)."""
    return 1024 * int(Path("/proc/self/status").read_text().split(f"{what}:")[1].split()[0])


def begin() -> tuple[int, float]:
    """Give back what is free and forget the peak; the present resident memory, and the time."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS"), time.perf_counter()


def chain(count: int) -> str:
    """The peak of a whole chain in multiples of the images' own bytes: 1 is the images, 1 their adversaries."""
    with tempfile.TemporaryDirectory() as folder:
        batch = min(50, max(5, count // 60))
        run(2 * batch, batch, Path(folder))
        before, begun = begin()
        size = run(count, batch, Path(folder))
        seconds = time.perf_counter() - begun
    times, whole = (resident() - before) / size, resident() / 1e6
    return f"{size / 1e6:.0f} MB of images: peak {times:.2f} times the images, {whole:.0f} MB in all; {seconds:.0f} s"


def run(count: int, batch: int, folder: Path) -> int:
    """Attack generated images, evaluate two victims on them and write the frame; the images' bytes."""
    torch.manual_seed(count)
    images = torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8)
    data = ImageSet(images, torch.arange(count) % 10, [f"{k:05}" for k in range(count)])
    networks = {name: one_layer() for name in ("VGG-16", "Inc-v3")}
    study = Study(settings.params(), settings.load("mini"), data, Store(folder), "cpu", networks, batch)
    cells = [clean(study), *adversaries(study, "I-FGSM", "VGG-16", steps=1)]
    save_frame(evaluate(study, cells, list(networks)), folder / "frame.npz")
    return images.nbytes


def step(kind: str, draws: int, images: int) -> str:
    """The peak of one step on images through a purifier and ResNet-50, both with random weights."""
    from torchvision.models import resnet50

    torch.manual_seed(0)
    purifier = PURIFIERS[kind]().eval().requires_grad_(False)
    victim = Normalised(resnet50()).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    bound = [defense("nrp", network=purifier, noise=0.05, seed=seed) for seed in range(draws)]
    with one_thread("cpu"):
        i_fgsm(Adaptive(victim, *bound), torch.rand(1, 3, 32, 32), torch.tensor([1]), steps=1)
        before, begun = begin()
        i_fgsm(Adaptive(victim, *bound), torch.rand(images, 3, SIDE, SIDE), torch.arange(images), steps=1)
        seconds = time.perf_counter() - begun
    return f"{kind}, {draws} draws, {images} images: peak {(resident() - before) / 1e6:.0f} MB; {seconds:.0f} s"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(required=True)
    chained = what.add_parser("chain")
    chained.add_argument("count", type=int)
    chained.set_defaults(measure=chain)
    stepped = what.add_parser("step")
    stepped.add_argument("kind", choices=PURIFIERS)
    stepped.add_argument("draws", type=int)
    stepped.add_argument("images", type=int, nargs="?", default=1)
    stepped.set_defaults(measure=step)
    given = vars(parser.parse_args())
    print(given.pop("measure")(**given))
