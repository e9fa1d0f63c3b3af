"""The results of a scale as a static site that works offline: companion site --scale mini

Writes Markdown pages that mirror results/<scale>/ (executed notebooks, tables, figures, claims, comparison, provenance)
and has MkDocs with the Material theme build results/<scale>/site/ from them. What a scale has not computed is said on
its page. Byte-identical for equal input. The settings of MkDocs and the look are in site_files/.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
import yaml
from nbconvert import MarkdownExporter
from traitlets.config import Config

from lib import settings, timings
from lib.atomic import replace_folder
from lib.reading import read_json, read_text
from lib.report.pages import SITE_FILES, Site, absent, figure_block, markdown_pages, ran, table_block, title
from lib.report.results import Results

# What pages show and link to; the notebooks become pages.
COPIED = ("figures/*.svg", "figures/*.png", "data/*.csv", "tables/*.csv")
RESULTS = ("claims", "comparison", "figures", "tables", "provenance")
# docs/ in the order of a reader: the evidence, one's own parts, the machine.
GUIDES = ("results", "method", "forks", "choices", "compare", "own_attack", "own_defense", "own_victim", "own_data")
GUIDES += ("pictures", "own_purifier", "own_table", "scales", "figures", "fetch", "scale", "performance", "reliability")
# The rooms of lib whose public names have a page; `lib` itself is that of its single files.
ROOMS = ("lib/attacks", "lib/defenses", "lib/experiment", "lib/networks", "lib/training", "lib/data", "lib")
# Pages of a web server, which a folder of files has not got.
SERVED = ("404.html", "sitemap.xml", "sitemap.xml.gz")


def build(scale: str, root: Path = settings.ROOT) -> Path:
    """Build results/<scale>/site/; its start page.

    FileNotFoundError where the scale has no results, ValueError where a page cannot be built, such as for a dead link.
    """
    site = gather(scale, root)
    target = site.results.root / "site"
    with TemporaryDirectory(dir=site.results.root, suffix=".part") as folder:
        docs = Path(folder) / "docs"
        texts = markdown_pages(site)
        texts |= {f"guides/{name}.md": unlinked(read_text(settings.ROOT / "docs" / f"{name}.md")) for name in GUIDES}
        texts |= {f"api/{Path(room).name}.md": api(room) for room in ROOMS}
        copies = {f"{path.parent.name}/{path.name}": path for one in COPIED for path in site.results.files(one)}
        copies |= {f"assets/{name}": SITE_FILES / name for name in ("site.css", "iframe-worker.js")}
        for name, text in texts.items():
            _with_folder(docs / name).write_text(text)
        for name, path in copies.items():
            shutil.copyfile(path, _with_folder(docs / name))
        shutil.copytree(settings.ROOT / "docs" / "pictures", docs / "guides" / "pictures")
        for stage in site.appendices:
            write_appendix(site, stage, docs / "notebooks")
        replace_folder(run_mkdocs(site, docs, Path(folder)), target)
    return target / "index.html"


def gather(scale: str, root: Path) -> Site:
    """Everything that pages are made from; FileNotFoundError where the scale has no results."""
    results = Results(scale, os.environ.get("COMPANION_RESULTS") or root / "results")
    if not results.files("*.ipynb") and not results.files("tables/*.md"):
        raise FileNotFoundError(f"no results in results/{scale}; compute them with: dvc repro (scale: {scale})")
    stages = timings.stages(root).items()
    appendices = sorted(name for name, stage in stages if re.search(r"\brun \w+", str(stage.get("cmd"))))
    took = timings.read(results.root)
    records = [read_json(path) for path in results.files("run.json")]
    runs = {one["stage"]: one | took[key] for one in records if (key := f"run of {one['stage']}") in took}
    return Site(results, root / "notebooks", appendices, runs)


def write_appendix(site: Site, stage: str, folder: Path) -> None:
    """Write an appendix's page, and the pictures in it that are no figures, into a folder."""
    path = site.results.root / stage / f"{stage}.ipynb"
    resources = {"unique_key": stage, "output_files_dir": f"{stage}_files"}
    if path.exists():
        hidden = {"enabled": True, "remove_cell_tags": {"parameters", "injected-parameters"}}
        exporter = MarkdownExporter(
            config=Config(TagRemovePreprocessor=hidden),
            template_name="notebook",
            extra_template_basedirs=[str(SITE_FILES)],
        )
        notebook = prepared(site, nbformat.read(path, as_version=4))
        text, resources = exporter.from_notebook_node(notebook, resources)
    else:
        text = leftover(site, stage)
    _with_folder(folder / f"{stage}.md").write_text(f"{text}\n\n{closing(site, stage)}\n")
    for name, content in resources.get("outputs", {}).items():
        _with_folder(folder / name).write_bytes(content)


