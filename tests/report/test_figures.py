from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lib.report.figures import FIGURES, options, redraw
from lib.report.figures.style import PAPER, SLIDES
from lib.report.results import Results

# The figure of all claims has its own tests.
DRAWN = [name for name in FIGURES if name != "claims"]


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
    behind = ("purified", "after", "after_score", "right_after")
    stored.save_pictures(
        "figure_02", **{name: each for name, each in purified(["A", "B"]).items() if name not in behind}
    )
    points = pd.DataFrame({"class": ["a", "b"] * 10, "x": np.arange(20.0), "y": np.arange(20.0)})
    spaces = [points.assign(space=s, silhouette=0.25) for s in ("logits", "pooled", "full")]
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
        image_clean=streets[0],
        image_adversary=streets[1],
        **{f"predicted_{kind}": maps[k] for kind, k in (("clean", 0), ("noise", 1), ("adversary", 1))},
        **{f"right_{kind}": np.array([0.5, 0.25]) for kind in ("clean", "noise", "adversary")},
        truth=maps[0],
        classes=classes,
        colours=colours,
    )
    found = {"threshold": np.array(0.5), "classes": np.array(["dog", "cat"]), "colours": colours[:2]}
    for row, sides in enumerate([(30, 40), (60, 40)]):
        found |= {f"boxes_{row}_truth": np.array([[1, 1, 9, 9]], np.float32), f"names_{row}_truth": np.array(["cat"])}
        for kind, count in (("clean", 2), ("noise", 1), ("adversary", 0)):
            found |= {
                f"image_{row}_{kind}": np.zeros((*sides, 3), np.uint8),
                f"boxes_{row}_{kind}": np.array([[2, 3, 12, 23], [5, 5, 9, 9]], np.float32)[:count],
                f"scores_{row}_{kind}": np.array([0.9, 0.6], np.float32)[:count],
                f"names_{row}_{kind}": np.array(["dog", "cat"])[:count],
                f"found_{row}_{kind}": np.array(count // 2),
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
    ends = {"low": 10.0, "high": 95.0, "n": 9}
    curves = [{"defense": d, "attacker": a, "eps": float(e), "value": 90.0 - e} | ends
              for d in ("none", "NRP") for a in ("random noise", "aware") for e in (0, 8, 16, 64)]  # fmt: skip
    stored.save_data("protocol", pd.DataFrame(curves))
    swept = [{"source": s, "layer": f"{s} {name}", "eps": eps, "victim": "V", "value": 3.0 * eps + k} | ends
             for s in "AB" for k, name in enumerate(("conv", "logits")) for eps in (8, 16)]  # fmt: skip
    stored.save_data("layers", pd.DataFrame(swept))
    cells = [(attack, victim, front) for attack in ("none", "SSP") for victim in ("Inc-v3", "Adv-v3")
             for front in ("none", "NRP", "NRP dynamic")]  # fmt: skip
    found = [
        {
            "attack": attack,
            "victim": victim,
            "defense": front,
            "value": 10.0 * place,
            "low": 9.0 * place,
            "high": 10.0 * place + 1,
            "n": 20,
        }
        for place, (attack, victim, front) in enumerate(cells)
    ]
    stored.save_data("purification", pd.DataFrame(found).sample(frac=1, random_state=0))
    return stored


@pytest.mark.parametrize("name", DRAWN)
def test_every_figure_is_redrawn_from_its_stored_data_byte_for_byte(results, name):
    first = {p.name: p.read_bytes() for p in results.save_figure(name, redraw(results, name))}
    second = {p.name: p.read_bytes() for p in results.save_figure(name, redraw(results, name))}
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
    stored = results.load_pictures("figure_02")
    axes, count = redraw(results, "figure_02").axes, len(stored["clean"])
    assert np.array_equal(axes[1].get_images()[0].get_array(), stored["clean"][1])
    assert np.array_equal(axes[count + 1].get_images()[0].get_array(), stored["adversary"][0, 1])
    assert np.array_equal(axes[3 * count + 1].get_images()[0].get_array(), stored["adversary"][1, 1])


def test_the_scale_is_written_on_the_figure(results):
    assert "stand-in networks" in redraw(results, "figure_06").get_suptitle()


def test_a_figure_that_was_not_computed_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"dvc repro \(scale: mini\)"):
        redraw(Results("mini", tmp_path), "figure_06")


def test_figure_10_has_a_row_per_image_and_a_column_per_kind(results):
    pictures, axes = results.load_pictures("figure_10"), redraw(results, "figure_10").axes
    titles = ["ground truth", "image", "CDA adversary", "purified by NRP"]
    assert [a.get_title() for a in axes[:4]] == titles and len(axes) == 8
    for place, kind in enumerate(("truth", "clean", "adversary", "purified")):
        shown = pictures[f"image_1_{kind if kind != 'truth' else 'clean'}"]
        assert np.array_equal(axes[4 + place].get_images()[0].get_array(), shown)
        assert len(axes[place].patches) == len(pictures[f"boxes_0_{kind}"])


def test_figure_4_draws_predictions_in_the_colours_of_their_classes(results):
    figure = redraw(results, "figure_04")
    pictures = results.load_pictures("figure_04")
    shown = [axes.get_images()[0].get_array() for axes in figure.axes]
    assert len(shown) == 12  # two rows
    for row in range(2):
        _, truth, before, noise, adversary, after = shown[6 * row : 6 * row + 6]
        for kind, there in (("clean", before), ("noise", noise), ("adversary", after)):
            assert np.array_equal(there, pictures["colours"][pictures[f"predicted_{kind}"][row]])
        assert np.array_equal(truth, pictures["colours"][pictures["truth"][row]])
        assert np.array_equal(adversary, pictures["image_adversary"][row])
    assert [axes.texts[0].get_text() for axes in figure.axes if axes.texts] == ["50 %"] * 3 + ["25 %"] * 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["road", "sky", "car"]


def test_figure_5_draws_every_box_around_its_pixels(results):
    figure = redraw(results, "figure_05")
    true, clean, _, attacked = figure.axes[:4]
    corners = [(p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in clean.patches]
    assert corners == [(1.5, 2.5, 10, 20), (4.5, 4.5, 4, 4)]
    assert [text.get_text() for text in clean.texts] == ["dog 0.90", "cat 0.60", "1 of 1"] and not attacked.patches
    assert [text.get_text() for text in true.texts] == ["cat"]


def test_the_trend_has_a_row_per_task_and_a_panel_per_kind_of_defense(results):
    figure = redraw(results, "budgets")
    assert [axes.get_title() for axes in figure.axes] == ["JPEG", ""]
    assert [axes.get_ylabel() for axes in figure.axes] == ["pixels (%)\nS, n = 9", "mAP@0.5 (%)\nD, n = 9"]
    lines = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].get_lines()}
    assert lines["JPEG 75"] == [[0, 90], [8, 82], [16, 74]] and set(lines) == {
        "no defense",
        "JPEG 75",
        "random sign noise",
    }


