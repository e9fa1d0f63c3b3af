import functools
import hashlib
import subprocess
import sys
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import tenacity
import torch
import torchvision

from lib import download, zoo
from lib.digests import content_sha256
from lib.networks import resnet152
from lib.networks.families import vgg16_conv3_3
from lib.networks.purifier import NRP, NRPResG
from lib.networks.resnet152 import ResNetDenoise
from lib.networks.segnet_basic import SegNetBasic
from lib.networks.wrappers import Tap
from lib.settings import ROOT, NetworkSpec, params
from tests.conftest import companion, refused

VGG = {"role": "features", "family": "vgg16_conv3_3", "architecture": "vgg16_conv3_3", "weights": "weights/vgg.npz"}
SQUEEZENET = {"role": "victim", "family": "torchvision", "architecture": "squeezenet1_1", "weights": "IMAGENET1K_V1"}
TIMM = {"role": "victim", "family": "timm", "architecture": "test_resnet", "weights": "r160_in1k"}
PURIFIER = {"role": "defense", "task": "purification", "family": "purifier", "architecture": "nrp"}
PURIFIER |= {"width": 8, "blocks": 2, "weights": "models/paper/NRP.pth"}


def settings(**networks):
    return SimpleNamespace(name="sample", networks={name: NetworkSpec(**spec) for name, spec in networks.items()})


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """Nothing outside `tmp_path` is seen: repository, assets, torchvision's and timm's caches."""
    monkeypatch.setattr(zoo, "ROOT", tmp_path / "repository")
    monkeypatch.setenv("COMPANION_ASSETS", str(tmp_path / "assets"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    return tmp_path


@pytest.fixture
def no_download(monkeypatch):
    def fail(*arguments, **options):
        raise OSError("no network here")

    monkeypatch.setattr(download, "download", fail)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)


def write_vgg(folder, seed=0):
    """A VGG-16 file with random weights in `folder`/weights; the network and the file's SHA-256."""
    torch.manual_seed(seed)
    network = vgg16_conv3_3()
    file = folder / "weights" / "vgg.npz"
    file.parent.mkdir(parents=True)
    np.savez(file, **{key: value.numpy() for key, value in network.state_dict().items()})
    return network, content_sha256(file)


def test_local_file_is_normalised_frozen_and_in_eval_mode(places):
    network, sha256 = write_vgg(places / "assets")
    spec = VGG | {"sha256": sha256, "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.25, 1.0)}
    victim = zoo.load("VGG-16", settings(**{"VGG-16": spec}))
    x = torch.rand(1, 3, 8, 8)
    normalised = (x - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 0.25, 1.0]).view(3, 1, 1)
    assert torch.equal(victim(x), network(normalised))
    assert not any(module.training for module in victim.modules())
    assert not any(parameter.requires_grad for parameter in victim.parameters())


def test_repository_comes_before_the_assets(places):
    write_vgg(places / "assets", seed=0)
    network, _ = write_vgg(places / "repository", seed=1)
    loaded = zoo.load("VGG-16", settings(**{"VGG-16": VGG}))
    assert torch.equal(loaded.network.features[0].weight, network.features[0].weight)


def test_wrong_sha256_is_refused(places):
    write_vgg(places / "assets")
    with pytest.raises(ValueError, match=r"^vgg\.npz: of its tensors the SHA-256 is [0-9a-f]{64}, expected 0{64}"):
        zoo.load("VGG-16", settings(**{"VGG-16": VGG | {"sha256": "0" * 64}}))


def test_extractor_takes_the_scale_files_tap_the_papers_names_and_module_names(places):
    network, _ = write_vgg(places / "assets")
    scale = settings(**{"VGG-16": VGG | {"mean": (0, 0, 0), "std": (1, 1, 1), "tap": "relu3_3"}})
    x = torch.rand(1, 3, 8, 8)
    default = zoo.extractor("VGG-16", scale)
    assert isinstance(default, Tap)
    assert torch.equal(default(x), network(x))
    for tap in ("relu1_2", "features.3"):
        assert torch.equal(zoo.extractor("VGG-16", scale, tap)(x), network.features[:4](x))


def test_extractor_without_a_tap_is_an_error(places):
    write_vgg(places / "assets")
    with pytest.raises(ValueError, match="VGG-16: no tap given"):
        zoo.extractor("VGG-16", settings(**{"VGG-16": VGG}))


def test_a_detector_gives_no_masks_and_the_same_boxes(places):
    from lib.networks.detectors import DETECTORS

    torch.manual_seed(0)
    network = DETECTORS["mask_rcnn"](12).eval()
    folder = places / "repository" / "models" / "sample"
    folder.mkdir(parents=True)
    safetensors.torch.save_file(network.state_dict(), folder / "Mask.safetensors")
    spec = {"role": "Mask R-CNN", "family": "small_detector", "architecture": "mask_rcnn", "classes": 12}
    loaded = zoo.load("Mask", settings(Mask=spec | {"task": "detection"}))
    x = list(torch.rand(2, 3, 48, 48))
    with torch.no_grad():
        for found, expected in zip(loaded(x), network(x), strict=True):
            assert found.keys() == {"boxes", "labels", "scores"} and len(found["boxes"])
            assert all(torch.equal(found[name], expected[name]) for name in found)
    assert not any("mask" in name for name, _ in loaded.named_parameters())


def test_small_network_comes_from_the_models_of_its_scale(places):
    from lib.networks.small import ARCHITECTURES

    architecture = next(iter(ARCHITECTURES))
    network = ARCHITECTURES[architecture](5).eval()
    folder = places / "repository" / "models" / "sample"
    folder.mkdir(parents=True)
    safetensors.torch.save_file(network.state_dict(), folder / "stand-in.safetensors")
    spec = {"role": "Inc-v3", "family": "small", "architecture": architecture, "classes": 5}
    loaded = zoo.load("stand-in", settings(**{"stand-in": spec | {"mean": (0, 0, 0), "std": (1, 1, 1)}}))
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(loaded(x), network(x))


def test_torchvision_tag_is_read_from_the_cache_of_torch_hub(places, no_download):
    network = torchvision.models.squeezenet1_1().eval()
    checkpoints = places / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    torch.save(network.state_dict(), checkpoints / "squeezenet1_1-b8a52dc0.pth")
    loaded = zoo.load("S", settings(S=SQUEEZENET | {"mean": (0, 0, 0), "std": (1, 1, 1)}))
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(loaded(x), network(x))


def test_timm_tag_is_read_from_the_hub_cache(places, no_download, monkeypatch):
    import timm

    network = timm.create_model("test_resnet", pretrained=False).eval()
    file = places / "model.safetensors"
    safetensors.torch.save_file(network.state_dict(), file)
    cached = {("timm/test_resnet.r160_in1k", "model.safetensors"): str(file)}
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *key: cached.get(key))
    loaded = zoo.load("T", settings(T=TIMM | {"mean": (0, 0, 0), "std": (1, 1, 1)}))
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(loaded(x), network(x))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (VGG, r"^N: no weights \(weights/vgg\.npz\); to get them: set COMPANION_ASSETS"),
        (VGG | {"how": "see example.org"}, r"^N: no weights .* to get them: see example\.org$"),
        (VGG | {"family": "small", "weights": None}, r"^N: no weights \(models/sample/N\.safetensors\); .* dvc repro$"),
        (
            SQUEEZENET,
            r"^N: no weights \(torchvision squeezenet1_1\.IMAGENET1K_V1\).* fetch N --scale sample$",
        ),
        (TIMM, r"^N: no weights \(timm test_resnet\.r160_in1k\).*no network here.* companion fetch N --scale sample$"),
    ],
)
def test_missing_weights_say_in_one_line_how_to_get_them(no_download, spec, message):
    with pytest.raises(FileNotFoundError, match=message):
        zoo.load("N", settings(N=spec))


