"""The command of this project: `companion`, or `python -m lib` without installation.

A function per command, thin over lib. What takes seconds to import is imported inside, so that `--help` is quick.
"""

import contextlib
import errno
import hashlib
import locale
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from lib import settings

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="The supplement of 'A Self-supervised Approach for Adversarial Robustness', and its attacks and defenses.",
)
store = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The stored results.")
app.add_typer(store, name="store")

ScaleName = Annotated[str | None, typer.Option("--scale", help="scales/SCALE.yaml (default: params.yaml's scale)")]
Source = Annotated[Path, typer.Argument(metavar="IN", help="folder of png, jpg, webp or bmp images")]
Target = Annotated[Path, typer.Argument(metavar="OUT", help="folder for the results, lossless png")]


def given(**options: object) -> dict:
    """The options that the command line has."""
    return {name: value for name, value in options.items() if value is not None}


def announce(stage: str, scale: str | None) -> str:
    """Say on stderr which stage of the pipeline begins; the scale's name."""
    from lib import timings

    chosen = settings.load(scale)
    announcement = timings.announcement(stage, chosen.name, settings.ROOT)
    print(announcement, *filter(None, [chosen.note]), sep="\n", file=sys.stderr)
    return chosen.name


@app.command()
def run(
    notebook: Annotated[str, typer.Argument(help="such as e_transforms")],
    scale: ScaleName = None,
    part: Annotated[str | None, typer.Option(help="3/8: one of eight that share the work and the store")] = None,
) -> None:
    """Run one appendix: execute its notebook and write its results.

    Where its images need an account and are not here, its tables say so instead.
    """
    from lib import run
    from lib.report import tables

    announce(notebook, scale)
    print(tables.mark_not_fetched(settings.load(scale), notebook) or run.stage(notebook, scale, part))


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="what the scale file trains, such as Inc-v3, SegNet-Basic or NRP")] = "",
    everything: Annotated[bool, typer.Option("--all", help="all that the scale file trains")] = False,
    scale: ScaleName = None,
    images: Annotated[str | None, typer.Option(help="purifiers, generators: a folder of images of your own")] = None,
    render: Annotated[str | None, typer.Option(help="generators: draw them as comic or painting, or none")] = None,
    root: Annotated[Path | None, typer.Option(help="where models/ and results/ are written")] = None,
    workers: Annotated[int, typer.Option(min=1, help="how many share each batch of one network's training")] = 1,
) -> None:
    """Train one network, or all; a killed training goes on with the same command, an unchanged one is not repeated.

    Writes models/SCALE/NAME.safetensors and the record results/SCALE/train/networks/NAME.json; of a purifier or a
    generator also its losses and sheets of samples. Segmenters, purifiers and generators use a GPU where there is one.
    """
    from lib import stages

    if bool(name) == everything:
        raise ValueError("name one network to train, or give --all")
    chosen = settings.load(scale)
    place, changed, asked = root or settings.ROOT, given(images=images, render=render), settings.params()
    if everything and workers > 1:
        raise ValueError("--workers share the training of one network; --all trains several side by side")
    with stages.guarded("train", announce("train", scale)) if everything else contextlib.nullcontext():
        from lib.training import runner

        if everything:
            trained = runner.train_all(chosen, place, asked.cores(), asked.engine_here(), **changed)
        else:
            trained = [(name, runner.train(name, chosen, place, workers, **changed))]
        taken = 0
        for each, record in trained:
            taken += record.pop("as recorded", False)
            facts = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in record.items()}
            print(f"{each}: {', '.join(f'{key} {value}' for key, value in facts.items())}", flush=True)
        if taken:
            print(f"as recorded with this repository (recipe, code, data), not trained again: {taken} networks")


@app.command()
def attack(
    name: Annotated[str, typer.Argument(help="such as SSP or MI-FGSM; of the library or of params.yaml's own_attacks")],
    source: Source,
    target: Target,
    surrogate: Annotated[str | None, typer.Option(help="a network of the scale (default: the appendix's)")] = None,
    labels: Annotated[Path | None, typer.Option(help="csv with the columns file,label, 0-based")] = None,
    eps: Annotated[float | None, typer.Option(help="budget, in levels of 0 to 255")] = None,
    steps: Annotated[int | None, typer.Option(help="iterations")] = None,
    scale: ScaleName = None,
) -> None:
    """Attack every image of a folder at its own size; an attack that needs labels takes the surrogate's predictions."""
    from lib import folders

    print(folders.attack_folder(name, source, target, scale, surrogate, labels, **given(eps=eps, steps=steps)))


