"""Working by hand: the lab scale, the notebooks as JupyterLab runs them, and a look at one's own images."""

import ast
import json
import shutil

import nbclient
import nbformat
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from lib import settings, zoo
from lib.attacks import decision
from lib.data import images
from lib.data.sets import load_set
from lib.experiment import Study, explore
from lib.networks.wrappers import Normalised
from lib.report import explore as report
from lib.report.explore import ADVERSARY, DEFENDED, ORIGINAL, Examples
from lib.settings import ROOT
from lib.store import Store
from lib.tasks.predictions import Prediction

STAGES = sorted(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


def parameters(name):
    """The assignments of a notebook's parameters cell."""
    cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
    (source,) = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    return {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(source).body}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_opened_by_hand_is_of_the_lab_scale(name):
    assert parameters(name)["scale"] == "lab"


def test_every_notebook_but_explore_is_a_stage():
    assert set(NOTEBOOKS) - set(STAGES) == {"explore"}


def test_the_lab_scale_asks_for_no_more_than_the_mini_scale_has():
    lab, mini = settings.load("lab"), settings.load("mini")
    assert (lab.name, lab.like, mini.like) == ("lab", "mini", None)
    for section in ("f", "a", "c", "d", "g"):
        few, all_ = getattr(lab, section), getattr(mini, section)
        assert few.images < all_.images and few.images <= lab.data.count
        assert few.model_dump().keys() == all_.model_dump().keys()
    assert lab.b.images.keys() == mini.b.images.keys() and max(lab.b.images.values()) <= lab.data.count
    assert lab.c.varied <= lab.c.images and max(lab.g.examples, lab.d.examples) <= lab.g.images
    assert 10 in lab.f.iterations and 10 in lab.a.iterations  # the claims are about ten iterations


def test_the_lab_scale_takes_the_networks_and_records_of_the_mini_scale():
    lab, mini = settings.load("lab"), settings.load("mini")
    assert {row["source"] for row in zoo.status(lab)} == {f"models/mini/{name}.safetensors" for name in mini.networks}
    unnamed = {name: spec.model_copy(update={"weights": None}) for name, spec in lab.networks.items()}
    assert unnamed == mini.networks
    assert settings.records(lab) == settings.records(mini) == ROOT / "results" / "mini" / "train" / "networks"


def test_networks_that_are_not_trained_yet_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "ROOT", tmp_path)
    monkeypatch.delenv("COMPANION_ASSETS", raising=False)
    with pytest.raises(FileNotFoundError) as caught:
        zoo.load("VGG-16", settings.load("lab"))
    assert str(caught.value) == (
        "VGG-16: no weights (models/mini/VGG-16.safetensors); to get them: trained by the pipeline: dvc repro"
    )


@pytest.mark.parametrize("scale", ["sample", "paper"])
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_without_its_data_shows_one_line_with_the_command(name, scale, tmp_path, monkeypatch):
    """In place of a traceback, in JupyterLab too; in explore also without the networks."""
    monkeypatch.delenv("COMPANION_ASSETS", raising=False)
    monkeypatch.setenv("COMPANION_RESULTS", str(tmp_path))
    for module in (images, zoo):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (300, 300)).save(tmp_path / "a.png")
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    parameters, *sources = [cell.source for cell in cells if cell.cell_type == "code"]
    commands = {"folder = None": "companion data says", f"folder = {str(tmp_path)!r}": "to get them:"}
    for given, command in commands.items():
        names = {}
        exec(parameters, names)
        exec(f"scale = {scale!r}\n{given}", names)
        with pytest.raises(FileNotFoundError, match=f"; {command} ") as caught:
            for source in sources:
                exec(source, names)
        assert caught.value._render_traceback_() == [str(caught.value)] and "\n" not in str(caught.value)
        if name != "explore":
            return


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory):
    """The code, the embedded world, untrained networks of the mini scale, and a lab scale of a few seconds."""
    root = tmp_path_factory.mktemp("by_hand")
    for name in ("lib", "notebooks", "own", "scales"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "params.yaml", root)
    (root / "data").mkdir()
    (root / "data" / "world").symlink_to(ROOT / "data" / "world")
    a = {"images": 6, "iterations": [1, 10], "examples": 2, "classes": 3, "tsne_data": {"count": 60}}
    e = {half: {"data": {"count": 4}, "steps": 2} for half in ("segmentation", "detection")}
    few = {"like": "mini", "data": {"count": 12}, "attacks": {"ssp": {"steps": 5}}, "a": a | {"layered": 4}, "e": e}
    (root / "scales" / "lab.yaml").write_text(yaml.safe_dump(few))
    (root / "models" / "mini").mkdir(parents=True)
    mini = settings.load("mini", root)
    tasks = {mini.e.segmentation.victims[0], mini.e.detection.victims[0], "NRP"}
    for name in {*mini.a.sources.values(), *mini.f.victims, mini.f.feature_surrogate} | tasks:
        torch.manual_seed(len(name))
        network = zoo.family_of(mini.networks[name]).build(mini.networks[name])
        save_file(network.state_dict(), root / "models" / "mini" / f"{name}.safetensors")
    return root


