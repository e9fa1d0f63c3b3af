from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from skimage.metrics import peak_signal_noise_ratio

from lib.report.figures import FIGURES
from lib.report.figures import pictures as drawn
from lib.report.figures.pictures import RIGHT, WRONG, difference
from lib.report.results import Results


def purified(arrays):
    return drawn.strips(drawn.purified(arrays))


def figure_10(arrays):
    return FIGURES["figure_10"].draw(FIGURES["figure_10"].column(arrays))


NAMES = np.array(["jay", "sloth bear", "German short-haired pointer", "American Staffordshire terrier"])


def pictures(attacks=2, count=3, height=48, width=48, seed=0):
    rng = np.random.default_rng(seed)
    several = (attacks, count)
    return {
        "groups": np.array(["SSP on the features of ResNet50-AT", "CDA, Paintings"][:attacks]),
        "clean": rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8),
        "adversary": rng.integers(0, 256, (*several, height, width, 3), dtype=np.uint8),
        "purified": rng.integers(0, 256, (*several, height, width, 3), dtype=np.uint8),
        "truth": NAMES[np.arange(count) % 4],
        "before": rng.choice(NAMES, several),
        "before_score": rng.random(several),
        "right_before": rng.random(several) < 0.5,
        "after": rng.choice(NAMES, several),
        "after_score": rng.random(several),
        "right_after": rng.random(several) < 0.5,
        "victim": np.array("Inc-v3 (stand-in)"),
        "purifier": np.array("NRP"),
    }


def grid(figure, count):
    """Axes in their rows."""
    return [figure.axes[start : start + count] for start in range(0, len(figure.axes), count)]


def detections(rows=2):
    found = {"threshold": np.array(0.5), "classes": np.array(["cat", "dog"])}
    found["colours"] = np.array([[255, 255, 0], [0, 0, 255]], np.uint8)
    for row in range(rows):
        found |= {f"boxes_{row}_truth": np.array([[1, 1, 9, 9]], np.float32), f"names_{row}_truth": np.array(["cat"])}
        for count, kind in enumerate(("adversary", "purified", "clean")):
            found |= {
                f"image_{row}_{kind}": np.full((30, 40, 3), 100 * row + count, np.uint8),
                f"boxes_{row}_{kind}": np.array([[2, 3, 12, 23], [5, 5, 9, 9]], np.float32)[:count],
                f"scores_{row}_{kind}": np.array([0.9, 0.6], np.float32)[:count],
                f"names_{row}_{kind}": np.array(["dog", "cat"])[:count],
                f"found_{row}_{kind}": np.array(count // 2),
            }
    return found


@pytest.mark.parametrize("attacks, count", [(1, 3), (1, 6), (2, 4), (2, 5)])
def test_every_picture_stands_in_its_row_and_column(attacks, count):
    stored = pictures(attacks, count)
    rows = [[axes.get_images()[0].get_array() for axes in row] for row in grid(purified(stored), count)]
    assert np.array_equal(rows[0], stored["clean"]) and len(rows) == 1 + 4 * attacks
    for group in range(attacks):
        adversary, pure, added, left = rows[1 + 4 * group : 5 + 4 * group]
        assert np.array_equal(adversary, stored["adversary"][group])
        assert np.array_equal(pure, stored["purified"][group])
        for shown, image in ((added, adversary), (left, pure)):
            assert np.array_equal(shown, np.clip(128 + (np.array(image, int) - stored["clean"]), 0, 255))


def test_a_change_is_shown_around_mid_grey_as_strong_as_nothing_saturates_with_its_psnr():
    clean = np.full((2, 1, 4, 1, 3), 100, np.uint8)[0]
    stored = pictures(attacks=1, count=1, height=4, width=1)
    stored |= {"clean": clean, "adversary": clean[None] + np.uint8(16), "purified": clean[None] - np.uint8(2)}
    figure = purified(stored)
    assert ["".join(axes.texts[0].get_text().split()) for axes in figure.axes[3:]] == ["added×7", "left×7"]
    assert [axes.get_images()[0].get_array().flat[0] for axes in figure.axes[3:]] == [128 + 7 * 16, 128 - 7 * 2]
    assert [axes.get_title() for axes in figure.axes[3:]] == ["24.0 dB", "42.1 dB"]
    psnr = peak_signal_noise_ratio(clean[0], clean[0] + np.uint8(16))
    assert difference(clean[0] + np.uint8(16), clean[0], 1).mark == f"{psnr:.1f} dB"


def test_captions_tell_class_probability_and_right_or_wrong_by_sign_and_colour():
    stored = pictures(attacks=2, count=3) | {"before": np.full((2, 3), "jay"), "after": np.full((2, 3), "bear")}
    rows = grid(purified(stored), 3)
    for group in range(2):
        for place, when, name in ((1, "before", "jay"), (2, "after", "bear")):
            for column, axes in enumerate(rows[place + 4 * group]):
                sign, colour = RIGHT if stored[f"right_{when}"][group, column] else WRONG
                percent = round(100 * stored[f"{when}_score"][group, column])
                assert axes.get_title() == f"{name}\n{sign} {percent} %"
                assert to_hex(axes.title.get_color()) == colour.lower()


def test_images_carry_their_true_classes_and_long_names_two_lines():
    titles = [axes.get_title() for axes in purified(pictures(attacks=1, count=5)).axes[:5]]
    assert titles[:3] == ["jay", "sloth bear", "German short-haired\npointer"]


def test_rows_are_labelled_and_the_victim_is_named():
    figure = purified(pictures(attacks=2))
    texts = [axes.texts[0].get_text().replace("\n", " ") for axes in figure.axes[::3]]
    labels = [
        "image",
        *("SSP on the features…", "purified by NRP", "added × 1", "left × 1"),
        *("CDA, Paintings", "purified by NRP", "added × 1", "left × 1"),
    ]
    assert texts == labels
    assert figure.get_supxlabel().startswith("class and probability by Inc-v3 (stand-in): ✓ right, ✗ wrong")


@pytest.mark.parametrize("attacks", [1, 2])
@pytest.mark.parametrize("count", [3, 4, 5, 6])
@pytest.mark.parametrize("height, width", [(48, 48), (224, 224), (60, 80)])
def test_the_figure_fits_a_page_and_no_two_things_overlap(attacks, count, height, width):
    stored = pictures(attacks, count, height, width)
    figure = purified(stored)
    across, down = figure.get_size_inches()
    assert 3.7 < across < 6.51 and down < 8.51
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    texts = [*figure.texts, *(text for axes in figure.axes for text in (axes.title, *axes.texts) if text.get_text())]
    boxes = [thing.get_window_extent(renderer) for thing in (*texts, *figure.axes)]
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in boxes)
    # Two boxes apart by a rounding error only count as touching, not as overlapping.
    assert not [pair for pair in combinations([box.padded(-0.01) for box in boxes], 2) if pair[0].overlaps(pair[1])]
    assert all(axes.bbox.width / axes.bbox.height == pytest.approx(width / height) for axes in figure.axes)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("attacks, count", [(1, 5), (2, 4)])
