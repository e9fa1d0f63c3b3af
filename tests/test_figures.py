"""`companion figures` and `companion table`, and the curves of `dvc plots`."""

import csv
import json
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import yaml
from dvc_render import VegaRenderer
from PIL import Image

from lib import figures as command
from lib import markdown
from lib.report.figures import FIGURES
from lib.report.results import Results
from lib.settings import ROOT
from tests.conftest import companion, refused

MINI = ROOT / "results" / "mini"
CURVES = {"a_why_ssp_works": "figure_01", "f_attack_parameters": "figure_06", "e_transforms": "budgets"}
TEMPLATES = ROOT / ".dvc" / "plots"


@pytest.fixture
def results(tmp_path):
    """A copy of the stored results of the mini scale, without its figures."""
    shutil.copytree(MINI, tmp_path / "mini", ignore=shutil.ignore_patterns("figures", "site"))
    return Results("mini", tmp_path)


@pytest.fixture
def run(results, monkeypatch):
    """`companion table 6 --format csv` or `companion figures 6 --style slides`, on the copy."""
    monkeypatch.setattr("lib.report.results.Results", lambda scale: results)

    def printed(line):
        words = line.split()
        if words[0] not in ("table", "list"):
            words = ["figures", *words]
        status, out, err = companion(*(["figures"] if words[0] == "list" else words), "--scale", "mini")
        if status:
            raise ValueError(err.strip().removeprefix("companion: "))
        return out.rstrip()

    return printed


@pytest.mark.parametrize("text, name", [("6", "figure_06"), ("figure_02", "figure_02"), ("transfer", "transfer")])
def test_a_figure_is_called_by_number_or_name(text, name):
    assert command.resolve(text, FIGURES, "figure") == name


def test_a_figure_keeps_its_name_only_as_it_is_committed(results, run):
    folder = "results/mini/f_attack_parameters/figures"
    assert run("6") == f"{folder}/figure_06.svg\n{folder}/figure_06.png"
    assert run("6 --style paper --format pdf") == f"{folder}/figure_06.pdf"
    assert run("6 --style slides --format png") == "results/mini/redrawn/figure_06-slides.png"
    assert run("6 --only SSP --format png") == "results/mini/redrawn/figure_06-selected.png"
    assert run("protocol --only NRP --format png") == "results/mini/redrawn/protocol-selected.png"
    assert run("2 --style slides --images 1 --format png").endswith("/figure_02-slides-selected.png")
    with (
        Image.open(results.find("figures/figure_06.png")) as page,
        Image.open(results.root / "redrawn/figure_06-slides.png") as slide,
    ):
        assert page.size == (1300, 720) and slide.width == 2000 and slide.height <= 1125


def test_out_says_where_and_in_which_format(results, run, tmp_path):
    path = tmp_path / "talk" / "one.pdf"
    assert run(f"4 --style slides --images 0,2 --out {path}") == str(path)
    assert path.read_bytes().startswith(b"%PDF") and not results.files("figures/*")
    path = path.with_suffix(".tex")
    assert run(f"table 6 --out {path}") == str(path) and "\\toprule" in path.read_text()


@pytest.mark.parametrize("number", range(1, 8))
def test_every_table_is_printed_in_three_formats(results, run, number):
    stored = results.find(f"tables/table_{number:02}.md")
    assert run(f"table {number}") == stored.with_suffix(".md").read_text().rstrip()
    assert run(f"table {number} --format csv") == stored.with_suffix(".csv").read_text().rstrip()
    text = run(f"table {number} --format latex")
    rows = text[text.index("\\midrule") : text.index("\\bottomrule")].count("\\\\")
    shown = stored.with_suffix(".md").read_text().splitlines()
    assert rows == sum(line.startswith("|") for line in shown) - 2
    assert "**" not in text and "|" not in text


def test_what_stands_below_a_table_stands_below_it_in_latex():
    text = markdown.latex("| a   |   n |\n|:----|----:|\n| b   |   2 |\n\nNot as in the paper: pruned to 18 %.\n")
    assert text.endswith("\\end{tabular}\n\\par{\\footnotesize Not as in the paper: pruned to 18 \\%.}")
    assert text.count("\\\\") == 2  # the header and one row