def executed(root, name, monkeypatch):
    """A notebook run as JupyterLab does: all cells as they stand, in the folder in which it lies."""
    monkeypatch.setenv("PYTHONPATH", str(root))
    notebook = nbformat.read(root / "notebooks" / f"{name}.ipynb", as_version=4)
    where = {"metadata": {"path": str(root / "notebooks")}}
    return nbclient.NotebookClient(notebook, kernel_name="python3", resources=where).execute()


def test_a_notebook_runs_by_hand_and_leaves_the_pipeline_s_results_alone(by_hand, monkeypatch):
    notebook = executed(by_hand, "a_why_ssp_works", monkeypatch)
    written = {path.relative_to(by_hand / "results").parts for path in (by_hand / "results").rglob("*.*")}
    assert {parts[0] for parts in written} == {"lab"}
    assert ("lab", "a_why_ssp_works", "figures", "figure_01.png") in written
    assert sorted(path.name for path in (by_hand / "models").iterdir()) == ["mini"]
    shown = [output.data.keys() for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    assert sum("image/png" in kinds for kinds in shown) == 4
    bars = [
        output.text for cell in notebook.cells for output in cell.get("outputs", []) if output.get("name") == "stderr"
    ]
    assert any("SSP on VGG-16: 100%" in text for text in bars)


def test_the_notebook_to_explore_with_shows_a_picture_and_a_table_and_writes_nothing(by_hand, monkeypatch):
    shutil.rmtree(by_hand / "results", ignore_errors=True)
    notebook = executed(by_hand, "explore", monkeypatch)
    shown = [output.data for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    choices, picture, table = shown
    assert "Inc-v3" in choices["text/markdown"] and "DIM-TI" in choices["text/markdown"]
    assert "image/png" in picture and "behind NRP" in table["text/html"]
    assert not (by_hand / "results").exists()


# A look at images.


def save(pixels, path, **options):
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path, **options)


def plain(height, width, colour):
    return np.full((height, width, 3), colour)


RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def test_a_folder_s_images_of_any_kind_and_size_become_squares(tmp_path):
    exact = np.random.default_rng(0).integers(0, 256, (48, 48, 3))
    save(exact, tmp_path / "a_exact.png")
    save(np.full((20, 70), 100), tmp_path / "b_grey.png")
    save(plain(1, 1, RED), tmp_path / "c_tiny.png")
    save(np.hstack([plain(50, 60, RED), plain(50, 60, GREEN), plain(50, 60, BLUE)]), tmp_path / "d_wide.bmp")
    save(plain(300, 200, BLUE), tmp_path / "e_$large$.webp", lossless=True)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "below").mkdir()
    found = explore.from_folder(tmp_path, 48, count=10)
    assert found.ids == ["a_exact.png", "b_grey.png", "c_tiny.png", "d_wide.bmp", "e_$large$.webp"]
    assert found.images.shape == (5, 3, 48, 48) and found.images.dtype == torch.uint8
    assert torch.equal(found.images[0], torch.from_numpy(exact).permute(2, 0, 1).to(torch.uint8))
    assert (found.images[1] == 100).all()
    for image, colour in zip(found.images[2:], (RED, GREEN, BLUE), strict=True):
        assert (image == torch.tensor(colour)[:, None, None]).all()
    assert explore.from_folder(tmp_path, 48, count=2).ids == found.ids[:2]


