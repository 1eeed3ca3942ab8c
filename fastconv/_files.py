"""Files that are either whole or not there: atomic writes, and weights as safetensors."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file


class FileFormatError(ValueError):
    """A file that is damaged or not of the expected kind; the message names it."""


class WriteError(OSError):
    """A file that could not be written, for lack of room or a failing disk.

    The message names the file and the reason. What the file held before, it still holds.
    """


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
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if reason := _why_not_written(error):
            raise WriteError(f"{path}: not written: {reason}") from error
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


def _why_not_written(error: BaseException | None) -> str | None:
    """The system's reason for a failed write; None where the error is of another kind.

    torch.save and safetensors do not pass the system's error on: with the one it is the context of
    an error about positions in the file, with the other a part of the message.
    """
    while error is not None:
        if isinstance(error, OSError):
            return error.strerror or str(error)
        if isinstance(error, SafetensorError) and (
            number := re.search(r"os error (\d+)", str(error))
        ):
            return os.strerror(int(number[1]))
        error = error.__context__
    return None


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
