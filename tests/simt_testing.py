"""Runs the CUDA kernels on the CPU: builds tests/simt/drivers and talks to them.

tests/simt/README.md says how it works and what it cannot see.
"""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from fastconv.ops._arguments import window_output_size

ROOT = Path(__file__).resolve().parent.parent
DRIVERS = ROOT / "tests" / "simt" / "drivers"
BUILD = Path(os.environ.get("FASTCONV_SIMT_BUILD", ROOT / "build" / "simt"))
FLAGS = [
    *["-std=c++17", "-O1", "-g1", "-DFASTCONV_SIMT", "-pthread"],
    *["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"],
    *["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"],
    *["-I", str(ROOT / "csrc"), "-I", str(ROOT / "tests")],
]


class KernelFault(RuntimeError):
    """What the stand-in or a sanitizer had to say of a kernel."""


@cache
def build(source: Path) -> Path:
    """The program of a driver, compiled anew where anything that it includes has changed."""
    program = BUILD / source.stem
    depfile = program.with_suffix(".d")
    if not _is_current(program, depfile):
        BUILD.mkdir(parents=True, exist_ok=True)
        temporary = program.with_suffix(f".{os.getpid()}")
        compiler = os.environ.get("CXX", "c++")
        command = [compiler, *FLAGS, "-MMD", "-MF", depfile, source, "-o", temporary]
        subprocess.run([str(part) for part in command], check=True)
        temporary.replace(program)
    return program


def _is_current(program: Path, depfile: Path) -> bool:
    if not program.is_file() or not depfile.is_file():
        return False
    built = program.stat().st_mtime
    sources = depfile.read_text().partition(":")[2].replace("\\\n", " ").split()
    files = [Path(source) for source in [*sources, __file__]]
    return all(file.is_file() and file.stat().st_mtime <= built for file in files)


def run(
    driver: str | Path,
    inputs: list[Tensor | None],
    outputs: list[tuple[tuple[int, ...], torch.dtype]],
    *,
    entry: str = "run",
    dtype: torch.dtype = torch.float32,
    ints: list[int] = (),
    reals: list[float] = (),
    channels_last: bool = False,
    misaligned: bool = False,
) -> list[Tensor]:
    """Runs a driver's entry under every thread order and returns its outputs.

    Args:
        driver: its stem in tests/simt/drivers, or a path of a source file.
        inputs: CPU tensors in any layout, handed over in the layout that ``channels_last`` says;
            ``None`` stands for a null pointer.
        outputs: shape and dtype of each; 4-d ones are in the same layout.
        misaligned: every buffer begins one element past an aligned address.

    Raises:
        KernelFault: a sanitizer or the stand-in found a fault, or the thread orders disagree.
    """
    source = driver if isinstance(driver, Path) else DRIVERS / f"{driver}.cpp"
    layout = torch.channels_last if channels_last else torch.contiguous_format
    buffers = []
    for tensor in inputs:
        data = b"" if tensor is None else _bytes(tensor, layout)
        offset = tensor.element_size() if misaligned and tensor is not None else 0
        buffers.append(f"i {len(data)} {offset}\n".encode() + data)
    for shape, kind in outputs:
        size = torch.empty((), dtype=kind).element_size()
        count = torch.Size(shape).numel()
        buffers.append(f"o {count * size} {size if misaligned else 0}\n".encode())
    lines = [
        f"{entry} {str(dtype).removeprefix('torch.')}",
        " ".join(str(int(value)) for value in [len(ints), *ints]),
        " ".join([str(len(reals)), *(repr(float(value)) for value in reals)]),
        str(len(buffers)),
    ]
    request = ("\n".join(lines) + "\n").encode() + b"".join(buffers)
    process = subprocess.run([build(source)], input=request, capture_output=True)
    if process.returncode != 0:
        raise KernelFault(process.stderr.decode(errors="replace"))
    return _tensors(process.stdout, outputs, layout)


def _bytes(tensor: Tensor, layout: torch.memory_format) -> bytes:
    if tensor.dim() == 4 and layout == torch.channels_last:
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def _tensors(data: bytes, outputs, layout: torch.memory_format) -> list[Tensor]:
    results = []
    for shape, kind in outputs:
        last = len(shape) == 4 and layout == torch.channels_last
        stored = (shape[0], shape[2], shape[3], shape[1]) if last else tuple(shape)
        size = torch.Size(stored).numel() * torch.empty((), dtype=kind).element_size()
        if size == 0:
            results.append(torch.empty(shape, dtype=kind))
            continue
        tensor = torch.frombuffer(bytearray(data[:size]), dtype=kind).view(stored)
        results.append(tensor.permute(0, 3, 1, 2) if last else tensor)
        data = data[size:]
    assert not data, f"{len(data)} bytes too many"
    return results


def pool2d_ints(shape, kernel_size, stride, padding, dilation=(1, 1), ceil_mode=False, *, last):
    """The pooling problem as tests/simt/pool2d.h reads it, and the output's shape."""
    n, c, *sizes = shape
    windows, output = [], []
    for i, size in enumerate(sizes):
        window = kernel_size[i], stride[i], padding[i], dilation[i]
        output.append(window_output_size(size, *window, ceil_mode))
        windows += [size, output[i], *window]
    return [n, c, last, *windows], (n, c, *output)
