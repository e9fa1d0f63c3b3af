"""tools/seeds.py: other seeds for every training of the mini scale, and the verdicts side by side."""

import pandas as pd
import yaml

from lib.settings import ROOT, Scale
from tools import seeds


def trainings(text):
    scale = Scale.model_validate(yaml.safe_load(text))
    sections = (scale.stand_ins, scale.segmenters, scale.detectors, scale.purifiers, scale.generators)
    return scale, {name: spec for section in sections for name, spec in section.items()}


def test_every_training_has_another_seed_and_nothing_else_differs():
    text = (ROOT / "scales" / "mini.yaml").read_text()
    (scale, before), (other, after) = trainings(text), trainings(seeds.reseeded(text, 2))
    assert before.keys() == after.keys() and len(before) >= 19
    for name, spec in before.items():
        assert after[name].seed == spec.seed + 200
        assert after[name].model_copy(update={"seed": spec.seed}) == spec
    untouched = scale.model_dump().keys() - {"stand_ins", "segmenters", "detectors", "purifiers", "generators"}
    assert scale.model_dump(include=untouched) == other.model_dump(include=untouched)


def test_verdicts_stand_side_by_side_by_case():
    one = pd.DataFrame({"id": ["A1", "A1"], "case": ["x", "y"], "effect": [1.0, 2.0], "verdict": ["reproduced"] * 2})
    other = one.iloc[::-1].assign(effect=[4.0, 3.0], verdict=["inconclusive", "reproduced"])
    table = seeds.together({0: one, 1: other})
    assert table.columns.tolist() == ["id", "case", "effect 0", "verdict 0", "effect 1", "verdict 1"]
    assert table.set_index("case")["effect 1"].to_dict() == {"x": 3.0, "y": 4.0}
    assert table.set_index("case")["verdict 1"].to_dict() == {"x": "reproduced", "y": "inconclusive"}
