"""lib/experiment: victims with purifiers, attacks that know of them, fidelity in features."""

import numpy as np
import pytest
import torch
from torch import nn

from lib import keys, settings
from lib.attacks import decision
from lib.attacks.adaptive import Adaptive
from lib.data.detection import DetectionSet
from lib.data.images import ImageSet
from lib.defenses import defense
from lib.defenses.memo import Memo
from lib.experiment import Study, Through, adversaries, clean, evaluate, predictions
from lib.experiment import cells as module
from lib.experiment.cells import ATTACKER, MODES
from lib.networks.purifier import NRPResG, begin_as_identity
from lib.store import Store
from lib.tasks.predictions import classify
from lib.units import unit_images
from tests.experiment.test_study import fidelity, small

DEFENSES = {
    "JPEG 20": {"kind": "jpeg", "quality": 20},
    "NRP": {"kind": "nrp", "network": "NRP"},
    "NRP dynamic": {"kind": "nrp", "network": "NRP", "noise": 12.75, "eps": 16},
}


def purifier(seed=0):
    """A tiny one that changes images by tens of levels."""
    torch.manual_seed(seed)
    network = NRPResG(4, 1)
    begin_as_identity(network)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return network.eval().requires_grad_(False)


def undecided(network, images):
    """The untrained network with the mean of its logits taken away, so that its first class differs between images."""
    with torch.no_grad():
        network.network.head.bias -= network(unit_images(images)).mean(0)
    return network


@pytest.fixture
def study(tmp_path):
    """Five random images in shards of three, a victim, a feature extractor and a purifier, an empty store."""
    scale = settings.load("mini").model_copy(update={"batch": 3}, deep=True)
    images = torch.randint(0, 256, (5, 3, 48, 48), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    data = ImageSet(images, torch.arange(5), [f"i{k}" for k in range(5)])
    networks = {"VGG-16": small("vgg16", 0), "Inc-v3": small("inception_v3", 1)}
    networks = {name: undecided(network, images) for name, network in networks.items()} | {"NRP": purifier()}
    params = settings.params().model_copy(update={"seed": 3, "defenses": DEFENSES})
    return Study(params, scale, data, Store(tmp_path), "cpu", networks)


def count(study):
    return len(list(study.store.root.rglob("*.bin")))


def dynamic(study, **changed):
    """The dynamic purifier without the settings in between: the released purify.py's 0.05 within 16 levels."""
    return defense("nrp", **{"network": study.networks["NRP"], "noise": 0.05, "eps": 16 / 255} | changed)


# Defenses by name.


def test_none_is_no_defense(study):
    assert study.defense("none") is None


def test_a_network_is_the_scale_s_loaded_one_and_levels_become_units(study):
    bound = study.defense("NRP dynamic")
    assert bound.keywords["network"] is study.networks["NRP"]
    assert bound.keywords["noise"] == pytest.approx(0.05)
    assert "eps" not in bound.keywords  # it is the function's own
    assert study.defense("NRP dynamic", noise=0).keywords == study.defense("NRP").keywords
    x = unit_images(study.images.images)
    assert torch.allclose(bound(x), dynamic(study)(x), atol=1e-6)
    assert torch.equal(study.defense("NRP")(x), study.networks["NRP"](x).clamp(0, 1))


def test_options_that_are_no_levels_stay_as_they_are(study):
    assert study.defense("JPEG 20").keywords == {"quality": 20}
    assert study.defense("NRP", seed=16, tile=20).keywords | {"network": None} == {
        "network": None,
        "seed": 16,
        "tile": 20,
    }


def test_changed_options_are_those_of_params_yaml_with_these_instead(study):
    x = unit_images(study.images.images)
    assert torch.allclose(study.defense("NRP dynamic", noise=25.5)(x), dynamic(study, noise=0.1)(x))
    assert torch.allclose(study.defense("NRP dynamic", seed=4)(x), dynamic(study, seed=4)(x))
    assert study.params.defenses == DEFENSES  # left as it was


def key_of(study, name, **changed):
    """What a defense adds to the key of a result."""
    return keys.record(classify, (study.defense(name, **changed),), "cpu")


@pytest.mark.parametrize(
    "change",
    [
        lambda study: key_of(study, "NRP dynamic", seed=1),
        lambda study: key_of(study, "NRP dynamic", noise=12),
        lambda study: key_of(study, "NRP"),
        lambda study: study.networks["NRP"].conv_last.bias.data.add_(1e-3),
        lambda study: study.networks.update(NRP=purifier(seed=1)),
    ],
    ids=["seed", "option", "another", "weights", "network"],
)
def test_what_a_defense_depends_on_is_in_its_key(study, change):
    before = key_of(study, "NRP dynamic")
    assert key_of(study, "NRP dynamic") == before
    changed = change(study)
    assert (changed if isinstance(changed, dict) else key_of(study, "NRP dynamic")) != before


def test_the_code_of_a_defense_is_in_its_key_and_in_no_other_s(study):
    code = {name: set(key_of(study, name)["code"]) for name in ("JPEG 20", "NRP")}
    assert "lib/defenses/purifier.py" in code["NRP"] - code["JPEG 20"]
    assert "lib/defenses/transforms.py" in code["JPEG 20"] - code["NRP"]


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("NPR", {}, "^no defense 'NPR'; did you mean 'NRP'\\? There are: none, JPEG 20, NRP, NRP dynamic$"),
        ("NRP", {"sede": 1}, "the defense nrp has no option 'sede'; did you mean 'seed'"),
        ("JPEG 20", {"seed": 1}, "the defense jpeg has no option 'seed'"),
        ("NRP", {"network": "NPR"}, "no network 'NPR' in scales/mini.yaml; did you mean 'NRP'"),
    ],
)
def test_what_does_not_exist_is_named_in_one_line(study, name, changed, message):
    with pytest.raises(ValueError, match=message) as error:
        study.defense(name, **changed)
    assert "\n" not in str(error.value)


