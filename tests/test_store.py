"""lib/store.py and lib/keys.py: stored once, never stale, and able to say why something was computed again."""

import functools
import importlib
import os
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from lib import defenses, keys, settings, store
from lib.attacks import decision, features
from lib.keys import digest, imports_of
from lib.store import Call, Store, read_entry
from tests.conftest import companion, refused, tiny_network

CALLS = []


def doubled(array, options, *, device, batch=1):
    """A stored computation that says when it runs."""
    CALLS.append(batch)
    if options.get("fails"):
        raise RuntimeError("no")
    return {"a": 2 * array, "b": np.ones(2, bool)}


def cached(store, function, *arguments, device="cpu", cell="", **how):
    """What one call gives."""
    ((arrays,),) = store.cached_all([[Call(function, arguments, cell, how)]], device)
    return arrays


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


def test_computes_once_and_then_reads(tmp_path):
    first = cached(Store(tmp_path), doubled, np.arange(6).reshape(2, 3), {})
    second = cached(Store(tmp_path), doubled, np.arange(6).reshape(2, 3), {}, batch=7)
    assert CALLS == [1]  # a batch changes no result
    assert np.array_equal(first["a"], 2 * np.arange(6).reshape(2, 3))
    for name in ("a", "b"):
        assert np.array_equal(first[name], second[name]) and first[name].dtype == second[name].dtype


@pytest.mark.parametrize(
    "other",
    [
        (np.arange(1, 7), {}),
        (np.arange(6.0), {}),
        (np.arange(6), {"x": 1}),
        (torch.arange(7), {}),
    ],
)
def test_other_arguments_are_other_entries(tmp_path, other):
    store = Store(tmp_path)
    cached(store, doubled, np.arange(6), {})
    cached(store, doubled, *other)
    cached(store, doubled, *other)
    assert len(CALLS) == 2


def test_a_tensor_counts_as_the_array_that_it_holds(tmp_path):
    for array in (np.arange(6), torch.arange(6)):
        cached(Store(tmp_path), doubled, array, {})
    assert len(CALLS) == 1


def test_the_kind_of_device_and_the_instruction_set_of_a_cpu_are_in_the_key(tmp_path, monkeypatch):
    for device in ("cpu", "cuda", "cuda:1", "mps"):
        cached(Store(tmp_path), doubled, np.arange(2), {}, device=device)
    assert len(CALLS) == 3  # one GPU is as good as another
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")
    for device in ("cpu", "cuda"):
        cached(Store(tmp_path), doubled, np.arange(2), {}, device=device)
    assert len(CALLS) == 4


def test_the_version_of_a_package_is_in_the_key(tmp_path, monkeypatch):
    cached(Store(tmp_path), doubled, np.arange(2), {})
    versions = keys.version_of
    monkeypatch.setattr(keys, "version_of", lambda module: "0.0" if module == "torch" else versions(module))
    cached(Store(tmp_path), doubled, np.arange(2), {})
    assert len(CALLS) == 2
    made_from = keys.record(decision.fgsm, (), "cpu")
    assert made_from["packages"]["torch"] == "0.0" and "torchvision" not in made_from["packages"]
    assert "torchvision" in keys.record(defenses.DEFENSES["tvm"], (), "cpu")["packages"]


@pytest.mark.parametrize(
    "change",
    [
        lambda network: network[0].weight.data.add_(0.1),
        lambda network: network[1].running_mean.add_(0.1),
        lambda network: setattr(network[3], "p", 0.25),
        lambda network: network.append(torch.nn.Identity()),
    ],
    ids=["weights", "buffers", "options", "structure"],
)
def test_a_network_is_its_weights_buffers_and_structure(change):
    network = tiny_network()
    before, again = (keys.record(decision.fgsm, (net,), "cpu") for net in (network, tiny_network()))
    assert before == again
    change(network)
    assert keys.record(decision.fgsm, (network,), "cpu") != before


def test_weights_are_read_once_where_they_do_not_change(monkeypatch):
    network, seen = tiny_network(), []
    real = keys.digest
    monkeypatch.setattr(keys, "digest", lambda *parts: seen.append(len(parts)) or real(*parts))
    with keys.read_once():
        records = [keys.record(decision.fgsm, (network,), "cpu") for _ in range(3)]
    whole = len([*network.parameters(), *network.buffers()]) * 2
    assert seen.count(whole) == 1 and records[0] == records[2]
    keys.record(decision.fgsm, (network,), "cpu")
    assert seen.count(whole) == 2


