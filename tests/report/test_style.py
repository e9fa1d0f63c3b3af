import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from lib.report.figures.style import LOOKS, PAPER, SLIDES, style, write_figure


def test_the_looks_are_called_paper_and_slides_and_slides_are_of_16_to_9():
    assert LOOKS == {"paper": PAPER, "slides": SLIDES}
    assert SLIDES.wide and not PAPER.wide and SLIDES.width / SLIDES.height == pytest.approx(16 / 9)


def test_a_look_leaves_nothing_of_the_one_before():
    style(PAPER)
    before = dict(matplotlib.rcParams)
    style(SLIDES)
    assert matplotlib.rcParams["font.size"] == 16 and dict(matplotlib.rcParams) != before
    style()
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    "look, height, size", [(PAPER, 3.6, (6.5, 3.6)), (SLIDES, 2.6, (10, 4)), (SLIDES, 6, (10, 5.625))]
)
def test_a_size_in_print_grows_to_the_slide_and_no_further(look, height, size):
    figure, panels = look.panels(height, 2, 3)
    assert figure.get_size_inches() == pytest.approx(size) and panels.shape == (2, 3)


@pytest.mark.parametrize("look", [PAPER, SLIDES])
@pytest.mark.parametrize("heights, across", [([1, 1, 1], 4), ([0.75], 2), ([1.5] * 5, 1)])
def test_pictures_are_as_large_as_the_page_holds(look, heights, across):
    figure, picture = look.grid(heights, across, above=0.5)
    above = 0.5 * look.scale
    width, height = figure.get_size_inches()
    assert height == pytest.approx(sum(heights) * picture + above) and width >= across * picture - 1e-9
    full = across * picture == pytest.approx(look.width) or height == pytest.approx(look.height)
    assert full and width <= look.width + 1e-9 and height <= look.height + 1e-9


def test_titles_break_between_words_and_shrink_for_a_long_one():
    assert PAPER.titles(["SSP adversary", "image"], 2.0) == (["SSP adversary", "image"], 8)
    assert PAPER.titles(["SSP adversary", "image"], 0.8)[0] == ["SSP\nadversary", "image"]
    texts, size = PAPER.titles(["ResNet50-NT"], 0.6)
    assert texts == ["ResNet50-NT"] and 4 < size < 8


def test_a_legend_has_the_columns_that_fit():
    names = ["a", "a very long name indeed", "b", "c"]
    for inches, ncols in ((9, 4), (3.4, 3), (1, 1)):
        figure = Figure(figsize=(inches, 2), layout="constrained")
        figure.add_subplot().plot(np.zeros((2, 4)), label=names)
        PAPER.legend(figure, 8, most=4)
        assert figure.legends[0]._ncols == ncols


@pytest.mark.parametrize("ending", ["svg", "pdf", "png"])
def test_equal_figures_are_written_byte_for_byte_into_a_new_folder(tmp_path, ending):
    def drawn(name):
        style()
        figure = Figure()
        figure.add_subplot().plot([0, 1])
        return write_figure(figure, tmp_path / "new" / f"{name}.{ending}").read_bytes()

    assert drawn("one") == drawn("two")
