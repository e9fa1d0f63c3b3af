import os
import subprocess
import sys

import numpy as np
import pytest

from lib.store import Store, code_digest, digest, read, write


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