def test_the_protocol_s_curves_have_a_panel_per_defense_and_end_at_budget_16(results):
    axes = redraw(results, "protocol").axes
    assert [one.get_title() for one in axes] == ["none, n = 9", "NRP, n = 9"]
    for one in axes:
        lines = {line.get_label(): line for line in one.get_lines()}
        assert [*lines["aware"].get_xdata()] == [0, 8, 16] and [*lines["aware"].get_ydata()] == [90, 82, 74]
        assert [*lines["NRP, Table 1"].get_ydata()] == [63.0]  # supplement, Table 1


def test_every_layer_has_a_bar_in_the_panel_of_each_budget_in_its_network_s_colour(results):
    axes = redraw(results, "layers").axes
    assert [one.get_title() for one in axes] == ["budget 8", "budget 16"]
    for one, eps in zip(axes, (8, 16), strict=True):
        assert [bar.get_width() for bar in one.patches] == [3 * eps, 3 * eps + 1] * 2
        first, second, third, _ = (bar.get_facecolor() for bar in one.patches)
        assert first == second != third
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["A conv", "A logits", "B conv", "B logits"]


def test_purification_shows_each_attack_before_and_after(results):
    figure = redraw(results, "purification")
    data = results.load_data("purification")
    for axes in figure.axes:
        part = data[data["victim"] == axes.get_title()].pivot(index="attack", columns="defense", values="value")
        order = list(dict.fromkeys(data["attack"]))
        before, after = (points.get_offsets()[:, 0].tolist() for points in axes.collections[2::2])
        assert before == part.loc[order, "none"].tolist() and after == part.loc[order, "NRP"].tolist()


