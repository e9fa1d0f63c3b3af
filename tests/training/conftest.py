"""Pictures to train on, the commands of the trainings in a small project, and trainings that stop in the middle."""

import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from lib import settings, zoo
from lib.networks.small import ARCHITECTURES
from lib.training import loop

SIDE = 32  # of the crops


def picture(path, seed, height, width, mode="RGB"):
    """Write a random image."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def places(crop, image):
    """Every (top, left, mirrored) at which the crop is a square of the image, by trying all."""
    height, width = image.shape[-2:]
    side = crop.shape[-1]
    return [
        (top, left, mirrored)
        for top in range(height - side + 1)
        for left in range(width - side + 1)
        for mirrored in (False, True)
        if torch.equal(crop.flip(-1) if mirrored else crop, image[:, top : top + side, left : left + side])
    ]


def tiles(path):
    """The squares of a sheet, `[4 rows,6 columns,3,side,side]`."""
    with Image.open(path) as file:
        assert file.format == "PNG" and file.mode == "RGB" and file.size == (6 * SIDE, 4 * SIDE)
        whole = torch.from_numpy(np.array(file)).permute(2, 0, 1)
    return whole.unfold(1, SIDE, SIDE).unfold(2, SIDE, SIDE).permute(1, 2, 0, 3, 4)


@pytest.fixture
def photographs(tmp_path):
    """A folder of seven images of different sizes, formats and modes, some deeper down."""
    folder = tmp_path / "photographs"
    (folder / "more").mkdir(parents=True)
    names = ["a.png", "b.jpg", "c.webp", "d.bmp", "more/e.JPEG", "more/f.png", "more/g.png"]
    for k, name in enumerate(names):
        picture(folder / name, k, 32 + 7 * k, 60 - 4 * k, "L" if name == "more/g.png" else "RGB")
    (folder / "readme.txt").write_text("not an image")
    return folder


class Command:
    """`main` of a module of lib.training, in a project with an untrained VGG-16; call it with its arguments."""

    def __init__(self, monkeypatch, root, module, section, name):
        self.monkeypatch, self.root, self.module, self.section, self.name = monkeypatch, root, module, section, name
        self.models, self.results = root / "models" / "mini", root / "results" / "mini"
        self.scale = yaml.safe_load((settings.ROOT / "scales" / "mini.yaml").read_text())
        torch.manual_seed(0)
        weights = {name: value.contiguous() for name, value in ARCHITECTURES["vgg16"](12).state_dict().items()}
        loop.write_whole(self.models / "VGG-16.safetensors", lambda out: out.write(loop.save_tensors(weights)))
        monkeypatch.setattr(zoo, "ROOT", root)
        monkeypatch.delenv("COMPANION_ASSETS", raising=False)
        # `settings.load` reads the repository by default; the command gives it the scale's name alone.
        load = settings.load
        monkeypatch.setattr(module.settings, "load", lambda name=None, root=root: load(name, root))

    def change(self, **changes):
        """Change the recipe of the network in the scale file."""
        self.scale[self.section][self.name] |= changes
        file = self.root / "scales" / "mini.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(yaml.safe_dump(self.scale, sort_keys=False))

    def __call__(self, *arguments):
        line = [self.section, *map(str, arguments), "--scale", "mini", "--root", str(self.root)]
        self.monkeypatch.setattr(sys, "argv", line)
        self.module.main()

    def failure(self, *arguments) -> str:
        """The one line with which the command ends; a message as exit code means status 1."""
        with pytest.raises(SystemExit) as end:
            self(*arguments)
        assert isinstance(end.value.code, str) and "\n" not in end.value.code
        assert end.value.code.startswith(f"python -m {self.module.__name__}: ")
        return end.value.code


class Interruptions:
    """Runs trainings that a key press ends at a given step, and says which steps a training made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.monkeypatch = monkeypatch
        self.run = loop.run
        monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)

    def _watched(self, before_step: Callable[[int], None]) -> None:
        def run(advance, *rest, **options):
            def watched(step):
                before_step(step)
                return advance(step)

            return self.run(watched, *rest, **options)

        self.monkeypatch.setattr(loop, "run", run)

    def stop(self, at: int, train: Callable) -> None:
        """Run `train` and end it before step `at`."""

        def press(step):
            if step == at:
                raise KeyboardInterrupt

        self._watched(press)
        with pytest.raises(KeyboardInterrupt):
            train()

    def steps(self, train: Callable) -> tuple[object, list[int]]:
        """What `train` gives, and the steps that it made."""
        made: list[int] = []
        self._watched(made.append)
        return train(), made


@pytest.fixture
def interruptions(monkeypatch) -> Interruptions:
    return Interruptions(monkeypatch)
