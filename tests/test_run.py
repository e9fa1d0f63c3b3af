import nbformat
import pytest
from papermill.exceptions import PapermillExecutionError

from lib import run


@pytest.fixture
def root(tmp_path):
    """A project folder to put notebooks in."""
    (tmp_path / "notebooks").mkdir()
    return tmp_path


def notebook(root, name, *cells):
    book = nbformat.v4.new_notebook()
    book.cells = [nbformat.v4.new_code_cell("scale = None\nn = 1", metadata={"tags": ["parameters"]})]
    book.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(book, root / "notebooks" / f"{name}.ipynb")


def test_parameters_reach_the_cells_and_output_is_kept(root, capfd):
    notebook(root, "a", "print(scale, n + 1)")
    path = run.execute("a", "mini", root, n=4)
    assert path == root / "results" / "mini" / "notebooks" / "a.ipynb"
    texts = [o.text for c in nbformat.read(path, 4).cells if c.cell_type == "code" for o in c.outputs]
    assert texts == ["mini 5\n"]
    assert "mini 5" in capfd.readouterr().out


def test_two_runs_are_byte_identical(root):
    notebook(root, "a", "import sys, time\nprint('x')\nprint(time.time(), file=sys.stderr)", "{'a': [1, 2]}")
    first = run.execute("a", "mini", root).read_bytes()
    assert run.execute("a", "mini", root).read_bytes() == first
    assert str(root).encode() not in first


def test_a_failing_cell_ends_with_its_line_and_message(root):
    notebook(root, "bad", "x = 1\ny = x / 0\nz = 3")
    with pytest.raises(PapermillExecutionError) as caught:
        run.execute("bad", "mini", root)
    line = run.explain(caught.value)
    assert line == "cell 2, line 2: y = x / 0: ZeroDivisionError: division by zero"


def test_a_failure_inside_a_function_is_placed_in_the_cell_that_called_it(root):
    notebook(root, "bad", "import json\n\njson.loads('{')")
    with pytest.raises(PapermillExecutionError) as caught:
        run.execute("bad", "mini", root)
    assert run.explain(caught.value).startswith("cell 2, line 3: json.loads('{'): JSONDecodeError: ")


def test_a_failing_cell_does_not_replace_the_last_good_result(root):
    notebook(root, "a", "print('good')")
    good = run.execute("a", "mini", root).read_bytes()
    notebook(root, "a", "1 / 0")
    with pytest.raises(PapermillExecutionError):
        run.execute("a", "mini", root)
    assert (root / "results" / "mini" / "notebooks" / "a.ipynb").read_bytes() == good


def test_an_unknown_notebook_lists_those_there_are(root):
    notebook(root, "a")
    with pytest.raises(FileNotFoundError, match="no notebook 'b'; there are a"):
        run.execute("b", "mini", root)
