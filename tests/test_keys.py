"""No result can be stale: the files whose functions run while something is computed are all in its key."""

import sys

import pytest
import torch

from lib import keys, settings
from lib.attacks import shards
from lib.attacks.registry import ATTACKS
from lib.data.detection import DetectionSet
from lib.data.images import ImageSet
from lib.data.segmentation import SegmentationSet
from lib.experiment import Study, Through, adversaries, clean, evaluate
from lib.experiment.cells import MODES
from lib.networks.cda_generator import CDAGenerator
from lib.networks.purifier import NRPResG
from lib.store import Store
from lib.tasks.predictions import detect
from lib.zoo import family_of
from tests.doubles import Corner, Pixelwise
from tests.experiment.test_study import fidelity, small

ROOM = keys.ROOT / "lib"
MEMO = {"lib/defenses/memo.py"}  # gives what the defense gives, once for several victims
# How many files of lib a key holds at most: one that grows hangs on more than it needs.
LIMITS = {"attack": 14, "attack through a defense": 18, "victim": 14, "fidelity": 14}
DEFENSES = {
    "JPEG": {"kind": "jpeg", "quality": 50},
    "TVM": {"kind": "tvm", "weight": 10},
    "Median": {"kind": "median", "window": 3},
    "NRP": {"kind": "nrp", "network": "NRP", "noise": 12.75},
}
OBJECTS = {
    "images": [{"id": k} for k in (1, 2, 3)],
    "categories": [{"id": 1, "name": "thing"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}],
}


class Traced(Store):
    """A store that computes all, and compares the files that run with those in the key."""

    def __init__(self, root):
        super().__init__(root)
        self.sizes, self.missing = [], {}

    def cached_all(self, groups, device="cpu", words=""):
        for group in groups:
            yield [self.traced(call, device) for call in group]

    def traced(self, call, device):
        function, arguments, cell, how = call
        ran = set()
        sys.setprofile(lambda frame, event, argument: ran.add(frame.f_code.co_filename) if event == "call" else None)
        try:
            arrays = function(*arguments, device=device, **how)
        finally:
            sys.setprofile(None)
        code = keys.record(function, arguments, device)["code"]
        files = {keys.label(keys.Path(name)) for name in ran if name.startswith(str(ROOM))}
        self.sizes.append(len([name for name in code if name.startswith("lib/")]))
        self.missing |= dict.fromkeys(files - set(code) - MEMO, cell)
        return arrays


@pytest.fixture
def study(tmp_path):
    scale = settings.load("mini").model_copy(update={"batch": 3}, deep=True)
    images = torch.randint(0, 256, (3, 3, 48, 48), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    data = ImageSet(images, torch.arange(3), list("abc"))
    torch.manual_seed(0)
    networks = {
        "VGG-16": small("vgg16", 0),
        "Inc-v3": small("inception_v3", 1),
        "CDA-ImageNet": CDAGenerator(4, 1).eval(),
        "NRP": NRPResG(4, 1).eval(),
        "SegNet-Basic": Pixelwise(),
        "RetinaNet": Corner(),
    }
    params = settings.params().with_attacks(ssp={"steps": 2}, fff={"iterations": 2})
    params = params.model_copy(update={"defenses": DEFENSES})
    return Study(params, scale, data, Traced(tmp_path), "cpu", networks)


def checked(study, kind: str) -> None:
    """Everything that ran is in the keys, and these are small."""
    print(f"{kind}: {max(study.store.sizes)} files in a key")
    assert study.store.sizes and not study.store.missing
    assert max(study.store.sizes) <= LIMITS[kind]


@pytest.mark.parametrize("name", ATTACKS)
def test_the_files_that_make_an_adversary_are_in_its_key(study, name):
    surrogate = "CDA-ImageNet" if ATTACKS[name].on == "generator" else "VGG-16"
    adversaries(study, name, *([] if ATTACKS[name].on == "nothing" else [surrogate]))
    checked(study, "attack")


@pytest.mark.parametrize("mode", MODES)
def test_the_files_of_an_attack_through_a_defense_are_in_its_key(study, mode):
    adversaries(study, "PGD", "Inc-v3", through=Through("NRP", mode, 2), steps=1)
    checked(study, "attack through a defense")


@pytest.mark.parametrize("defense", ["none", *DEFENSES])
@pytest.mark.parametrize("victim", ["Inc-v3", "SegNet-Basic", "RetinaNet"])
def test_the_files_that_make_a_prediction_are_in_its_key(study, victim, defense):
    images = study.images.images
    if victim == "SegNet-Basic":
        labels = torch.zeros(3, 48, 48, dtype=torch.uint8)
        study.images = SegmentationSet(images, labels, study.images.ids, ("a", "b", "c"), ((0, 0, 0),) * 3)
    if victim == "RetinaNet":
        study.images = DetectionSet(list(images), study.images.ids, [1, 2, 3], OBJECTS)
    evaluate(study, [clean(study)], [victim, victim], [defense])
    checked(study, "victim")


@pytest.mark.parametrize("defense", ["none", *DEFENSES])
def test_the_files_that_measure_fidelity_are_in_its_key(study, defense):
    fidelity(study, study.images.images, defense, "VGG-16")
    checked(study, "fidelity")


def test_what_is_stored_hangs_on_no_settings_data_or_registry():
    """Else every result would hang on every file."""
    for function in (shards.attack_shard, *(attack.run for attack in ATTACKS.values())):
        reached = {keys.label(file) for file in keys.imports_of(function)[0]}
        rooms = ("lib/settings", "lib/zoo", "lib/data", "lib/experiment", "lib/report", "lib/attacks/registry")
        assert not [name for name in reached if name.startswith(rooms)]


def test_what_builds_a_network_is_in_its_key():
    """A detector's thresholds show neither in its structure nor in its weights."""
    spec = settings.load("mini").networks["RetinaNet"]
    record = keys.record(detect, (family_of(spec).build(spec), [], None), "cpu")
    assert {"lib/networks/detectors.py", "lib/networks/small.py"} <= set(record["code"])


@pytest.mark.parametrize("name", settings.load("mini").networks)
def test_a_result_of_every_network_has_a_key(name):
    spec = settings.load("mini").networks[name]
    assert keys.record(detect, (family_of(spec).build(spec), [], None), "cpu")["code"]


def test_every_architecture_that_is_trained_here_has_a_key():
    scale = settings.load("mini")
    for name, spec in scale.networks.items():
        assert keys.record(detect, (family_of(spec).build(spec),), "cpu"), name
