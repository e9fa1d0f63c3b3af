"""What a scale's results rest on: versions, machine, seeds, digests of data and weights."""

import json
import platform
from importlib import metadata

import yaml

from lib import machine, precision, settings, zoo
from lib.engine import one_thread
from lib.reading import read_json
from lib.report.results import Results
from lib.settings import ROOT, Scale

PACKAGES = ["torch", "torchvision", "timm", "numpy", "scipy", "scikit-image", "scikit-learn", "pillow", "pandas"]
PACKAGES += ["matplotlib", "onnxruntime", "pycocotools", "safetensors", "dvc", "papermill"]
# The sections of a scale that say how networks are trained, with the seed of each.
TRAININGS = ("stand_ins", "segmenters", "detectors", "purifiers", "generators")


def provenance_json(scale: Scale, results: Results) -> str:
    """provenance.json. Nothing in it depends on the time, or on what was stored before."""
    specs = scale.model_dump()
    with one_thread(zoo.device_here()):
        arithmetic = precision.facts()  # how PyTorch computes here while a result is computed
    # What pins the embedded world; real data sets lie outside the repository and are not pinned by it.
    pinned = yaml.safe_load((ROOT / "data.dvc").read_text())["outs"]
    facts = {
        "scale": scale.name,
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES},
        "machine": {"description": machine.describe(), "system": platform.system()},
        "PyTorch": arithmetic,
        "precision of the surrogates": scale.precision,
        "seeds": {"attacks, defenses and t-SNE": settings.params().seed}
        | {f"training of {name}": spec["seed"] for section in TRAININGS for name, spec in specs[section].items()},
        "data": {f"{out['path']} (md5)": out["md5"] for out in pinned},
        "weights": network_digests(scale, results),
    }
    return json.dumps(facts, indent=2) + "\n"


def network_digests(scale: Scale, results: Results) -> dict[str, str]:
    """SHA-256 of every network's file: as its training recorded it, or as the scale pins it."""
    found, folder = {}, results.root.parent / (scale.like or scale.name) / "train" / "networks"
    for name, spec in scale.networks.items():
        record = folder / f"{name}.json"
        trained = read_json(record).get("sha256") if record.exists() else None
        found[name] = trained or spec.sha256 or f"not pinned ({spec.weights or 'no record of its training'})"
    return found
