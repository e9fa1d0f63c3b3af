"""A user's own victim and images: what docs/own_victim.md and docs/own_data.md say, done; and what goes wrong."""

import re
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image

from lib import keys, own, settings, zoo
from lib.data import images
from lib.data.sets import class_names, load_set
from lib.experiment import open_study
from lib.report.results import Results
from lib.settings import ROOT, Data, NetworkSpec
from lib.tasks.predictions import classify
from tests.test_own import as_a_new_process, page, run


def blocks(name: str, kind: str) -> list[str]:
    found = re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", page(name))
    return [text for written, text in found if written == kind]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """own/ of an empty project."""
    monkeypatch.setattr(own, "ROOT", tmp_path)
    monkeypatch.setattr(zoo, "ROOT", tmp_path)
    monkeypatch.delenv("COMPANION_ASSETS", raising=False)
    own._module.cache_clear()
    (tmp_path / "own").mkdir()
    return tmp_path / "own"


def scale(**changes):
    spec = NetworkSpec(**{"role": "mine", "family": "own/mine.py", "weights": "own/mine.pth", "classes": 4} | changes)
    return SimpleNamespace(name="mine", networks={"Mine": spec})


LINEAR = """from torch import nn

def network(spec):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, spec.classes))
"""


def write(folder, source=LINEAR, classes=4):
    """The file, and weights that fit LINEAR."""
    (folder / "mine.py").write_text(source)
    weights = {"1.weight": torch.randn(classes, 12), "1.bias": torch.randn(classes)}
    torch.save(weights, folder / "mine.pth")
    return weights


def test_the_page_puts_a_victim_into_every_table_that_it_lists(project):
    (code,), (entry,), (command,) = (blocks("own_victim", kind) for kind in ("python", "yaml", ""))
    file = re.match(r'"""(\S+):', code).group(1)
    (project / file).write_text(code)
    network = {}
    exec(code, network)
    torch.manual_seed(0)
    saved = re.search(r'torch\.save\(trained\.state_dict\(\), "(\S+)"\)', page("own_victim")).group(1)
    torch.save(network["network"](SimpleNamespace(classes=12)).state_dict(), project / saved)
    (project / "scales" / "mine.yaml").write_text(entry.replace("like: mini", "like: smoke"))
    run(project, command.strip())
    mine = Results("mine", project / "results")
    rows = re.findall(r"`(\w+)\.md`", page("own_victim"))
    assert rows == ["networks", "table_05", "beyond_noise", "white_box", "transfer"]
    for table in rows[:-1]:
        assert "| Three layers " in mine.find(f"tables/{table}.md").read_text(), table
    assert " Three layers " in mine.find("tables/transfer.md").read_text().splitlines()[0]


def test_an_own_classifier_is_loaded_strictly_normalised_and_frozen(folder):
    weights = write(folder)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 1.0)
    victim = zoo.load("Mine", scale(mean=mean, std=std))
    x = torch.rand(5, 3, 2, 2)
    normalised = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.allclose(victim(x), normalised.flatten(1) @ weights["1.weight"].T + weights["1.bias"], atol=1e-5)
    assert not victim.training and not any(parameter.requires_grad for parameter in victim.parameters())


def test_a_network_for_another_task_is_given_the_images_as_they_are(folder):
    write(folder, LINEAR.replace("nn.Flatten(), nn.Linear(12, spec.classes)", "nn.Conv2d(3, spec.classes, 1)"))
    torch.save({"0.weight": torch.ones(4, 3, 1, 1), "0.bias": torch.zeros(4)}, folder / "mine.pth")
    x = torch.rand(2, 3, 5, 5)
    for task in ("segmentation", "purification"):
        assert torch.allclose(zoo.load("Mine", scale(task=task))(x)[:, 2], x.sum(1), atol=1e-6)


def test_without_a_file_named_the_weights_are_the_scales(folder):
    write(folder)
    (folder.parent / "models" / "mine").mkdir(parents=True)
    message = r"^Mine: no weights \(models/mine/Mine\.safetensors\); to get them: "
    with pytest.raises(FileNotFoundError, match=message):
        zoo.load("Mine", scale(weights=None))


def test_results_are_keyed_by_the_file_and_by_what_it_imports(folder):
    weights = write(folder, LINEAR + "\ndef unused():\n    import own.other\n")
    (folder / "other.py").write_text("")
    digests = []
    for edited in (None, "mine.py", "other.py"):
        if edited:
            (folder / edited).write_text((folder / edited).read_text() + "# edited\n")
        as_a_new_process()
        for _ in range(2):
            made = keys.record(classify, (zoo.load("Mine", scale()),), "cpu")
            digests.append(str({part: made[part] for part in ("arguments", "code")}))
    assert digests[0::2] == digests[1::2] and len(set(digests)) == 3
    assert zoo.load("Mine", scale()).network.state_dict().keys() == weights.keys()


