import os
import subprocess
import sys

import pytest
import torch

from lib import settings
from lib.attacks import decision, shards
from lib.attacks.generators import cda
from lib.attacks.registry import ATTACKS
from lib.attacks.transport import fsa
from lib.data.detection import DetectionSet
from lib.data.images import ImageSet
from lib.experiment import Adversaries, Study, adversaries, all_attacks, nearness, open_study, outputs
from lib.experiment import cells as module
from lib.networks.cda_generator import CDAGenerator
from lib.networks.small import ARCHITECTURES
from lib.networks.wrappers import Bf16, Normalised
from lib.store import Store
from lib.units import same_size, unit_images
from tests.conftest import tiny_network


def small(name: str, seed: int) -> Normalised:
    """An untrained stand-in."""
    torch.manual_seed(seed)
    return Normalised(ARCHITECTURES[name](12), (0.5,) * 3, (0.25,) * 3).eval().requires_grad_(False)


def fidelity(study, images, defense="none", extractor=None):
    """The outcomes of other images of a study, as `nearness` measures them."""
    (found,) = nearness(study, [Adversaries("", "", 0, 0, images)], [defense], extractor).parts
    return found


@pytest.fixture
def study(tmp_path):
    """Seven random images in shards of three, two untrained networks, an empty store."""
    scale = settings.load("mini").model_copy(update={"batch": 3}, deep=True)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (7, 3, 48, 48), generator=generator, dtype=torch.uint8)
    data = ImageSet(images, torch.arange(7), [f"i{k}" for k in range(7)])
    networks = {"VGG-16": small("vgg16", 0), "Inc-v3": small("inception_v3", 1)}
    return Study(settings.params(), scale, data, Store(tmp_path), "cpu", networks)


def entries(study):
    return sorted(study.store.root.rglob("*.bin"))


def test_adversaries_are_those_of_the_attack_itself(study):
    (cell,) = adversaries(study, "MI-FGSM", "VGG-16", steps=3, eps=8)
    x = unit_images(study.images.images)
    direct = decision.mi_fgsm(study.networks["VGG-16"], x, study.images.labels, steps=3, eps=8 / 255)
    assert (cell.images != (direct * 255).round().to(torch.uint8)).float().mean() <= 0.001
    assert (cell.attack, cell.surrogate, cell.eps, cell.steps) == ("MI-FGSM", "VGG-16", 8, 3)


def test_every_attack_runs_with_the_parameters_of_params_yaml(study):
    study.params = settings.params().with_attacks(ssp={"steps": 2}, fff={"iterations": 2})
    cells = all_attacks(study, "VGG-16", "VGG-16")
    # CDA needs a generator, which no scale need have.
    tried = [name for name, attack in ATTACKS.items() if attack.transfers and name != "CDA"]
    assert [cell.attack for cell in cells] == ["none", *tried]
    clean_images = study.images.images.int()
    for cell in cells[1:]:
        assert (cell.images.int() - clean_images).abs().max() <= cell.eps == 16
        assert cell.images.dtype == torch.uint8 and cell.images.shape == clean_images.shape
    # The cells can be taken from a run with snapshots, but only where every setting agrees.
    longer = adversaries(study, "SSP", "VGG-16", snapshots=[2, 3])
    again = all_attacks(study, "VGG-16", "VGG-16", done=longer)
    place = [cell.attack for cell in cells].index("SSP")
    assert again[place] is longer[0] and torch.equal(again[place].images, cells[place].images)
    assert all_attacks(study, "VGG-16", "VGG-16", done=longer[1:])[place].steps == 2


def test_snapshots_become_one_cell_each(study):
    cells = adversaries(study, "SSP", "VGG-16", snapshots=[1, 3])
    assert [cell.steps for cell in cells] == [1, 3]
    assert torch.equal(cells[0].images, adversaries(study, "SSP", "VGG-16", steps=1)[0].images)