def test_a_tensor_is_read_once_where_it_does_not_change_and_its_parts_are_told_apart(monkeypatch):
    images, seen = torch.arange(24.0).reshape(4, 2, 3), []
    real = keys.digest
    monkeypatch.setattr(keys, "digest", lambda *parts: seen.append(parts) or real(*parts))

    def given(*arguments):
        return keys.record(decision.fgsm, arguments, "cpu")["arguments"]

    def arrays():
        return len([parts for parts in seen if isinstance(parts[0], np.ndarray)])

    with keys.read_once():
        parts = [images[:2], images[2:], images[:2].mT, images[0], images[:2].view(torch.int32)]
        first = given(*parts)
        assert len(set(first)) == 5 == arrays()
        assert given(images[0:2], images[2:4], *parts[2:]) == first and arrays() == 5
        assert len({given(torch.full((3,), float(k)))[0] for k in range(9)}) == 9  # freed ones leave their place
    images.add_(1)
    assert not set(given(*parts)) & set(first)


def test_a_function_with_options_is_its_code_and_its_options():
    def made(**options):
        return keys.record(doubled, (functools.partial(defenses.DEFENSES["jpeg"], **options),), "cpu")

    assert made(quality=75) == made(quality=75) != made(quality=50)
    assert "lib/defenses/transforms.py" in made()["code"]


def test_what_has_no_file_is_computed_each_time_and_said_once(tmp_path, capsys):
    def inside(array, *, device):
        CALLS.append(1)
        return {"a": array}

    store = Store(tmp_path)
    for _ in range(2):
        cached(store, inside, np.arange(3), cell="Mine on VGG-16")
        cached(store, doubled, np.arange(2), {"function": lambda: 0})
    assert len(CALLS) == 4 and not list(tmp_path.rglob("*.bin"))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and lines[0].startswith("store: Mine on VGG-16 is not stored: ")
    assert "is defined in a notebook's cell or inside a function, not in a file" in lines[0]


def test_an_argument_that_says_nothing_is_not_stored(tmp_path, capsys):
    cached(Store(tmp_path), doubled, np.arange(2), {"what": object()})
    assert not list(tmp_path.rglob("*.bin")) and "a object says nothing" in capsys.readouterr().err


def test_a_corrupt_entry_is_reported_and_computed_again(tmp_path, capsys):
    store = Store(tmp_path)
    cached(store, doubled, np.arange(100), {})
    (entry,) = tmp_path.rglob("*.bin")
    content = bytearray(entry.read_bytes())
    content[-1] ^= 1
    entry.write_bytes(content)
    assert np.array_equal(cached(store, doubled, np.arange(100), {})["a"], 2 * np.arange(100))
    assert len(CALLS) == 2 and "corrupt" in capsys.readouterr().err


def test_a_truncated_entry_is_not_read(tmp_path):
    Store(tmp_path).write({}, "", {"a": np.arange(100)})
    (path,) = tmp_path.rglob("*.bin")
    path.write_bytes(path.read_bytes()[:10])
    assert read_entry(path) is None


def test_a_failed_computation_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError):
        cached(Store(tmp_path), doubled, np.arange(2), {"fails": 1})
    assert not list(tmp_path.rglob("*.*"))


def test_why_names_the_part_of_the_key_that_differs(tmp_path):
    store = Store(tmp_path)
    for number, (eps, cell) in enumerate([(8, "SSP on A"), (8, "SSP on B"), (16, "SSP on A")]):
        array = np.arange(2) if cell == "SSP on A" else np.arange(3)
        cached(store, doubled, array, {"eps": eps}, cell=cell)
        for path in tmp_path.rglob("*.bin"):  # the file system's clock may be coarse
            if path.stat().st_mtime > 1000:
                os.utime(path, (number, number))
    found = store.why("SSP on A")
    assert found == ["SSP on A, against SSP on A:", "  arguments.1.eps: 8 -> 16"]
    assert store.why("*B")[0] == "SSP on B, against SSP on A:"
    with pytest.raises(ValueError, match="no entry of the store is called 'FFF'; there are SSP on A; SSP on B"):
        store.why("FFF")