# Predictions with them.


def test_a_seed_gives_another_dynamic_result_and_is_stored_by_itself(study):
    images = study.images.images
    predicted = [predictions(study, "Inc-v3", images, "NRP dynamic", seed=seed) for seed in (1, 2, 1)]
    assert count(study) == 2 * len(study.shards())
    assert np.array_equal(predicted[0].confidence, predicted[2].confidence)
    assert not np.array_equal(predicted[0].confidence, predicted[1].confidence)
    for seed, found in zip((1, 2), predicted, strict=False):
        direct = classify(study.networks["Inc-v3"], images, defense=dynamic(study, seed=seed))
        assert np.allclose(found.confidence, direct["confidence"], atol=1e-5)
    predictions(study, "Inc-v3", images, "NRP dynamic")
    predictions(study, "Inc-v3", images, "NRP")
    assert count(study) == 4 * len(study.shards())


def test_the_grid_has_every_adversary_with_every_defense_for_every_victim(study):
    cells = [clean(study), *adversaries(study, "Noise")]
    asked = [(v, d, a) for v in ("Inc-v3", "VGG-16") for d in ("none", "NRP") for a in ("none", "Noise")]
    frame = evaluate(study, cells, ["Inc-v3", "VGG-16"], ["none", "NRP"])
    assert list(frame.cells[["victim", "defense", "attack"]].itertuples(index=False, name=None)) == asked
    for (victim, name, attack), part in zip(asked, frame.parts, strict=True):
        x = unit_images(next(cell.images for cell in cells if cell.attack == attack))
        x = study.networks["NRP"](x).clamp(0, 1) if name == "NRP" else x
        with torch.no_grad():
            classes = study.networks[victim](x).argmax(1)
        assert part["top1"].tolist() == (classes == study.images.labels).tolist()
        predicted = predictions(study, victim, next(cell.images for cell in cells if cell.attack == attack), name)
        assert predicted.classes[:, 0].tolist() == classes.tolist()


def test_images_are_purified_once_for_all_victims_and_not_at_all_for_stored_results(study):
    cells = [clean(study), *adversaries(study, "Noise")]
    seen = []
    study.networks["NRP"].register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    evaluate(study, cells, ["Inc-v3", "VGG-16"], ["none", "NRP"])
    assert sorted(seen) == [2, 2, 3, 3]  # five images in shards of three, clean and noisy
    evaluate(study, cells, ["Inc-v3", "VGG-16"], ["none", "NRP"])
    assert len(seen) == 4


