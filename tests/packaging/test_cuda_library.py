"""The built CUDA library, read without a GPU: registrations, tensor-core instructions, reports."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastconv

LIBRARY = Path(fastconv.__file__).parent / "_cuda.so"
pytestmark = pytest.mark.skipif(not LIBRARY.is_file(), reason="built without nvcc")

# A CPU build of torch has no libtorch_cuda.so; this one has what the library takes from it.
STAND_IN = "int aoti_torch_get_current_cuda_stream(int device, void** stream) { return 1; }"
LIST_OPS = """
import ctypes, sys
if len(sys.argv) > 2: ctypes.CDLL(sys.argv[2], ctypes.RTLD_GLOBAL)
import torch, fastconv
if len(sys.argv) > 2: torch.ops.load_library(sys.argv[1])
has = torch._C._dispatch_has_kernel_for_dispatch_key
for schema in torch._C._jit_get_all_schemas():
    if schema.name.startswith("fastconv::"):
        keys = (has(schema.name, key) for key in ("CPU", "CUDA"))
        print(schema.name.removeprefix("fastconv::"), *keys)
"""


def registrations(tmp_path):
    """{op: (has a CPU kernel, has a CUDA kernel)} once the CUDA library is loaded."""
    command = [sys.executable, "-c", LIST_OPS, str(LIBRARY)]
    if torch.version.cuda is None:
        source, library = tmp_path / "stand_in.c", tmp_path / "libtorch_cuda.so"
        source.write_text(STAND_IN)
        compiler = os.environ.get("CC", "cc")
        flags = ["-shared", "-fPIC", "-Wl,-soname,libtorch_cuda.so"]
        subprocess.run([compiler, *flags, source, "-o", library], check=True)
        command.append(str(library))
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in text.splitlines()]
    return {name: (cpu == "True", cuda == "True") for name, cpu, cuda in rows}


def test_every_op_has_its_cuda_kernel(tmp_path):
    ops = registrations(tmp_path)
    on_cpu = {name for name, (cpu, _) in ops.items() if cpu}
    on_cuda = {name for name, (_, cuda) in ops.items() if cuda}
    # What fastconv.freeze keeps is the CPU kernels' own form of a weight. A GPU takes torch's way
    # back through a ReLU.
    assert on_cpu - on_cuda == {"conv2d_filters", "conv2d_prepared", "conv2d_relu_grad"}
    assert on_cuda - on_cpu == {"cuda_probe"}


def cuobjdump():
    """NVIDIA's disassembler, from PATH, the CUDA toolkit or the package nvidia-cuda-cuobjdump."""
    folders = [Path(p, "nvidia/cu13/bin") for p in sys.path]
    folders += [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin")]
    path = os.pathsep.join([*map(str, folders), os.environ["PATH"]])
    program = shutil.which("cuobjdump", path=path)
    if program is None or shutil.which("nvdisasm", path=path) is None:
        pytest.skip(
            "no cuobjdump and nvdisasm: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"
        )
    return program, {**os.environ, "PATH": path}


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a"])
def test_tensor_core_kernels_hold_tensor_core_instructions(architecture):
    program, environment = cuobjdump()
    command = [program, "-sass", "-arch", architecture, str(LIBRARY)]
    text = subprocess.run(command, capture_output=True, text=True, env=environment).stdout
    if "Function :" not in text:
        pytest.skip(f"not built for {architecture}")
    functions = {part.split(maxsplit=1)[0]: part for part in text.split("Function : ")[1:]}
    kernels = {name: code for name, code in functions.items() if "_mma_" in name}
    on_warpgroups = {name: kernels.pop(name) for name in list(kernels) if "WgmmaTile" in name}
    assert len(kernels) >= 12
    assert len(on_warpgroups) == (12 if architecture == "sm_90a" else 0)
    for name, code in kernels.items():
        assert len(re.findall(r"\bHMMA\b", code)) >= 16, name
        assert "LDGSTS" in code, f"{name} copies without cp.async"
        if "MmaTileIf" not in name or "FiltersAlong" in name:
            assert "LDSM" in code, f"{name} reads shared memory without ldmatrix"
    for name, code in on_warpgroups.items():
        loop = code[code.index("WARPGROUP.ARRIVE") : code.rindex("HGMMA")]
        assert loop.count("HGMMA") == 3 and "WARPGROUP.DEPBAR" not in loop, f"{name} waits between"
        assert "LDGSTS" in code, f"{name} copies without cp.async"
        assert code.count("FENCE.VIEW.ASYNC") == 1, f"{name} does not fence its copies"