@pytest.mark.parametrize(
    "attack, changed, message",
    [
        ("SPP", {}, "no attack 'SPP'; did you mean 'SSP'\\? There are: Noise, FGSM"),
        ("SSP", {"stepps": 3}, "SSP: top level: unknown key 'stepps'; did you mean 'steps'"),
        ("SSP", {"tap": "features.relu9_9"}, "no tap 'features.relu9_9'; close names: features.relu"),
    ],
)
def test_what_does_not_exist_is_named_in_one_line(study, attack, changed, message):
    with pytest.raises(ValueError, match=message) as caught:
        adversaries(study, attack, "VGG-16", **changed)
    assert "\n" not in str(caught.value)


def test_an_ensemble_is_named_after_its_members(study):
    (cell,) = adversaries(study, "I-FGSM", ["VGG-16", "Inc-v3"], steps=1)
    assert cell.surrogate == "VGG-16 + Inc-v3"


def test_nothing_is_computed_twice(study, monkeypatch):
    first = adversaries(study, "SSP", "VGG-16", steps=2)[0].images
    assert len(entries(study)) == 3

    def fail(*arguments):
        raise AssertionError("computed again")

    monkeypatch.setattr(shards, "unit_images", fail)
    assert torch.equal(adversaries(study, "SSP", "VGG-16", steps=2)[0].images, first)


@pytest.mark.parametrize(
    "change",
    [
        lambda study: setattr(study, "params", study.params.model_copy(update={"seed": 1})),
        lambda study: study.images.images.add_(1),
        lambda study: study.networks["VGG-16"].network.head.weight.data.add_(0.1),
        lambda study: study.networks["VGG-16"].mean.add_(0.1),
        lambda study: setattr(study.networks["VGG-16"], "resize", 40),
        lambda study: setattr(study, "scale", study.scale.model_copy(update={"precision": "bf16"})),
        lambda study: study.scale.networks.update(
            {"VGG-16": study.scale.networks["VGG-16"].model_copy(update={"tap": "features.relu2_2"})}
        ),
    ],
    ids=["seed", "images", "weights", "normalisation", "resize", "precision", "tap"],
)
def test_what_a_result_depends_on_is_in_its_key(study, change):
    adversaries(study, "SSP", "VGG-16", steps=1)
    change(study)
    adversaries(study, "SSP", "VGG-16", steps=1)
    assert len(entries(study)) == 6


def ones(folder):
    """Four black images in shards of one."""
    data = ImageSet(torch.zeros(4, 3, 48, 48, dtype=torch.uint8), torch.arange(4), list("abcd"))
    scale = settings.load("mini").model_copy(update={"batch": 1})
    return Study(settings.params(), scale, data, Store(folder), "cpu", {"VGG-16": small("vgg16", 0)})


