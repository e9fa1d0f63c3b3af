"""A user's own attack and defense: what docs/own_attack.md and docs/own_defense.md say, done; and what goes wrong."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from lib import keys, own, settings
from lib.attacks.registry import ATTACKS
from lib.data.images import ImageSet
from lib.defenses import defense
from lib.experiment import Study, Through, adversaries, all_attacks, clean, evaluate, open_study, predictions
from lib.report import facts
from lib.settings import ROOT, OwnAttack
from lib.store import Store
from lib.units import unit_images
from tests.experiment.test_study import small


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text()


def blocks(name: str) -> tuple[str, str, str]:
    """The file, the line below its heading, and the command of a page."""
    found = dict(re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", page(name)))
    return found["python"], found["yaml"], found[""]


# The pages, done as they say in a copy of the project at a scale of seconds.


@pytest.fixture(scope="module")
def pipeline(project, tmp_path_factory):
    """A copy with the pipeline, fewer victims, and few images."""
    project = shutil.copytree(project, tmp_path_factory.mktemp("pipeline") / "project", symlinks=True)
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, project)
    path = project / "scales" / "smoke.yaml"
    scale = yaml.safe_load(path.read_text())
    for appendix in "fg":
        scale[appendix]["victims"] = scale[appendix]["victims"][::3][:2]
    scale["f"]["iterations"] = [1, 10]
    scale["e"]["budgets"] = [8, 16]
    scale["e"]["detection"]["victims"] = scale["e"]["detection"]["victims"][:1]
    path.write_text(yaml.safe_dump(scale))
    params = project / "params.yaml"
    params.write_text(re.sub(r"(?m)^scale: .*$", "scale: smoke", params.read_text()))
    run(project, "dvc init --no-scm -q")
    return project


def run(project: Path, command: str) -> str:
    """What a command prints, in the environment that the Makefile gives it."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(project), "DVC_NO_ANALYTICS": "1"}
    tool, *rest = command.split()
    module = {"companion": "lib"}.get(tool, tool)
    done = subprocess.run(
        [sys.executable, "-m", module, *rest], cwd=project, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    return done.stdout


def follow(project: Path, name: str) -> tuple[str, Path]:
    """Do what a page says; the name that it gives, and the file."""
    code, lines, command = blocks(name)
    heading, line = lines.splitlines()
    ((chosen, spec),) = yaml.safe_load(line).items()
    file = project / spec.get("file", spec.get("kind"))
    file.write_text(code)
    text = (project / "params.yaml").read_text().splitlines()
    end = text.index(heading) + 1
    while end < len(text) and text[end].startswith("  "):
        end += 1
    (project / "params.yaml").write_text("\n".join([*text[:end], line, *text[end:]]) + "\n")
    run(project, command.strip())
    return chosen, file


def stored(project: Path, name: str) -> Path:
    """The table or figure's data of that name."""
    return next((project / "results" / "smoke").glob(f"*/*/{name}"))


def last_row(table: Path) -> str:
    """Of a table in Markdown, below which a line may stand."""
    return [line for line in table.read_text().splitlines() if line.startswith("|")][-1]


def listed(name: str) -> list[str]:
    """The tables in which a page says that one's own stands."""
    return re.findall(r"`(?:results/mini/\w+/tables/)?(\w+)\.md`", page(name))


def test_the_page_on_attacks_puts_one_into_every_table_that_it_lists(pipeline):
    name, file = follow(pipeline, "own_attack")
    assert len(listed("own_attack")) == 5
    for table in listed("own_attack"):
        assert f"| {name} " in stored(pipeline, f"{table}.md").read_text()
    transfer = pd.read_csv(stored(pipeline, "transfer.csv"), keep_default_na=False)
    tried = sum(attack.transfers for attack in ATTACKS.values())
    assert list(dict.fromkeys(transfer["attack"]))[-1] == name and transfer["attack"].nunique() == tried + 1
    row = pd.read_csv(stored(pipeline, "parameters.csv")).iloc[-1]
    assert row["parameters"] == "eps 16, step 8" and str(file.relative_to(pipeline)) in row["source"]
    # Nothing runs twice, but an edit of the file does.
    assert "up to date" in run(pipeline, "dvc status f_attack_parameters")
    file.write_text(file.read_text() + "\n")
    assert "own" in run(pipeline, "dvc status f_attack_parameters")


def test_the_page_on_defenses_puts_one_into_every_table_that_it_lists(pipeline):
    name, _ = follow(pipeline, "own_defense")
    assert len(listed("own_defense")) == 5
    for table in listed("own_defense"):
        assert last_row(stored(pipeline, f"{table}.md")).count(f" {name} ") == 1, table
    assert "| - " in last_row(stored(pipeline, "table_06.md"))  # the paper has no such row
    assert name in set(pd.read_csv(stored(pipeline, "budgets.csv"))["line"])


def test_params_yaml_says_where_the_lines_go():
    for name in ("own_attack", "own_defense"):
        assert blocks(name)[1].splitlines()[0] in (ROOT / "params.yaml").read_text().splitlines()
        assert f"docs/{name}.md" in (ROOT / "params.yaml").read_text()


# One's own attack.


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An own/ that a test may fill."""
    monkeypatch.setattr(own, "ROOT", tmp_path)
    (tmp_path / "own").mkdir()
    return tmp_path / "own"


@pytest.fixture
def study(tmp_path):
    """Five random images in shards of three, one untrained network."""
    scale = settings.load("mini").model_copy(update={"batch": 3}, deep=True)
    images = torch.randint(0, 256, (5, 3, 48, 48), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    data = ImageSet(images, torch.arange(5), [f"i{k}" for k in range(5)])
    return Study(
        settings.params().model_copy(update={"seed": 3}),
        scale,
        data,
        Store(tmp_path / "store"),
        "cpu",
        {"VGG-16": small("vgg16", 0)},
    )


def as_a_new_process():
    """What was read of files is forgotten."""
    for function in (own._module, keys.source, keys.imports_through, keys.imports_in):
        function.cache_clear()


def entries(study) -> int:
    return len(list(study.store.root.rglob("*.bin")))


def attack(study, folder, source: str, **options):
    """A study whose params.yaml has an attack "Mine", from own/mine.py."""
    (folder / "mine.py").write_text(source)
    spec = OwnAttack(**{"file": "own/mine.py", "eps": 16} | options)
    study.params = study.params.model_copy(update={"own_attacks": {"Mine": spec}})
    return study


ADD = "def attack(network, x, y, *, eps, share=1.0):\n    return x + share * eps\n"


def test_the_attack_of_the_page_is_two_steps_whatever_the_batch(study, folder):
    code, lines, _ = blocks("own_attack")
    ((_, spec),) = yaml.safe_load(lines)["own_attacks"].items()
    (whole,) = adversaries(attack(study, folder, code, eps=spec["eps"], step=spec["step"]), "Mine", "VGG-16")
    moved = (whole.images.int() - study.images.images.int()).abs()
    assert moved.max() == 16 and (whole.eps, whole.steps, whole.surrogate) == (16, 1, "VGG-16")
    study.batch = 1
    (alone,) = adversaries(study, "Mine", "VGG-16")
    assert (alone.images != whole.images).float().mean() <= 0.001
    x, y = unit_images(study.images.images), study.images.labels
    with torch.no_grad():
        loss = [
            torch.nn.functional.cross_entropy(study.networks["VGG-16"](i), y) for i in (x, unit_images(whole.images))
        ]
    assert loss[1] > loss[0]


def test_levels_become_units_and_the_result_8_bits(study, folder):
    (cell,) = adversaries(attack(study, folder, ADD, share=0.5), "Mine", "VGG-16")
    assert torch.equal(cell.images.int(), (study.images.images.int() + 8).clamp(max=255))
    (less,) = adversaries(study, "Mine", "VGG-16", eps=4, share=1)
    assert torch.equal(less.images.int(), (study.images.images.int() + 4).clamp(max=255))


def test_ids_and_seed_come_to_a_function_that_names_them(study, folder):
    source = "seen = []\ndef attack(network, x, y, *, ids, seed, eps):\n    seen.extend([seed, *ids])\n    return x\n"
    adversaries(attack(study, folder, source), "Mine", "VGG-16")
    assert own._module(folder / "mine.py", "own/mine.py").seen == [3, "i0", "i1", "i2", 3, "i3", "i4"]


def test_what_the_attack_looks_at_is_logits_or_features(study, folder):
    source = (
        "def attack(network, x, y, *, eps):\n    shapes.append(tuple(network(x).shape))\n    return x\nshapes = []\n"
    )
    for choice in ("logits", "features"):
        adversaries(attack(study, folder, source, looks_at=choice), "Mine", "VGG-16")
    shapes = own._module(folder / "mine.py", "own/mine.py").shapes
    assert shapes == [(3, 12), (2, 12), (3, 48, 12, 12), (2, 48, 12, 12)]


RUDE = "def attack(network, x, y, *, eps):\n    {}\n    x += eps / 2\n    return x\n"


def test_its_copy_of_the_images_may_be_changed_in_place(study, folder):
    (cell,) = adversaries(attack(study, folder, RUDE.format("pass")), "Mine", "VGG-16")
    assert torch.equal(cell.images.int(), (study.images.images.int() + 8).clamp(max=255))


@pytest.mark.parametrize(
    ("rude", "what"),
    [("network.train()", "training mode"), ("network.register_forward_hook(lambda *given: None)", "forward hooks")],
)
def test_a_network_that_is_not_left_as_found_stores_nothing(study, folder, rude, what):
    attack(study, folder, RUDE.format(rude))
    with pytest.raises(ValueError, match=rf"^own/mine\.py changes the network \({what}"):
        adversaries(study, "Mine", "VGG-16")
    assert not any(part.training or part._forward_hooks for part in study.networks["VGG-16"].modules())
    assert entries(study) == 0


def test_a_defense_of_a_notebooks_cell_runs_unstored_and_says_so(study, capsys):
    def grey(x, *, level=0.5):
        return torch.full_like(x, level)

    def other(x):
        return x[:, :, 1:]

    frame = evaluate(study, [clean(study)], "VGG-16", ["none", grey])
    assert frame.cells["defense"].tolist() == ["none", "grey"]
    shown = torch.full_like(study.images.images, 128)  # of 0.5, the nearest level
    found = predictions(study, "VGG-16", shown, grey).classes[:, 0]
    assert (frame.parts[1]["top1"] == (found == study.images.labels.numpy())).all() and len(set(found)) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if "is not stored" in line]
    assert len(said) == 1 and said[0].startswith("store: VGG-16 with grey is not stored: ")
    with pytest.raises(ValueError, match=r"the defense must return|the defense gives"):
        predictions(study, "VGG-16", study.images.images, other)


def test_a_function_of_a_notebooks_cell_runs_unstored_and_says_so(study, capsys):
    def half(network, x, y, *, eps):
        return x + eps / 2

    for _ in range(2):
        (cell,) = adversaries(study, half, "VGG-16", eps=16)
    assert torch.equal(cell.images.int(), (study.images.images.int() + 8).clamp(max=255))
    assert (cell.attack, cell.surrogate, cell.eps) == ("half", "VGG-16", 16) and entries(study) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "is not stored" in line]
    assert len(said) == 1 and "store: half on VGG-16, from image i0 is not stored: " in said[0]
    with pytest.raises(ValueError, match=r"^the attack half has no option 'step'; did you mean 'eps'"):
        adversaries(study, half, "VGG-16", eps=16, step=1)


def test_own_attacks_come_last(study, folder, monkeypatch):
    study.params = study.params.with_attacks(ssp={"steps": 1}, fff={"iterations": 1})
    cells = all_attacks(attack(study, folder, ADD), "VGG-16", "VGG-16")
    assert [cell.attack for cell in cells][-2:] == ["FSA", "Mine"]


def test_the_key_has_the_file_its_imports_and_the_options(study, folder, tmp_path):
    """Each of these stores two new shards; what changes nothing stores none."""
    source = (
        "def attack(network, x, y, *, eps, share=1.0):\n    import own.other, lib.thing\n    return x + share * eps\n"
    )
    source = source.replace(
        "    import own.other, lib.thing\n", "    if share < 0:\n        import own.other, lib.thing\n"
    )
    (folder / "other.py").write_text("")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "thing.py").write_text("")

    def computed(**options) -> int:
        as_a_new_process()
        before = entries(study)
        adversaries(study, "Mine", "VGG-16", **options)
        return entries(study) - before

    attack(study, folder, source)
    assert [computed(), computed(), computed(share=0.5), computed(share=0.5)] == [2, 0, 2, 0]
    for file in (folder / "mine.py", folder / "other.py", tmp_path / "lib" / "thing.py"):
        file.write_text(file.read_text() + "# edited\n")
        assert [computed(), computed()] == [2, 0], file
    (folder / "stranger.py").write_text("")
    assert computed() == 0


def test_own_attacks_are_in_the_table_of_parameters_with_their_file():
    spec = OwnAttack(file="own/mine.py", eps=16, step=1.6, looks_at="features")
    used = settings.params().model_copy(update={"own_attacks": {"Mine": spec}})
    row = facts.attack_parameters(used, settings.load("mini")).iloc[-1].tolist()
    assert row == ["Mine", "eps 16, step 1.6", "same", "own: own/mine.py, on features"]


SIGNATURE = "def attack(network, x, y, *, eps, step):\n    return x\n"
ONE_LINE = [
    ({}, None, "^own/mine.py not found; in its folder there is other.py$"),
    ({"file": "mine.py"}, SIGNATURE, "^mine.py: write an own attack into a Python file in own/, such as own/my_attack"),
    ({"file": "own/../lib/rng.py"}, SIGNATURE, "write an own attack into a Python file in own/"),
    ({}, "def atack(): ...\n", "^own/mine.py defines no function 'attack'; its functions are: atack$"),
    ({}, "import nothing", "^own/mine.py cannot be loaded: ModuleNotFoundError: No module named 'nothing' "),
    ({}, "def attack(:\n", "^own/mine.py cannot be loaded: SyntaxError: "),
    ({}, "def attack(x, y, *, eps): ...\n", r"called as \(network, x, y, eps\), but takes \(x, y, "),
    ({"stepp": 1}, SIGNATURE, r"Mine \(own/mine.py\) has no option 'stepp'; did you mean 'step'\? There are: eps, "),
    ({}, SIGNATURE, r"^the attack Mine \(own/mine.py\): missing a required .*argument: 'step'; "),
    ({"seed": 1, "step": 1}, SIGNATURE, "'seed' is no option; the experiment gives it"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "source", "message"), ONE_LINE)
def test_what_is_wrong_with_an_attack_is_one_line_before_anything_runs(
    study, folder, monkeypatch, options, source, message
):
    (folder / "other.py").write_text("")
    attack(study, folder, source or "", **options)
    if source is None:
        (folder / "mine.py").unlink()
    monkeypatch.setattr(settings, "params_at", lambda scale: study.params)
    for call in (lambda: adversaries(study, "Mine", "VGG-16"), lambda: open_study("mini", 2)):
        with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
            call()
        assert "\n" not in str(caught.value) and entries(study) == 0


@pytest.mark.parametrize("name", ["SSP", "PGD (targeted)", "none"])
def test_a_name_that_is_taken_is_refused(study, folder, name):
    (folder / "mine.py").write_text(ADD)
    taken = {name: OwnAttack(file="own/mine.py", eps=16)}
    study.params = study.params.model_copy(update={"own_attacks": taken})
    with pytest.raises(ValueError, match=re.escape(f"own_attacks: the name '{name}' is taken")):
        adversaries(study, "FGSM", "VGG-16")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"eps": 16}, "own_attacks.Mine.file: Field required"),
        ({"file": "own/mine.py"}, "own_attacks.Mine.eps: Field required"),
        ({"file": "own/mine.py", "eps": -1}, "own_attacks.Mine: eps is in 0-255 levels, got -1"),
        ({"file": "own/mine.py", "eps": 16, "looks_at": "pixels"}, "looks_at: Input should be 'logits' or 'features'"),
        ("own/mine.py", "own_attacks.Mine: Input should be"),
    ],
)
def test_an_entry_that_says_too_little_is_one_line(tmp_path, entry, message):
    whole = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"own_attacks": {"Mine": entry}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(whole))
    with pytest.raises(ValueError, match=f"^params.yaml: .*{message}") as caught:
        settings.params(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("x + 1.1 * eps", "moves a pixel by 17.6 levels with an eps of 16; end it with lib.linf.project"),
        ("x[:1]", r"must return images of shape \[3, 3, 48, 48\], got \[1, 3, 48, 48\]"),
        ("None", r"must return images of shape \[3, 3, 48, 48\], got NoneType"),
        ("x / 0 * 0", "returns values that are not finite"),
    ],
)
def test_a_result_that_is_no_adversary_is_one_line(study, folder, result, message):
    attack(study, folder, f"def attack(network, x, y, *, eps):\n    return {result}\n")
    with pytest.raises(ValueError, match=f"^own/mine.py: the attack {message}") as caught:
        adversaries(study, "Mine", "VGG-16")
    assert "\n" not in str(caught.value) and entries(study) == 0


def test_rounding_is_forgiven_and_taken_back(study, folder):
    attack(study, folder, "def attack(network, x, y, *, eps):\n    return x - eps - 0.4 / 255\n")
    (cell,) = adversaries(study, "Mine", "VGG-16", eps=7.5)
    assert torch.equal(cell.images.int(), (study.images.images.int() - 7).clamp(min=0))


def test_snapshots_are_for_functions_that_take_them(study, folder):
    attack(study, folder, ADD)
    for name in ("Mine", "FGSM"):
        with pytest.raises(ValueError, match=f"^{name} takes no snapshots$"):
            adversaries(study, name, "VGG-16", snapshots=[1, 2])
    source = "import torch\ndef attack(network, x, y, *, eps, steps, snapshots=None):\n"
    (folder / "steps.py").write_text(source + "    return torch.stack([x + k / 255 for k in snapshots])\n")
    spec = OwnAttack(file="own/steps.py", eps=16, steps=10)
    study.params = study.params.model_copy(update={"own_attacks": {"Steps": spec}})
    cells = adversaries(study, "Steps", "VGG-16", snapshots=[2, 5])
    assert [cell.steps for cell in cells] == [2, 5]
    assert torch.equal(cells[1].images.int(), (study.images.images.int() + 5).clamp(max=255))


# One's own defense.

GREY = "def defense(x, *, share=1.0, noise=0.0):\n    return x + share * (x.mean(1, keepdim=True) - x)\n"


def defended(study, folder, source: str, **options):
    (folder / "mine.py").write_text(source)
    study.params = study.params.model_copy(update={"defenses": {"Mine": {"kind": "own/mine.py", **options}}})
    return study


def test_an_own_defense_is_applied_before_the_victim(study, folder):
    predicted = predictions(defended(study, folder, GREY), "VGG-16", study.images.images, "Mine")
    x = unit_images(study.images.images)
    with torch.no_grad():
        direct = study.networks["VGG-16"](x.mean(1, keepdim=True).expand_as(x)).softmax(1).max(1)
    assert predicted.confidence[:, 0] == pytest.approx(direct.values.numpy(), abs=1e-5)


def test_options_network_and_levels_of_a_defense_are_as_for_the_others(study, folder):
    source = "def defense(x, *, network, noise):\n    return x + noise + 0 * network(x).sum()\n"
    function = defended(study, folder, source, network="VGG-16", noise=25.5).defense("Mine")
    x = torch.full((1, 3, 48, 48), 0.5)
    assert torch.allclose(function(x), x + 0.1)


def test_an_attacker_sees_through_an_own_defense_where_a_gradient_passes(study, folder):
    defended(study, folder, GREY)
    (aware,) = adversaries(study, "FGSM", "VGG-16", through=Through("Mine"))
    moved = aware.images.int() - study.images.images.int()
    inside = ((study.images.images > 16) & (study.images.images < 239)).all(1)
    # Grey is the same for all channels, so that its gradient is too.
    assert (moved[:, 0] == moved[:, 1])[inside].all() and (moved[:, 0] == moved[:, 2])[inside].all()


@pytest.fixture
def untrained_dit(tmp_path):
    """The folder of a DiT with its autoencoder, as diffusers keeps one: the parts of DiT-XL/2, small and untrained."""
    diffusers = pytest.importorskip("diffusers")
    autoencoder = diffusers.AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[4] * 4,
        norm_num_groups=2,
        sample_size=64,
    )
    transformer = diffusers.DiTTransformer2DModel(
        num_layers=1, num_attention_heads=2, attention_head_dim=4, sample_size=8, out_channels=8
    )
    scheduler = diffusers.DDIMScheduler()
    diffusers.DiTPipeline(transformer, autoencoder, scheduler).save_pretrained(tmp_path / "dit")
    return str(tmp_path / "dit")


def test_the_diffusion_purifier_of_its_page_is_a_defense(study, folder, untrained_dit):
    code, line, _ = blocks("own_purifier")
    ((name, spec),) = yaml.safe_load(line)["defenses"].items()
    (folder / "diffusion.py").write_text(code)
    study.params.defenses[name] = spec | {"folder": untrained_dit}
    x = unit_images(study.images.images).requires_grad_()
    purified = study.defense(name)(x)
    assert purified.shape == x.shape and 0 <= purified.min() < purified.max() <= 1
    assert torch.autograd.grad(purified.sum(), x)[0].flatten(1).norm(dim=1).min() > 0
    assert not torch.allclose(purified, study.defense(name, seed=1)(x), atol=0.01)  # a random one
    precise = study.defense(name)(x.detach().double())
    assert precise.dtype == torch.float64 and torch.allclose(precise.float(), purified, atol=1e-3)


def test_the_key_of_a_defense_has_the_file_and_the_options(study, folder):
    found = []
    for source, options in [(GREY, {}), (GREY, {"share": 0.5}), (GREY + "# edited\n", {}), (GREY, {})]:
        as_a_new_process()
        defense = defended(study, folder, source, **options).defense("Mine")
        found.append(repr(keys.record(predictions, (defense,), "cpu")))
    assert found[0] == found[3] and len(set(found)) == 3


@pytest.mark.parametrize(
    ("kind", "source", "options", "message"),
    [
        ("own/yours.py", GREY, {}, "^own/yours.py not found; in its folder there is mine.py$"),
        ("mine.py", GREY, {}, "^mine.py: write an own defense into a Python file in own/, such as own/my_defense.py$"),
        ("own/mine.py", "def defend(x): ...\n", {}, "defines no function 'defense'; its functions are: defend$"),
        ("own/mine.py", "def defense(*, x): ...\n", {}, r"it is called as \(x\), but takes \(\*, x\)$"),
        ("own/mine.py", GREY, {"shar": 1}, "^the defense own/mine.py has no option 'shar'; did you mean 'share'"),
        ("own/mine.py", "def defense(x): ...\n", {"k": 1}, "has no option 'k'; it takes none$"),
        (
            "own/mine.py",
            "def defense(x, *, k): ...\n",
            {},
            "own/mine.py: missing a required .*argument: 'k'; ",
        ),
    ],
)
def test_what_is_wrong_with_a_defense_is_one_line_before_anything_runs(
    study, folder, monkeypatch, kind, source, options, message
):
    (folder / "mine.py").write_text(source)
    study.params = study.params.model_copy(update={"defenses": {"Mine": {"kind": kind, **options}}})
    monkeypatch.setattr(settings, "params_at", lambda scale: study.params)
    for call in (lambda: study.defense("Mine"), lambda: open_study("mini", 2)):
        with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("255 * x", r"must return images in \[0,1\], got \[0, 255\]"),
        ("x / 0 * 0", r"must return images in \[0,1\], got \[nan, nan\]"),
        ("x[..., 1:]", r"must return images of shape \[2, 3, 8, 8\], got \[2, 3, 8, 7\]"),
    ],
)
def test_a_defended_image_that_is_none_is_one_line(folder, result, message):
    (folder / "mine.py").write_text(f"def defense(x):\n    return {result}\n")
    x = torch.rand(2, 3, 8, 8).index_fill(3, torch.tensor([0]), 0).index_fill(3, torch.tensor([7]), 1)
    with pytest.raises(ValueError, match=f"^own/mine.py: the defense {message}") as caught:
        defense("own/mine.py")(x)
    assert "\n" not in str(caught.value)


def test_a_hair_outside_the_range_is_clipped(folder):
    (folder / "mine.py").write_text("def defense(x):\n    return x + 0.001\n")
    assert torch.equal(defense("own/mine.py")(torch.ones(1, 3, 8, 8)), torch.ones(1, 3, 8, 8))
