"""The libraries want nothing of torch but its stable ABI."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import fastconv

PACKAGE = Path(fastconv.__file__).parent
LIBRARIES = sorted(PACKAGE.glob("*.so"))
# The C functions that torch keeps from release to release are declared in these headers.
HEADERS = ("torch/csrc/inductor/aoti_torch/c", "torch/csrc/stable/c")
# Beside them: C and C++ run-time libraries, OpenMP, CPython's C interface and the CUDA driver's.
OTHERS = re.compile(
    r".*@+(GLIBC|GLIBCXX|CXXABI|GCC|GOMP|OMP|GOACC)_[\w.]+|Py\w+|_Py\w+|cu[A-Z]\w+"
    r"|_ITM_\w+|__gmon_start__|__cxa_\w+|_Unwind_\w+"
    # Mangled names of the C++ library: std::, operator new and delete, exceptions' type tables.
    r"|_ZS.*|_ZNS.*|_ZNKS.*|_ZN[VK]*St.*|_ZT[ISV]S.*|_ZT[ISV]N10__cxxabi.*|_Zn[wa].*|_Zd[la].*"
)

pytestmark = pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm of the binutils")


def stable_functions() -> set[str]:
    include = Path(torch.__file__).parent / "include"
    text = "".join(p.read_text() for folder in HEADERS for p in (include / folder).glob("*.h"))
    return set(re.findall(r"\b((?:aoti_)?torch_\w+)\s*\(", text))


def undefined(library: Path) -> list[str]:
    listed = subprocess.run(["nm", "-D", "-u", library], capture_output=True, text=True, check=True)
    return [line.split()[-1] for line in listed.stdout.splitlines()]


def refused(names: list[str]) -> list[str]:
    stable = stable_functions()
    return [name for name in names if name not in stable and not OTHERS.fullmatch(name)]


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda p: p.name.split(".")[0])
def test_nothing_beyond_the_stable_abi(library):
    names = undefined(library)
    assert refused(names) == []
    assert any(name.startswith("aoti_torch_") for name in names)  # the list is of a real library


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda p: p.name.split(".")[0])
def test_old_enough_run_time_libraries(library):
    """manylinux_2_28's: what runs there runs on every distribution since 2019."""
    newest = {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 25), "CXXABI": (1, 3, 11)}
    for name in undefined(library):
        found = re.search(r"@(GLIBC|GLIBCXX|CXXABI)_([\d.]+)$", name)
        if found and not is_old_enough(found[2], newest[found[1]]):
            pytest.skip(f"built on a newer system: {name}; wheels are built in manylinux_2_28")


def is_old_enough(version: str, limit: tuple[int, ...]) -> bool:
    return tuple(int(part) for part in version.split(".")) <= limit


@pytest.mark.parametrize(
    "name",
    [
        "_ZN2at4_ops4add4callERKNS_6TensorES4_RKN3c106ScalarE",
        "_ZN3c105ErrorC1ENS_14SourceLocationESs",
        "_ZN5torch8autograd8VariableE",
        "aoti_torch_no_such_function",
        "cudaMalloc",
    ],
)
def test_what_would_be_refused(name):
    assert refused([name]) == [name]