def written(figure):
    """The texts around the pictures and panels of a figure: titles, labels, legends, notes."""
    found = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        found += [axes.title, *(text for text in axes.texts if text.get_rotation() == 90)]  # labels of rows
        if axes.axison:
            found += [axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels(), *axes.get_yticklabels()]
        if axes.get_legend():
            found += axes.get_legend().get_texts()
    return [text for text in found if text.get_text() and text.get_visible()]


@pytest.mark.parametrize("look", [PAPER, SLIDES], ids=["paper", "slides"])
@pytest.mark.parametrize("name", DRAWN)
def test_the_stored_figures_fit_their_page_and_nothing_overlaps(name, look):
    figure = redraw(Results("mini"), name, look)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    width, height = figure.get_size_inches()
    assert width <= look.width + 0.01 and height <= look.height + 0.01
    texts = written(figure)
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in texts]
    page = figure.bbox.padded(1)
    for text, box in zip(texts, boxes, strict=True):
        inside = page.x0 <= box.x0 and page.y0 <= box.y0 and box.x1 <= page.x1 and box.y1 <= page.y1
        assert inside, text.get_text()
    # The boxes of slanted texts lie around more than the text.
    straight = [(text, box) for text, box in zip(texts, boxes, strict=True) if text.get_rotation() in (0, 90)]
    for (one, first), (other, second) in combinations(straight, 2):
        assert not first.padded(-1).overlaps(second.padded(-1)), (one.get_text(), other.get_text())
    for one, other in combinations([axes.bbox for axes in figure.axes], 2):
        assert not one.padded(-1).overlaps(other.padded(-1))
    if look is SLIDES:
        assert min(text.get_fontsize() for text in texts) >= 9  # 12 points on a slide of 13.3 inches


@pytest.mark.parametrize("name", ["figure_04", "figure_05", "figure_06", "budgets", "transfer"])
def test_slides_have_larger_type_and_broader_lines_before_white(name):
    print_, slide = (redraw(Results("mini"), name, look) for look in (PAPER, SLIDES))
    assert slide.get_facecolor() == (1, 1, 1, 1)
    size = [max(text.get_fontsize() for text in written(figure)) for figure in (print_, slide)]
    assert size[1] > 1.15 * size[0]
    for before, after in zip(print_.axes, slide.axes, strict=True):
        for thin, thick in zip(before.get_lines(), after.get_lines(), strict=True):
            assert thick.get_linewidth() > 1.5 * thin.get_linewidth()


@pytest.mark.parametrize(
    "name, asked, there",
    [("figure_01", "ResNet50-NT", ["ResNet50-NT"]), ("figure_06", "ssp", ["SSP from S"]),
     ("budgets", "noise,JPEG 75", ["JPEG 75", "random sign noise"])],
)  # fmt: skip
def test_chosen_lines_keep_their_colours_and_values(results, name, asked, there):
    full, few = (redraw(results, name, only=only).axes[0].get_lines() for only in (None, asked))
    full = {line.get_label(): line for line in full}
    named = {line.get_label(): line for line in few if not line.get_label().startswith("_")}
    assert list(named) == there and len(there) < len(full)
    for label, line in named.items():
        assert line.get_color() == full[label].get_color() and line.get_marker() == full[label].get_marker()
        assert line.get_xydata().tolist() == full[label].get_xydata().tolist()


def test_chosen_panels_victims_and_columns_are_all_that_is_drawn(results):
    titles = [axes.get_title() for axes in redraw(results, "figure_03", only="full,logits").axes]
    assert titles == ["logits\nsilhouette 0.25", "full\nsilhouette 0.25"]
    assert [axes.get_title() for axes in redraw(results, "purification", only="adv").axes] == ["Adv-v3"]
    heat = redraw(results, "transfer", only="Z,X").axes[0]
    assert [text.get_text() for text in heat.get_xticklabels()] == ["X", "Z"]
    assert heat.get_images()[0].get_array().shape == (2, 2)
    columns = [axes.get_title() for axes in redraw(results, "figure_10", only="purified,image").axes]
    assert columns == ["image", "purified by NRP", "", ""]
    last = [axes.get_title() for axes in redraw(results, "figure_04", only="(d)").axes]
    assert last == ["(d) its prediction", ""]


