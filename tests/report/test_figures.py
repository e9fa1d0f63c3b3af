import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from lib import figures as command
from lib.report.figures import FIGURES, redraw
from lib.report.results import Results


def curve(**columns):
    return pd.DataFrame(
        {"steps": [1, 10, 100], "value": [60.0, 40, 20], "low": [55.0, 35, 15], "high": [65.0, 45, 25]}
    ).assign(n=200, **columns)


@pytest.fixture
def results(tmp_path):
    """A results folder with made-up data for every figure."""
    stored = Results("mini", tmp_path)
    stored.save_data(
        "figure_01", pd.concat([curve(source="VGG16-NT", victim="V"), curve(source="ResNet50-NT", victim="V")])
    )
    attacked = [curve(attack=a, surrogate="S", victim="V", clean=95.0, noise=80.0) for a in ("I-FGSM", "SSP")]
    stored.save_data("figure_06", pd.concat(attacked))
    images = np.random.default_rng(0).integers(0, 256, (3, 2, 48, 48, 3), dtype=np.uint8)
    stored.save_pictures("figure_02", images=images, names=np.array(["clean", "A", "B"]))
    points = pd.DataFrame({"class": ["a", "b"] * 10, "x": np.arange(20.0), "y": np.arange(20.0)})
    spaces = [points.assign(space=s, silhouette=0.25, silhouette_original=0.5) for s in ("logits", "pooled", "full")]
    stored.save_data("figure_03", pd.concat(spaces))
    grid = [
        {"attack": a, "surrogate": "S", "victim": v, "value": 50.0, "low": 40.0, "high": 60.0, "n": 20}
        for a in "AB"
        for v in "XYZ"
    ]
    stored.save_data("transfer", pd.DataFrame(grid))
    return stored


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_redrawn_from_its_stored_data_byte_for_byte(results, name):
    first = {p.name: p.read_bytes() for p in results.save_figure(name, redraw(results, name), ("svg", "png", "pdf"))}
    second = {p.name: p.read_bytes() for p in results.save_figure(name, redraw(results, name), ("svg", "png", "pdf"))}
    assert first == second and all(len(content) > 5000 for content in first.values())


def test_a_curve_shows_the_stored_values(results):
    axes = redraw(results, "figure_06").axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert lines["SSP from S"].get_xydata().tolist() == [[1, 60], [10, 40], [100, 20]]
    assert axes.get_xscale() == "log" and [t.get_text() for t in axes.get_xticklabels()] == ["1", "10", "100"]


def test_a_heat_map_keeps_the_order_of_attacks_and_victims(results):
    axes = redraw(results, "transfer").axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["A", "B"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["X", "Y", "Z"]


def test_silhouettes_are_on_the_panels(results):
    titles = [axes.get_title() for axes in redraw(results, "figure_03").axes]
    assert titles == [f"{space}\nsilhouette 0.25" for space in ("logits", "pooled", "full")]


def test_pictures_stand_in_their_row_and_column(results):
    images = results.load_pictures("figure_02")["images"]
    axes = redraw(results, "figure_02").axes
    assert np.array_equal(axes[0].get_images()[0].get_array(), images[0, 0])
    assert np.array_equal(axes[4].get_images()[0].get_array(), images[1, 1])
    assert [a.get_title() for a in axes[:3]] == ["clean", "A", "B"]


def test_the_scale_is_written_on_the_figure(results):
    assert "stand-in networks" in redraw(results, "figure_06").get_suptitle()


@pytest.mark.parametrize("text, name", [("6", "figure_06"), ("figure_02", "figure_02"), ("transfer", "transfer")])
def test_a_figure_is_called_by_number_or_name(text, name):
    assert command.resolve(text, FIGURES, "figure") == name


def test_an_unknown_figure_lists_what_there_is(capsys):
    assert command.main(["99"]) == 2
    assert "no figure '99'; there are figure_01, figure_02" in capsys.readouterr().err


def test_a_figure_that_was_not_computed_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"dvc repro \(scale: mini\)"):
        redraw(Results("mini", tmp_path), "figure_06")


def test_redrawing_loads_no_torch_and_nothing_else_that_is_slow():
    code = "import sys, lib.figures; sys.exit(bool({'torch', 'scipy', 'seaborn', 'papermill'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_list_says_what_is_stored(results):
    text = command.listing(results)
    assert "figure_06   stored" in text and "table table_05    missing" in text
