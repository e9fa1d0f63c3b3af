import json

import numpy as np
import pandas as pd
import pytest

from lib.report.results import Results


@pytest.fixture
def results(tmp_path):
    return Results("mini", tmp_path)


def test_a_table_reads_well_as_markdown_and_is_numbers_as_csv(results):
    table = pd.DataFrame({"victim": ["A", "B"], "change": ["+3.4", "-"], "psnr": [31.25, 30.0], "n": 9})
    shown = results.save_table("t", table, digits=2)
    assert "| +3.4 " in shown.data == results.path("tables", "t.md").read_text() and "31.25" in shown.data
    assert results.load_table("t").equals(table)


def test_a_condensed_table_keeps_its_numbers_in_the_csv(results):
    numbers = pd.DataFrame({"cell": ["a", "b"], "value": [1.5, 2.5]})
    results.save_table("t", pd.DataFrame({"all": ["a and b"]}), numbers)
    assert results.load_table("t").equals(numbers)


def test_figure_data_and_pictures_come_back_as_they_were(results):
    data = pd.DataFrame({"x": [1, 2], "name": ["", "b"]})
    results.save_data("f", data)
    images = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    results.save_pictures("p", images=images, names=np.array(["clean"]))
    assert results.load_data("f").equals(data)
    assert np.array_equal(results.load_pictures("p")["images"], images)


def test_metrics_are_rounded_and_sorted(results):
    results.save_metrics({"b": 1 / 3, "a": {"n": 5}})
    text = results.find("metrics.json").read_text()
    assert json.loads(text) == {"a": {"n": 5}, "b": 0.33} and text.index('"a"') < text.index('"b"')


@pytest.mark.parametrize("load", ["load_data", "load_frame", "load_pictures", "load_table"])
def test_what_was_not_computed_names_the_command(results, load):
    with pytest.raises(FileNotFoundError, match="not there yet in results/mini; compute it with: dvc repro"):
        getattr(results, load)("nothing")