def test_a_photograph_stands_upright_as_its_camera_says(tmp_path):
    """Orientation 6: to be turned clockwise, so what lies at the left is the top."""
    exif = Image.Exif()
    exif[0x0112] = 6
    save(np.hstack([plain(48, 24, RED), plain(48, 24, BLUE)]), tmp_path / "a.png", exif=exif)
    (image,) = explore.from_folder(tmp_path, 48, count=1).images
    assert image[:, 5, 24].tolist() == list(RED) and image[:, 43, 24].tolist() == list(BLUE)


@pytest.mark.parametrize(
    "folder, count, message",
    [
        ("empty", 4, "empty: no images here"),
        ("nowhere", 4, "nowhere: neither here nor"),
        ("empty", 0, "count must be"),
    ],
)
def test_a_folder_without_images_is_one_line(tmp_path, folder, count, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        explore.open_images("lab", tmp_path / folder, count)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(ValueError, match=r"a\.png: corrupt image") as caught:
        explore.open_images("lab", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.fixture
def study(tmp_path):
    """Three images and untrained networks at the lab scale."""
    lab = settings.load("lab")
    networks = {}
    for seed, name in enumerate(("VGG-16", "Inc-v3", "NRP")):
        torch.manual_seed(seed)
        spec = lab.networks[name]
        network = zoo.family_of(spec).build(spec)
        wrapped = network if name == "NRP" else Normalised(network, spec.mean, spec.std)
        networks[name] = wrapped.eval().requires_grad_(False)
    images = load_set(lab.data, count=3)
    return Study(settings.params_at(lab), lab, images, Store(tmp_path), "cpu", networks, batch=1)


def look(study, attack, surrogate=None, victim=None, defense="none", eps=16, **changed):
    """The cells of the notebook, after the one that opens the images."""
    cells = nbformat.read(ROOT / "notebooks" / "explore.ipynb", as_version=4).cells
    sources = [cell.source for cell in cells if cell.cell_type == "code"][1:-1]
    opened = sources[0].replace("study = explore.open_images(scale, folder, count)", "")
    names = {"study": study, "attack": attack, "surrogate": surrogate, "victim": victim, "defense": defense}
    names |= {"eps": eps, "changed": changed}
    exec("\n".join([opened, *sources[1:]]), names)
    return names["seen"]


def test_an_attack_with_labels_takes_what_the_victim_sees(study):
    seen = look(study, "FGSM", eps=8)
    x = study.images.images.float() / 255
    y = study.networks["Inc-v3"](x).argmax(1)
    expected = decision.fgsm(study.networks["VGG-16"], x, y, eps=8 / 255, step=16 / 255)
    assert np.array_equal(seen.pictures[ADVERSARY], (expected * 255).round().byte().permute(0, 2, 3, 1).numpy())
    assert np.array_equal(seen.predicted[ORIGINAL].classes[:, 0], y.numpy())
    assert set(seen.pictures) == set(seen.predicted) == {ORIGINAL, ADVERSARY}


@pytest.mark.parametrize("attack", ["SSP", "Noise"])
def test_the_table_tells_the_size_of_the_perturbation(study, attack):
    few = {} if attack == "Noise" else {"steps": 2}
    seen = look(study, attack, victim="VGG-16", defense="NRP", eps=4, **few)
    clean, adversary = (seen.pictures[kind].astype(float) for kind in (ORIGINAL, ADVERSARY))
    assert np.array_equal(seen.levels, np.abs(adversary - clean).reshape(3, -1).max(1)) and (seen.levels == 4).all()
    mean_square = ((adversary - clean) ** 2).reshape(3, -1).mean(1)
    table = report.outcome_table(seen)
    assert np.allclose(table["PSNR (dB)"], 20 * np.log10(255) - 10 * np.log10(mean_square), atol=0.06)
    assert list(table["image"]) == study.images.ids and "behind NRP" in table


def made_up(before, after, defended=None):
    """A look at images of which the victim says these classes."""
    kinds = {ORIGINAL: before, ADVERSARY: after} | ({DEFENDED: defended} if defended else {})
    count = len(before)
    pictures = {kind: np.zeros((count, 8, 8, 3), np.uint8) for kind in kinds}
    predicted = {kind: Prediction(np.array(label)[:, None], np.full((count, 1), 0.25)) for kind, label in kinds.items()}
    pictures[ADVERSARY] += 16
    facts = {"attack": "SSP on VGG-16", "victim": "Inc-v3"}
    names = [f"$\\frac{i}.png" for i in range(count)]
    return Examples(names, pictures, predicted, ["cat", "dog", "hen"], defense="MF 3" if defended else "none", **facts)


def test_the_outcomes_are_told_apart():
    seen = made_up([0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 2, 1])
    table = report.outcome_table(seen)
    assert list(table["outcome"]) == [
        "unchanged",
        "changed, restored",
        "changed, not restored",
        "changed by the defense",
    ]
    assert list(table["behind MF 3"]) == ["cat, 25 %", "cat, 25 %", "hen, 25 %", "dog, 25 %"]
    assert list(report.outcome_table(made_up([0, 0], [0, 1]))["outcome"]) == ["unchanged", "changed"]


@pytest.mark.parametrize("defended, columns", [([0, 2], 4), (None, 3)])
def test_the_figure_has_a_row_per_image_and_says_what_the_victim_sees(defended, columns):
    """Whatever a file is called: a dollar sign begins no formula."""
    figure = report.figure(made_up([0, 0], [1, 0], defended))
    assert len(figure.axes) == 2 * columns
    captions = [axes.get_title() for axes in figure.axes]
    first = ["original\ncat\n25 %", "adversary\ndog\n✗ 25 %", "difference × 10\nat most 16 levels"]
    assert captions[:3] == first and captions[columns + 1] == "cat\n✓ 25 %"
    assert report.shown_figure(made_up([0, 0], [1, 0], defended)).data.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"attack": "SPP"}, "no attack 'SPP'; did you mean 'SSP'\\? There are: Noise, FGSM"),
        ({"defense": "JPEG 10"}, "no defense 'JPEG 10'; did you mean 'JPEG 50'\\? There are: none, JPEG 75"),
        ({"victim": "RetinaNet"}, "no victim 'RetinaNet' that classifies at scale lab; did you mean 'ResNet"),
        ({"surrogate": "Inc-v3"}, "no surrogate 'Inc-v3' for SSP at scale lab; did you mean"),
        (
            {"attack": "CDA", "surrogate": "VGG-16"},
            "no surrogate 'VGG-16' for CDA at scale lab; did you mean 'CDA-",
        ),
        ({"attack": "FFF", "surrogate": "Res-152"}, "no surrogate 'Res-152' for FFF"),
        ({"epsilon": 8}, "SSP: .*unknown key 'epsilon'; did you mean 'eps'"),
        ({"eps": -1}, "eps is in 0-255 levels, got -1"),
    ],
)
def test_what_is_not_there_is_one_line(study, changed, message):
    with pytest.raises(ValueError, match=message) as caught:
        look(study, **({"attack": "SSP"} | changed))
    assert "\n" not in str(caught.value)


def test_at_the_sample_scale_features_that_end_early_are_no_victim():
    sample = settings.load("sample")
    assert "VGG-16" in explore.fitting(sample, "features") and "VGG-16" not in explore.fitting(sample, "logits")
