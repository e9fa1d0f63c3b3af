"""tools/seeds.py: other seeds for every training of the mini scale, and the verdicts side by side."""

import pandas as pd
import yaml

from lib.report import findings
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


def test_a_verdict_that_another_seed_changes_says_so_in_the_report(tmp_path, monkeypatch):
    judged = pd.read_csv(ROOT / "results/mini/report/tables/claims.csv", keep_default_na=False)
    first = judged[judged["verdict"] == "reproduced"]["id"].iloc[0]
    other = judged.assign(verdict=judged["verdict"].mask(judged["id"] == first, "not reproduced"))
    table = seeds.together({0: judged, 1: other, 2: judged})
    verdicts = table.set_index("id")[["verdict 0", "verdict 1", "verdict 2"]]
    changed = verdicts.nunique(axis=1) > 1
    assert changed.sum() == 1 and changed[first] and verdicts["verdict 1"][first] == "not reproduced"
    monkeypatch.setenv("COMPANION_RESULTS", str(tmp_path))
    (tmp_path / "mini").mkdir()
    table.to_csv(tmp_path / "mini" / "seeds.csv", index=False)
    lines = [line for line in findings.claims_page(judged, "mini").splitlines() if "other training seeds" in line]
    assert len(lines) == 1 and lines[0].startswith(f"| {first} ")
    assert f"{verdicts['verdict 0'][first]}; with other training seeds not reproduced" in lines[0]