def test_latex_escapes_what_it_must_and_keeps_bold():
    table = "| a_b (%)   |   n |\n|:----------|----:|\n| **50 %** & | 1.0 |\n| # {x}     |   2 |\n"
    assert [" ".join(line.split()) for line in markdown.latex(table).splitlines()] == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"a\_b (\%) & n \\",
        r"\midrule",
        r"\textbf{50 \%} \& & 1.0 \\",
        r"\# \{x\} & 2 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_a_name_with_signs_is_one_cell_in_latex():
    name = "a|b `c` *d* \\ & <e>"
    printed = markdown.latex(markdown.escaped_table(pd.DataFrame({"x": [name], "y": ["1"]})))
    assert r"a|b `c` *d* \textbackslash{} \& \ensuremath{<}e\ensuremath{>} & 1" in " ".join(printed.split())


@pytest.mark.parametrize(
    "line, message",
    [
        ("99", "no figure '99'; did you mean 'figure_09'? There are: "),
        ("table 9", "no table '9'; there are: table_01"),
        ("6 --format csv", "no format 'csv' here; did you mean 'svg'? There are: svg, pdf, png"),
        ("table 6 --format png", "no format 'png' here; did you mean 'markdown'? There are: markdown, csv, latex"),
        ("6 --style poster", "no style 'poster'; did you mean 'paper'? There are: paper, slides"),
        ("6 --out x.jpg", "--out x.jpg must end in one of .svg, .pdf, .png"),
        ("6 --out x.png --format pdf", "--out x.png is no file of the format pdf"),
        ("6 --images 0", "figure_06 has no --images; it has --only (lines: "),
        ("2 --images 9", "no image '9'; there are: 0, 1"),
        ("6 --only nobody", "no line 'nobody'; did you mean 'DIM'? There are: I-FGSM, MI-FGSM"),
    ],
)
def test_what_is_not_there_is_answered_in_one_line(line, message):
    words = line.split()
    assert refused(*(words if words[0] == "table" else ["figures", *words]), "--scale", "mini").startswith(message)


def test_the_list_says_what_is_stored_and_what_can_be_chosen(results, run):
    results.find("tables/table_05.csv").unlink()
    results.find("data/figure_01.csv").unlink()
    text = run("list")
    assert "figure_06         stored" in text and "table table_05          missing" in text
    assert "--only (lines: I-FGSM; MI-FGSM; DIM; SSP)" in text and "figure_01         missing" in text
    assert text.count("--images (0 to ") == 7 and text.count("--only (") == len(FIGURES) - 1


def test_the_list_names_every_table_and_figure_of_the_paper_and_what_the_pipeline_writes():
    assert {f"table_{number:02}" for number in range(1, 8)} <= set(command.titles())
    assert {f"figure_{number:02}" for number in range(1, 11)} <= set(FIGURES)
    mini = Results("mini")
    assert all(mini.files(f"tables/{name}.csv") for name in command.titles())
    assert all(mini.files(f"figures/{name}.svg") for name in FIGURES)


def test_a_table_is_printed_by_number_or_name(results, run):
    c, d = (Results("mini", results.root.parent, stage=stage) for stage in ("c_fsa", "d_cda"))
    c.save_table("table_03", pd.DataFrame({"attack": ["FSA"], "Inc-v3": [60.4], "n": 1000}))
    d.save_table("cda_cost", pd.DataFrame({"attack": ["CDA-Comics"], "pays after": ["234 images"], "n": 1}))
    assert "60.4" in run("table 3") and "234 images" in run("table cda_cost")


