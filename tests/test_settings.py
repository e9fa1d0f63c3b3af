import inspect
import re
import shutil

import pytest
import yaml

from lib import settings
from lib.attacks.registry import ATTACKS
from lib.defenses import defense
from lib.networks.cda_generator import GENERATORS
from lib.networks.purifier import PURIFIERS
from lib.report import published
from lib.settings.networks import GeneratorSpec, PurifierSpec
from lib.units import OF_ATTACKS, unit


@pytest.fixture
def root(tmp_path):
    """A copy of params.yaml and scales/ that a test may spoil."""
    shutil.copy(settings.ROOT / "params.yaml", tmp_path)
    shutil.copytree(settings.ROOT / "scales", tmp_path / "scales")
    return tmp_path


def change(path, edit):
    data = yaml.safe_load(path.read_text())
    edit(data)
    path.write_text(yaml.safe_dump(data))


@pytest.mark.parametrize("scale", settings.SCALES)
def test_every_scale_is_valid_and_fits_the_notebooks(scale):
    chosen = settings.load(scale)
    used = {spec["network"] for spec in settings.params().defenses.values() if "network" in spec}
    assert used <= set(chosen.networks)
    for task, half in {"segmentation": chosen.e.segmentation, "detection": chosen.e.detection}.items():
        assert {chosen.networks[name].task for name in half.victims} == {task}
    assert {chosen.networks[name].task for name in chosen.d.detection.victims} == {"detection"}
    attacked = [*chosen.a.sources.values(), chosen.f.feature_surrogate, chosen.g.feature_surrogate, chosen.g.robust]
    attacked += [chosen.c.feature_surrogate, chosen.d.feature_surrogate, chosen.e.surrogate]
    attacked += [spec.extractor for spec in chosen.purifiers.values()]
    assert all(chosen.networks[name].tap for name in attacked)
    # The attack of 100 steps and the pictures are of images that the numbers are of, too.
    assert chosen.b.images[10] == max(chosen.b.images.values()) <= ((chosen.b.data or chosen.data).count or 50_000)
    assert chosen.g.examples <= chosen.g.images <= chosen.data.count
    assert chosen.d.examples <= chosen.d.images <= chosen.data.count and chosen.c.varied <= chosen.c.images
    assert chosen.c.images <= chosen.data.count and chosen.c.surrogate in chosen.c.surrogates
    assert set(chosen.d.victims) > {chosen.d.classifier} & set(chosen.d.victims)  # Figure 9 is of another victim
    for name in set(chosen.d.generators.values()) & set(chosen.generators):
        assert chosen.generators[name].classifier == chosen.d.classifier
    assert max(chosen.c.batches) < settings.params().attacks.fsa.batch
    # The rows of Table 4, and which of them Figure 9 shows.
    assert set(chosen.d.generators) < set(published.TABLES["table_04"]["rows"])
    assert set(chosen.d.pictured) <= set(chosen.d.generators)


@pytest.mark.parametrize("scale", settings.SCALES)
def test_every_purifier_is_a_network_that_purifies(scale):
    chosen = settings.load(scale)
    for name in {settings.purifier(), *chosen.purifiers}:
        spec = chosen.networks[name]
        assert (spec.task, spec.family) == ("purification", "purifier") and spec.architecture in PURIFIERS
    for name in chosen.purifiers:
        # It is trained from scratch: the scale must not load it from another place than where it is written to.
        assert chosen.networks[name].weights is None


@pytest.mark.parametrize("scale", settings.SCALES)
def test_every_generator_is_a_network_that_generates(scale):
    chosen = settings.load(scale)
    for name in {*chosen.d.generators.values(), *chosen.generators}:
        spec = chosen.networks[name]
        assert (spec.task, spec.family) == ("generation", "cda_generator") and spec.architecture in GENERATORS
    for name in chosen.generators:
        # It is trained from scratch: the scale must not load it from another place than where it is written to.
        assert chosen.networks[name].weights is None


