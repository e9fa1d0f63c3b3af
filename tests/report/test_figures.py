import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml

from lib import figures as command
from lib.report.figures import FIGURES, redraw
from lib.report.results import Results
from lib.settings import ROOT


def curve(**columns):
    return pd.DataFrame(
        {"steps": [1, 10, 100], "value": [60.0, 40, 20], "low": [55.0, 35, 15], "high": [65.0, 45, 25]}
    ).assign(n=200, **columns)


def purified(attacks):
    several = (len(attacks), 3)
    judged = {"": np.full(several, "jay"), "_score": np.full(several, 0.5)}
    images = np.random.default_rng(3).integers(0, 256, (3, *several, 48, 48, 3), dtype=np.uint8)
    return {
        "groups": np.array(attacks),
        "clean": images[0, 0],
        "adversary": images[1],
        "purified": images[2],
        "truth": np.array(["jay", "bear", "sloth bear"]),
        **{when + what: value for when in ("before", "after") for what, value in judged.items()},
        "right_before": np.zeros(several, bool),
        "right_after": np.ones(several, bool),
        "victim": np.array("Inc-v3"),
        "purifier": np.array("NRP"),
    }


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
    maps = np.random.default_rng(1).integers(0, 3, (2, 2, 24, 32), dtype=np.uint8)
    streets = np.random.default_rng(2).integers(0, 256, (2, 2, 24, 32, 3), dtype=np.uint8)
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]], np.uint8)
    classes = np.array(["road", "sky", "car", "never seen"])
    stored.save_pictures(
        "figure_04",
        images=streets[0],
        before=maps[0],
        adversaries=streets[1],
        after=maps[1],
        classes=classes,
        colours=colours,
    )
    found = {"threshold": np.array(0.5)}
    for row, sides in enumerate([(30, 40), (60, 40)]):
        for kind, count in (("clean", 2), ("adversary", 0)):
            found |= {
                f"image_{row}_{kind}": np.zeros((*sides, 3), np.uint8),
                f"boxes_{row}_{kind}": np.array([[2, 3, 12, 23], [5, 5, 9, 9]], np.float32)[:count],
                f"scores_{row}_{kind}": np.array([0.9, 0.6], np.float32)[:count],
                f"names_{row}_{kind}": np.array(["dog", "cat"])[:count],
            }
    stored.save_pictures("figure_05", **found)
    for number, attacks in (("07", ["SSP"]), ("08", ["DIM", "DIM-TI"]), ("09", ["CDA, ImageNet", "CDA, Paintings"])):
        stored.save_pictures(f"figure_{number}", **purified(attacks))
    found |= {name.replace("adversary", "purified"): value for name, value in found.items() if "adversary" in name}
    stored.save_pictures("figure_10", **found)
    trend = [
        {
            "task": t,
            "victim": v,
            "metric": m,
            "line": line,
            "eps": e,
            "value": 90.0 - e,
            "low": 80.0 - e,
            "high": 95.0 - e,
            "n": 9,
        }
        for t, v, m in (("segmentation", "S", "pixels"), ("detection", "D", "mAP@0.5"))
        for line in ("no defense", "JPEG 75", "random sign noise")
        for e in (0, 8, 16)
    ]
    stored.save_data("budgets", pd.DataFrame(trend))
    cells = [(attack, victim, front) for attack in ("none", "SSP") for victim in ("Inc-v3", "Adv-v3")
             for front in ("none", "NRP", "NRP dynamic")]  # fmt: skip
    found = [
        {"attack": attack, "victim": victim, "defense": front, "value": 10.0 * place, "n": 20}
        for place, (attack, victim, front) in enumerate(cells)
    ]
    stored.save_data("purification", pd.DataFrame(found).sample(frac=1, random_state=0))
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
    assert "figure_06         stored" in text and "table table_05          missing" in text


def test_the_list_names_every_table_and_figure_of_the_paper_and_what_the_pipeline_writes():
    assert {f"table_{number:02}" for number in range(1, 8)} <= set(command.TABLES)
    assert {f"figure_{number:02}" for number in range(1, 11)} <= set(FIGURES)
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values()
    written = {next(iter(out)) for stage in stages for out in stage.get("outs", ()) if isinstance(out, dict)}
    for folder, names in {"tables": command.TABLES, "figures": FIGURES}.items():
        suffix = "csv" if folder == "tables" else "svg"
        assert {f"results/${{scale}}/{folder}/{name}.{suffix}" for name in names} <= written


def test_a_table_is_printed_by_number_or_name(results):
    results.save_table("table_03", pd.DataFrame({"attack": ["FSA"], "Inc-v3": [60.4], "n": 1000}))
    results.save_table("cda_cost", pd.DataFrame({"attack": ["CDA-Comics"], "pays after": ["234 images"], "n": 1}))
    assert "60.4" in command.run(results, ["table", "3"], None)
    assert "234 images" in command.run(results, ["table", "cda_cost"], None)
    assert "table table_03          stored" in command.listing(results)


def test_figure_10_has_a_row_per_image_and_a_column_per_kind(results):
    pictures, axes = results.load_pictures("figure_10"), redraw(results, "figure_10").axes
    assert [a.get_title() for a in axes[:3]] == ["image", "CDA adversary", "purified by NRP"] and len(axes) == 6
    for place, kind in enumerate(("clean", "adversary", "purified")):
        assert np.array_equal(axes[3 + place].get_images()[0].get_array(), pictures[f"image_1_{kind}"])
        assert len(axes[place].patches) == len(pictures[f"boxes_0_{kind}"])


def test_figure_4_draws_predictions_in_the_colours_of_their_classes(results):
    figure = redraw(results, "figure_04")
    pictures = results.load_pictures("figure_04")
    shown = [axes.get_images()[0].get_array() for axes in figure.axes]
    assert len(shown) == 8  # two rows of image, prediction, adversary, its prediction
    for row in range(2):
        _, before, adversary, after = shown[4 * row : 4 * row + 4]
        assert np.array_equal(before, pictures["colours"][pictures["before"][row]])
        assert np.array_equal(after, pictures["colours"][pictures["after"][row]])
        assert np.array_equal(adversary, pictures["adversaries"][row])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["road", "sky", "car"]


def test_figure_5_draws_every_box_around_its_pixels(results):
    figure = redraw(results, "figure_05")
    clean, attacked = figure.axes[:2]
    corners = [(p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in clean.patches]
    assert corners == [(1.5, 2.5, 10, 20), (4.5, 4.5, 4, 4)]
    assert [text.get_text() for text in clean.texts] == ["dog 0.90", "cat 0.60"] and not attacked.patches


def test_the_trend_has_a_panel_per_task_and_a_line_per_transform(results):
    figure = redraw(results, "budgets")
    assert [axes.get_title() for axes in figure.axes] == ["S, n = 9", "D, n = 9"]
    lines = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].get_lines()}
    assert lines["JPEG 75"] == [[0, 90], [8, 82], [16, 74]] and set(lines) == {
        "no defense",
        "JPEG 75",
        "random sign noise",
    }


def test_purification_shows_each_attack_before_and_after(results):
    figure = redraw(results, "purification")
    data = results.load_data("purification")
    for axes in figure.axes:
        part = data[data["victim"] == axes.get_title()].pivot(index="attack", columns="defense", values="value")
        order = list(dict.fromkeys(data["attack"]))
        before, after = (points.get_offsets()[:, 0].tolist() for points in axes.collections[-2:])
        assert before == part.loc[order, "none"].tolist() and after == part.loc[order, "NRP"].tolist()