def test_downloaded_file_must_have_the_hash_in_its_name(places, monkeypatch, server):
    content = b"weights"
    good = hashlib.sha256(content).hexdigest()[:8]
    monkeypatch.setattr(download, "HOSTS", ("127.0.0.1",))
    monkeypatch.setattr(download, "WAIT", tenacity.wait_none())
    for digits in (good, "00000000"):
        name = f"squeezenet1_1-{digits}.pth"
        server.files[f"/set/{name}"] = content
        target = places / "torch" / "hub" / "checkpoints" / name
        known = SimpleNamespace(__members__={"IMAGENET1K_V1": SimpleNamespace(url=f"{server.url}/{name}")})
        monkeypatch.setattr(torchvision.models, "get_model_weights", lambda name, known=known: known)
        if digits == good:
            assert zoo.weights_file("S", settings(S=SQUEEZENET)).read_bytes() == content
        else:
            with pytest.raises(FileNotFoundError, match=r"S: no weights .* the download failed \(.*its SHA-256 is "):
                zoo.weights_file("S", settings(S=SQUEEZENET))
            assert not target.exists()


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"no network 'VGG16' in scales/sample\.yaml; did you mean 'VGG-16'"):
        zoo.load("VGG16", settings(**{"VGG-16": VGG, "Inc-v3": TIMM}))
    with pytest.raises(ValueError, match=r"squeezenet1_1 has no weights 'V9', only IMAGENET1K_V1"):
        zoo.load("S", settings(S=SQUEEZENET | {"weights": "V9"}))


