import json

import numpy as np
import pandas as pd
import pytest

from lib.reading import intact, read_json
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


CONFLICT = b"<<<<<<< HEAD\na,b\n1,2\n=======\na,b,c\n1,2,3\n>>>>>>> other\n"
DAMAGED = [b"", CONFLICT, b"\xff\xfe\x00"]
CUT = b"PK\x03\x04 the start of an archive"


@pytest.mark.parametrize(
    ("load", "name", "contents"),
    [
        ("load_data", "a_stage/data/it.csv", DAMAGED),
        ("load_table", "a_stage/tables/it.csv", DAMAGED),
        ("load_frame", "it/frame.npz", [*DAMAGED, CUT]),
        ("load_pictures", "a_stage/pictures/it.npz", [*DAMAGED, CUT]),
    ],
)
def test_a_damaged_result_is_named_in_one_line(results, load, name, contents):
    path = results.root / name
    path.parent.mkdir(parents=True)
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged") as found:
            getattr(results, load)("it")
        assert str(path) in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize("content", [*DAMAGED, CUT])
def test_a_damaged_json_file_is_named_in_one_line(tmp_path, content):
    path = tmp_path / "timings.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} is damaged .*: get it back with git checkout") as found:
        read_json(path)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("name", ["tables/it.csv", "tables/it.md", "data/it.csv"])
def test_both_sides_of_a_merge_are_no_result(results, name):
    """Of a table, all of its lines can be read, and those of both sides would be shown."""
    path = results.root / "a_stage" / name
    path.parent.mkdir(parents=True)
    path.write_text("a,b\n1,2\n<<<<<<< HEAD\n3,4\n=======\n3,5\n>>>>>>> theirs\n")
    with pytest.raises(ValueError, match=r"it\.\w+ is damaged \(it holds both sides of a merge\): get"), intact(path):
        pytest.fail("it was read")
    if name == "data/it.csv":
        with pytest.raises(ValueError, match="both sides"):
            results.load_data("it")