def test_the_defaults_of_a_generator_s_training_are_those_of_the_released_code():
    """Muzammal-Naseer/CDA, train.py: budget, sizes, batch and rate; 300 and 299 pixels against Inception."""
    known = GeneratorSpec(images="x", classifier="y")
    assert (known.eps, known.resize, known.side, known.batch, known.lr) == (10, 256, 224, 15, 2e-4)
    assert (known.render, known.crops) == ("none", "centre")
    assert known.steps == 85_400 == 1_281_167 // 15 // 100 * 100  # one epoch of ImageNet
    for name, recipe in settings.load("paper").generators.items():
        changed = {key for key, value in recipe.model_dump().items() if value != getattr(known, key)}
        assert changed <= {"images", "classifier", "resize", "side", "steps"}, name
        assert (recipe.classifier, recipe.resize, recipe.side) == ("Inc-v3", 300, 299)


def test_crops_may_be_as_large_as_the_images_and_are_free_where_nothing_is_resized():
    as_large = GeneratorSpec(images="x", classifier="y", resize=64, side=64)
    unchanged = GeneratorSpec(images="x", classifier="y", resize=None, side=500)
    assert as_large.side == as_large.resize and unchanged.side == 500


def test_the_mini_scale_spells_out_its_purifiers_recipe(root):
    """The pipeline tracks these values, and not the defaults in the code."""
    written = yaml.safe_load((root / "scales" / "mini.yaml").read_text())["purifiers"]
    compared = {"adversaries", "classifier"}  # of those that the paper has not
    assert all(set(recipe) | compared == set(PurifierSpec.model_fields) for recipe in written.values())


def test_the_recipe_of_the_paper_is_the_defaults_of_the_code():
    """Those of which anything is known: facts A.2 and A.3."""
    recipe, known = (
        settings.load("paper").purifiers["NRP-own"],
        PurifierSpec(images="x", extractor="y"),
    )
    assert (known.adversarial, known.pixel, known.feature, known.lr) == (5e-3, 1e-2, 1.0, 1e-4)
    assert (known.eps, known.crop, known.batch, known.budgets, known.init) == (16, 128, 16, "fixed", "random")
    ours = {"images", "extractor", "ssp_steps", "checkpoint_minutes"}
    changed = {name for name, value in recipe.model_dump().items() if value != getattr(known, name)}
    assert changed <= ours
    purifier = settings.load("paper").networks["NRP-own"]
    assert (purifier.architecture, purifier.width, purifier.blocks) == ("nrp", 64, 23)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_library_user_gets_what_params_yaml_says(attack):
    """Every parameter of params.yaml is one of the function, whose own default is the same value."""
    signature = inspect.signature(attack.run).parameters
    for name, value in getattr(settings.params().attacks, attack.section):
        default = signature[name].default
        if default is None:  # FGSM's step, R-FGSM's alpha: a part of eps
            default = signature["eps"].default / {"step": 1, "alpha": 3}[name]
        assert default == (pytest.approx(value / 255) if name in OF_ATTACKS else value), name


def test_every_attack_has_its_section():
    assert {attack.section for attack in ATTACKS.values()} == set(settings.Attacks.model_fields)


def test_the_transforms_are_the_rows_of_tables_6_and_7():
    defenses = settings.params().defenses
    kinds = {"jpeg", "tvm", "median"}
    transforms = {name: spec for name, spec in defenses.items() if spec["kind"] in kinds}
    for name in ("table_06", "table_07"):
        assert ["none", *transforms] == list(published.TABLES[name]["rows"])
    for name, spec in transforms.items():
        assert defense(**spec)
        # The name says what the options are.
        assert name.split()[1] == str(next(value for key, value in spec.items() if key != "kind"))


def test_the_purifier_stands_there_as_the_paper_uses_it():
    """Static, and dynamic as in the released purify.py: noise of 0.05 within 16 levels."""
    defenses = settings.params().defenses
    assert defenses["NRP"] == {"kind": "nrp", "network": "NRP"}
    dynamic = defenses["NRP dynamic"]
    assert dynamic == {"kind": "nrp", "network": "NRP", "noise": 12.75, "eps": 16}
    assert unit(dynamic["noise"]) == 0.05


def test_an_unknown_key_is_refused_and_the_nearest_named(root):
    change(root / "params.yaml", lambda data: data["attacks"]["ssp"].update(stepps=3))
    with pytest.raises(ValueError, match=r"params.yaml: attacks.ssp: unknown key 'stepps'; did you mean 'steps'\?"):
        settings.params(root)


def test_an_unknown_key_of_a_scale_is_refused(root):
    change(root / "scales" / "mini.yaml", lambda data: data.update(netwroks={}))
    with pytest.raises(
        ValueError, match=r"scales/mini.yaml: top level: unknown key 'netwroks'; did you mean 'networks'"
    ):
        settings.load("mini", root)