@app.command()
def defend(
    kind: Annotated[str, typer.Argument(help="jpeg, tvm, median, nrp, or a name of params.yaml's defenses")],
    source: Source,
    target: Target,
    quality: Annotated[int | None, typer.Option(help="jpeg: 1 to 100")] = None,
    weight: Annotated[float | None, typer.Option(help="tvm: the smaller, the smoother")] = None,
    window: Annotated[int | None, typer.Option(help="median: 3 or 5 pixels")] = None,
    weights: Annotated[Path | None, typer.Option(help="nrp: NRP.pth, NRP_resG.pth or a purifier.safetensors")] = None,
    dynamic: Annotated[bool | None, typer.Option("--dynamic", help="nrp: with noise, against attacks on it")] = None,
    seed: Annotated[int | None, typer.Option(help="nrp: of that noise")] = None,
    tile: Annotated[int | None, typer.Option(help="nrp: squares of so many pixels, to save memory")] = None,
    scale: ScaleName = None,
) -> None:
    """Apply a defense to every image of a folder, at its own size; on the GPU where there is one."""
    from lib import folders

    options = given(quality=quality, weight=weight, window=window, weights=weights, dynamic=dynamic)
    print(folders.defend_folder(kind, source, target, scale, **options, **given(seed=seed, tile=tile)))


@app.command()
def evaluate(
    defense: Annotated[str, typer.Argument(help="a name of params.yaml's defenses, or a purifier's file of weights")],
    victim: Annotated[str | None, typer.Option(help="a classifier of the scale (default: the protocol's)")] = None,
    scale: ScaleName = None,
) -> None:
    """How much a defense really holds: every attacker of the protocol and its checks; pages in results/evaluations/.

    `companion plan SCALE` says beforehand how long the protocol takes for all defenses of a scale.
    """
    from lib import run

    announce("h_protocol", scale)
    print(run.evaluate_defense(defense, victim, scale))


@app.command()
def measure(
    source: Annotated[Path, typer.Argument(metavar="ADVERSARIES", help="folder of adversaries, of any library")],
    clean: Annotated[Path, typer.Argument(metavar="CLEAN", help="folder of the images that they were made from")],
    victim: Annotated[str | None, typer.Option(help="a classifier of the scale (default: Appendix F's)")] = None,
    defense: Annotated[str, typer.Option(help="a name of params.yaml's defenses")] = "none",
    labels: Annotated[Path | None, typer.Option(help="csv with the columns file,label, 0-based")] = None,
    eps: Annotated[float | None, typer.Option(help="the budget that they claim, in levels of 0 to 255")] = None,
    scale: ScaleName = None,
) -> None:
    """Accuracy, fooling rate and distance of a folder of adversaries; says if files are JPEG or outside the budget."""
    from lib import folders

    print(folders.measure_folder(source, clean, scale, victim, defense, labels, eps))


@app.command()
def figures(
    item: Annotated[str, typer.Argument(help="a figure (6, figure_06, transfer); without one, all that there is")] = "",
    style: Annotated[str, typer.Option(help="paper, or slides: large type, 16:9")] = "paper",
    images: Annotated[str | None, typer.Option(help="0,2: which of a figure of pictures, in this order")] = None,
    only: Annotated[str | None, typer.Option(help="A,B: which lines, columns, panels, victims or attacks")] = None,
    form: Annotated[str | None, typer.Option("--format", help="svg, pdf or png (default: svg and png)")] = None,
    out: Annotated[Path | None, typer.Option(help="the file (default: below results/SCALE)")] = None,
    scale: ScaleName = None,
) -> None:
    """Redraw a figure from the stored results, without attacking anything; without one, list all."""
    from lib import figures
    from lib.report.results import Results

    results = Results(settings.load(scale).name)
    print(figures.draw(results, item, style, images, only, form, out) if item else figures.listing(results))


@app.command()
def table(
    item: Annotated[str, typer.Argument(help="a table (6, table_06, transfer)")],
    form: Annotated[str | None, typer.Option("--format", help="markdown, csv or latex")] = None,
    out: Annotated[Path | None, typer.Option(help="a file (default: the screen)")] = None,
    scale: ScaleName = None,
) -> None:
    """Print a table from the stored results."""
    from lib import figures
    from lib.report.results import Results

    print(figures.table(Results(settings.load(scale).name), item, form, out))


@app.command()
def report(
    part: Annotated[
        str, typer.Argument(help="all: write it; docs: renew README and docs/; claims, compare, overview: print")
    ] = "all",
    csv: Annotated[bool, typer.Option("--csv", help="claims and compare: as CSV instead of Markdown")] = False,
    scale: ScaleName = None,
) -> None:
    """Evaluate every claim of the supplement and compare every number, from the stored frames."""
    from lib import stages

    with stages.running("report", announce("report", scale)) if part == "all" else contextlib.nullcontext():
        from lib.report import writing

        text = writing.report_part(settings.load(scale), part, csv)
    print(text)


