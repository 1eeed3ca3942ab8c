"""Files that are either whole or not there: atomic writes, and weights as safetensors."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file


class FileFormatError(ValueError):
    """A file that is damaged or not of the expected kind; the message names it."""


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; it takes `path`'s place once the block ends without error.

    A reader sees the old file or the new one, never a part, also after a power cut: the data is
    on the disk before the name is, and the name before the call returns.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextlib.contextmanager
def atomic_open(path: Path) -> Iterator[BinaryIO]:
    """As `atomic_path`, opened for writing bytes."""
    with atomic_path(path) as temporary, open(temporary, "wb") as f:
        yield f


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of writers that were killed."""
    for leftover in Path(folder).glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def write_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, object] | None = None
) -> None:
    """Write a safetensors file atomically; `metadata` values become text."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        # None, not {}: safetensors writes an unreadable header for no tensors and empty metadata.
        save_file(plain, temporary, {k: str(v) for k, v in (metadata or {}).items()} or None)


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        FileNotFoundError: no such file.
        FileFormatError: not a whole safetensors file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        with safe_open(path, framework="pt") as f:
            return {name: f.get_tensor(name) for name in f.keys()}, f.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise FileFormatError(f"{path}: not a whole safetensors file ({error})") from None