def test_status_tells_what_is_there_and_downloads_nothing(places, no_download):
    write_vgg(places / "assets")
    rows = zoo.status(settings(V=VGG, S=SQUEEZENET, T=TIMM | {"how": "ask"}))
    assert [(row["name"], row["found"]) for row in rows] == [("V", True), ("S", False), ("T", False)]
    assert rows[1]["how to get it"] == "companion fetch S --scale sample"
    assert rows[2]["how to get it"] == "ask"
    assert rows[0]["MB"] > 0 and rows[0]["licence"] == "not stated" and rows[1]["MB"] is None
    raw = settings(M=VGG | {"weights": "weights/mobilenetv2_100_tf.npz", "licence": "Apache-2.0", "megabytes": 4.6})
    (row,) = zoo.status(raw)
    assert row["source"].startswith("github.com/google-coral/test_data at 104342d2") and not row["found"]
    assert (row["licence"], row["MB"], row["how to get it"]) == ("Apache-2.0", 4.6, "companion fetch M --scale sample")


def test_commands(places, monkeypatch):
    write_vgg(places / "assets")
    two = settings(V=VGG, W=VGG | {"weights": "weights/w.npz"})
    monkeypatch.setattr("lib.settings.load", lambda scale: two)
    status, table, _ = companion("zoo", "--scale", "sample")
    assert status == 0 and "weights/vgg.npz" in table and "yes" in table and "no" in table
    status, line, _ = companion("zoo", "V", "--scale", "sample")
    assert status == 0 and "vgg.npz" in line
    assert refused("zoo", "W", "--scale", "sample").startswith("W: no weights (weights/w.npz)")


def test_import_leaves_the_large_libraries_alone():
    code = "import sys, lib.zoo; sys.exit(any(name in sys.modules for name in ('timm', 'torchvision')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_segmenter_and_a_detector_are_not_normalised_twice(places):
    spec = {"role": "victim", "task": "segmentation", "family": "segnet_basic", "architecture": "segnet_basic"}
    network = SegNetBasic(4, maps=2)
    file = places / "repository" / "models" / "sample" / "S.safetensors"
    file.parent.mkdir(parents=True)
    safetensors.torch.save_file(network.state_dict(), file)
    loaded = zoo.load("S", settings(S=spec | {"classes": 4, "maps": 2}))
    x = torch.rand(1, 3, 16, 16)
    assert type(loaded) is SegNetBasic and torch.equal(loaded(x), network.eval()(x))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_torchvision_detector_loads_from_its_own_file(places):
    spec = {"role": "victim", "task": "detection", "family": "torchvision", "weights": "COCO_V1", "classes": 91}
    spec["architecture"] = "retinanet_resnet50_fpn"
    torch.manual_seed(0)
    network = torchvision.models.get_model(spec["architecture"], weights=None, weights_backbone=None)
    # A small variance, with which the epsilon of batch normalisation matters.
    network.backbone.body.bn1.running_var.fill_(1e-5)
    file = places / "torch" / "hub" / "checkpoints" / "retinanet_resnet50_fpn_coco-eeacb38b.pth"
    file.parent.mkdir(parents=True)
    torch.save(network.state_dict(), file)
    loaded = zoo.load("RetinaNet", settings(RetinaNet=spec))
    assert torch.equal(loaded.backbone.body.conv1.weight, network.backbone.body.conv1.weight)
    known = torchvision.models.get_model(spec["architecture"], weights="COCO_V1").eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        first, second = (body.bn1(body.conv1(x)) for body in (loaded.backbone.body, known.backbone.body))
    assert torch.allclose(first, second, rtol=1e-4)
    (found,) = loaded([x[0]])
    assert {"boxes", "scores", "labels"} <= set(found)


@pytest.mark.parametrize("content", [b"", b"<html>", b"version https://git-lfs.github.com/spec/v1\n"])
def test_weights_that_cannot_be_read_are_named_with_the_command_that_gets_them(content):
    file = zoo.ROOT / "models" / "sample" / "N.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    again = rf"cannot be read \(.*; to get {file} again: trained by the pipeline: dvc repro$"
    with pytest.raises(ValueError, match=again) as error:
        zoo.load("N", settings(N=VGG | {"family": "small", "architecture": "vgg16", "weights": None}))
    assert "\n" not in str(error.value)


def test_a_missing_onnx_file_says_how_to_get_it(places):
    spec = {"role": "victim", "task": "detection", "family": "yolox_onnx", "architecture": "yolox_nano"}
    with pytest.raises(FileNotFoundError, match=r"^Y: no weights \(weights/y\.onnx\); to get them: ask$"):
        zoo.load("Y", settings(Y=spec | {"weights": "weights/y.onnx", "how": "ask"}))


def write_purifier(repository, **added):
    """A small purifier in a file like the released NRP.pth; `added` to its state dict."""
    network = NRP(8, 2)
    (repository / "models" / "paper").mkdir(parents=True)
    torch.save(network.state_dict() | added, repository / "models" / "paper" / "NRP.pth")
    return network


def test_a_released_purifier_is_loaded_as_it_is(places):
    network = write_purifier(places / "repository")
    loaded = zoo.load("NRP", settings(NRP=PURIFIER))
    x = torch.rand(2, 3, 9, 12)
    assert type(loaded) is NRP and torch.equal(loaded(x), network(x))
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": 3}, r"^NRP\.pth: missing key 'RRDB_trunk\.2\.RDB1\.conv1\.bias' and 29 more for NRP$"),
        ({"blocks": 1}, r"^NRP\.pth: unexpected key 'RRDB_trunk\.1\.RDB1\.conv1\.bias' and 29 more for NRP$"),
        ({"width": 16}, r"^NRP\.pth: .* size mismatch for conv_first\.weight: .*\[8, 3, 3, 3\].*\[16, 3, 3, 3\]"),
        ({"architecture": "nrp_resg"}, r"^NRP\.pth: missing key 'conv_last\.bias' and 9 more for NRPResG$"),
    ],
)
def test_a_purifier_of_another_size_is_refused(places, change, message):
    write_purifier(places / "repository")
    with pytest.raises(ValueError, match=message):
        zoo.load("NRP", settings(NRP=PURIFIER | change))


