"""Train a network: `python -m lib.training Inc-v3 --scale mini`, whatever its kind is in the scale file; or `--all`.

Writes the weights models/<scale>/NAME.safetensors and the record results/<scale>/metrics/networks/NAME.json; for a
purifier or a generator also the losses results/<scale>/data/NAME_losses.csv and, per epoch, a sheet of samples
results/<scale>/sheets/NAME/epoch_0001.png. Segmenters, purifiers and generators use a GPU where there is one. A killed
run continues where it was when the same command is given again (on a GPU not to the last bit).
"""

import argparse
import sys
from pathlib import Path

from lib import settings
from lib.training import runner


def main() -> None:
    """Train the named network, or all of the scale, and print the record of each in one line."""
    parser = argparse.ArgumentParser(prog="python -m lib.training", description=__doc__.splitlines()[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("name", nargs="?", help="what the scale file trains, such as Inc-v3, SegNet-Basic or NRP")
    which.add_argument(
        "--all", action="store_true", help="all that the scale file trains, those first that others need"
    )
    parser.add_argument("--scale", help="scales/SCALE.yaml (default: the scale that params.yaml names)")
    parser.add_argument("--images", help="purifiers, generators: a folder of images instead of the scale's")
    parser.add_argument("--render", help="generators: draw the images as comic or painting first; none leaves them")
    parser.add_argument("--root", type=Path, default=settings.ROOT, help="where models/ and results/ are written")
    arguments = parser.parse_args()
    changed = {field: value for field in ("images", "render") if (value := getattr(arguments, field))}
    try:
        scale = settings.load(arguments.scale)
        for name in runner.names(scale) if arguments.all else [arguments.name]:
            record = runner.train(name, scale, arguments.root, **changed)
            facts = [
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in record.items()
            ]
            print(f"{name}: {', '.join(facts)}", flush=True)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()