def test_a_defense_without_its_kind_is_refused(root):
    change(root / "params.yaml", lambda data: data["defenses"]["JPEG 75"].pop("kind"))
    with pytest.raises(ValueError, match=r"^params.yaml: defenses.JPEG 75: must hold kind, such as jpeg or nrp$"):
        settings.params(root)


def test_a_bad_value_says_where_it_stands(root):
    change(root / "params.yaml", lambda data: data["attacks"]["dim"].update(probability=1.5))
    with pytest.raises(ValueError, match=r"params.yaml: attacks.dim.probability: .*less than or equal to 1"):
        settings.params(root)


@pytest.mark.parametrize(
    "section, changed, message",
    [
        ("fsa", {"gradient": "rolled"}, "attacks.fsa.gradient: Input should be 'unrolled' or 'envelope'"),
        ("fsa", {"batch": 0}, "attacks.fsa.batch: .*greater than or equal to 1"),
        ("fsa", {"reg": 0}, "attacks.fsa.reg: .*greater than 0"),
        ("fsa", {"iteration": 5}, "attacks.fsa: unknown key 'iteration'; did you mean 'iterations'"),
        ("cda", {"smoothing": "twice"}, "attacks.cda.smoothing: .*valid boolean"),
        ("cda", {"gk": True}, "attacks.cda: unknown key 'gk'"),
        ("i_fgsm", {"steps": 0}, "attacks.i_fgsm.steps: .*greater than or equal to 1"),
        ("mi_fgsm", {"decay": float("nan")}, "attacks.mi_fgsm.decay: Input should be a finite number"),
        ("mi_fgsm", {"decay": -1}, "attacks.mi_fgsm.decay: .*greater than or equal to 0"),
        ("dim_ti", {"kernel": 0}, "attacks.dim_ti.kernel: .*greater than or equal to 1"),
        ("dim_ti", {"edge": -3.0}, "attacks.dim_ti.edge: .*greater than or equal to 0"),
        ("fff", {"lr": float("inf")}, "attacks.fff.lr: Input should be a finite number"),
        ("fff", {"halve_every": 0}, "attacks.fff.halve_every: .*greater than or equal to 1"),
        ("fsa", {"tolerance": float("inf")}, "attacks.fsa.tolerance: Input should be a finite number"),
    ],
)
def test_a_bad_value_of_fsa_or_cda_is_one_line(root, section, changed, message):
    change(root / "params.yaml", lambda data: data["attacks"][section].update(changed))
    with pytest.raises(ValueError, match=f"params.yaml: {message}") as caught:
        settings.params(root)
    assert "\n" not in str(caught.value)


def test_a_scale_may_switch_smoothing_on(root):
    change(root / "scales" / "mini.yaml", lambda data: data["attacks"].update(cda={"smoothing": True}))
    chosen = settings.params_at(settings.load("mini", root)).attacks.cda
    assert chosen.smoothing is True and chosen.eps == 16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fff": {"iteration": 5}}, "^attacks: fff: unknown key 'iteration'; did you mean 'iterations'"),
        ({"ffff": {"lr": 1}}, "^attacks: top level: unknown key 'ffff'; did you mean 'fff'"),
        ({"dim": {"probability": 2}}, "^attacks: dim.probability: .*less than or equal to 1"),
    ],
)
def test_other_values_of_parameters_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        settings.params().with_attacks(**changes)


def test_parameters_that_a_scale_changes_are_checked_too(root):
    change(root / "scales" / "mini.yaml", lambda data: data.update(attacks={"fff": {"iteration": 5}}))
    message = "^scales/mini.yaml: attacks.fff: unknown key 'iteration'; did you mean 'iterations'\\? There are: eps, "
    with pytest.raises(ValueError, match=message):
        settings.load("mini", root)


