"""lib/report/purification.py: what purification wins back and costs, from outcomes that are known."""

import numpy as np
import pandas as pd
import pytest
import torch

from lib import settings
from lib.data.images import ImageSet
from lib.experiment import Adversaries, Study, clean
from lib.report import purification
from lib.store import Store
from tests.experiment.test_study import small

# Images right out of 100: without a defense and behind NRP.
RIGHT = {("none", ""): (100, 99), ("Noise", ""): (99, 97), ("SSP", "VGG-16"): (10, 90), ("DIM", "A + B"): (0, 20)}


@pytest.fixture
def frame():
    rows = [
        {"attack": attack, "surrogate": surrogate, "victim": "Inc-v3", "defense": defense, "image": f"i{image:03}",
         "top1": image < right}
        for (attack, surrogate), counts in RIGHT.items()
        for defense, right in zip(("none", "NRP"), counts, strict=True)
        for image in range(100)
    ]  # fmt: skip
    return purification.labelled(pd.DataFrame(rows))


def test_what_was_taken_and_won_back_is_counted_over_the_same_images(frame):
    claims = purification.won_back(frame, "NRP").set_index("attack")
    assert list(claims.index) == ["Noise", "SSP on VGG-16", "DIM on A + B"]
    assert [cell.value for cell in claims["taken"]] == pytest.approx([1, 90, 100])
    assert [cell.value for cell in claims["won back"]] == pytest.approx([-2, 80, 20])
    # 80 points are 35 more than half of 90; 20 are 30 less than half of 100.
    assert [cell.value for cell in claims["beyond half"]] == pytest.approx([-2.5, 35, -30])
    assert claims["half won back"].tolist() == ["-", "yes", "no"]
    assert claims["share"].tolist() == ["-", "89 %", "20 %"]


def test_few_images_leave_it_open(frame):
    # The images just around the limit: won back on six of ten.
    close = frame.copy()
    behind = (close["attack"] == "DIM on A + B") & (close["defense"] == "NRP")
    close.loc[behind, "top1"] = close.loc[behind, "image"] < "i053"
    claims = purification.won_back(close, "NRP").set_index("attack")
    assert claims.loc["DIM on A + B", "half won back"] == "inconclusive"


def test_the_tables_read_as_before_and_after(frame):
    table = purification.before_after(purification.numbers(frame), "NRP").set_index("attack")
    assert table.loc["SSP on VGG-16", "Inc-v3"].replace("→", "").split()[0] == "10.0"
    assert "→ 90.0 [" in table.loc["SSP on VGG-16", "Inc-v3"] and table.loc["no attack", "n"] == 100
    glance = purification.verdicts(purification.won_back(frame, "NRP")).set_index("attack")
    assert glance["Inc-v3"].to_dict() == {"Noise": "-", "SSP on VGG-16": "89 %, yes", "DIM on A + B": "20 %, no"}


def test_the_cost_is_the_loss_on_clean_images(frame):
    (row,) = purification.cost(frame, ["NRP"]).to_dict("records")
    assert (row["clean"].value, row["purified"].value, row["change"].value) == pytest.approx((100, 99, -1))
    assert row["at most 5"] == "yes"


@pytest.fixture
def study(tmp_path):
    """Five random images, an untrained victim, and a purifier that makes everything black."""
    images = torch.randint(0, 256, (5, 3, 48, 48), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    data = ImageSet(images, torch.arange(5), [f"i{k}" for k in range(5)])
    black = torch.nn.Conv2d(3, 3, 1)
    torch.nn.init.zeros_(black.weight)
    torch.nn.init.zeros_(black.bias)
    networks = {"Inc-v3": small("inception_v3", 1), "VGG-16": small("vgg16", 0), "NRP": black}
    return Study(settings.params(), settings.load("mini"), data, Store(tmp_path), "cpu", networks)


def test_the_pictures_are_the_images_and_what_the_victim_says_of_them(study):
    darker = Adversaries("SSP", "VGG-16", 16, 100, (study.images.images.int() - 5).clamp(0).to(torch.uint8))
    drawn = purification.pictures(study, {"SSP": darker}, "Inc-v3", "NRP", 3, settings.load("mini").data)
    assert drawn["adversary"].shape == drawn["purified"].shape == (1, 3, 48, 48, 3)
    assert (drawn["purified"] == 0).all() and drawn["groups"].tolist() == ["SSP"]
    rows = [next(k for k in range(5) if (darker.images[k].permute(1, 2, 0).numpy() == image).all())
            for image in drawn["adversary"][0]]  # fmt: skip
    assert len(set(rows)) == 3
    assert (drawn["clean"] == study.images.images[rows].permute(0, 2, 3, 1).numpy()).all()
    with torch.no_grad():
        said = study.networks["Inc-v3"](darker.images[rows].float() / 255).softmax(1)
        dark = study.networks["Inc-v3"](torch.zeros(1, 3, 48, 48)).softmax(1)
    assert drawn["before_score"][0] == pytest.approx(said.max(1).values.numpy(), rel=1e-4)
    assert drawn["after_score"][0] == pytest.approx(np.full(3, dark.max().item()), rel=1e-4)
    assert drawn["right_before"][0].tolist() == (said.argmax(1).numpy() == rows).tolist()


def test_quality_says_how_near_the_images_come(study):
    lighter = Adversaries("SSP", "VGG-16", 16, 100, study.images.images)
    table = purification.quality(study, [clean(study), lighter], "NRP", "VGG-16")
    assert table["PSNR (dB)"].tolist() == ["-", "-"]  # nothing differs, so the ratio is infinite
    power = [-10 * (image.float() / 255).square().mean().log10().item() for image in study.images.images]
    assert float(table["PSNR, purified"].iloc[0].split()[0]) == pytest.approx(np.mean(power), abs=0.06)
    assert (table["n"] == 5).all()