def test_chosen_images_come_in_the_order_asked_for(results):
    shown = {name: results.load_pictures(name) for name in ("figure_02", "figure_04", "figure_05", "figure_08")}
    drawn = {
        name: [axes.get_images()[0].get_array() for axes in redraw(results, name, only=only, images=images).axes]
        for name, images, only in [
            ("figure_02", "1,0", "B"), ("figure_04", "1", "(a),(d)"), ("figure_05", "1,0", "adversary"),
            ("figure_08", "2,0", "DIM-TI"),
        ]
    }  # fmt: skip
    colours = shown["figure_04"]["colours"]
    expected = {
        "figure_02": [
            *(shown["figure_02"]["clean"][k] for k in (1, 0)),
            *(shown["figure_02"]["adversary"][1, k] for k in (1, 0)),
        ],
        "figure_04": [shown["figure_04"]["image_clean"][1], colours[shown["figure_04"]["predicted_adversary"][1]]],
        "figure_05": [shown["figure_05"][f"image_{k}_adversary"] for k in (1, 0)],
        "figure_08": [
            *(shown["figure_08"]["clean"][k] for k in (2, 0)),
            *(shown["figure_08"][kind][1, k] for kind in ("adversary", "purified") for k in (2, 0)),
        ],
    }
    for name, arrays in expected.items():
        found = drawn[name][: len(arrays)]
        assert all(np.array_equal(one, other) for one, other in zip(found, arrays, strict=True)), name
    assert [len(drawn[name]) for name in expected] == [6, 2, 2, 10]


def test_figure_4_without_predictions_has_no_legend(results):
    assert not redraw(results, "figure_04", only="(a)").legends
    assert len(redraw(results, "figure_04", SLIDES).legends) == 1


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("figure_06", {"only": "PGD"}, "no line 'PGD'; did you mean 'SSP'? There are: I-FGSM, SSP"),
        ("figure_06", {"only": ""}, "no line ''; there are: I-FGSM, SSP"),
        ("figure_05", {"images": "0,2"}, "no image '2'; there are: 0, 1"),
        ("figure_02", {"images": "-1"}, "no image '-1'; did you mean '1'? There are: 0, 1, 2"),
        ("figure_05", {"images": "7"}, "no image '7'; there are: 0, 1"),
        ("figure_01", {"only": "NT"}, "'NT' fits several lines: VGG16-NT; ResNet50-NT"),
        ("figure_01", {"images": "0"}, "figure_01 has no --images; it has --only (lines: VGG16-NT; ResNet50-NT)"),
    ],
)
def test_a_choice_that_is_not_there_is_answered_with_what_there_is(results, name, options, message):
    with pytest.raises(ValueError) as error:
        redraw(results, name, **options)
    assert str(error.value) == message


def test_an_exact_name_is_not_taken_for_a_part_of_another(results):
    labels = [text.get_text() for axes in redraw(results, "figure_08", only="DIM").axes for text in axes.texts]
    assert "DIM" in labels and "DIM-TI" not in labels


def test_the_options_of_a_figure_name_what_is_stored(results):
    assert options(results, "figure_08") == "--images (0 to 2), --only (attacks: DIM; DIM-TI)"
    assert options(results, "transfer") == "--only (victims: X; Y; Z)"


def test_attacks_stand_side_by_side_on_slides_and_below_one_another_in_print(results):
    below, beside = (redraw(results, "figure_08", look) for look in (PAPER, SLIDES))
    # The first picture of the first attack and of the second.
    first, second = below.axes[3].bbox, below.axes[15].bbox
    assert first.x0 == pytest.approx(second.x0) and first.y0 > second.y0
    first, second = beside.axes[3].bbox, beside.axes[18].bbox
    assert first.y0 == pytest.approx(second.y0, abs=0.1) and first.x0 < second.x0  # pixels