def test_the_frame_counts_with_each_defense_against_the_bare_clean_prediction(study):
    (cell,) = adversaries(study, "Noise")
    rows = evaluate(study, [cell], ["Inc-v3", "VGG-16"], ["none", "NRP"]).rows
    assert len(rows) == 2 * 2 * 5 and set(rows["attack"]) == {"Noise"}
    victims = {name: study.networks[name] for name in ("Inc-v3", "VGG-16")}
    for (victim, name), part in rows.groupby(["victim", "defense"]):
        x = unit_images(cell.images)
        with torch.no_grad():
            before = victims[victim](unit_images(study.images.images)).argmax(1)
            after = victims[victim](study.networks["NRP"](x).clamp(0, 1) if name == "NRP" else x)
        assert part["image"].tolist() == study.images.ids
        assert part["top1"].tolist() == (after.argmax(1) == study.images.labels).tolist()
        five = (after.topk(5).indices == study.images.labels[:, None]).any(1)
        assert part["top5"].tolist() == five.tolist()
        assert part["fooled"].tolist() == (after.argmax(1) != before).tolist()
    assert 0 < rows["top5"].sum() < len(rows) and 0 < rows["fooled"].sum() < len(rows)


# Attacks that know of them.


def adaptive(study, mode, name, draws=2):
    """The victim as such an attacker sees it, put together without the study."""
    victim = study.networks["Inc-v3"]
    if mode.startswith("EOT"):
        seeds = [ATTACKER + k for k in range(draws)]
        return Adaptive(victim, *(dynamic(study, seed=seed) for seed in seeds), losses=mode == "EOT of losses")
    bound = dynamic(study) if name == "NRP dynamic" else defense("nrp", network=study.networks["NRP"])
    return Adaptive(victim, bound, bpda=mode == "BPDA")


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("exact", "NRP"),
        ("BPDA", "NRP"),
        ("EOT", "NRP dynamic"),
        ("exact", "NRP dynamic"),
        ("EOT of losses", "NRP dynamic"),
    ],
)
def test_an_attack_through_a_purifier_is_that_on_the_adaptive_network(study, mode, name):
    (cell,) = adversaries(study, "PGD (targeted)", "Inc-v3", through=Through(name, mode, 2), steps=3, eps=8)
    x, y, ids = unit_images(study.images.images), study.images.labels, study.images.ids
    schedule = {"steps": 3, "eps": 8 / 255, "step": 1.6 / 255, "start": "uniform", "target": "random"}
    direct = decision.pgd(adaptive(study, mode, name), x, y, ids=ids, seed=3, **schedule)
    assert (cell.images != (direct * 255).round().to(torch.uint8)).float().mean() <= 0.001
    known = f"{mode} (2 draws)" if mode.startswith("EOT") else mode
    assert (cell.attack, cell.surrogate, cell.knowledge) == ("PGD (targeted)", "Inc-v3", known)
    assert (cell.eps, cell.steps) == (8, 3)
    bare = decision.pgd(study.networks["Inc-v3"], x, y, ids=ids, seed=3, **schedule)
    assert (cell.images != (bare * 255).round().to(torch.uint8)).float().mean() > 0.1


def test_the_attackers_draws_are_not_the_defenders(study):
    assert min(range(ATTACKER, ATTACKER + 8)) > max(range(settings.load("paper").b.seeds))
    x = unit_images(study.images.images)
    assert not torch.equal(dynamic(study, seed=0)(x), dynamic(study, seed=ATTACKER)(x))