def test_the_command_loads_no_torch_and_nothing_else_that_is_slow(tmp_path):
    lines = [
        ["figures"],
        ["figures", "8", "--style", "slides", "--out", str(tmp_path / "8.png")],
        ["table", "6", "--format", "latex"],
    ]
    slow = {"torch", "torchvision", "sklearn", "scipy", "papermill", "dvc"}
    code = (
        f"import sys; from lib import cli; done = [cli.main([*line, '--scale', 'mini']) for line in {lines}];"
        f"sys.exit(str(done) if any(done) else ', '.join({slow} & set(sys.modules)) or None)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def plots():
    """Path of every curve that dvc.yaml declares, at the mini scale -> its properties."""
    declared = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    curves = [next(iter(plot.items())) for plot in declared if isinstance(plot, dict)]
    return {path.replace("${scale}", "mini"): properties for path, properties in curves}


def fields(spec, key="field"):
    """Every field that a Vega-Lite specification reads."""
    if isinstance(spec, list):
        return set().union(*(fields(one) for one in spec))
    if not isinstance(spec, dict):
        return set()
    own = {spec[key]} if isinstance(spec.get(key), str) else set()
    return own | set().union(*(fields(one) for one in spec.values()))


def test_the_curves_and_every_training_with_losses_are_declared():
    losses = {str(path.relative_to(ROOT)) for path in MINI.glob("train/data/*_losses.csv")}
    shown = {f"results/mini/{stage}/data/{name}.csv" for stage, name in CURVES.items()}
    assert set(plots()) == losses | shown
    assert {f"{properties['template']}.json" for properties in plots().values()} == {
        path.name for path in TEMPLATES.iterdir()
    }


@pytest.mark.parametrize("path", plots())
def test_a_template_finds_its_anchors_filled_and_its_fields_in_the_csv(path):
    properties = plots()[path]
    with (ROOT / path).open() as file:
        rows = list(csv.DictReader(file))
    ys = properties["y"] if isinstance(properties["y"], list) else [properties["y"]]
    assert {properties["x"], *ys} <= set(rows[0])
    text = (TEMPLATES / f"{properties['template']}.json").read_text()
    assert all(f"<DVC_METRIC_{anchor}>" in text for anchor in ("DATA", "TITLE", "X", "Y", "X_LABEL", "Y_LABEL"))
    # As dvc passes it on: a row per point and value, with its revision and the name of its column.
    several = {"dvc_inferred_y_value"} if len(ys) > 1 else set()
    data = [row | {"rev": "workspace", "field": y} | dict.fromkeys(several, row[y]) for y in ys for row in rows]
    chosen = properties | {"y": next(iter(several), ys[0]), "template_dir": str(TEMPLATES)}
    spec = json.loads(VegaRenderer(data, path, **chosen).partial_html())
    assert "DVC_METRIC" not in json.dumps(spec) and spec["title"] == properties["title"]
    values = spec["data"].pop("values")
    made = {step["as"] for step in spec.get("transform", ()) if "as" in step}
    assert len(values) == len(rows) * len(ys) and fields(spec) <= set(values[0]) | made
    numbers = set(spec["data"]["format"]["parse"])
    assert numbers <= set(rows[0]) and all(float(row[name]) is not None for row in rows for name in numbers)


def test_the_lines_of_figures_1_and_6_are_told_apart_by_what_the_csv_calls_them():
    spec = json.loads((TEMPLATES / "iterations.json").read_text())
    (named,) = (step["calculate"] for step in spec["transform"] if step["as"] == "line")
    for name, column in {"figure_01": "source", "figure_06": "attack"}.items():
        header = Results("mini").find(f"data/{name}.csv").read_text().splitlines()[0].split(",")
        assert column in header and f"datum.{column}" in named
    assert spec["encoding"]["x"]["scale"]["type"] == "log" and spec["encoding"]["color"]["field"] == "line"


def test_a_table_of_earlier_code_is_still_listed_and_printed(run, results):
    results.save_table("fsa_strongest", pd.DataFrame({"victim": ["Inc-v3"], "FSA less SSP": ["45.0"]}))
    assert "table fsa_strongest     stored   stored besides" in run("list")
    assert "| Inc-v3   | 45.0 " in run("table fsa_strongest")


@pytest.mark.parametrize(
    "line, name",
    [("table 6", "tables/table_06.md"), ("table 6 --format csv", "tables/table_06.csv"), ("6", "data/figure_06.csv")],
)
def test_both_sides_of_a_merge_are_not_shown(results, run, line, name):
    path = results.find(name)
    first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([first, "<<<<<<< HEAD\n", *rest, "=======\n", *rest, ">>>>>>> theirs\n"]))
    with pytest.raises(ValueError, match=rf"{name} is damaged \(it holds both sides of a merge\): get it back"):
        run(line)
