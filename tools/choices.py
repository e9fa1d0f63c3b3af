"""What was tried where the mini scale's training settings were chosen: each alternative trained, judged on "val".

    python tools/choices.py          20 minutes on two cores; resumed from the store; writes docs/choices.md

The test scenes have no part in it. A row is one training with one setting other than in scales/mini.yaml.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from lib import settings, zoo
from lib.experiment.cells import adversaries, clean
from lib.experiment.evaluation import evaluate
from lib.experiment.study import Study, open_study
from lib.report.scores import point
from lib.settings import ROOT, Scale
from lib.training import runner

COUNT = 100  # validation scenes behind a purifier and under a generator
OUT = ROOT / "docs" / "choices.md"
TRIED: dict[str, list[dict]] = {
    "Inc-v3": [{}, {"epochs": 3}, {"epochs": 8}],
    "IncRes-v2": [{}, {"epochs": 5}],
    "VGG-19": [{}, {"epochs": 5}],
    "ResNet50-AT": [{}, {"epochs": 5}, {"eps": 4.0, "step": 2.5}, {"eps": 16.0, "step": 10.0}],
    "SegNet-Basic": [{}, {"steps": 750}, {"augment": "none"}],
    "RetinaNet": [{}, {"epochs": 1}],
    "NRP": [{}, {"steps": 500}, {"pixel": 0.01}, {"init": "random"}, {"budgets": "fixed"}, {"ssp_start": "noise"},
            {"ssp_steps": 10, "step": 2.55}],
    "CDA-ImageNet": [{}, {"classifier": "Inc-v3"}, {"classifier": "ResNet50-NT"}, {"steps": 150}],
}  # fmt: skip
INTRODUCTION = """# What was tried on the validation scenes

Each row is a training with one setting other than in `scales/mini.yaml` (**as chosen**: with none), evaluated on the split `val`, in percent.
A classifier: accuracy on clean scenes, under random sign noise of 16, under FGSM of 16. A purifier: mean accuracy of {victims} with the purifier, on
{count} clean scenes and on adversaries of VGG-16. A generator: their mean accuracy under its adversaries (lower is stronger). Test scenes have no part in this.
NRP was not chosen by one column: trained at the whole budget alone (`budgets fixed`) it is better under attack and loses nine points on clean scenes.
The stem of the stand-in for Res-152 (`lib/networks/small.py`) was chosen on these scenes too, of three, so that SSP transfers
to it. Written by `python tools/choices.py`.

"""  # noqa: E501


def scores(name: str, scale: Scale, study: Study, root: Path, changed: dict) -> dict[str, float]:
    """What one training comes to on the validation scenes, in percent."""
    facts = runner.train(name, scale, root, **changed)
    task = scale.networks[name].task
    if task == "classification":
        named = {"accuracy": "clean", "accuracy_noise": "noise", "accuracy_fgsm": "FGSM"}
        return {label: 100 * facts[key] for key, label in named.items()}
    if task in ("segmentation", "detection"):
        return {"pixels": facts["pixels"]} if task == "segmentation" else {"mAP@0.5": facts["map_50"]}
    spec = scale.networks[name].model_copy(update={"weights": str(root / f"models/mini/{name}.safetensors")})
    trained = scale.model_copy(update={"networks": scale.networks | {name: spec}})
    study.networks[name] = zoo.load(name, trained)
    return behind(study, scale) if task == "purification" else under(study, scale, name)


def behind(study: Study, scale: Scale) -> dict[str, float]:
    """The mean accuracy of Appendix G's victims behind the purifier."""
    cells = [clean(study), *adversaries(study, "SSP", "VGG-16"), *adversaries(study, "MI-FGSM", "VGG-16")]
    frame = evaluate(study, cells, list(scale.g.victims), ["NRP"])
    named = {"none": "clean"}
    return {named.get(cell.attack, cell.attack): mean(frame.where(attack=cell.attack)) for cell in cells}


def under(study: Study, scale: Scale, name: str) -> dict[str, float]:
    """The mean accuracy of Appendix G's victims under the generator."""
    cells = adversaries(study, "CDA", name)
    return {"accuracy under it": mean(evaluate(study, cells, list(scale.g.victims)))}


def mean(frame) -> float:
    return sum(point("accuracy", frame.at([place])) for place in range(len(frame))) / len(frame)


def rows() -> Iterator[dict[str, object]]:
    """One row per training."""
    scale, study = settings.load("mini"), open_study("validation", COUNT)
    for name, changes in TRIED.items():
        for changed in tqdm(changes, name):
            words = ", ".join(f"{key} {value}" for key, value in changed.items()) or "**as chosen**"
            with tempfile.TemporaryDirectory(prefix="companion-") as folder:
                found = scores(name, scale, study, Path(folder), changed)
            results = "; ".join(f"{label} {value:.1f}" for label, value in found.items())
            yield {"network": name, "setting": words, "on val": results}


def main() -> None:
    """Train all of TRIED and write the table."""
    table = pd.DataFrame(rows())
    victims = ", ".join(settings.load("mini").g.victims)
    OUT.write_text(INTRODUCTION.format(victims=victims, count=COUNT) + table.to_markdown(index=False) + "\n")


if __name__ == "__main__":
    main()