def test_a_scale_changes_only_the_parameters_that_it_names():
    scale = settings.load("mini").model_copy(update={"attacks": settings.AttackChanges(fff={"iterations": 7})})
    merged, paper = settings.params_at(scale).attacks, settings.params().attacks
    assert merged.fff.iterations == 7 and merged.fff.lr == paper.fff.lr
    assert merged.model_copy(update={"fff": paper.fff}) == paper


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda data: data["e"].update(budgets=[4, 16]), "e.budgets: must hold 8 and 16, the columns of"),
        (lambda data: data["h"].update(budgets=[0, 0.0627]), "h.budgets.1: eps is in 0-255 levels: 0.0627 looks like"),
        (lambda data: data["h"].update(robust={"ResNet50-AT": 0.0157}), "h.robust.*looks like"),
        (lambda data: data["f"].update(images=-1), "f.images: .*greater than or equal to 1"),
        (lambda data: data["f"].update(images=0), "f.images: .*greater than or equal to 1"),
        (lambda data: data["f"].update(iterations=[1, -2]), "f.iterations.1: .*greater than or equal to 1"),
        (lambda data: data["data"].update(count=0), "data.count: .*greater than or equal to 1"),
        (lambda data: data["purifiers"]["NRP"].update(lr=0), "purifiers.NRP.lr: .*greater than 0"),
        (
            lambda data: data["purifiers"]["NRP"].update(pixel=float("nan")),
            "purifiers.NRP.pixel: Input should be a finite number",
        ),
        (lambda data: data["networks"]["NRP"].update(width=0), "networks.NRP.width: .*greater than or equal to 1"),
        (lambda data: data.update(batch=0), "batch: .*greater than or equal to 1"),
        (lambda data: data["segmenters"]["SegNet-Basic"].update(cycles=7), "steps are no 7 whole cycles of a cosine"),
        (lambda data: data["e"]["detection"]["data"].update(name="camvid"), "camvid has no labelled boxes here"),
        (lambda data: data["b"].update(victims=["VGG-16"]), "b: unknown key 'victims'; did you mean 'victim'"),
        (lambda data: data["b"].pop("victim"), "b.victim: Field required"),
        (lambda data: data["b"].update(images={"ten": 100}), "b.images.ten.*: Input should be a valid integer"),
        (lambda data: data["g"].update(esemble=[]), "g: unknown key 'esemble'; did you mean 'ensemble'"),
        (lambda data: data.pop("g"), "g: Field required"),
        (lambda data: data["purifiers"]["NRP"].update(epsilon=8), "purifiers.NRP: unknown key 'epsilon'"),
        (lambda data: data["purifiers"]["NRP"].update(crop=40), "purifiers.NRP.crop: .*multiple of 32"),
        (
            lambda data: data["purifiers"]["NRP"].update(budgets="random"),
            "purifiers.NRP.budgets: .*'fixed' or 'uniform'",
        ),
        (lambda data: data["purifiers"]["NRP"].update(init="zero"), "purifiers.NRP.init: .*'identity' or 'random'"),
        (lambda data: data["purifiers"]["NRP"].update(steps=0), "purifiers.NRP.steps: .*greater than or equal"),
        (
            lambda data: data["purifiers"]["NRP"].update(extractor="VGG"),
            "purifiers.NRP.extractor: no network 'VGG'; did you mean 'VGG-1",
        ),
        (lambda data: data["networks"].pop("NRP"), "purifiers.NRP: no network 'NRP'; did you mean "),
        (
            lambda data: data["networks"].pop("CDA-Comics"),
            "generators.CDA-Comics: no network 'CDA-Comics'; did you mean 'CDA-",
        ),
        (
            lambda data: data["generators"]["CDA-Comics"].update(classifier="VGG"),
            "generators.CDA-Comics.classifier: no network 'VGG'; did you mean 'VGG-1",
        ),
        (
            lambda data: data["generators"]["CDA-Comics"].update(classifier="SegNet-Basic"),
            "generators.CDA-Comics.classifier: networks.SegNet-Basic does segmentation, not classification",
        ),
        (lambda data: data["generators"]["CDA-Comics"].update(resize=0), "CDA-Comics.resize: .*equal to 32"),
        (
            lambda data: data["generators"].update({"VGG-16": data["generators"]["CDA-Comics"]}),
            "generators.VGG-16: networks.VGG-16 does classification, not generation",
        ),
        (
            lambda data: data["generators"]["CDA-Comics"].update(resize=40),
            "generators.CDA-Comics: crops of 48 pixels do not fit images resized to 40",
        ),
        (
            lambda data: data["generators"]["CDA-Comics"].update(render="cubist"),
            "generators.CDA-Comics.render: .*'none', 'comic' or 'painting'",
        ),
        (
            lambda data: data["generators"]["CDA-Comics"].update(render="comic"),
            "generators.CDA-Comics: images are rendered at one size: name the shorter side in resize",
        ),
        (lambda data: data["stand_ins"]["ResNet50-FS"].update(smoothing=0.6), "ResNet50-FS.smoothing: .*equal to 0.5"),
        (lambda data: data["d"].pop("classifier"), "d.classifier: Field required"),
        (
            lambda data: data["generators"]["CDA-Comics"].update(epsilon=8),
            "generators.CDA-Comics: unknown key 'epsilon'",
        ),
        (
            lambda data: data["networks"]["CDA-Comics"].update(task="segmentation"),
            "networks.CDA-Comics: family cda_generator with task segmentation: cda_generator has task generation",
        ),
        (
            lambda data: data["networks"]["VGG-16"].update(task="generation"),
            "VGG-16: family small with task generation",
        ),
        (lambda data: data["networks"]["NRP"].update(family="cda_generator"), "cda_generator with task purification"),
        (lambda data: data["c"].pop("natural"), "c.natural: Field required"),
        (lambda data: data["c"].update(victims=["VGG-16", "Inc-v5"]), "c.victims.1: no network 'Inc-v5'; did you mean"),
        (lambda data: data["stand_ins"]["Adv-v3"].update(sources=["NRP"]), "sources.0: networks.NRP does purification"),
        (
            lambda data: data["detectors"].update(Mine=data["detectors"]["RetinaNet"]),
            "detectors.Mine: no network",
        ),
        (lambda data: data["networks"].update({"VGG-16": 3}), "networks.VGG-16: Input should be"),
        (lambda data: data.update(networks=[]), "networks: Input should be a valid dictionary"),
        (lambda data: data["b"].update(images={100: 3}), "b.images: must hold 10, the steps that Table 1 is about"),
        (lambda data: data["c"].update(batchs=[1]), "c: unknown key 'batchs'; did you mean 'batches'"),
        (lambda data: data["d"].update(generators=["CDA-Comics"]), "d.generators: Input should be a valid dictionary"),
        (lambda data: data["networks"]["NRP"].pop("task"), "networks.NRP: family purifier with task classification"),
        (lambda data: data["networks"]["VGG-16"].update(task="purification"), "VGG-16: family small with task purific"),
    ],
)
def test_a_scale_that_cannot_run_is_refused_before_it_runs(root, edit, message):
    change(root / "scales" / "mini.yaml", edit)
    with pytest.raises(ValueError, match=message) as caught:
        settings.load("mini", root)
    assert "\n" not in str(caught.value)


