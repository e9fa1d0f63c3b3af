"""The data sets: `python -m lib.data world` draws the embedded one; the other commands fetch the real ones."""

import argparse
import sys
from pathlib import Path

from lib.data import contact, fetch, world
from lib.settings import ROOT


def draw_world(arguments: argparse.Namespace) -> None:
    """Generate, check, or show the embedded world."""
    if arguments.sheet:
        contact.save(arguments.root, arguments.sheet)
        print(f"{arguments.sheet}: contact sheet of {arguments.root}")
    elif arguments.check:
        world.check(arguments.root)
        print(f"{arguments.root}: the generator still draws these data")
    else:
        world.generate(arguments.root)
        print(f"{arguments.root}: {sum(path.stat().st_size for path in arguments.root.iterdir()) / 1e6:.1f} MB")


def main() -> None:
    """Parse the command line; errors of the data end in one line."""
    parser = argparse.ArgumentParser(prog="python -m lib.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("world", help="the embedded world: draw it, check it, show it")
    command.add_argument("--check", action="store_true", help="compare the stored data with what the generator draws")
    command.add_argument("--sheet", type=Path, metavar="OUT.png", help="write a contact sheet of the stored data")
    command.add_argument("--root", type=Path, default=ROOT / "data" / "world", help="the folder (default data/world)")
    command.set_defaults(run=draw_world)
    fetch.add_commands(commands)
    arguments = parser.parse_args()
    try:
        arguments.run(arguments)
    except (OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()