@app.command()
def archive(
    target: Annotated[Path, typer.Argument(metavar="FILE.zip", help="the archive to write")],
    cell: Annotated[list[str] | None, typer.Option(help="stored adversaries too, such as 'SSP on VGG-16*'")] = None,
    scale: ScaleName = None,
) -> None:
    """Write each image's outcome, claims and settings to one file, from which others evaluate the claims again."""
    from lib import archive
    from lib.report.results import Results

    print(archive.write_archive(Results(settings.load(scale).name), target, cell or []))


@app.command()
def judge(source: Annotated[Path, typer.Argument(metavar="FILE.zip", help="of companion archive")]) -> None:
    """Evaluate the claims again from an archive, after checking each of its files; nothing is computed."""
    from lib import archive, markdown

    found = archive.judged_again(source)
    changed = found[found["verdict in the archive"] != found["verdict now"]]
    print(markdown.escaped_table(found), f"{len(changed)} of {len(found)} verdicts differ", sep="\n")


@app.command()
def site(scale: ScaleName = None) -> None:
    """Build the pages to browse, which work offline."""
    from lib import stages

    name = announce("site", scale)
    with stages.running("site", name):
        from lib.report import site

        site.build(name)
    print(f"wrote results/{name}/site/index.html: open it in a browser")


@app.command()
def fetch(
    what: Annotated[str, typer.Argument(help="a scale (sample, paper), one of its networks, or a data set")],
    scale: ScaleName = None,
    url: Annotated[str | None, typer.Option(help="another folder to download the same files from")] = None,
    file: Annotated[
        Path | None, typer.Option(help="of a network: the published file, if you downloaded it yourself")
    ] = None,
) -> None:
    """Download what a scale needs, or one network or data set, and check it; can be interrupted and run again.

    A line for each; the exit code is 1 if something is missing at the end.
    """
    from lib import fetch

    missing = 0
    for here, line in fetch.fetch_all(what, scale, url, file):
        print(line, flush=True)
        missing += not here
    if missing:
        raise typer.Exit(1)


@app.command()
def data(
    name: Annotated[str, typer.Argument(help="neurips2017, imagenet_val, camvid, coco, comics or paintings")] = "",
    folder: Annotated[Path | None, typer.Option("--from", help="a local folder with the set")] = None,
    url: Annotated[str | None, typer.Option(help="another place to download from")] = None,
    csv: Annotated[str | None, typer.Option(help="neurips2017: name of the CSV file there")] = None,
    scale: Annotated[str | None, typer.Option("--scale", help="list only what this scale takes")] = None,
) -> None:
    """Get a data set or link it; without a name, which ones are here and how to get the others."""
    from lib.data import fetch

    if name or not scale:
        print(fetch.get(name, folder, url, csv))
        return
    from lib.fetch import data_sets  # imports the networks

    print(fetch.available({key: ids for key, ids in data_sets(settings.load(scale)).items() if key in fetch.SETS}))


@app.command()
def zoo(
    name: Annotated[str, typer.Argument(help="the network whose weights to get and check")] = "",
    scale: ScaleName = None,
    verify: Annotated[bool, typer.Option("--verify", help="measure each classifier on clean images")] = False,
    count: Annotated[int, typer.Option(min=1, help="--verify: on so many images")] = 100,
) -> None:
    """Get a network's weights; without a name, which networks are here and how to get the others.

    With --verify, the accuracy of each classifier beside the known one; the exit code is 1 if one differs.
    """
    from tabulate import tabulate

    from lib import zoo
    from lib.fetch import accuracy_rows, get_network

    chosen = settings.load(scale)
    if verify:
        rows = list(accuracy_rows(chosen, count))
        print(tabulate(rows, headers="keys"))
        if any(row["verdict"] == "differs" for row in rows):
            raise typer.Exit(1)
    elif name:
        print(f"{name}: {get_network(name, chosen)}")
    else:
        rows = [row | {"found": "yes" if row["found"] else "no"} for row in zoo.status(chosen)]
        print(tabulate(rows, headers="keys", maxcolwidths=[None, 28, 20, None, 36, None, 40]))