def test_an_unknown_scale_lists_the_valid_ones():
    with pytest.raises(
        FileNotFoundError,
        match=r"scales/huge.yaml not found; did you mean '\w+'\? There are: dryrun, lab, mini, paper, pictures, sample",
    ):
        settings.load("huge")


@pytest.mark.parametrize("file", ["params.yaml", "scales/mini.yaml"])
@pytest.mark.parametrize(
    "content, said",
    [
        (b"scale: [", "not valid YAML: .* at line 1, column 9"),
        (b"scale: mini\n\tbatch: 3\n", "not valid YAML: .*at line 2"),
        (b"seed: 0\nscale: mini\nseed: 1\n", "not valid YAML: 'seed' stands twice at line 3, column 1"),
        (b"attacks: {fgsm: {eps: 8, eps: 16}}\n", "not valid YAML: 'eps' stands twice at line 1, column 26"),
        (b"a: &a {k: 1}\nb: {<<: *a, k: 2}\nb: 3\n", "not valid YAML: 'b' stands twice at line 3, column 1"),
        ("note: caf\xe9".encode("latin-1"), "not valid YAML: 'utf-8' codec"),
        (b"<<<<<<< HEAD\nseed: 0\n", "not valid YAML: .* at line 2"),
        (b"- scale\n", r"must hold keys and values, not '\['scale'\]'"),
        (b"mini\n", "must hold keys and values, not 'mini'"),
        (b"", "Field required|Input should"),
    ],
)
def test_a_file_that_is_no_settings_is_one_line_with_the_place(root, file, content, said):
    (root / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"{file}: .*(?:{said})") as caught:
        settings.params(root) if file == "params.yaml" else settings.load("mini", root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../scales/mini", "Mini", "mini.yaml"])
def test_a_scale_is_called_as_its_file(root, name):
    with pytest.raises(FileNotFoundError, match="not found; did you mean 'mini'"):
        change(root / "params.yaml", lambda data: data.update(scale=str(name)))
        settings.load(None, root)


@pytest.mark.parametrize(
    "edit, place",
    [
        (lambda data: data.update(batch=-1), "batch"),
        (lambda data: data["data"].update(count=-1), "data.count"),
        (lambda data: data["a"].update(images=-1), "a.images"),
        (lambda data: data["a"].update(iterations=[0]), "a.iterations.0"),
        (lambda data: data["e"]["detection"].update(steps=0), "e.detection.steps"),
        (lambda data: data.update(attacks={"ssp": {"steps": 0}}), "attacks.ssp.steps"),
        (lambda data: data.update(attacks={"mi_fgsm": {"decay": -1}}), "attacks.mi_fgsm.decay"),
        (lambda data: data.update(attacks={"dim_ti": {"kernel": 0}}), "attacks.dim_ti.kernel"),
        (lambda data: data.update(attacks={"fff": {"lr": -0.1}}), "attacks.fff.lr"),
    ],
)
def test_a_count_or_a_rate_that_cannot_be_is_refused_where_it_stands(root, edit, place):
    change(root / "scales" / "mini.yaml", edit)
    with pytest.raises(ValueError, match=rf"^scales/mini\.yaml: {re.escape(place)}: Input should be greater than"):
        settings.load("mini", root)


@pytest.mark.parametrize("asked", ["many", "0", "-1", "1.5"])
def test_an_impossible_number_of_workers_is_one_line(monkeypatch, asked):
    monkeypatch.setenv("COMPANION_WORKERS", asked)
    with pytest.raises(ValueError, match=f"^COMPANION_WORKERS={asked} is none of: auto, 1, 2"):
        settings.params().cores()


def test_levels_become_unit_scale():
    assert unit(255) == 1 and unit(16) == 16 / 255


LEVELS_AND_UNITS = [
    ("eps", 0.0627, "eps is in 0-255 levels: 0.0627 looks like [0,1]; 0.0627*255 = 15.99"),
    ("eps", 16 / 255, "eps is in 0-255 levels: 0.06275 looks like [0,1]; 0.06275*255 = 16"),
    ("eps", "16/255", "eps is in 0-255 levels, a plain number: write 16 for 16/255"),
    ("eps", "16 / 255", "eps is in 0-255 levels, a plain number: write 16 for 16 / 255"),
    ("eps", "sixteen", "eps is in 0-255 levels, a number, not 'sixteen'"),
    ("eps", True, "eps is in 0-255 levels, a number, not True"),
    ("eps", None, "eps is in 0-255 levels, a number, not None"),
    ("eps", -1, "eps is in 0-255 levels, got -1"),
    ("eps", 256, "eps is in 0-255 levels, got 256"),
    ("eps", float("nan"), "eps is in 0-255 levels, got nan"),
    ("step", 0.00627, "step is in 0-255 levels: 0.00627 looks like [0,1]; 0.00627*255 = 1.599"),
    ("step", 0.01, "step is in 0-255 levels: 0.01 looks like [0,1]; 0.01*255 = 2.55"),
    ("step", "1.6/255", "step is in 0-255 levels, a plain number: write 1.6 for 1.6/255"),
]


def amounts():
    """Every section of the attacks with every amount that it has."""
    sections = yaml.safe_load((settings.ROOT / "params.yaml").read_text())["attacks"]
    return [(section, *case) for section, keys in sections.items() for case in LEVELS_AND_UNITS if case[0] in keys]


@pytest.mark.parametrize("section, name, value, message", amounts())
def test_amounts_that_are_no_levels_are_refused_for_every_attack(root, section, name, value, message):
    change(root / "params.yaml", lambda data: data["attacks"][section].update({name: value}))
    with pytest.raises(ValueError) as caught:
        settings.params(root)
    assert str(caught.value) == f"params.yaml: attacks.{section}: {message}"


@pytest.mark.parametrize(
    "changed",
    [
        {"eps": 0},
        {"eps": 0.5},
        {"eps": 1},
        {"eps": 255},
        {"step": 0.2},
        {"eps": 1, "step": 0.1},
        {"step": 0.05, "steps": 1000},
    ],
)
def test_small_amounts_in_levels_are_taken(root, changed):
    change(root / "params.yaml", lambda data: data["attacks"]["i_fgsm"].update(changed))
    assert settings.params(root).attacks.i_fgsm.model_dump().items() >= changed.items()


def test_a_random_step_own_attacks_defenses_and_trainings_are_in_levels_too(root):
    for path, section, message in [
        ("params.yaml", ("attacks", "r_fgsm", "alpha", 0.0209), "alpha is in 0-255 levels: 0.0209 looks like [0,1]"),
        ("params.yaml", ("defenses", "NRP dynamic", "noise", 0.05), "noise is in 0-255 levels: 0.05 looks like [0,1]"),
        ("params.yaml", ("defenses", "NRP dynamic", "eps", "16/255"), "write 16 for 16/255"),
        ("scales/mini.yaml", ("stand_ins", "ResNet50-AT", "eps", 8 / 255), "0.03137*255 = 8"),
        ("scales/mini.yaml", ("purifiers", "NRP", "step", 0.01), "0.01*255 = 2.55"),
        ("scales/mini.yaml", ("generators", "CDA-Comics", "eps", "10/255"), "write 10 for 10/255"),
    ]:
        group, entry, key, value = section
        before = (root / path).read_text()
        change(root / path, lambda data, g=group, e=entry, k=key, v=value: data[g][e].update({k: v}))
        with pytest.raises(ValueError) as caught:
            settings.params(root)
            settings.load("mini", root)
        assert message in str(caught.value) and "\n" not in str(caught.value)
        (root / path).write_text(before)
    own = {"file": "own/x.py", "eps": 16 / 255}
    with pytest.raises(ValueError, match=r"0\.06275\*255 = 16"):
        settings.validated(settings.OwnAttack, own, "x")
    with pytest.raises(ValueError, match="write 2 for 2/255"):
        settings.validated(settings.OwnAttack, own | {"eps": 16, "step": "2/255"}, "x")


def derived(root, name="few", **content):
    (root / "scales" / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return settings.load(name, root)


def test_a_scale_like_another_holds_only_what_differs(root):
    mini = settings.load("mini", root)
    few = derived(root, like="mini", g={"images": 7}, e={"detection": {"data": {"count": 3}}}, f={"iterations": [1, 5]})
    assert (few.name, few.like, few.g.images, few.e.detection.data.count) == ("few", "mini", 7, 3)
    assert few.f.iterations == [1, 5]  # a list as a whole
    assert few.g.model_copy(update={"images": mini.g.images}) == mini.g
    assert few.e.segmentation == mini.e.segmentation and few.e.detection.victims == mini.e.detection.victims
    sections = set(settings.Scale.model_fields) - {"name", "like", "networks", "g", "e", "f"}
    assert all(getattr(few, section) == getattr(mini, section) for section in sections)
    assert settings.load("mini", root) == mini


def test_a_scale_like_another_finds_its_networks_where_that_one_does(root):
    sample, few = settings.load("sample", root), derived(root, like="sample")
    for name, spec in few.networks.items():
        assert spec.weights == (sample.networks[name].weights or f"models/sample/{name}.safetensors")
        assert spec.sha256 == sample.networks[name].sha256
    assert settings.records(few, root) == root / "results" / "sample" / "train" / "networks"
    assert settings.records(sample, root) == settings.records(few, root)


@pytest.mark.parametrize(
    "content, message",
    [
        ({"like": "minni"}, "scales/minni.yaml not found; did you mean 'mini'"),
        ({"like": ["mini"]}, r"scales/\['mini'\].yaml not found"),
        ({"like": "few"}, "scales/few.yaml: like: few is itself like few; name a scale that stands alone"),
        ({"like": "lab"}, "scales/few.yaml: like: lab is itself like mini; name a scale that stands alone"),
        ({"like": "mini", "g": {"image": 7}}, "scales/few.yaml: g: unknown key 'image'; did you mean 'images'"),
        ({"like": "mini", "gg": {}}, "scales/few.yaml: top level: unknown key 'gg'"),
        ({"like": "mini", "e": {"budgets": [8]}}, "scales/few.yaml: e.budgets: must hold 8 and 16, the columns of"),
    ],
)
def test_a_scale_like_no_other_is_one_line(root, content, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        derived(root, **content)
    assert "\n" not in str(caught.value)


def test_a_mistake_in_the_scale_that_another_is_like_is_reported_where_it_stands(root):
    change(root / "scales" / "mini.yaml", lambda data: data["g"].update(image=7))
    with pytest.raises(ValueError, match=r"^scales/mini\.yaml: g: unknown key 'image'"):
        settings.load("lab", root)