def test_every_way_to_see_a_defense_is_stored_by_itself(study):
    ways = [None, *(Through("NRP dynamic", mode, 2) for mode in MODES), Through("NRP"), Through("JPEG 20", "BPDA")]
    ways += [Through("NRP dynamic", "EOT", 3)]
    made = []
    for number, way in enumerate(ways, 1):
        made += adversaries(study, "PGD (targeted)", "Inc-v3", through=way, steps=1)
        assert count(study) == 2 * number  # two shards each
    # One sign step of two draws is the same for their logits and their losses.
    different = {cell.images.numpy().tobytes() for cell in made if "losses" not in cell.knowledge}
    assert len(different) == len(ways) - 1
    for way in ways:
        adversaries(study, "PGD (targeted)", "Inc-v3", through=way, steps=1)
    assert count(study) == 2 * len(ways)


def test_the_draws_of_eot_are_in_its_key(study, monkeypatch):
    for first in (ATTACKER, 5):
        monkeypatch.setattr(module, "ATTACKER", first)
        adversaries(study, "FGSM", "Inc-v3", through=Through("NRP dynamic", "EOT", 2))
    assert count(study) == 4


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("what", ["weights", "code"])
def test_the_purifier_is_in_the_key_of_an_attack_through_it(study, monkeypatch, mode, what):
    adversaries(study, "FGSM", "Inc-v3", through=Through("NRP", mode, 1))
    before = count(study)
    if what == "weights":
        study.networks["NRP"].conv_last.bias.data.add_(1e-3)
    else:
        real = keys.source
        edited = lambda path: real(path) + (b"# edited" if path.parts[-2:] == ("defenses", "purifier.py") else b"")  # noqa: E731
        monkeypatch.setattr(keys, "source", edited)
    adversaries(study, "FGSM", "Inc-v3", through=Through("NRP", mode, 1))
    assert count(study) == 2 * before


def test_every_member_of_an_ensemble_is_defended_by_the_purifier(study):
    names = ["Inc-v3", "VGG-16"]
    (cell,) = adversaries(study, "MI-FGSM", names, through=Through("NRP"), steps=2)
    bound = defense("nrp", network=study.networks["NRP"])
    seen = [Adaptive(study.networks[name], bound) for name in names]
    direct = decision.mi_fgsm(seen, unit_images(study.images.images), study.images.labels, steps=2)
    assert (cell.images != (direct * 255).round().to(torch.uint8)).float().mean() <= 0.001
    assert (cell.surrogate, cell.knowledge) == ("Inc-v3 + VGG-16", "exact")


@pytest.mark.parametrize(
    ("attack", "through", "message"),
    [
        ("SSP", Through("NRP"), "^only attacks on logits can go through a defense, not one on features$"),
        ("FFF", Through("NRP"), "^only attacks on logits can go through a defense, not one on responses$"),
        ("Noise", Through("NRP"), "^only attacks on logits can go through a defense, not one on nothing$"),
        (
            "FGSM",
            Through("NRP", "eaxct"),
            "^no mode 'eaxct'; did you mean 'exact'\\? There are: exact, BPDA",
        ),
        (
            "FSA",
            Through("NRP", "EOT of losses"),
            "^FSA ascends no cross-entropy, whose mean over draws is EOT of losses",
        ),
        (
            "FGSM",
            Through("NPR"),
            "^no defense 'NPR'; did you mean 'NRP'\\? There are: none, JPEG 20, NRP, NRP dynamic$",
        ),
        ("FGSM", Through("JPEG 20"), "passes no gradient; attack it with BPDA$"),
        ("FGSM", Through("NRP", "EOT", 0), "EOT at least one draw of it$"),
        ("FGSM", Through("JPEG 20", "EOT"), "the defense jpeg has no option 'seed'"),
    ],
)
def test_an_attack_that_cannot_be_is_refused_in_one_line(study, attack, through, message):
    with pytest.raises(ValueError, match=message) as error:
        adversaries(study, attack, "VGG-16", through=through)
    assert "\n" not in str(error.value) and count(study) == 0


def test_an_attack_through_nothing_is_refused_in_one_line(study):
    with pytest.raises(ValueError, match="none"):
        adversaries(study, "FGSM", "Inc-v3", through=Through("none"))


# Fidelity.


class Doubled(nn.Module):
    """A network whose tap gives the images minus a half, doubled."""

    def __init__(self):
        super().__init__()
        self.tap = nn.Identity()

    def forward(self, x):
        return self.tap(2 * x - 1)