def test_two_entries_of_one_file_that_make_other_networks_have_other_keys(folder):
    """Of the same weights and structure: what differs is a number that the function takes from the entry."""
    more = ["", "make = network", "def network(spec):", "    made = make(spec)"]
    more += ["    made.scale = float(spec.architecture)", "    return made", ""]
    write(folder, LINEAR + "\n".join(more))
    found = [keys.network_record(zoo.load("Mine", scale(architecture=text)))[0] for text in ("1", "50", "1")]
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize(
    ("changes", "source", "message"),
    [
        ({"family": "own/yours.py"}, LINEAR, "own/yours.py not found; in its folder there is mine.py$"),
        ({"family": "mine.py"}, LINEAR, "mine.py: write an own network into a Python file in own/, such as own/my_"),
        ({}, "def net(spec): ...\n", "own/mine.py defines no function 'network'; its functions are: net$"),
        (
            {},
            "def network(): ...\n",
            r"the network own/mine.py: too many positional arguments; it is called as \(spec\), but takes \(\)$",
        ),
        ({}, "def network(spec, *, k): ...\n", "the network own/mine.py: missing a required .*argument: 'k'; "),
        (
            {"family": "resnet"},
            LINEAR,
            "no family 'resnet'; did you mean .* There are: .*small.*torchvision.*, and own/NAME.py for your",
        ),
    ],
)
def test_what_is_wrong_with_an_entry_is_one_line_before_anything_runs(folder, monkeypatch, changes, source, message):
    write(folder, source)
    known = settings.load("mini")
    networks = known.networks | scale(**changes).networks
    monkeypatch.setattr(settings, "load", lambda scale: known.model_copy(update={"networks": networks}))
    for call in (lambda: zoo.check_families(scale(**changes)), lambda: open_study("mini", 2)):
        with pytest.raises((ValueError, FileNotFoundError), match=f"^networks.Mine: {message}") as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def network(spec): ...\n", r"^own/mine.py: network\(spec\) must return a torch.nn.Module, got NoneType$"),
        (LINEAR.replace("12,", "11,"), r"^mine.pth: .* size mismatch for 1.weight: .*\[4, 12\].*\[4, 11\]"),
    ],
)
def test_a_network_that_cannot_be_loaded_is_one_line(folder, source, message):
    write(folder, source)
    with pytest.raises(ValueError, match=message):
        zoo.load("Mine", scale())


def test_an_architecture_that_a_family_has_not_is_one_line():
    spec = NetworkSpec(role="", task="purification", family="purifier", architecture="nrp2")
    with pytest.raises(ValueError, match=r"^family purifier has no architecture 'nrp2', only nrp, nrp_resg$"):
        zoo.family_of(spec).build(spec)


# One's own images.


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """The folder of the page in an empty project, and the entry's data set."""
    monkeypatch.setattr(images, "ROOT", tmp_path)
    labels = blocks("own_data", "")[0]
    folder = tmp_path / "own" / "photos"
    (folder / "images").mkdir(parents=True)
    (folder / "labels.csv").write_text(labels)
    for number, row in enumerate(labels.split()[1:]):
        Image.new("RGB", (60 + number, 60), (10 * number, 0, 255)).save(folder / "images" / row.split(",")[0])
    return folder


def entry() -> dict:
    return yaml.safe_load(blocks("own_data", "yaml")[0])


def test_the_page_on_images_gives_them_with_labels_and_names(photos, tmp_path):
    (tmp_path / "scales").mkdir()
    (tmp_path / "scales" / "sample.yaml").write_text((ROOT / "scales" / "sample.yaml").read_text())
    (tmp_path / "scales" / "mine.yaml").write_text(blocks("own_data", "yaml")[0])
    chosen = settings.load("mine", tmp_path)
    found = load_set(chosen.data)
    assert found.images.shape == (3, 3, 224, 224) and found.ids == ["cat_1", "cat_2", "dog_1"]
    assert found.images[:, 0, 20, 20].tolist() == [0, 10, 20] and chosen.f.images == 3
    names = class_names(chosen.data)
    assert [names[label] for label in found.labels] == ["tabby", "tabby", "golden retriever"]


def named(photos):
    """The classes of the page's second block, and labels of them."""
    (photos / "classes.txt").write_text(blocks("own_data", "")[1])
    (photos / "labels.csv").write_text("file,label\ncat_1.png,0\ndog_1.png,1\n")


def test_classes_have_the_names_of_their_file(photos):
    named(photos)
    assert class_names(Data(**entry()["data"])) == ["cat", "dog"]


def test_classes_that_no_network_of_the_scale_knows_are_refused(photos, monkeypatch):
    """Their labels would be scored against classes of another meaning."""
    named(photos)
    data = Data(**entry()["data"] | {"side": 48, "count": 2})
    chosen = settings.load("lab").model_copy(update={"data": data})
    monkeypatch.setattr(settings, "load", lambda _: chosen)
    with pytest.raises(
        ValueError, match=r"^own/photos has 2 classes, the classifiers of scales/lab.yaml 12: docs/own_"
    ):
        open_study("lab")
    chosen.networks["Inc-v3"] = chosen.networks["Inc-v3"].model_copy(update={"classes": 2})
    assert len(open_study("lab").images) == 2


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("labels.csv", "file,label\ncat_1.png,2\n", r"^own/photos: label 2 in labels.csv, but there are 2 classes$"),
        ("labels.csv", "file,label\ncat_1.png,0\ncat_1.jpg,0\n", "more than one file called 'cat_1'; rename one$"),
        ("labels.csv", "file,label\ncat_9.png,0\n", "images/cat_9.png: no such image"),
        ("labels.csv", "name,label\ncat_1.png,0\n", "no column 'file', only name, label$"),
        ("labels.csv", "file,label\ncat_1.png,cat\n", "^cat_1.png: label 'cat' is no whole number$"),
    ],
)
def test_what_is_wrong_with_the_folder_is_one_line(photos, file, text, message):
    named(photos)
    (photos / file).write_text(text)
    Image.new("RGB", (60, 60)).save(photos / "images" / "cat_1.jpg")
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        load_set(Data(name="own/photos", side=48))
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_and_a_set_that_nobody_knows_are_one_line(photos):
    with pytest.raises(FileNotFoundError, match=r"^own/pictures: neither here nor in the repository "):
        load_set(Data(name="own/pictures", side=48))
    with pytest.raises(
        ValueError,
        match=r"no data set 'imagenet'; did you mean 'imagenet_val'\? There are: world, .*, generated, and your",
    ):
        Data(name="imagenet", side=48)
