"""The static site of a small made-up scale: what its pages say, that it needs nothing from elsewhere, how it looks."""

import base64
import hashlib
import inspect
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from lib import markdown
from lib.attacks import decision, features
from lib.defenses import transforms
from lib.report import site
from lib.settings import ROOT
from tests.conftest import refused

PIPELINE = """
stages:
  train:
    foreach: [NRP]
    do: {cmd: companion train, outs: ["data/${item}_losses.csv"]}
  c_fsa:
    cmd: companion run c_fsa --scale ${scale}
    outs:
      - results/${scale}/tables/table_03.md: {cache: false}
      - results/${scale}/figures/figure_06.svg: {cache: false}
  e_transforms:
    cmd: companion run e_transforms --scale ${scale}
    outs: ["results/${scale}/tables/table_06.md", "results/${scale}/figures/budgets.svg"]
  claims:
    cmd: companion report.claims
    outs: ["results/${scale}/figures/claims.svg": {cache: false}]
"""
DRAWING = '<svg xmlns="http://www.w3.org/2000/svg" width="600" height="300"><circle r="90" fill="teal"/></svg>'
WIDE = "| victim | " + " | ".join(f"network {n}" for n in range(30)) + " |\n|" + ":--|" * 31 + "\n"
WIDE += "| VGG-19 |" + " 97.5 [93.8, 100.0] |" * 30 + "\n"
NAME = "a|b <i>c</i> & `d` *e* __f__ [g](h) &lt; i_j \\| $k$"
FRAME = pd.DataFrame({"name": ["Inc-v3"], "role": ["victim"]})
RUN = {
    "stage": "c_fsa",
    "command": "companion run c_fsa --scale mini",
    "commit": "803416fabcdef0123456789",
    "changed": False,
    "seconds": 102.3,
    "machine": "a CPU of two cores",
    "finished": "2026-11-23T04:50:00+00:00",
    "parameters": {"attacks": {"fsa": {"eps": 16}}},
}


