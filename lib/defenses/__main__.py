"""One defense on a folder of images: `python -m lib.defenses jpeg --quality 75 IN_DIR OUT_DIR`."""

import argparse
import sys
from pathlib import Path

from lib.defenses import defense
from lib.defenses.folder import defend_folder


def parser() -> argparse.ArgumentParser:
    """One subcommand per defense, with one option per option of its function."""
    parser = argparse.ArgumentParser(prog="python -m lib.defenses", description=__doc__)
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
    return parser


def main() -> None:
    """Parse the command line; errors of the images or of an option's value end in one line."""
    options = vars(parser().parse_args())
    source, target = options.pop("source"), options.pop("target")
    try:
        count = defend_folder(defense(**options), source, target)
    except (OSError, ValueError) as error:
        sys.exit(f"python -m lib.defenses: {error}")
    print(f"{target}: {count} images")


if __name__ == "__main__":
    main()