def test_equal_pictures_give_equal_bytes_and_saving_twice_changes_nothing(tmp_path, attacks, count):
    results = Results("mini", tmp_path)
    first, second = purified(pictures(attacks, count)), purified(pictures(attacks, count))
    saved = [
        {path.suffix: path.read_bytes() for path in results.save_figure("figure_08", figure)}
        for figure in (first, second, first)
    ]
    assert saved[0] == saved[1] == saved[2]


@pytest.mark.parametrize("name", ["adversary", "purified", "before", "after_score", "right_after"])
def test_arrays_of_other_attacks_or_images_are_named(name):
    stored = pictures(attacks=2, count=3)
    with pytest.raises(ValueError, match=rf"{name} is of shape \(1, 3.*\), with 2 groups and 3 images"):
        purified(stored | {name: stored[name][:1]})


def test_figure_10_has_a_column_per_kind_and_draws_every_box():
    figure = figure_10(detections())
    titles = ["ground truth", "image", "CDA adversary", "purified by NRP"]
    assert [axes.get_title() for axes in figure.axes] == [*titles, "", "", "", ""]
    assert [len(axes.patches) for axes in figure.axes] == [1, 2, 0, 1] * 2
    levels = [int(axes.get_images()[0].get_array()[0, 0, 0]) for axes in figure.axes]
    assert levels == [2, 2, 0, 1, 102, 102, 100, 101]
    texts = [[text.get_text() for text in axes.texts] for axes in figure.axes[:4]]
    assert texts == [["cat"], ["dog 0.90", "cat 0.60", "1 of 1"], ["0 of 1"], ["dog 0.90", "0 of 1"]]
    assert figure.get_supxlabel().startswith("detections of score 0.5 or more; in the corner: objects found")


def test_a_class_has_its_colour_everywhere_and_letters_that_can_be_read_on_it():
    truth, clean, _, pure = figure_10(detections()).axes[:4]
    assert [to_hex(patch.get_edgecolor()) for patch in clean.patches] == ["#0000ff", "#ffff00"]
    assert (
        to_hex(pure.patches[0].get_edgecolor()) == "#0000ff" and to_hex(truth.patches[0].get_edgecolor()) == "#ffff00"
    )
    assert [text.get_color() for text in clean.texts[:2]] == ["white", "black"]


def test_without_a_purifier_two_rows_an_attack():
    stored = {name: each for name, each in pictures().items() if name not in ("purified", *drawn.PREDICTED["purified"])}
    figure = purified(stored)
    rows = grid(figure, 3)
    assert len(rows) == 1 + 2 * 2 and "left" not in figure.get_supxlabel()
    assert np.array_equal([axes.get_images()[0].get_array() for axes in rows[3]], stored["adversary"][1])
