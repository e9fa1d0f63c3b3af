"""lib/report/facts.py: networks, parameters, and what trainings and attacks cost, from records that are known."""

import pytest
import torch

from lib import settings
from lib.attacks.registry import ATTACKS
from lib.report import facts
from lib.report.published import TABLES
from tests.conftest import record_training
from tests.made import cell, pixels

MINI = settings.load("mini")
GENERATORS = ["CDA-ImageNet", "CDA-Comics", "CDA-Paintings"]


def recorded(records, name, seconds, **facts):
    """`records` is results/<scale>/train/networks."""
    record_training(records.parents[1], name, seconds, **facts)


@pytest.fixture
def records(tmp_path):
    return tmp_path / "train" / "networks"


def test_every_parameter_is_in_the_table_and_a_changed_one_beside_the_paper_s():
    used = settings.params().with_attacks(fff={"iterations": 7})
    table = facts.attack_parameters(used, settings.load("paper")).set_index("attack")
    assert set(table.index) == set(ATTACKS)
    for name, chosen in used.attacks:
        shown = table.loc[facts.attack_name(name), "parameters"]
        for key, value in chosen:
            assert f"{key} {value:.4g}" in shown if isinstance(value, float) else f"{key} {value}" in shown
    assert table.loc["FFF", "paper scale"] == "iterations 10000" and table.loc["SSP", "paper scale"] == "same"


def test_table_2_prints_both_of_feature_denoisings_times_and_ours_as_recorded(records):
    chosen = MINI.b.model_copy(update={"hardened": {"Feature Denoising": "ResNet50-FD"}})
    recorded(records, "NRP", images=3000, seconds=7200, device="NVIDIA H100")
    table = facts.training_cost(chosen, MINI, records, 3000)
    printed = TABLES["table_02"]["rows"]
    times = [printed["Feature Denoising"][1], 52, 90, printed["NRP"][1], 2]
    assert table["time"].tolist() == [f"{hours} h" for hours in times]
    assert table["GPU-hours"].tolist() == ["6,656 h", "6,656 h", "11,520 h", "112 h", "2 h"]
    assert table["training images"].iloc[-1] == "3,000, no labels" and table["GPUs"].iloc[-1] == 1
    recorded(records, "ResNet50-FD", images=400, seconds=36)
    ours = facts.training_cost(chosen, MINI, records, 3000).iloc[-1]
    # What was evaluated on 400 images was trained on 3,000; on a CPU no GPU was used.
    names = ["training images", "time", "GPUs", "GPU-hours"]
    assert ours[names].tolist() == ["3,000, labelled", "0.01 h", 0, "-"]


def test_what_the_two_defenses_need_is_what_their_trainings_recorded(records):
    recorded(records, "NRP", images=1234, seconds=347.4, device="NVIDIA H100")
    recorded(records, "ResNet50-FS", images=400, seconds=77.0)
    table = facts.needs(MINI.c, MINI, records, 3000).set_index("defense")
    assert table["training"].tolist() == ["77 s on CPU", "347 s on NVIDIA H100"]
    assert table["training images"].tolist() == ["3,000", "1,234"] and table["labels"].tolist() == ["yes", "no"]
    assert table["protects"].iloc[1].startswith("the 7 networks below")
    without = facts.needs(MINI.c.model_copy(update={"scattered": None}), MINI, records, 3000).iloc[0]
    assert without[["network", "training images", "training"]].tolist() == ["none at this scale", "-", "-"]


def test_training_has_paid_once_it_took_less_time_than_ssp(records):
    recorded(records, "CDA-ImageNet", seconds=4500, device="CPU")
    recorded(records, "CDA-Paintings", seconds=60, device="CPU")
    seconds = {"SSP": 2.0, "CDA-ImageNet": 0.5, "CDA-Comics": 0.002, "CDA-Paintings": 3.0}
    took = {name: {"seconds": value, "device": "CPU"} for name, value in seconds.items()}
    table = facts.generator_cost(took, MINI.d.generators, MINI, records, 10)
    assert table["attack"].iloc[0] == "SSP" and table["attack"].iloc[1].startswith("CDA-ImageNet (stand-in ")
    assert table["per image"].tolist() == ["2 s", "500 ms", "2 ms", "3 s"]
    assert table["against SSP"].tolist()[:3] == ["1", "4 times faster", "1000 times faster"]
    # 4,500 s of training, 1.5 s saved per image. Not trained here, or slower than SSP: it never pays.
    assert table["training"].tolist() == ["-", "4500 s on CPU", "-", "60 s on CPU"]
    assert table["pays after"].tolist() == ["-", "3,000 images", "-", "-"]
    assert (table["images timed"] == 10).all() and (table["device"] == "CPU").all()
    # What a GPU trained cannot be paid for in a CPU's time.
    recorded(records, "CDA-ImageNet", seconds=4500, device="NVIDIA H100")
    elsewhere = facts.generator_cost(took, MINI.d.generators, MINI, records, 10).iloc[1]
    assert elsewhere["training"] == "4500 s on NVIDIA H100" and elsewhere["pays after"] == "-"