def test_a_purifier_with_a_key_too_many_is_refused(places):
    write_purifier(places / "repository", upconv1=torch.zeros(1))
    with pytest.raises(ValueError, match=r"^NRP\.pth: unexpected key 'upconv1' for NRP$"):
        zoo.load("NRP", settings(NRP=PURIFIER))


def test_a_purifier_without_a_file_is_the_pipelines(places):
    spec = PURIFIER | {"architecture": "nrp_resg", "weights": None}
    with pytest.raises(FileNotFoundError, match=r"^NRP: no weights \(models/sample/NRP\.safetensors\); .* dvc repro$"):
        zoo.load("NRP", settings(NRP=spec))
    network, file = NRPResG(8, 2), places / "repository" / "models" / "sample" / "NRP.safetensors"
    file.parent.mkdir(parents=True)
    safetensors.torch.save_file(network.state_dict(), file)
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(zoo.load("NRP", settings(NRP=spec))(x), network(x))


def test_feature_denoising_is_converted_normalised_and_loaded_strictly(places, monkeypatch):
    build = functools.partial(ResNetDenoise, blocks=(1, 1, 1, 1), width=4)
    monkeypatch.setitem(resnet152.TENSORPACK, "resnet152_denoise", build)
    spec = {"role": "victim", "family": "resnet_denoise", "architecture": "resnet152_denoise", "classes": 5}
    spec |= {"mean": (0.5,) * 3, "std": (0.5,) * 3, "weights": "R.npz", "resize": 32}
    network = build(5).eval()
    arrays = {key: value.numpy() for key, value in network.state_dict().items()}
    # As tensorpack writes them: one key of a vector, and the kernel that sees BGR.
    arrays["linear/b"] = arrays.pop("linear.bias")
    arrays["conv0/W"] = arrays.pop("conv0.weight")[:, ::-1].transpose(2, 3, 1, 0)
    file = places / "repository" / "R.npz"
    file.parent.mkdir()
    np.savez(file, **arrays)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(zoo.load("FD", settings(FD=spec))(x), network(x * 2 - 1), atol=1e-6)
    np.savez(file, **arrays, extra=np.zeros(1))
    with pytest.raises(ValueError, match=r"^R\.npz: unexpected key 'extra' for ResNetDenoise$"):
        zoo.load("FD", settings(FD=spec))


@pytest.mark.parametrize("asked", ["cpu", "auto", "cuda", "cuda:1", "mps"])
def test_the_device_is_the_one_asked_for_or_an_error_of_one_line(asked, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    if asked in ("cpu", "auto"):
        assert zoo.device_here(asked) == "cpu"
    else:
        with pytest.raises(ValueError, match=f"^device {asked} is not here; params.yaml can name auto, cpu$"):
            zoo.device_here(asked)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert zoo.device_here(asked) == {"auto": "cuda"}.get(asked, asked)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "0"])
def test_a_device_that_means_nothing_is_refused_with_the_settings(device, tmp_path):
    text = (ROOT / "params.yaml").read_text().replace("device: auto", f"device: '{device}'")
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"params\.yaml: device: "):
        params(tmp_path)


def test_an_untrained_network_has_the_weights_of_its_seed_and_leaves_the_random_numbers_alone(tmp_path):
    scale, before = settings(vgg=VGG), torch.get_rng_state()
    first, again, other = (zoo.load("vgg", scale, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match="networks of family yolox_onnx come with their weights, so none is untrained"):
        zoo.load("net", settings(net={"role": "victim", "task": "detection", "family": "yolox_onnx"}), seed=0)
