"""One defense on a folder of images: `python -m lib.defenses jpeg --quality 75 IN_DIR OUT_DIR`.

The paper's purifier: `python -m lib.defenses nrp --weights NRP.pth --dynamic IN_DIR OUT_DIR`, on the GPU where there is
one.
"""

import argparse
import sys
from pathlib import Path

import torch

from lib.defenses import Defense, defense
from lib.defenses.folder import defend_folder
from lib.defenses.purifier import NOISE
from lib.networks import weights as files
from lib.networks.released import recognised_purifier


def parser() -> argparse.ArgumentParser:
    """One subcommand per defense, with one option per option of its function."""
    parser = argparse.ArgumentParser(prog="python -m lib.defenses", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="kind", required=True)
    folders = argparse.ArgumentParser(add_help=False)
    folders.add_argument("source", type=Path, metavar="IN_DIR", help="folder of png, jpg, webp or bmp images")
    folders.add_argument("target", type=Path, metavar="OUT_DIR", help="folder for the results, lossless png")
    command = commands.add_parser("jpeg", parents=[folders], help="JPEG compression")
    command.add_argument("--quality", type=int, default=75, help="1 to 100 (default %(default)s)")
    command = commands.add_parser("tvm", parents=[folders], help="total-variation minimisation")
    command.add_argument("--weight", type=float, default=30.0, help="the smaller, the smoother (default %(default)s)")
    command = commands.add_parser("median", parents=[folders], help="median filter")
    command.add_argument("--window", type=int, default=3, help="3 or 5 pixels (default %(default)s)")
    command = commands.add_parser("nrp", parents=[folders], help="Neural Representation Purifier")
    command.add_argument("--weights", type=Path, required=True, help="NRP.pth, NRP_resG.pth or a purifier.safetensors")
    command.add_argument("--dynamic", action="store_true", help="add noise first, against attacks on the purifier")
    command.add_argument("--seed", type=int, default=0, help="of that noise (default %(default)s)")
    command.add_argument("--tile", type=int, help="purify large images in squares of this many pixels, to save memory")
    return parser


def purifier(weights: Path, dynamic: bool, seed: int, tile: int | None) -> Defense:
    """`nrp` with the network that is in the file, on the GPU where there is one.

    FileNotFoundError or ValueError in one line for a file that is missing or holds no purifier.
    """
    if not weights.is_file():
        raise FileNotFoundError(f"{weights}: no such file of weights")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = recognised_purifier(files.read_state(weights), weights.name).to(device)
    purify = defense("nrp", network=network, noise=NOISE if dynamic else 0.0, seed=seed, tile=tile)
    return lambda x: purify(x.to(device))


def main() -> None:
    """Parse the command line; errors of the weights, the images or an option's value end in one line."""
    options = vars(parser().parse_args())
    source, target = options.pop("source"), options.pop("target")
    kind = options.pop("kind")
    try:
        chosen = purifier(**options) if kind == "nrp" else defense(kind, **options)
        count = defend_folder(chosen, source, target)
    except (OSError, ValueError) as error:
        sys.exit(f"python -m lib.defenses: {error}")
    except torch.cuda.OutOfMemoryError:
        sys.exit("python -m lib.defenses: the GPU's memory is too small for an image; give a --tile, such as 512")
    print(f"{target}: {count} images")


if __name__ == "__main__":
    main()