def test_the_store_lies_where_worktrees_and_temporary_experiments_find_it(tmp_path, monkeypatch):
    monkeypatch.delenv("COMPANION_STORE", raising=False)
    git = functools.partial(subprocess.run, check=True, capture_output=True)
    main, tree, plain = tmp_path / "main", tmp_path / "tree", tmp_path / "plain"
    plain.mkdir()
    git(["git", "init", str(main)])
    git(["git", "-C", str(main), "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--allow-empty", "-m", "x"])
    git(["git", "-C", str(main), "worktree", "add", str(tree)])
    temporary = main / ".dvc" / "tmp" / "exps" / "abc"
    temporary.mkdir(parents=True)
    places = {store.folder(root) for root in (main, tree, temporary)}
    assert places == {main / ".git" / "companion-store"}
    assert store.folder(plain) == plain / ".store"
    monkeypatch.setenv("COMPANION_STORE", str(tmp_path / "elsewhere"))
    assert store.folder(main) == tmp_path / "elsewhere"


def test_a_killed_write_leaves_no_entry(tmp_path):
    # The process dies in the middle of writing, after the temporary file was opened.
    script = (
        "import os, sys, pathlib, numpy as np, lib.store as s\nfrom tests.test_store import cached, doubled\n"
        "s.os.fsync = lambda handle: os._exit(9)\n"
        "cached(s.Store(pathlib.Path(sys.argv[1])), doubled, np.arange(10), {})\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=os.environ | {"PYTHONPATH": os.getcwd()})
    assert done.returncode == 9
    cached(Store(tmp_path), doubled, np.arange(10), {})
    assert len(CALLS) == 1


def test_two_checkouts_write_into_one_store_at_once(tmp_path):
    """The same entries at the same time, each of its own: all are whole, and both see the same."""
    script = (
        "import sys, pathlib, numpy as np, lib.store as s\nfrom tests.test_store import cached, doubled\n"
        "for k in range(60):\n    cached(s.Store(pathlib.Path(sys.argv[1])), doubled, np.full(999, k % 20), {})"
    )
    command, environment = [sys.executable, "-c", script, str(tmp_path)], os.environ | {"PYTHONPATH": os.getcwd()}
    both = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [(process.communicate()[1], process.returncode) for process in both] == [("", 0), ("", 0)]
    values = sorted(read_entry(path)["a"][0] for path in tmp_path.rglob("*.bin"))
    assert values == list(range(0, 40, 2)) and not list(tmp_path.rglob("*.part"))


def test_a_claim_lives_as_long_as_its_process_computes_and_may_be_gone(tmp_path, monkeypatch):
    """Another process, which took this one for dead, has computed the piece and taken the claim away."""
    monkeypatch.setattr(store, "LOST", 1.0)
    path = tmp_path / "aa" / "b.bin"

    class Slow:
        devices = ("cpu",)

        def run(self, pieces):
            for place, _ in enumerate(pieces):
                time.sleep(1.5)
                assert not store.claimed(path)  # still fresh
                path.with_suffix(".claim").unlink()
                path.touch()
                yield place

    assert list(store.run_shared({path: []}, Slow(), "1/1")) == [path]


@pytest.mark.parametrize("length", [2**40, 2**63])
def test_an_entry_with_a_damaged_head_is_left_out(tmp_path, length):
    path = tmp_path / "aa" / "b.bin"
    path.parent.mkdir()
    path.write_bytes(bytes(store.CHECKSUM) + length.to_bytes(8, "little") + b"{}")
    assert store.read_record(path) is None


def test_a_claim_of_the_future_is_of_a_clock_that_was_set_back(tmp_path):
    path = tmp_path / "x.bin"
    assert store.claimed(path) and not store.claimed(path)
    later = time.time() + 86_400
    os.utime(path.with_suffix(".claim"), (later, later))
    assert store.claimed(path) and not store.claimed(path)


@pytest.mark.parametrize(
    "other", [np.arange(6.0), np.arange(6).reshape(2, 3), np.arange(6, dtype=np.int32), np.arange(7)]
)
def test_the_digest_sees_type_shape_and_content(other):
    assert digest(np.arange(6)) != digest(other)


def test_the_digest_sees_order_and_kind_of_its_parts():
    assert digest("a", "b") != digest("b", "a")
    assert digest({"x": 1, "y": 2}) == digest({"y": 2, "x": 1})
    assert digest("1") != digest(1) != digest(b"1")


FILES = {
    "__init__.py": "",
    "work.py": "import numpy\nfrom pkg import near\nfrom pkg.sub import inner, tool\n\ndef run():\n    pass\n",
    "near.py": "import pkg.deep.leaf\n",
    "deep/__init__.py": "",
    "deep/leaf.py": "def f():\n    from pkg import late\n    from pkg.work import run\n",
    "late.py": "x = 1\n",
    "sub/__init__.py": "tool = 1\n",
    "sub/inner.py": "from pkg.sub import tool\n",
    "other.py": "from pkg import work\n",
    "deep/stranger.py": "x = 1\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package on disk that Python can import; `work` needs all of it but `other` and `deep.stranger`."""
    root = tmp_path / "pkg"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield root
    for name in [name for name in sys.modules if name.split(".")[0] == "pkg"]:
        del sys.modules[name]


def code_of(function):
    """One digest of all files that a function reaches."""
    return digest(*[keys.source(file) for file in sorted(imports_of(function)[0])])


def forget_sources():
    """As a new process."""
    for function in (keys.source, keys.imports_through, keys.imports_in):
        function.cache_clear()


def digest_of(package, module="pkg.work", name="run"):
    """`code_of` that function, the module freshly imported."""
    importlib.invalidate_caches()
    forget_sources()
    for loaded in [loaded for loaded in sys.modules if loaded.split(".")[0] == "pkg"]:
        del sys.modules[loaded]
    return code_of(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("work.py", "the file itself"),
        ("near.py", "from package import module"),
        ("deep/leaf.py", "through another file, import package.module"),
        ("late.py", "inside a function"),
        ("sub/inner.py", "a module of a subpackage"),
        ("sub/__init__.py", "a name that the subpackage itself defines"),
    ],
    ids=lambda text: text.replace(" ", "-"),
)
def test_code_of_a_function_changes_with_what_it_imports(package, name, kind):
    before = digest_of(package)
    assert digest_of(package) == before
    with (package / name).open("a") as file:
        file.write("# edited\n")
    assert digest_of(package) != before


@pytest.mark.parametrize("name", ["other.py", "deep/stranger.py", "new.py"])
def test_code_of_a_function_does_not_change_with_what_it_does_not_import(package, name):
    before = digest_of(package)
    with (package / name).open("a") as file:
        file.write("# edited\n")
    assert digest_of(package) == before


def test_code_of_sees_a_new_import_and_its_file(package):
    before = digest_of(package)
    (package / "late.py").write_text("from pkg.deep import stranger\n")
    imported = digest_of(package)
    (package / "deep" / "stranger.py").write_text("x = 2\n")
    assert len({before, imported, digest_of(package)}) == 3


def test_two_files_that_import_each_other_have_the_code_of_both(package):
    (package / "ping.py").write_text("from pkg import pong\n\ndef f():\n    pass\n")
    (package / "pong.py").write_text("from pkg import ping\n\ndef f():\n    pass\n")
    first = [digest_of(package, f"pkg.{name}", "f") for name in ("ping", "pong")]
    assert first[0] == first[1]
    (package / "pong.py").write_text("from pkg import ping\n\ndef f():\n    return 1\n")
    second = [digest_of(package, f"pkg.{name}", "f") for name in ("ping", "pong")]
    assert second[0] == second[1] != first[0]


def test_code_of_does_not_depend_on_where_the_package_lies(package, tmp_path, monkeypatch):
    before = digest_of(package)
    shutil.move(package, tmp_path / "moved" / "pkg")
    monkeypatch.syspath_prepend(tmp_path / "moved")
    assert digest_of(package) == before


def test_code_of_follows_relative_imports(package):
    (package / "work.py").write_text("from .near import tool\nfrom . import other\n\ndef run():\n    pass\n")
    (package / "near.py").write_text("tool = 1\n")
    (package / "other.py").write_text("x = 1\n")
    before = digest_of(package)
    for name in ("near.py", "other.py"):
        (package / name).write_text("tool = x = 2\n")
        assert digest_of(package) != before, name
        before = digest_of(package)


def test_code_of_a_decorated_function_is_that_of_its_own_file(package):
    (package / "work.py").write_text("import torch\n\n@torch.no_grad()\ndef run():\n    return 1\n")
    before = digest_of(package)
    (package / "work.py").write_text("import torch\n\n@torch.no_grad()\ndef run():\n    return 2\n")
    assert digest_of(package) != before


def test_adding_an_attack_or_a_defense_changes_the_code_of_no_other():
    def files(function):
        return {file.relative_to(settings.ROOT).as_posix() for file in imports_of(function)[0]}

    fgsm, ssp = files(decision.fgsm), files(features.ssp)
    assert fgsm >= {"lib/attacks/decision.py", "lib/attacks/ascent.py", "lib/linf.py", "lib/rng.py"}
    assert ssp >= {"lib/attacks/features.py", "lib/attacks/ascent.py", "lib/networks/wrappers.py"}
    assert not {"lib/attacks/__init__.py", "lib/attacks/features.py", "lib/attacks/adaptive.py"} & fgsm
    assert not {"lib/attacks/__init__.py", "lib/attacks/decision.py"} & ssp
    jpeg, nrp = (files(defenses.DEFENSES[kind]) for kind in ("jpeg", "nrp"))
    assert "lib/defenses/transforms.py" in jpeg and "lib/defenses/purifier.py" in nrp
    assert not {"lib/defenses/__init__.py", "lib/defenses/purifier.py"} & jpeg
    assert not {"lib/defenses/__init__.py", "lib/defenses/transforms.py"} & nrp


def test_an_edit_while_a_run_goes_on_does_not_pass_as_what_ran(package):
    before = digest_of(package)
    (package / "near.py").write_text("x = 3\n")
    assert code_of(sys.modules["pkg.work"].run) == before != digest_of(package)


def test_results_of_code_that_has_changed_are_stale_and_pruned(tmp_path, monkeypatch):
    store = Store(tmp_path)
    cached(store, doubled, np.arange(3), {})
    assert store.stale() == []
    old = keys.record(doubled, (np.arange(4), {}), "cpu")
    store.write(old | {"packages": {"numpy": "0.1"}}, "", {"a": np.arange(1)})
    store.write(old | {"code": {"tests/test_store.py": "0" * 16}}, "", {"a": np.arange(1)})
    # What killed processes left of entries, and what one is writing now.
    for name, age in (("left.bin.0a.part", 7200), ("now.bin.0b.part", 0)):
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    monkeypatch.setenv("COMPANION_STORE", str(tmp_path))
    status, printed, _ = companion("store", "prune")
    assert status == 0 and "3 results deleted" in printed and len(list(tmp_path.rglob("*.bin"))) == 1
    assert [path.name for path in tmp_path.rglob("*.part")] == ["now.bin.0b.part"]


def test_adversaries_are_written_as_png_and_the_store_moves(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 8, 8), np.uint8)
    made = {"function": "lib.attacks.shards.attack_shard", "device": "cpu"}

    def stored(layer, eps, given, shots, **more):
        arguments = [
            "lib.attacks.features.ssp",
            [{"structure": layer}],
            "uint8 [3, 3, 8, 8]",
            given,
            {"eps": eps / 255},
        ]
        Store(tmp_path / "old").write(
            made | {"arguments": arguments} | more, "SSP on A, from image a", {"images": shots}
        )

    stored("conv1", 16, {}, images)
    stored("conv1", 8, {"ids": ["a", "b/c", "d"]}, images[:1])
    stored("conv2", 16, {}, images[:1])  # the same network, attack and budget, another layer
    stored("conv3", 16, {}, images, code={"lib/linf.py": "0" * 16})  # of code that has changed
    monkeypatch.setenv("COMPANION_STORE", str(tmp_path / "old"))
    assert "12 images" in companion("store", "export", "SSP on*", str(tmp_path / "out"))[1]
    files = {path.relative_to(tmp_path / "out").parts for path in (tmp_path / "out").rglob("*.png")}
    runs = sorted({run for run, _ in files})
    assert [re.sub(", [0-9a-f]{6},", "", run) for run in runs].count("SSP on A eps 16") == 2 and len(runs) == 3
    (named,) = [run for run in runs if run.endswith("eps 8")]
    assert {file for run, file in files if run == named} == {"a.png", "b_c.png", "d.png"}
    (shots,) = [run for run in runs if (run, "a+002_1.png") in files]
    found = np.asarray(Image.open(tmp_path / "out" / shots / "a+002_1.png"))
    assert np.array_equal(found.transpose(2, 0, 1), images[1, 2])
    assert refused("store", "export", "DIM*", str(tmp_path / "out")).startswith("no adversaries of 'DIM*'")
    assert companion("store", "move", str(tmp_path / "new"))[0] == 0
    assert len(list((tmp_path / "new").rglob("*.bin"))) == 4 and not (tmp_path / "old").exists()