@app.command()
def plan(
    scale: Annotated[str, typer.Argument(help="mini, sample, paper, dryrun, ...")],
    device: Annotated[str | None, typer.Option(help="to measure on: cpu, cuda (default: params.yaml's)")] = None,
) -> None:
    """What a scale needs and costs on this device, before it runs: passes, hours, memory, disk, what is missing."""
    from lib import costs, zoo

    print(costs.report_costs(scale, zoo.device_here(device)))


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="NRP.pth, NRP_resG.pth, R152-Denoise.npz or R152.npz")],
    target: Annotated[Path, typer.Argument(metavar="OUT.safetensors")],
) -> None:
    """Turn a released file of weights into safetensors, in which no code can hide, and say what it is."""
    from lib.networks.weights import network_in_words, to_safetensors

    print(f"{source.name}: {network_in_words(to_safetensors(source, target))}")
    for path in (source, target):
        print(f"SHA-256 of {path}: {hashlib.sha256(path.read_bytes()).hexdigest()}")


@app.command()
def verify(
    folder: Annotated[Path | None, typer.Option(help="where to compute (default: a temporary folder)")] = None,
    keep: Annotated[bool, typer.Option(help="leave that folder there")] = False,
) -> None:
    """Compute everything anew, trainings too, without stored results; say of each table and figure if it agrees."""
    from lib import verify

    place = folder or Path(tempfile.mkdtemp(prefix="companion-"))
    text, agrees = verify.verify(settings.ROOT, settings.params().scale, place, keep)
    print(text)
    if not agrees:
        raise typer.Exit(1)


@store.command()
def why(cell: Annotated[str, typer.Argument(help="a computation's name, or a pattern such as 'SSP on *'")]) -> None:
    """Why a result was computed: what differs from the nearest earlier one, part by part."""
    from lib.store import Store, folder

    print("\n".join(Store(folder(settings.ROOT)).why(cell)))


@store.command()
def size() -> None:
    """Where the stored results lie, how many there are and how much they take."""
    from lib.store import folder

    root = folder(settings.ROOT)
    sizes = [path.stat().st_size for path in root.rglob("*.bin")]
    print(f"{root}: {len(sizes)} results, {sum(sizes) / 1e6:.1f} MB")


@store.command()
def prune() -> None:
    """Delete the results that the present code cannot ask for; other checkouts that share the store may want them."""
    from lib.store import Store, folder

    stale = Store(folder(settings.ROOT)).stale()
    taken = sum(path.stat().st_size for path in stale)
    for path in stale:
        path.unlink(missing_ok=True)
    print(f"{folder(settings.ROOT)}: {len(stale)} results deleted, {taken / 1e6:.1f} MB")


@store.command()
def export(cell: Annotated[str, typer.Argument(help="a pattern such as 'SSP on VGG-16*'")], target: Target) -> None:
    """Write stored adversaries as PNG files, named by the first image of their shard and their number in it."""
    from lib import folders

    print(folders.export_adversaries(cell, target))


@store.command()
def move(target: Annotated[Path, typer.Argument(metavar="FOLDER", help="a new folder")]) -> None:
    """Move the stored results to another disk; COMPANION_STORE then names the place."""
    from lib.store import folder

    if target.exists():
        raise ValueError(f"{target} is there already; name a new folder")
    shutil.move(folder(settings.ROOT), target)
    print(f"moved; set COMPANION_STORE={target.resolve()}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status. What is wrong with the user's input ends in one line."""
    other = locale.getpreferredencoding(False).upper() != "UTF-8" and os.environ.get("PYTHONUTF8") != "1"
    if other and arguments is None:
        # Every file is UTF-8, whatever the user's locale; only a new Python can change what it reads and writes.
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"PYTHONUTF8": "1"})
    try:
        app(args=arguments, prog_name="companion")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except (OSError, ValueError, TypeError, MemoryError, FloatingPointError, RuntimeError) as error:
        if (line := error_line(error)) is None:
            raise
        print(f"companion: {line}", file=sys.stderr)
        return 1
    return 0


def error_line(error: Exception) -> str | None:
    """What went wrong, in one line; None for an error of the code, whose traceback is needed."""
    said = " ".join(str(error).split())
    kept = "; what was computed is in the store" * ("is in the store" not in said)
    number = int((re.search(r"\[Errno (\d+)\]", said) or [0, 0])[1])  # also of what a cell of a notebook died of
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{said}: make room and run again{kept} (companion store size, prune, move)"
    if number == errno.EROFS:
        return f"{said}: results and the store must be writable (COMPANION_STORE names another place for the store)"
    if isinstance(error, MemoryError) or re.search("out of memory|alloc.* memory|memory.* alloc", said, re.IGNORECASE):
        less = "fewer workers (COMPANION_WORKERS=1) or a smaller batch in scales/ need less"
        return f"not enough memory: {said or type(error).__name__}; {less}{kept}"
    return None if isinstance(error, RuntimeError) else str(error)
