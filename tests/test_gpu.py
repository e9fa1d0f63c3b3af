"""lib on a GPU: attacks, defenses, networks, the experiment and the engine give what they give on a CPU, within stated
bounds. Each training: tests/training/test_loop.py.

    make test-gpu       needs lib, PyTorch and pytest, and no DVC, notebooks or figures
"""

import copy
import dataclasses

import pytest
import torch

from lib import settings
from lib.attacks import decision
from lib.attacks.adaptive import Adaptive
from lib.attacks.registry import ATTACKS
from lib.attacks.shards import attack_shard
from lib.data.detection import DetectionSet
from lib.data.images import ImageSet
from lib.data.segmentation import SegmentationSet
from lib.defenses import defense
from lib.engine import Engine, one_thread
from lib.experiment import Study, adversaries, clean, evaluate, predictions
from lib.networks.detectors import DETECTORS
from lib.networks.frozen import folded
from lib.networks.purifier import NRP, NRPResG
from lib.networks.segnet_basic import SegNetBasic
from lib.networks.small import ARCHITECTURES
from lib.networks.wrappers import Bf16, Normalised, Tf32
from lib.store import Store
from tests.attacks.test_contract import IDS, run
from tests.conftest import eight_bit_images, tiny_network

pytestmark = pytest.mark.gpu
GPU = "cuda"


@pytest.fixture(autouse=True)
def as_computed():
    """float32 without TF32, by deterministic algorithms, as the engine computes."""
    with one_thread(GPU):
        yield


def on_gpu(network):
    return copy.deepcopy(network).to(GPU)


def classifier(name="resnet50", seed=0):
    torch.manual_seed(seed)
    return Normalised(ARCHITECTURES[name](12), (0.5,) * 3, (0.25,) * 3).eval().requires_grad_(False)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_gives_the_cpu_s_adversaries(name):
    """Signs of gradients near zero may differ between devices, and iterations carry them on: few pixels may."""
    network, x, y = tiny_network(), eight_bit_images(6, 32, seed=1), torch.arange(6)
    here = run(name, network, x, y)
    there = run(name, on_gpu(network), x.to(GPU), y.to(GPU), ids=IDS)
    assert there.device.type == GPU
    # In levels: a division by 255 may round otherwise on a GPU.
    levels, expected = (255 * there.cpu()).round(), (255 * here).round()
    assert (levels - (255 * x).round()).abs().max() <= 16
    assert (levels != expected).float().mean() < 0.02


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_gives_the_same_bytes_again(name):
    network, x, y = on_gpu(tiny_network()), eight_bit_images(6, 32, seed=1).to(GPU), torch.arange(6).to(GPU)
    assert torch.equal(*(run(name, network, x, y, ids=IDS) for _ in range(2)))


def test_an_image_without_a_finite_gradient_is_named_at_the_end_of_the_run():
    def broken(x):
        return x.mean((2, 3)) * torch.where(x.amax((1, 2, 3), keepdim=True) > 0.5, 1, torch.nan)[:, :, 0, 0]

    class Broken(torch.nn.Module):
        def forward(self, x):
            return broken(x)

    x = torch.stack([torch.full((3, 8, 8), value) for value in (0.9, 0.1)]).to(GPU)
    with pytest.raises(FloatingPointError, match=r"not finite for images \[1\]"):
        decision.i_fgsm(Broken(), x, torch.zeros(2, dtype=torch.int64, device=GPU), eps=0.01)


DEFENSES = [
    ("jpeg", {"quality": 50}),
    ("tvm", {"weight": 10}),
    ("tvm", {"weight": 30}),
    ("median", {"window": 3}),
    ("median", {"window": 5}),
    ("nrp", {}),
    ("nrp", {"noise": 0.05}),
    ("nrp", {"tile": 36}),
]


@pytest.mark.parametrize("purifier", [NRPResG, NRP])
@pytest.mark.parametrize("kind, options", DEFENSES)
def test_a_defense_gives_the_cpu_s_images(kind, options, purifier):
    if kind != "nrp" and purifier is NRP:
        pytest.skip("has no purifier")
    torch.manual_seed(0)
    x, network = eight_bit_images(3, 40), purifier(8, 1).eval()
    made = []
    for device in ("cpu", GPU):
        loaded = {"network": copy.deepcopy(network).to(device)} if kind == "nrp" else {}
        with torch.no_grad():
            made.append(defense(kind, **options, **loaded)(x.to(device)))
    here, there = made
    assert there.device.type == GPU and (there.cpu() - here).abs().max() < 2e-3