def notebook(picture: Path) -> nbformat.NotebookNode:
    """An executed notebook: prose, a folded cell, a table, a frame, a figure of the results and one of its own."""
    encoded = base64.b64encode(picture.read_bytes()).decode()

    def shows(source: str, **data: str) -> nbformat.NotebookNode:
        data = {kind.replace("_", "/"): value for kind, value in data.items()}
        return new_code_cell(source, outputs=[new_output("execute_result", data)])

    hidden = new_code_cell('scale = "mini"', metadata={"tags": ["injected-parameters"]})
    return new_notebook(
        cells=[
            new_markdown_cell("# Appendix C: feature scattering\n\n- It maximises the *quokka* distance."),
            hidden,
            shows('tables.show(results, "table_03", frame)', text_markdown=WIDE),
            shows("tables.networks(whole)", text_html=FRAME._repr_html_()),
            shows('shown(results, "figure_06")', image_png=encoded),
            shows("another_picture()", image_png=encoded),
            new_code_cell("print(1)", outputs=[new_output("stream", text="one\n")]),
        ]
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A project whose mini scale has run Appendix C, and whose Appendix E has left a table only."""
    root = tmp_path_factory.mktemp("project")
    results = root / "results" / "mini"
    for folder in (
        "c_fsa/tables",
        "c_fsa/figures",
        "c_fsa/data",
        "e_transforms/tables",
        "report/tables",
        "report/figures",
    ):
        (results / folder).mkdir(parents=True)
    (root / "dvc.yaml").write_text(PIPELINE)
    Image.new("RGB", (900, 400), "orange").save(results / "c_fsa/figures/figure_06.png")
    for name in ("c_fsa/figures/figure_06", "report/figures/claims"):
        (results / f"{name}.svg").write_text(DRAWING)
    (results / "c_fsa/data/figure_06.csv").write_text("steps,value\n1,2\n")
    for name in ("c_fsa/tables/table_03", "e_transforms/tables/table_06"):
        (results / f"{name}.md").write_text(WIDE)
        (results / f"{name}.csv").write_text("a\n1\n")
    (results / "c_fsa/tables/names.md").write_text(markdown.escaped_table(pd.DataFrame({NAME: [NAME, f"**{NAME}**"]})))
    claims = shutil.copy(ROOT / "results/mini/report/tables/claims.csv", results / "report/tables")
    (results / "earlier/tables").mkdir(parents=True)  # there are no frames
    shutil.copy(claims, results / "earlier/tables/earlier_claims.csv")
    (results / "report/claims.md").write_text("# Claims\n\n![All](figures/claims.svg)\n")
    took = {name: RUN[name] for name in ("seconds", "machine", "commit", "changed", "finished")}
    (results / "c_fsa/run.json").write_text(json.dumps({key: RUN[key] for key in RUN if key not in took}))
    (results / "timings.json").write_text(json.dumps({"run of c_fsa": took}))
    (results / "report/provenance.json").write_text(
        json.dumps({"seed": 0, "versions": {"torch": "2.9"}, "data": ["world"]})
    )
    nbformat.write(notebook(results / "c_fsa/figures/figure_06.png"), results / "c_fsa/c_fsa.ipynb")
    return root


@pytest.fixture(scope="module")
def built(root) -> Path:
    """The folder of the built site."""
    return site.build("mini", root).parent


class Reader(HTMLParser):
    """The words of a page, outside scripts, and what it links to."""

    def __init__(self, path: Path):
        super().__init__()
        self.words, self.links, self.ids, self.silent = [], [], set(), False
        self.feed(path.read_text())
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.silent = tag in {"script", "style"}
        given = dict(attrs)
        self.ids |= {given["id"]} if "id" in given else set()
        self.links += [given[name] for name in ("href", "src") if given.get(name)]

    def handle_endtag(self, tag):
        self.silent = False

    def handle_data(self, data):
        if not self.silent:
            self.words.append(data)


def test_the_start_page_says_what_was_found_and_shows_the_tables(built):
    page, stored = Reader(built / "index.html"), pd.read_csv(ROOT / "results/mini/report/tables/claims.csv")
    claims = stored[stored["reading"].isna()]
    assert f"{claims['id'].nunique()} claims: " in page.text
    alone = claims.groupby("id").filter(lambda part: len(part) == 1).set_index("id")["verdict"]
    assert f"less 63 (B3) {alone['B3']}" in page.text
    assert page.text.count("97.5 [93.8, 100.0]") == 60
    assert {"figures/claims.svg", "notebooks/c_fsa.html", "tables/table_03.csv"} <= set(page.links)
    assert "companion table 6 --scale mini" in page.text


def test_every_page_of_docs_is_a_guide(built):
    assert sorted(site.GUIDES) == sorted(path.stem for path in (ROOT / "docs").glob("*.md"))
    assert "double_fgsm" in Reader(built / "guides" / "own_attack.html").text


def test_links_out_of_docs_become_their_words():
    text = "[a](../lib/x.py) [b](method.md#x) [c](https://host/x) [d](#here) [e](sub/x.md)"
    assert site.unlinked(text) == "a [b](method.md#x) [c](https://host/x) [d](#here) e"


@pytest.mark.parametrize("module", [features, decision, transforms])
def test_the_pages_of_the_api_have_every_public_function_with_its_docstring(built, module):
    page = Reader(built / "api" / f"{module.__name__.split('.')[1]}.html")
    public = [each for name, each in vars(module).items() if not name.startswith("_") and inspect.isfunction(each)]
    mine = [each for each in public if each.__module__ == module.__name__]
    assert mine
    for function in mine:
        assert f"{module.__name__}.{function.__name__}" in page.ids
        words = re.sub(r"[`\s]+", " ", function.__doc__.split(".")[0].split("`")[0])
        assert words.strip() in re.sub(r"\s+", " ", page.text)


@pytest.mark.parametrize("name", ["notebooks/c_fsa.html", "figures.html"])
def test_a_figure_says_how_it_came_about(built, name):
    page = Reader(built / name)
    for said in ("companion figures 6 --scale mini", "c_fsa", "803416f", "102 s", "a CPU of two cores"):
        assert said in page.text
    up = "../" if "/" in name else ""
    linked = {f"{up}figures/figure_06.svg", f"{up}figures/figure_06.png", f"{up}data/figure_06.csv"}
    assert linked <= set(page.links)


def test_an_executed_notebook_becomes_a_page_with_its_code_folded(built):
    text = (built / "notebooks" / "c_fsa.html").read_text()
    page = Reader(built / "notebooks" / "c_fsa.html")
    assert "<h1" in text and "maximises the quokka distance" in page.text.replace("  ", " ")
    assert "injected" not in text and 'scale = "mini"' not in page.text
    assert text.count('<details class="quote">') == 6
    assert "dataframe" not in text and "Inc-v3" in page.text and "one" in page.text
    assert "eps : 16" in page.text.replace("eps:", "eps :")
    assert len(list((built / "notebooks" / "c_fsa_files").glob("*.png"))) == 1


def test_what_a_scale_has_not_computed_is_said_on_its_page(built):
    missing = Reader(built / "notebooks" / "e_transforms.html").text
    assert "Not there at the scale mini : results/mini/e_transforms/e_transforms.ipynb" in missing
    assert "its run is not recorded" in missing and "97.5 [93.8, 100.0]" in missing
    assert "results/mini/comparison.md" in Reader(built / "comparison.html").text
    assert "results/mini/tables/table_01.md" in Reader(built / "index.html").text
    assert "results/mini/figures/figure_01.svg" in Reader(built / "figures.html").text


def test_a_name_stands_in_a_table_as_it_was_given(built):
    assert Reader(built / "tables" / "names.html").text.count(NAME) == 3
    assert "<i>c" not in (built / "tables" / "names.html").read_text()


def test_provenance_lists_runs_and_versions(built):
    text = Reader(built / "provenance.html").text
    assert "2026-11-23T04:50:00+00:00" in text and "torch 2.9" in text and "world" in text


def test_every_link_leads_to_a_file_of_the_site(built):
    pages = {path: Reader(path) for path in built.rglob("*.html")}
    assert len(pages) >= 10
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if path.parent.name == "guides" and parts.scheme == "https":
                continue  # a source, to be followed by hand
            assert not parts.scheme and not parts.netloc and not parts.path.startswith("/"), f"{path.name}: {link}"
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file() and target.is_relative_to(built), f"{path.name}: {link}"
            if parts.fragment and target in pages and not parts.fragment.startswith("__"):
                assert unquote(parts.fragment) in pages[target].ids, f"{path.name}: {link}"
    assert not any("url(http" in path.read_text() for path in built.rglob("*.css"))


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_building_again_gives_the_same_bytes_and_leaves_nothing_old(root, built):
    before = digests(built)
    (built / "old.html").write_text("of an earlier build")
    site.build("mini", root)
    assert digests(built) == before and len(before) > 20


def test_a_dead_link_and_a_scale_without_results_are_one_clear_line(root, tmp_path):
    shutil.copytree(root, tmp_path / "project", ignore=shutil.ignore_patterns("site"))
    claims = tmp_path / "project" / "results" / "mini" / "report" / "claims.md"
    claims.write_text("# Claims\n\n[gone](tables/nothing.md)\n")
    with pytest.raises(ValueError, match=r"claims\.md.*tables/nothing\.md"):
        site.build("mini", tmp_path / "project")
    with pytest.raises(FileNotFoundError, match=r"no results in results/paper; compute them with: dvc repro"):
        site.build("paper", root)
    assert refused("site", "--scale", "tiny").startswith("scales/tiny.yaml not found")


# What keeps Chromium from looking for updates, services or a screen.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium that the machine has."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not path:
        pytest.skip("no Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        yield chromium
        chromium.close()


class Tab:
    """A page of the site in a browser, with all complaints and requests since it was opened."""

    def __init__(self, browser, width: int, height: int = 844, scheme: str = "light"):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.page, self.complaints, self.asked = context.new_page(), [], []
        self.page.on("console", lambda said: self._note(said.type in {"error", "warning"}, said.text))
        self.page.on("pageerror", lambda error: self._note(True, str(error)))
        self.page.on("requestfailed", lambda request: self._note(True, f"failed: {request.url}"))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def _note(self, bad: bool, text: str) -> None:
        self.complaints += [text] if bad else []

    def open(self, path: Path) -> None:
        self.page.goto(path.as_uri())
        self.page.wait_for_load_state("load")


# What sticks out of the window without a box of its own that scrolls.
STICKING_OUT = """() => [...document.querySelectorAll('.md-content *, .md-header *')].filter(element => {
  if (element.getBoundingClientRect().right <= window.innerWidth + 1) return false
  for (let box = element.parentElement; box && box !== document.body; box = box.parentElement)
    if (/auto|scroll|hidden|clip/.test(getComputedStyle(box).overflowX) &&
        box.getBoundingClientRect().right <= window.innerWidth + 1) return false
  return getComputedStyle(element).visibility !== 'hidden'
}).map(element => element.outerHTML.slice(0, 100))"""


def test_all_pages_fit_a_phone_and_ask_for_nothing_from_elsewhere(browser, built):
    tab = Tab(browser, width=390)
    for path in sorted(built.rglob("*.html")):
        tab.open(path)
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390, path.name
        assert tab.page.evaluate(STICKING_OUT) == [], path.name
        for details in tab.page.query_selector_all("details:not([open]) > summary"):
            details.click()
        assert tab.page.evaluate(STICKING_OUT) == [], path.name
    tab.open(built / "tables" / "table_03.html")
    content, box = tab.page.eval_on_selector(".md-typeset__scrollwrap", "box => [box.scrollWidth, box.clientWidth]")
    assert content > 1000 and box <= 390
    assert tab.complaints == []
    assert {url.split(":")[0] for url in tab.asked} <= {"file", "data"}


def test_the_search_finds_a_word_of_a_notebook_and_leads_there(browser, built):
    tab = Tab(browser, width=1280)
    tab.open(built / "index.html")
    tab.page.click(".md-search__input")
    tab.page.keyboard.type("quokka")
    tab.page.wait_for_selector(".md-search-result__item")
    assert "quokka" in tab.page.inner_text(".md-search-result__list")
    tab.page.click(".md-search-result__link")
    tab.page.wait_for_url("**/notebooks/c_fsa.html*")
    assert tab.complaints == []


@pytest.mark.parametrize("scheme, page, other", [("light", "default", "slate"), ("dark", "slate", "default")])
def test_the_page_is_as_light_as_the_reader_s_system_until_switched(browser, built, scheme, page, other):
    tab = Tab(browser, width=1280, scheme=scheme)
    tab.open(built / "index.html")

    def look() -> tuple[str, str]:
        colour = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
        return tab.page.get_attribute("body", "data-md-color-scheme"), colour

    first = look()
    tab.page.click("label.md-header__button[for^=__palette]:not([hidden])")
    switched = look()
    tab.open(built / "figures.html")
    assert (first[0], switched[0]) == (page, other) and first[1] != switched[1]
    assert look() == switched and tab.complaints == []
