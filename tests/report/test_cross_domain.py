"""lib/report/cross_domain.py: Table 4, Figure 10 and what CDA costs, from outcomes that are known."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from lib import settings
from lib.data.detection import DetectionSet
from lib.data.images import ImageSet
from lib.experiment import Adversaries, Judged, Study, adversaries, clean, grid
from lib.networks.cda_generator import Generator
from lib.report import cross_domain, transforms
from lib.report.transforms import DETECTION
from lib.store import Store
from tests.experiment.test_judging import Corner
from tests.report.test_transforms import Images, found

GENERATORS = ["CDA-ImageNet", "CDA-Comics", "CDA-Paintings"]
# Objects found of eight, without a defense and behind NRP.
HITS = {
    ("none", 0): (8, 7),
    ("CDA-ImageNet", 8): (6, 7),
    ("CDA-ImageNet", 16): (4, 7),
    ("CDA-Comics", 8): (4, 7),
    ("CDA-Comics", 16): (8, 0),
    ("CDA-Paintings", 8): (6, 7),
    ("CDA-Paintings", 16): (0, 7),
    ("SSP", 8): (0, 4),
    ("SSP", 16): (4, 4),
    ("Noise", 8): (8, 7),
    ("Noise", 16): (8, 7),
}


def precision(hits):
    """Of `hits` objects found of eight and no false alarm: 1 up to that recall, at COCO's 101 recalls."""
    return 100 * (hits * 100 // 8 + 1) / 101 if hits else 0


@pytest.fixture
def gathered():
    sides = {"width": 40, "height": 40}
    box = {"category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}
    truth = {
        "images": [{"id": k, **sides} for k in range(1, 9)],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [{"id": k, "image_id": k, **box} for k in range(1, 9)],
    }
    objects = SimpleNamespace(images=Images(truth=truth, image_ids=list(range(1, 9)), labels=[None] * 8))
    judged = [
        Judged(Adversaries(attack, "S", eps, 5, []), front, "Mask-R-CNN", found(count))
        for (attack, eps), hits in HITS.items()
        for front, count in zip(("none", "NRP"), hits, strict=True)
    ]
    other = [one._replace(victim="RetinaNet", outcome=found(8)) for one in judged]
    return transforms.gather(objects, other + judged, DETECTION)


def test_table_4_stands_beside_the_paper_at_both_budgets(gathered):
    table = cross_domain.table_04(transforms.score(gathered), "Mask-R-CNN").set_index("attack")
    assert list(table.index) == ["no attack", *GENERATORS, "SSP, 5 steps", "Noise"] and (table["n"] == 8).all()
    assert (table["victim"] == "Mask-R-CNN").all()
    for (attack, eps), (hits, _) in HITS.items():
        if attack != "none":
            row = table.loc["SSP, 5 steps" if attack == "SSP" else attack]
            assert row[f"eps {eps}"].startswith(f"{precision(hits):.1f} ["), (attack, eps)
    assert table["eps 8 (paper)"].tolist() == ["-", "35.2", "40.5", "41.7", "31.8", "-"]
    assert table["eps 16 (paper)"].tolist() == ["-", "8.1", "16.8", "14.8", "9.7", "-"]


def test_the_clean_row_is_the_same_in_both_columns(gathered):
    row = cross_domain.table_04(transforms.score(gathered), "Mask-R-CNN").set_index("attack").loc["no attack"]
    assert row["eps 8"] == row["eps 16"] and row["eps 8"].startswith("100.0 [")


def test_the_claims_say_what_the_paper_prints_at_each_budget(gathered):
    claims = cross_domain.claims(gathered, "Mask-R-CNN", GENERATORS)
    assert claims["budget"].tolist() == [8] * 3 + [16] * 3
    assert claims["CDA"].tolist() == GENERATORS * 2
    # Only CDA-ImageNet at 16 leaves less than SSP in Table 4: 8.1 against 9.7.
    assert claims["claim"].tolist() == ["SSP leaves less"] * 3 + ["SSP is close"] + ["SSP leaves less"] * 2
    assert claims["paper"].tolist() == ["+3.4", "+8.7", "+9.9", "-1.6", "+7.1", "+5.1"]


def test_the_claims_are_what_cda_leaves_less_what_ssp_leaves(gathered):
    claims = cross_domain.claims(gathered, "Mask-R-CNN", GENERATORS)
    differences = [precision(hits) for hits in (6, 4, 6)] + [0, precision(8) - precision(4), -precision(4)]
    assert [cell.value for cell in claims["CDA less SSP"]] == pytest.approx(differences)
    # At 16 CDA-ImageNet and SSP find the same objects: close, with the whole interval; CDA-Paintings leaves none.
    assert claims["verdict"].tolist() == ["reproduced"] * 5 + ["not reproduced"]
    beyond = [precision(8) - precision(hits) for hits in (6, 4, 6, 4, 8, 0)]
    assert [cell.value for cell in claims["beyond noise"]] == pytest.approx(beyond)
    assert claims["more than noise"].iloc[[3, 4, 5]].tolist() == ["yes", "inconclusive", "yes"]
    assert (claims["n"] == 8).all()


def test_a_generator_that_the_paper_does_not_print_makes_no_claim(gathered):
    named = {"CDA-Comics": "my own"}
    judged = [
        one._replace(cell=dataclasses.replace(one.cell, attack=named.get(one.cell.attack, one.cell.attack)))
        for one in gathered.judged
    ]
    own = cross_domain.claims(gathered._replace(judged=judged), "Mask-R-CNN", ["my own"])
    assert own[["paper", "claim", "verdict"]].values.tolist() == [["-"] * 3] * 2
    assert own["CDA less SSP"].iloc[0].value == pytest.approx(precision(4))
    table = cross_domain.table_04(transforms.score(gathered._replace(judged=judged)), "Mask-R-CNN")
    assert table.set_index("attack").loc["my own", "eps 8 (paper)"] == "-"


def test_what_nrp_wins_back_is_paired(gathered):
    table = cross_domain.behind(gathered, "Mask-R-CNN", [*GENERATORS, "SSP"])
    assert list(zip(table["attack"], table["budget"], strict=True)) == [
        ("no attack", 0), *((attack, eps) for attack in [*GENERATORS, "SSP"] for eps in (8, 16))
    ]  # fmt: skip
    for row in table.to_dict("records"):
        bare, behind = HITS["none" if row["attack"] == "no attack" else row["attack"], row["budget"]]
        values = [row[column].value for column in ("no defense", "behind NRP", "change")]
        expected = [precision(bare), precision(behind), precision(behind) - precision(bare)]
        assert values == pytest.approx(expected), row["attack"]
    answers = {(row["attack"], row["budget"]): row["NRP helps"] for row in table.to_dict("records")}
    assert answers["no attack", 0] == "-" and answers["SSP", 16] == "inconclusive"
    assert answers["CDA-Comics", 16] == "no" and answers["CDA-Paintings", 16] == "yes"
    shares = {(row["attack"], row["budget"]): row["share won back"] for row in table.to_dict("records")}
    # Of what was taken from 8 objects: 3 of 4, 7 of 8; CDA-Comics took nothing at 16.
    for cell, behind, bare in (("CDA-Comics", 8), 7, 4), (("CDA-Paintings", 16), 7, 0):
        won = (precision(behind) - precision(bare)) / (precision(8) - precision(bare))
        assert shares[cell] == f"{100 * won:.0f} %"
    assert shares["no attack", 0] == shares["CDA-Comics", 16] == "-"


def test_a_cell_that_was_not_judged_is_named(gathered):
    with pytest.raises(ValueError, match="Mask-R-CNN was not asked about CDA-Comics of 4 behind NRP"):
        cross_domain.evidence(gathered, "Mask-R-CNN", "CDA-Comics", 4, "NRP")


class Watching(Corner):
    """A detector that remembers what it was shown."""

    def __init__(self):
        super().__init__()
        self.shown = []

    def forward(self, images):
        self.shown += [image.clone() for image in images]
        return super().forward(images)


@pytest.fixture
def objects(tmp_path):
    """Six images of two sizes, a detector, and a purifier that turns RGB into BGR."""
    generator = torch.Generator().manual_seed(0)
    sides = [(16, 16), (13, 22)] * 3
    images = [torch.randint(0, 256, (3, *side), generator=generator, dtype=torch.uint8) for side in sides]
    truth = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    purifier = nn.Conv2d(3, 3, 1, bias=False)
    purifier.weight.data = torch.eye(3).flip(0)[:, :, None, None]
    torch.manual_seed(0)
    networks = {name: Generator(4, 1).eval().requires_grad_(False) for name in GENERATORS}
    networks |= {"NRP": purifier.requires_grad_(False), "Mask-R-CNN": Watching()}
    data = DetectionSet(images, [f"p{k}" for k in range(6)], list(range(6)), truth)
    return Study(settings.params(), settings.load("mini"), data, Store(tmp_path), "cpu", networks)


def test_the_generators_propose_at_both_budgets_under_the_names_of_their_rows(objects):
    cells = cross_domain.proposals(objects, {"first": "CDA-ImageNet", "second": "CDA-Comics"})
    assert [(cell.attack, cell.surrogate, cell.eps) for cell in cells] == [
        ("first", "CDA-ImageNet", 8), ("first", "CDA-ImageNet", 16),
        ("second", "CDA-Comics", 8), ("second", "CDA-Comics", 16),
    ]  # fmt: skip
    for cell in cells:
        (alone,) = adversaries(objects, "CDA", cell.surrogate, eps=cell.eps)
        for image, other, original in zip(cell.images, alone.images, objects.images.images, strict=True):
            assert torch.equal(image, other) and (image.int() - original.int()).abs().max() == cell.eps
    smoothed = cross_domain.proposals(objects, {"first": "CDA-ImageNet"}, smoothing=True)
    assert not torch.equal(smoothed[1].images[0], cells[1].images[0])


def test_figure_10_shows_what_the_detector_saw(objects):
    cells = [clean(objects), *cross_domain.proposals(objects, {"row": "CDA-ImageNet"})]
    detector = objects.networks["Mask-R-CNN"]
    judged, seen = [], {}
    for cell in cells:
        for front in ("none", "NRP"):
            detector.shown.clear()
            judged += grid(objects, [cell], ["Mask-R-CNN"], [front])
            seen[cell.attack, cell.eps, front] = [
                (x * 255).round().byte().permute(1, 2, 0).numpy() for x in detector.shown
            ]
    drawn = cross_domain.pictures(objects, judged, "Mask-R-CNN", "row", 2, 0.5)
    kinds = {"clean": ("none", 0, "none"), "adversary": ("row", 16, "none"), "purified": ("row", 16, "NRP")}
    # Spread evenly over six images; the detector was shown those of equal size together.
    for row, image in enumerate((0, 3)):
        for kind, cell in kinds.items():
            picture = drawn[f"image_{row}_{kind}"]
            assert any(np.array_equal(picture, other) for other in seen[cell]), (row, kind)
            score = picture[0, 0, 0] / 255
            assert drawn[f"scores_{row}_{kind}"] == pytest.approx([score] if score >= 0.5 else [])
        assert np.array_equal(drawn[f"image_{row}_clean"], objects.images.images[image].permute(1, 2, 0).numpy())
        assert np.array_equal(drawn[f"image_{row}_adversary"], cells[2].images[image].permute(1, 2, 0).numpy())
        assert np.array_equal(drawn[f"image_{row}_purified"], drawn[f"image_{row}_adversary"][:, :, ::-1])
    assert set(drawn) == {"threshold"} | {
        f"{what}_{row}_{kind}" for what in ("image", "boxes", "scores", "names") for row in (0, 1) for kind in kinds
    }


def classified(right, eps=16.0):
    """A frame of ten images, of which `right[attack, victim]` are right."""
    return pd.concat(
        [
            pd.DataFrame({"attack": attack, "eps": eps, "victim": victim, "image": [f"i{k}" for k in range(10)],
                          "top1": [k < count for k in range(10)]})
            for (attack, victim), count in right.items()
        ],
        ignore_index=True,
    )  # fmt: skip


def test_a_classifier_that_taught_the_generator_stands_in_brackets():
    right = {("none", "A"): 10, ("none", "B"): 9, ("SSP", "A"): 5, ("SSP", "B"): 4, ("CDA", "A"): 1, ("CDA", "B"): 6}
    table = cross_domain.classifiers(classified(right), ["CDA", "another"], "A").set_index("attack")
    assert list(table.index) == ["no attack", "SSP", "CDA"] and (table["n"] == 10).all()
    assert table["trained against"].tolist() == ["-", "-", "A"]
    assert table.loc["CDA", "A"].startswith("(10.0 [") and table.loc["CDA", "A"].endswith("])")
    assert table.loc["CDA", "B"].startswith("60.0 [") and table.loc["SSP", "A"].startswith("50.0 [")
    assert table.loc["no attack", "B"].startswith("90.0 [")


def test_what_smoothing_changes_is_paired_by_image():
    plain = classified({("one", "A"): 5, ("two", "A"): 2})
    blurred = classified({("two", "A"): 9, ("one", "A"): 5}).sample(frac=1, random_state=0)
    one, two = cross_domain.smoothing(plain, blurred).to_dict("records")
    assert (one["attack"], one["budget"], one["as proposed"].value, one["smoothed"].value) == ("one", 16, 50, 50)
    # The same five images: ten that agree leave room for 1 - 0.025^(1/10) of all.
    assert one["change"].value == 0 and one["change"].high == pytest.approx(30.85, abs=0.01)
    assert two["change"].value == pytest.approx(70) and two["smoothed"].value == 90 and two["n"] == 10


def test_training_has_paid_once_it_took_less_time_than_ssp(monkeypatch, tmp_path):
    scale = settings.load("mini")
    seconds = {"VGG-16": 2.0, "CDA-ImageNet": 0.5, "CDA-Comics": 0.002, "CDA-Paintings": 3.0}
    asked = []

    def known(study, attack, surrogate, images):
        asked.append((attack, surrogate, images))
        return seconds[surrogate]

    monkeypatch.setattr(cross_domain, "seconds_per_image", known)
    facts = {"CDA-ImageNet": {"seconds": 4500, "device": "CPU"}, "CDA-Paintings": {"seconds": 60, "device": "CPU"}}
    for name, recorded in facts.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(recorded))
    images = torch.zeros(30, 3, 8, 8, dtype=torch.uint8)
    data = ImageSet(images, torch.zeros(30), [str(k) for k in range(30)])
    study = Study(settings.params(), scale, data, Store(tmp_path), "cpu")
    table = cross_domain.costs(study, scale.d, scale, tmp_path)
    assert asked == [("SSP", "VGG-16", cross_domain.TIMED), *(("CDA", name, cross_domain.TIMED) for name in GENERATORS)]
    assert table["attack"].iloc[0] == "SSP, 100 steps" and table["attack"].iloc[1].startswith("CDA-ImageNet (stand-in ")
    assert table["per image"].tolist() == ["2 s", "500 ms", "2 ms", "3 s"]
    assert table["against SSP"].tolist()[:3] == ["1", "4 times faster", "1000 times faster"]
    # 4,500 s of training, 1.5 s saved per image. Not trained here, or slower than SSP: it never pays.
    assert table["training"].tolist() == ["-", "4500 s on CPU", "-", "60 s on CPU"]
    assert table["pays after"].tolist() == ["-", "3,000 images", "-", "-"]
    assert (table["images timed"] == cross_domain.TIMED).all() and (table["device"] == "CPU").all()
    assert table["precision"].tolist() == ["fp32"] * 4
    few = Study(settings.params(), scale, data.slice(0, 3), Store(tmp_path), "cpu")
    assert (cross_domain.costs(few, scale.d, scale, tmp_path)["images timed"] == 3).all()
    # What a GPU trained cannot be paid for in a CPU's time.
    (tmp_path / "CDA-ImageNet.json").write_text(json.dumps({"seconds": 4500, "device": "NVIDIA H100"}))
    elsewhere = cross_domain.costs(few, scale.d, scale, tmp_path).iloc[1]
    assert elsewhere["training"] == "4500 s on NVIDIA H100" and elsewhere["pays after"] == "-"