def test_a_killed_run_continues_from_its_last_finished_shard(tmp_path, monkeypatch):
    script = """
import os, sys
from lib.attacks import shards
from lib.experiment import adversaries
from tests.experiment.test_study import ones
done, begin = [], shards.unit_images
def counted(*arguments):
    if len(done) == 3:
        os.kill(os.getpid(), 9)
    done.append(1)
    return begin(*arguments)
shards.unit_images = counted
adversaries(ones(sys.argv[1]), "SSP", "VGG-16", steps=1)
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    killed = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(settings.ROOT)})
    assert killed.returncode == -9
    done, begin = [], shards.unit_images
    monkeypatch.setattr(shards, "unit_images", lambda *arguments: done.append(1) or begin(*arguments))
    adversaries(ones(tmp_path), "SSP", "VGG-16", steps=1)
    assert len(done) == 1


def test_outputs_are_logits_or_features_of_the_chosen_images(study):
    logits = outputs(study, "VGG-16", [2, 5], features=False)
    maps = outputs(study, "VGG-16", [2, 5], features=True)
    assert logits.shape == (2, 12) and maps.shape == (2, 48, 12, 12) and maps.min() >= 0


def test_labels_are_in_the_key_only_where_an_attack_reads_them(study):
    adversaries(study, "SSP", "VGG-16", steps=1)
    adversaries(study, "FGSM", "VGG-16")
    study.images.labels.add_(1)
    adversaries(study, "SSP", "VGG-16", steps=1)
    assert len(entries(study)) == 6
    adversaries(study, "FGSM", "VGG-16")
    assert len(entries(study)) == 9


@pytest.fixture
def photographs(study):
    """Five images of three sizes, as photographs come."""
    generator = torch.Generator().manual_seed(1)
    sizes = [(48, 48), (40, 56), (48, 48), (40, 56), (45, 51)]
    images = [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]
    ids = [f"p{k}" for k in range(5)]
    data = DetectionSet(images, ids, list(range(5)), {"images": [], "annotations": [], "categories": []})
    return Study(study.params, study.scale, data, study.store, "cpu", study.networks, batch=2)


def test_images_of_any_size_are_attacked_at_their_own_size_within_the_budget(photographs):
    (cell,) = adversaries(photographs, "SSP", "VGG-16", steps=3, eps=8)
    assert [image.shape for image in cell.images] == [image.shape for image in photographs.images.images]
    for image, original in zip(cell.images, photographs.images.images, strict=True):
        moved = (image.int() - original.int()).abs()
        assert image.dtype == torch.uint8 and 0 < moved.max() <= 8


def test_grouping_by_size_changes_no_image(photographs):
    (together,) = adversaries(photographs, "SSP", "VGG-16", steps=3)
    for k in range(5):
        one = DetectionSet([photographs.images.images[k]], [f"p{k}"], [k], photographs.images.truth)
        alone = Study(photographs.params, photographs.scale, one, photographs.store, "cpu", photographs.networks)
        (cell,) = adversaries(alone, "SSP", "VGG-16", steps=3)
        assert (cell.images[0] != together.images[k]).float().mean() <= 0.001


def test_groups_hold_equal_sizes_and_every_image_once():
    images = [torch.zeros(3, side, 8) for side in (8, 9, 8, 8, 9)]
    assert same_size(images, 2) == [[0, 2], [3], [1, 4]]
    assert same_size(torch.zeros(5, 3, 8, 8), 2) == [[0, 1], [2, 3], [4]]


def test_one_perturbation_for_images_of_several_sizes_is_an_error(photographs):
    with pytest.raises(ValueError, match="FFF makes one perturbation for all images, and these differ in size"):
        adversaries(photographs, "FFF", "VGG-16", iterations=1)


def test_the_scale_may_give_a_data_set_a_batch_of_its_own(study):
    source = settings.Scenes(name="world", labels="boxes", count=5, batch=2)
    assert open_study("mini", source=source).batch == 2
    assert open_study("mini", 5).batch == settings.load("mini").batch


NAMES = ["i4", "i10", "i0", "i3", "i2", "i6", "i1"]  # as text: i0, i1, i10, i2, i3, i4, i6
COUPLED = {"steps": 2, "batch": 3, "iterations": 4}


@pytest.fixture
def coupled(study):
    """The same with tiny networks and small images, whose names are not in order."""
    torch.manual_seed(3)
    networks = {"VGG-16": tiny_network(0, 12), "CDA-ImageNet": CDAGenerator(4, 1).eval().requires_grad_(False)}
    data = ImageSet(study.images.images[:, :, :16, :16].contiguous(), study.images.labels, NAMES)
    return Study(study.params, study.scale, data, study.store, "cpu", networks)


def as_bytes(images):
    return (images * 255).round().to(torch.uint8)


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_images_that_an_attack_couples_stay_together_whatever_the_batch_of_the_study(coupled, batch):
    coupled.batch = batch
    (cell,) = adversaries(coupled, "FSA", "VGG-16", eps=8, **COUPLED)
    x = unit_images(coupled.images.images)
    direct = fsa(coupled.networks["VGG-16"], x, ids=NAMES, seed=coupled.params.seed, eps=8 / 255, **COUPLED)
    assert torch.equal(cell.images, as_bytes(direct)) and len(entries(coupled)) == 3
    alone = fsa(coupled.networks["VGG-16"], x, ids=NAMES, eps=8 / 255, **COUPLED | {"batch": 1})
    assert not torch.equal(cell.images, as_bytes(alone))


def test_the_snapshots_of_a_coupled_attack_are_its_shorter_runs(coupled):
    short, long = adversaries(coupled, "FSA", "VGG-16", snapshots=[1, 2], batch=3, iterations=4)
    assert torch.equal(long.images, adversaries(coupled, "FSA", "VGG-16", **COUPLED)[0].images)
    assert torch.equal(short.images, adversaries(coupled, "FSA", "VGG-16", **COUPLED | {"steps": 1})[0].images)


def test_a_coupled_attack_continues_from_its_stored_batches(coupled, monkeypatch):
    (first,) = adversaries(coupled, "FSA", "VGG-16", **COUPLED)
    entries(coupled)[0].unlink()
    again, begin = [], shards.unit_images

    def counted(images, device):
        again.append([NAMES[place] for image in images for place in range(7) if torch.equal(image, pixels[place])])
        return begin(images, device)

    pixels = coupled.images.images
    monkeypatch.setattr(shards, "unit_images", counted)
    assert torch.equal(adversaries(coupled, "FSA", "VGG-16", **COUPLED)[0].images, first.images)
    assert len(again) == 1 and again[0] in (["i0", "i1", "i10"], ["i2", "i3", "i4"], ["i6"])
    # The batch is part of what is attacked: others are other entries.
    adversaries(coupled, "FSA", "VGG-16", **COUPLED | {"batch": 5})
    assert again[1:] == [["i0", "i1", "i10", "i2", "i3"], ["i4", "i6"]]


def test_the_order_of_the_images_changes_no_coupled_adversary(coupled):
    (first,) = adversaries(coupled, "FSA", "VGG-16", **COUPLED)
    turned = ImageSet(coupled.images.images.flip(0), coupled.images.labels.flip(0), NAMES[::-1])
    other = Study(coupled.params, coupled.scale, turned, coupled.store, "cpu", coupled.networks)
    (second,) = adversaries(other, "FSA", "VGG-16", **COUPLED)
    assert torch.equal(second.images.flip(0), first.images) and len(entries(coupled)) == 3


def test_images_of_several_sizes_cannot_be_coupled(photographs):
    with pytest.raises(
        ValueError, match="FSA couples the images of a batch, and these are no images of one size"
    ) as caught:
        adversaries(photographs, "FSA", "VGG-16", steps=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changed", [{}, {"eps": 8}, {"eps": 8, "smoothing": True}])
def test_a_generator_s_adversaries_are_those_of_the_attack_itself(coupled, changed):
    (cell,) = adversaries(coupled, "CDA", "CDA-ImageNet", **changed)
    eps = changed.get("eps", 16)
    x = unit_images(coupled.images.images)
    direct = cda(coupled.networks["CDA-ImageNet"], x, **changed | {"eps": eps / 255})
    assert (cell.images != as_bytes(direct)).float().mean() <= 0.001
    assert (cell.images.int() - coupled.images.images.int()).abs().max() == eps
    assert (cell.attack, cell.surrogate, cell.eps, cell.steps) == ("CDA", "CDA-ImageNet", eps, 1)
    assert len(entries(coupled)) == 3  # shards of the study's batch


def test_a_generator_attacks_images_of_any_size(photographs, coupled):
    photographs.networks = coupled.networks
    (cell,) = adversaries(photographs, "CDA", "CDA-ImageNet", eps=8)
    for image, original in zip(cell.images, photographs.images.images, strict=True):
        direct = as_bytes(cda(coupled.networks["CDA-ImageNet"], unit_images(original[None]), eps=8 / 255))[0]
        assert image.shape == original.shape and (image != direct).float().mean() <= 0.001
        assert (image.int() - original.int()).abs().max() == 8


def test_half_precision_is_for_gradients_and_not_for_generators(coupled):
    (whole,) = adversaries(coupled, "CDA", "CDA-ImageNet")
    coupled.scale = coupled.scale.model_copy(update={"precision": "bf16"})
    (again,) = adversaries(coupled, "CDA", "CDA-ImageNet")
    assert torch.equal(whole.images, again.images) and len(entries(coupled)) == 3
    kinds = {on: type(module._target(coupled, on, [name], None, None)[0]) for on, name in
             {"generator": "CDA-ImageNet", "logits": "VGG-16"}.items()}  # fmt: skip
    assert kinds == {"generator": CDAGenerator, "logits": Bf16}