def shares(x, other):
    """By the definition, in NumPy: squared distance of 2x - 1, over its squared size."""
    pairs = [
        (2 * a.double().numpy() / 255 - 1, 2 * b.double().numpy() / 255 - 1) for a, b in zip(x, other, strict=True)
    ]
    return [((b - a) ** 2).sum() / (a**2).sum() for a, b in pairs]


@pytest.fixture
def tapped(study):
    study.networks["VGG-16"] = Doubled()
    study.scale.networks["VGG-16"] = study.scale.networks["VGG-16"].model_copy(update={"tap": "tap"})
    return study


def test_fidelity_in_features_is_the_squared_distance_as_a_share(tapped):
    (cell,) = adversaries(tapped, "Noise")
    found = fidelity(tapped, cell.images, extractor="VGG-16")
    assert found["features"] == pytest.approx(shares(tapped.images.images, cell.images), rel=1e-4)
    errors = ((cell.images.double() - tapped.images.images.double()) ** 2).mean((1, 2, 3)).numpy()
    assert found["psnr"] == pytest.approx(10 * np.log10(255**2 / errors), rel=1e-5)
    assert set(fidelity(tapped, cell.images)) == {"psnr"}


def test_fidelity_is_that_of_what_the_defense_makes(study):
    found = fidelity(study, study.images.images, "NRP", "VGG-16")
    x = unit_images(study.images.images)
    layers = study.networks["VGG-16"].network.features
    features = layers[: [name for name, _ in layers.named_children()].index("relu3_3") + 1]
    with torch.no_grad():
        y = study.networks["NRP"](x).clamp(0, 1)
        a, b = (features((part - 0.5) / 0.25).double().flatten(1) for part in (x, y))
    assert found["features"] == pytest.approx(((b - a) ** 2).sum(1) / (a**2).sum(1), rel=1e-3)
    assert found["psnr"] == pytest.approx(10 * (1 / ((y - x).double() ** 2).mean((1, 2, 3))).log10(), rel=1e-4)


def test_nothing_changed_is_infinitely_near(study):
    found = fidelity(study, study.images.images, extractor="VGG-16")
    assert np.isposinf(found["psnr"]).all() and (found["features"] == 0).all()


def test_fidelity_keeps_the_order_of_images_of_several_sizes(tapped):
    generator = torch.Generator().manual_seed(1)
    sizes = [(48, 48), (40, 56), (48, 48), (45, 51), (40, 56), (48, 48)]
    images = [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]
    # The further down the list, the further away.
    others = [(image.int() + 4 * k + 1).clamp(0, 255).to(torch.uint8) for k, image in enumerate(images)]
    data = DetectionSet(images, [f"p{k}" for k in range(6)], list(range(6)), {})
    photographs = Study(tapped.params, tapped.scale, data, tapped.store, "cpu", tapped.networks, batch=2)
    found = fidelity(photographs, others, extractor="VGG-16")
    assert found["features"] == pytest.approx(shares(images, others), rel=1e-4)
    assert (np.diff(found["psnr"]) < 0).all() and (np.diff(found["features"]) > 0).all()


def test_fidelity_is_computed_once_and_keyed_by_all_that_it_depends_on(study):
    images = study.images.images
    other = images.flip(-1)
    asked = [(images, "NRP", None), (images, "NRP", "VGG-16"), (images, "NRP dynamic", None), (other, "NRP", None)]
    for number, arguments in enumerate(asked, 1):
        fidelity(study, *arguments)
        fidelity(study, *arguments)
        assert count(study) == number * len(study.shards())
    study.networks["VGG-16"].network.features.conv1_1.weight.data.mul_(1.1)
    fidelity(study, images, "NRP", "VGG-16")
    study.networks["NRP"].conv_last.bias.data.add_(0.1)
    fidelity(study, images, "NRP")
    assert count(study) == (len(asked) + 2) * len(study.shards())


def test_a_memo_tells_images_of_other_sizes_apart():
    memo = Memo(lambda x: x.flip(3))
    for sides in ((4, 6), (6, 4)):
        assert memo(torch.zeros(1, 3, *sides)).shape == (1, 3, *sides)
