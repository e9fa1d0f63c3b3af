"""lib/report/captions.py: what stands below the figures, held against the scale's file and the committed verdicts."""

import pandas as pd
import pytest

from lib import settings
from lib.report.captions import caption, verdicts_shown
from lib.report.figures import FIGURES
from lib.report.results import Results


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_a_caption_without_gaps(name):
    text = caption(Results("mini"), name)
    assert text.endswith(".") and "None" not in text and not set("{}[]") & set(text)


def test_a_caption_names_network_layer_budget_steps_and_count():
    text = caption(Results("mini"), "figure_01")
    assert "budget 16, steps of 2.55" in text and "VGG-16 features.relu3_3" in text and text.endswith("n = 150.")
    assert "MI-FGSM 1.6 (decay 1)" in caption(Results("mini"), "figure_06")
    assert "50 steps of 2.55" in caption(Results("mini"), "figure_04")
    assert "ensemble of Inc-v3, Inc-v4, IncRes-v2, Res-152" in caption(Results("mini"), "figure_08")


@pytest.mark.parametrize("scale", ["mini", "sample", "paper"])
def test_captions_are_of_their_scale(scale):
    results = Results(scale)
    for name in ("figure_02", "figure_07", "figure_10"):
        assert settings.load(scale).networks[settings.load(scale).g.robust].tap in caption(results, "figure_07")
        assert caption(results, name)


def test_the_verdicts_are_those_of_the_claims_without_other_readings(tmp_path):
    results = Results("mini", tmp_path)
    assert verdicts_shown(results, "figure_04") == ""
    rows = [
        ("E1", "Table 6", "", "reproduced"),
        ("E1", "Table 6", "", "reproduced"),
        ("E2", "Table 6", "looser", "reproduced"),
        ("E3", "Figure 4", "", "not judged"),
        ("F1", "Figure 6", "", "inconclusive"),
    ]
    results.save_table("claims", pd.DataFrame(rows, columns=["id", "item", "reading", "verdict"]).assign(p=0.01))
    assert verdicts_shown(results, "figure_04") == "E1 reproduced, E3 not judged"
    assert verdicts_shown(results, "figure_06") == "F1 inconclusive" and verdicts_shown(results, "transfer") == ""
