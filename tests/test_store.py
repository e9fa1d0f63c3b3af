import importlib
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from lib import defenses, settings, store
from lib.attacks import decision, features
from lib.store import Store, code_digest, code_of, digest, read, write


def counting(arrays):
    calls = []

    def compute():
        calls.append(1)
        return arrays

    return compute, calls


def test_computes_once_and_then_reads(tmp_path):
    compute, calls = counting({"a": np.arange(6).reshape(2, 3), "b": np.ones(2, bool)})
    store = Store(tmp_path)
    first, second = store.get("ab" * 32, compute), store.get("ab" * 32, compute)
    assert len(calls) == 1
    for name in ("a", "b"):
        assert np.array_equal(first[name], second[name]) and first[name].dtype == second[name].dtype


def test_a_corrupt_entry_is_reported_and_computed_again(tmp_path, capsys):
    compute, calls = counting({"a": np.arange(100)})
    store = Store(tmp_path)
    store.get("cd" * 32, compute)
    (entry,) = tmp_path.rglob("*.bin")
    content = bytearray(entry.read_bytes())
    content[-1] ^= 1
    entry.write_bytes(content)
    assert np.array_equal(store.get("cd" * 32, compute)["a"], np.arange(100))
    assert len(calls) == 2 and "corrupt" in capsys.readouterr().err


def test_a_truncated_entry_is_not_read(tmp_path):
    path = tmp_path / "x.bin"
    write(path, {"a": np.arange(100)})
    path.write_bytes(path.read_bytes()[:10])
    assert read(path) is None


def test_a_failed_computation_leaves_nothing(tmp_path):
    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        Store(tmp_path).get("ef" * 32, fail)
    assert not list(tmp_path.rglob("*.*"))


def test_a_killed_write_leaves_no_entry(tmp_path):
    # The process dies in the middle of writing, after the temporary file was opened.
    script = (
        "import os, sys, pathlib, numpy as np, lib.store as s\n"
        "s.os.fsync = lambda handle: os._exit(9)\n"
        "s.Store(pathlib.Path(sys.argv[1])).get('aa' * 32, lambda: {'a': np.arange(10)})\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=os.environ | {"PYTHONPATH": os.getcwd()})
    assert done.returncode == 9
    compute, calls = counting({"a": np.arange(10)})
    Store(tmp_path).get("aa" * 32, compute)
    assert len(calls) == 1


@pytest.mark.parametrize(
    "other", [np.arange(6.0), np.arange(6).reshape(2, 3), np.arange(6, dtype=np.int32), np.arange(7)]
)
def test_the_digest_sees_type_shape_and_content(other):
    assert digest(np.arange(6)) != digest(other)


def test_the_digest_sees_order_and_kind_of_its_parts():
    assert digest("a", "b") != digest("b", "a")
    assert digest({"x": 1, "y": 2}) == digest({"y": 2, "x": 1})
    assert digest("1") != digest(1) != digest(b"1")


def test_code_digest_changes_with_the_code(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    before = code_digest([tmp_path])
    (tmp_path / "a.py").write_text("x = 2\n")
    assert code_digest([tmp_path]) != before


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


def digest_of(package, module="pkg.work", name="run"):
    """`code_of` that function, the module freshly imported."""
    importlib.invalidate_caches()
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


def test_adding_an_attack_or_a_defense_changes_the_code_of_no_other(monkeypatch):
    monkeypatch.setattr(store, "code_digest", lambda files: {str(file.relative_to(settings.ROOT)) for file in files})
    fgsm, ssp = code_of(decision.fgsm), code_of(features.ssp)
    assert fgsm >= {"lib/attacks/decision.py", "lib/attacks/ascent.py", "lib/linf.py", "lib/rng.py"}
    assert ssp >= {"lib/attacks/features.py", "lib/attacks/ascent.py", "lib/networks/taps.py"}
    assert not {"lib/attacks/__init__.py", "lib/attacks/features.py", "lib/attacks/adaptive.py"} & fgsm
    assert not {"lib/attacks/__init__.py", "lib/attacks/decision.py"} & ssp
    jpeg, nrp = (code_of(defenses.DEFENSES[kind]) for kind in ("jpeg", "nrp"))
    assert "lib/defenses/transforms.py" in jpeg and "lib/defenses/purifier.py" in nrp
    assert not {"lib/defenses/__init__.py", "lib/defenses/purifier.py"} & jpeg
    assert not {"lib/defenses/__init__.py", "lib/defenses/transforms.py"} & nrp
