"""Train one stand-in: `python -m lib.training Inc-v3 --scale mini` writes models/mini/Inc-v3.safetensors.

Its accuracies, seconds, parameters and checksum go to results/mini/metrics/networks/Inc-v3.json.
A killed run continues where it was when the same command is given again.
"""

import argparse
import sys
from pathlib import Path

from lib import settings
from lib.data import world
from lib.training import classifiers


def main() -> None:
    """Train the named stand-in and print its record in one line."""
    parser = argparse.ArgumentParser(prog="python -m lib.training", description=__doc__.splitlines()[0])
    parser.add_argument("name", help="a key of stand_ins in the scale file, such as Inc-v3")
    parser.add_argument("--scale", help="scales/SCALE.yaml (default: the scale that params.yaml names)")
    parser.add_argument("--models", type=Path, default=settings.ROOT / "models", help="where the weights go")
    parser.add_argument("--results", type=Path, default=settings.ROOT / "results", help="where the record goes")
    arguments = parser.parse_args()
    try:
        record = run(arguments.name, arguments.scale, arguments.models, arguments.results)
    except (FileNotFoundError, KeyError, ValueError) as error:
        sys.exit(f"{parser.prog}: {error.args[0] if isinstance(error, KeyError) else error}")
    clean, noise, fgsm = (100 * record[key] for key in ("accuracy", "accuracy_noise", "accuracy_fgsm"))
    print(f"{arguments.name}: {clean:.1f} % clean, {noise:.1f} % under noise, {fgsm:.1f} % under FGSM "
          f"({record['parameters']} parameters, {record['seconds']:.0f} s)")  # fmt: skip


def run(name: str, scale: str | None, models: Path, results: Path) -> dict:
    """Train stand-in `name` of the scale and write weights and record. KeyError for a name the scale does not know."""
    chosen = settings.load(scale)
    stand_ins = chosen.stand_ins
    if name not in stand_ins:
        raise KeyError(f"unknown stand-in '{name}'; scale {chosen.name} has {', '.join(stand_ins) or 'none'}")
    spec, folder, classes = stand_ins[name], models / chosen.name, len(world.CLASSES)
    sources = [
        classifiers.restore(stand_ins[source].architecture, classes, folder / f"{source}.safetensors")
        for source in spec.sources
    ]
    root = settings.ROOT / "data" / "world"
    train, test = world.load(root, "train"), world.load(root, "test")
    record = results / chosen.name / "metrics" / "networks" / f"{name}.json"
    return classifiers.train(spec, train, test, classes, folder / f"{name}.safetensors", record, sources)


if __name__ == "__main__":
    main()
