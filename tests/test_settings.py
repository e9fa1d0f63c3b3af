import shutil

import pytest
import yaml

from lib import attacks, settings
from lib.defenses import defense
from lib.report import published


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
def test_every_scale_is_valid_and_names_only_its_own_networks(scale):
    chosen = settings.load(scale)
    used = {*chosen.f.victims, chosen.f.surrogate, chosen.f.feature_surrogate, chosen.f.victim}
    used |= {*chosen.a.sources.values(), chosen.a.victim, chosen.a.logits, chosen.a.features}
    tasks = {"segmentation": chosen.e.segmentation, "detection": chosen.e.detection}
    used |= {chosen.e.surrogate, *(name for half in tasks.values() for name in half.victims)}
    assert used <= set(chosen.networks)
    for task, half in tasks.items():
        assert {chosen.networks[name].task for name in half.victims} == {task}
    assert {8, 16} <= set(chosen.e.budgets)  # the columns of Tables 6 and 7
    assert all(chosen.networks[name].tap for name in [*chosen.a.sources.values(), chosen.f.feature_surrogate])


def test_the_defaults_of_the_code_are_those_of_params_yaml():
    assert settings.params().attacks == settings.Attacks()


def test_every_attack_has_its_section():
    assert {attack.section for attack in attacks.ATTACKS.values()} == set(settings.Attacks.model_fields)


def test_the_defenses_are_the_rows_of_tables_6_and_7():
    defenses = settings.params().defenses
    for name in ("table_06", "table_07"):
        assert ["none", *defenses] == list(published.TABLES[name]["rows"])
    for name, spec in defenses.items():
        assert defense(**spec)
        # The name says what the options are.
        assert name.split()[1] == str(next(value for key, value in spec.items() if key != "kind"))


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


def test_a_bad_value_says_where_it_stands(root):
    change(root / "params.yaml", lambda data: data["attacks"]["dim"].update(probability=1.5))
    with pytest.raises(ValueError, match=r"params.yaml: attacks.dim.probability: .*less than or equal to 1"):
        settings.params(root)


def test_parameters_that_a_scale_changes_are_checked_too(root):
    change(root / "scales" / "mini.yaml", lambda data: data.update(attacks={"fff": {"iteration": 5}}))
    with pytest.raises(ValueError, match="unknown key 'iteration'; did you mean 'iterations'"):
        settings.load("mini", root)


def test_a_scale_changes_only_the_parameters_that_it_names():
    scale = settings.load("mini").model_copy(update={"attacks": {"fff": {"iterations": 7}}})
    merged, paper = settings.params_at(scale).attacks, settings.params().attacks
    assert merged.fff.iterations == 7 and merged.fff.lr == paper.fff.lr
    assert merged.model_copy(update={"fff": paper.fff}) == paper


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda data: data["e"].update(budgets=[4, 16]), "e: .*budgets must hold 8 and 16"),
        (lambda data: data["segmenters"]["SegNet-Basic"].update(cycles=7), "steps are no 7 whole cycles of a cosine"),
        (lambda data: data["segmenters"]["SegNet-Basic"].update(maps=5), "segmenters.SegNet-Basic and networks.SegNet"),
        (lambda data: data["e"]["detection"]["data"].update(name="camvid"), "camvid has no labelled boxes here"),
    ],
)
def test_a_scale_that_cannot_run_is_refused_before_it_runs(root, edit, message):
    change(root / "scales" / "mini.yaml", edit)
    with pytest.raises(ValueError, match=message) as caught:
        settings.load("mini", root)
    assert "\n" not in str(caught.value)


def test_an_unknown_scale_lists_the_valid_ones():
    with pytest.raises(FileNotFoundError, match=r"scales/huge.yaml not found; the scales are mini, sample, paper"):
        settings.load("huge")


def test_broken_yaml_is_one_line(root):
    (root / "params.yaml").write_text("scale: [")
    with pytest.raises(ValueError, match=r"params.yaml: not valid YAML") as caught:
        settings.params(root)
    assert "\n" not in str(caught.value)


def test_levels_become_unit_scale():
    assert settings.unit(255) == 1 and settings.unit(16) == 16 / 255