def test_the_runs_say_how_many_images_of_which_size_and_how_many_steps():
    mixed = [torch.zeros(3, 9, 8), torch.zeros(3, 6, 8)]
    rows = facts.transform_runs({"a": (torch.zeros(3, 3, 4, 10), 5), "b": (mixed, 7)})
    assert rows["pixels"].tolist() == ["4x10", "2 sizes, 6x8 to 9x8"] and rows["SSP steps"].tolist() == [5, 7]


@pytest.mark.parametrize(("name", "text"), [("VGG-16", "stand-in vgg16"), ("NRP", "stand-in nrp_resg of width ")])
def test_a_stand_in_is_called_one(name, text):
    assert facts.networks(MINI, [name])["network"].iloc[0].startswith(text)


def said(scale, stages):
    return facts.listed(facts.paper_differences(settings.load(scale), stages))


@pytest.mark.parametrize(
    ("scale", "stage", "difference"),
    [
        ("sample", "e_transforms", "SSP runs 10 of 100 steps in detection"),
        ("sample", "e_transforms", "SSP runs 50 of 100 steps in segmentation"),
        ("sample", "e_transforms", "YOLOX-nano, not RetinaNet"),
        ("sample", "d_cda", "YOLOX-nano, not Mask-R-CNN"),
        ("sample", "f_attack_parameters", "FFF drives 7 of 15 layers"),
        ("sample", "f_attack_parameters", "surrogate ResNet-50, not VGG-16"),
        ("sample", "f_attack_parameters", "victim MobileNetV2, not Inc-v3"),
        ("sample", "g_visual_purification", "an ensemble of 3, not 4"),
        ("sample", "g_visual_purification", "robust ResNet-50, not ResNet50-AT"),
        ("sample", "b_at_comparison", "ResNet-50: pruned to 18 %, 8-bit weights"),
        ("sample", "b_at_comparison", "NRP: trained here on 227 photographs for 1,582 steps"),
        ("mini", "f_attack_parameters", "FFF: iterations 2000, not 10000"),
        ("mini", "a_why_ssp_works", "small stand-in networks, trained here on drawn scenes"),
    ],
)
def test_what_a_scale_does_otherwise_follows_from_its_settings(scale, stage, difference):
    assert difference in said(scale, [stage])


def test_the_papers_own_scale_differs_in_nothing():
    assert said("paper", [f"{letter}_" for letter in "abcdefg"]) == ""


def test_a_table_says_only_what_concerns_its_cells():
    found = facts.paper_differences(settings.load("sample"), ["e_transforms"])
    jpeg = cell(pixels(30), task="segmentation", attack="none", defense="JPEG 75", victim="SegNet-Basic")
    ssp = cell(pixels(30), task="segmentation", attack="SSP", surrogate="VGG-16", victim="SegNet-Basic")
    assert facts.listed(facts.concerning(found, jpeg)) == "Not as in the paper: SegNet-Basic: trained here at 180x240."
    assert "50 of 100 steps in segmentation" in facts.listed(facts.concerning(found, ssp))
    assert "detection" not in facts.listed(facts.concerning(found, ssp))


def test_the_parameters_say_where_ssp_runs_fewer_steps():
    sample = settings.load("sample")
    table = facts.attack_parameters(settings.params_at(sample), sample)
    shown = table.set_index("attack")["paper scale"]
    assert shown["SSP"] == "same; SSP runs 10 of 100 steps in detection; SSP runs 50 of 100 steps in segmentation"
    assert shown["FFF"] == "iterations 10000; FFF drives 7 of 15 layers" and shown["DIM"] == "same"
