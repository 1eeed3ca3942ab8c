"""Files are whole or not there."""

import pytest
import torch

from fastconv._files import (
    FileFormatError,
    atomic_open,
    read_tensors,
    remove_leftovers,
    write_tensors,
)


def test_a_failure_while_writing_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    with atomic_open(path) as f:
        f.write(b"old")
    with pytest.raises(OSError, match="disk full"), atomic_open(path) as f:
        f.write(b"new, but not all of it")
        raise OSError("disk full")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_leftovers_of_a_killed_writer_are_removed(tmp_path):
    (tmp_path / ".state.pt.123.tmp").write_bytes(b"half")
    (tmp_path / "state.pt").write_bytes(b"whole")
    remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


@pytest.mark.parametrize("tensors", [{}, {"a": torch.arange(3.0)}])
@pytest.mark.parametrize("metadata", [None, {"epoch": 3}])
def test_tensors_survive(tmp_path, tensors, metadata):
    write_tensors(tmp_path / "t.safetensors", tensors, metadata)
    got, described = read_tensors(tmp_path / "t.safetensors")
    assert got.keys() == tensors.keys()
    assert all(torch.equal(got[k], tensors[k]) for k in tensors)
    assert described == ({"epoch": "3"} if metadata else {})


def test_damage_is_named(tmp_path):
    (tmp_path / "t.safetensors").write_bytes(b"12345678")
    with pytest.raises(FileFormatError, match=r"t\.safetensors: not a whole safetensors file"):
        read_tensors(tmp_path / "t.safetensors")