@pytest.mark.parametrize("mode", ["exact", "BPDA", "EOT"])
def test_an_attack_through_a_purifier_has_the_cpu_s_gradient(mode):
    torch.manual_seed(0)
    victim, purifier, x = classifier(), NRPResG(8, 2).eval().requires_grad_(False), eight_bit_images(3, 48)
    slopes = []
    for device in ("cpu", GPU):
        network = copy.deepcopy(purifier).to(device)
        draws = [defense("nrp", network=network, noise=0.05, seed=k) for k in range(3 if mode == "EOT" else 1)]
        seen = Adaptive(copy.deepcopy(victim).to(device), *draws, bpda=mode == "BPDA")
        image = x.to(device).requires_grad_(True)
        slopes.append(torch.autograd.grad(seen(image)[:, 0].sum(), image)[0].cpu())
    assert slopes[0].abs().max() > 0 and (slopes[1] - slopes[0]).abs().max() < 1e-3 * slopes[0].abs().max()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_network_and_its_frozen_copy_give_the_cpu_s_logits(name):
    network, x = classifier(name), eight_bit_images(3, 48)
    expected = network(x)
    for there in (on_gpu(network), folded(on_gpu(network)).to(memory_format=torch.channels_last)):
        assert (there(x.to(GPU)).cpu() - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_gives_the_cpu_s_detections(name):
    torch.manual_seed(0)
    network, images = DETECTORS[name](4).eval(), list(eight_bit_images(2, 96))
    if name == "retinanet":
        network.score_thresh = 0.0
    here, there = network(images), on_gpu(network)([image.to(GPU) for image in images])
    for one, other in zip(here, there, strict=True):
        # What scores alike may change places.
        assert len(one["boxes"]) == len(other["boxes"])
        assert torch.allclose(one["scores"], other["scores"].cpu(), atol=1e-3)


@pytest.mark.parametrize("wrapper, share", [(Tf32, 0.25), (Bf16, 0.5)])
def test_lower_precisions_attack_and_differ_little(wrapper, share):
    network, images = classifier(), (255 * eight_bit_images(4, 48)).byte()
    given, options = {"y": torch.arange(4)}, {"steps": 3}
    here, there = (
        attack_shard(decision.i_fgsm, [made], images, given, options, device=GPU)["images"]
        for made in (on_gpu(network), wrapper(on_gpu(network)))
    )
    assert 0 <= (here != there).mean() < share


def study_on(device, folder, engine=None):
    """Seven random images in shards of three, networks of every task."""
    scale = settings.load("mini").model_copy(update={"batch": 3}, deep=True)
    images = (255 * eight_bit_images(7, 48)).byte()
    torch.manual_seed(0)
    scenes = Normalised(SegNetBasic(11, 4), (0.5,) * 3, (0.25,) * 3)
    networks = {"VGG-16": classifier("vgg16", 1), "Inc-v3": classifier("inception_v3", 2)}
    networks |= {"SegNet-Basic": scenes, "RetinaNet": DETECTORS["retinanet"](4), "NRP": NRPResG(8, 2)}
    networks = {name: network.eval().requires_grad_(False).to(device) for name, network in networks.items()}
    data = ImageSet(images, torch.arange(7), [f"i{k}" for k in range(7)])
    return Study(settings.params(), scale, data, Store(folder, engine), device, networks)


def test_a_study_gives_the_cpu_s_frame(tmp_path):
    made = []
    for device in ("cpu", GPU):
        study = study_on(device, tmp_path / device)
        cells = [clean(study), *adversaries(study, "MI-FGSM", "VGG-16", steps=3)]
        made.append((cells[1].images, evaluate(study, cells, ["Inc-v3", "VGG-16"], ["none", "NRP", "JPEG 20"])))
    (here, frame), (there, other) = made
    assert (here != there).float().mean() < 0.02 and frame.cells.equals(other.cells)
    for one, same in zip(frame.parts, other.parts, strict=True):
        # Of random networks one image in seven may fall on the other side of a boundary.
        assert all((one[name] != same[name]).sum() <= 1 for name in ("top1", "top5", "fooled"))


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_judging_scenes_gives_the_cpu_s_predictions(task, tmp_path):
    found = []
    for device in ("cpu", GPU):
        study = study_on(device, tmp_path / device)
        images, ids = study.images.images, study.images.ids
        if task == "segmentation":
            labels = torch.zeros(7, 48, 48, dtype=torch.uint8)
            study = dataclasses.replace(study, images=SegmentationSet(images, labels, ids, ("a",), ((0, 0, 0),)))
            found.append(predictions(study, "SegNet-Basic", images))
        else:
            study = dataclasses.replace(study, images=DetectionSet(list(images), ids, list(range(7)), {}))
            found.append([len(one.scores) for one in predictions(study, "RetinaNet", images)])
    here, there = found
    assert (here == there) if task == "detection" else (here != there).mean() < 0.01


def test_the_engine_gives_the_same_bytes_from_one_and_from_several_workers(tmp_path):
    made = []
    for engine in (None, Engine([GPU, GPU])):
        study = study_on(GPU, tmp_path / f"{len(made)}", engine)
        made.append(adversaries(study, "DIM", "VGG-16", steps=3)[0].images)
    assert torch.equal(*made)