def prepared(site: Site, notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with every figure and table followed by how it came about, and without pandas' own styles."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            drawn = re.search(r'shown\(results, "(\w+)"', cell.source)
            saved = re.search(r'(?:save_table\(|tables\.show\(results,)\s*"(\w+)"', cell.source)
            if "image/png" in data and drawn and site.find(f"figures/{drawn.group(1)}.*"):
                output["data"] = {"text/markdown": figure_block(site, drawn.group(1), "../")}  # with its caption
                cell.outputs = [output]
            elif "text/markdown" in data and saved:
                data["text/markdown"] += table_block(site, saved.group(1), "../", shown=False)
            elif "text/html" in data:
                html = re.sub(r"<style scoped>.*?</style>", "", data["text/html"], flags=re.DOTALL)
                data["text/html"] = html.replace(' border="1" class="dataframe"', "")
    return notebook


def leftover(site: Site, stage: str) -> str:
    """The page of an appendix whose notebook is missing: what there is of its tables and figures."""
    folder = site.results.root / stage
    figures = [figure_block(site, path.stem, "../") for path in sorted(folder.glob("figures/*.svg"))]
    tables = [table_block(site, path.stem, "../") for path in sorted(folder.glob("tables/*.md"))]
    missing = absent(f"{stage}/{stage}.ipynb", site.results.scale)
    return "\n\n".join([f"# {title(site, stage)}", missing, *figures, *tables])


def closing(site: Site, stage: str) -> str:
    """The end of an appendix's page: how it was computed, with all parameters."""
    parts = ["## How this page was computed { #run }", ran(site, stage, "../")]
    if stage in site.runs:
        record = site.runs[stage]
        parameters = yaml.safe_dump(record["parameters"], allow_unicode=True).rstrip().replace("\n", "\n    ")
        parts += [
            f"```text\n{record['command']}\n```",
            f'??? quote "Parameters"\n\n    ```yaml\n    {parameters}\n    ```',
        ]
    return "\n\n".join(parts)


def unlinked(text: str) -> str:
    """A page of docs/ without links that lead out of it, such as to code: the site holds no copy of that."""
    return re.sub(r"\[([^\]]+)\]\((?:\.\./|(?!https?:)[^)#]*/)[^)]*\)", r"\1", text)


def api(room: str) -> str:
    """The page of a room of lib: every module with its public names, from their docstrings."""
    modules = sorted(path.stem for path in (settings.ROOT / room).glob("*.py") if not path.stem.startswith("_"))
    name = room.replace("/", ".")
    return "\n\n".join([f"# {name}", *(f"::: {name}.{module}" for module in modules)]) + "\n"


def run_mkdocs(site: Site, docs: Path, folder: Path) -> Path:
    """Build a folder of Markdown; the folder of HTML. ValueError with MkDocs' first complaint."""
    chosen = yaml.safe_load((SITE_FILES / "mkdocs.yml").read_text())
    chosen |= {
        "site_name": f"The supplement, reproduced ({site.results.scale})",
        "docs_dir": str(docs),
        "site_dir": str(folder / "html"),
        "nav": [
            {"Start": "index.md"},
            {"Appendices": [f"notebooks/{stage}.md" for stage in site.appendices]},
            {"Results": [{name.capitalize(): f"{name}.md"} for name in RESULTS]},
            {"Guides": [f"guides/{name}.md" for name in GUIDES]},
            {"API": [{Path(room).name.capitalize(): f"api/{Path(room).name}.md"} for room in ROOMS]},
        ],
    }
    chosen["plugins"][-1]["mkdocstrings"]["handlers"]["python"]["paths"] = [str(settings.ROOT)]
    path = folder / "mkdocs.yml"
    path.write_text(yaml.safe_dump(chosen, allow_unicode=True))
    # No dates in the output; and no advice about MkDocs 2 among the complaints.
    fixed = os.environ | {"SOURCE_DATE_EPOCH": "0", "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(path)]
    done = subprocess.run(command, env=fixed, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["MkDocs failed without a word"]
        raise ValueError(next((line for line in lines if re.match("WARNING|ERROR", line)), lines[-1]))
    for name in SERVED:
        (folder / "html" / name).unlink(missing_ok=True)
    return folder / "html"


def _with_folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
