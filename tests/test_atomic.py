"""lib/atomic.py: a file is the old one or the whole new one."""

import pytest

from lib.atomic import replacing, write_bytes


def test_a_block_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "new" / "x.bin"
    write_bytes(path, b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]


def test_the_new_file_is_there_once_the_block_ends_and_two_writers_do_not_meet(tmp_path):
    path = tmp_path / "x.bin"
    with replacing(path) as file, replacing(path) as other:
        file.write(b"first")
        other.write(b"another")
        assert not path.exists()
    assert path.read_bytes() == b"first" and list(tmp_path.iterdir()) == [path]
