"""Builds fastconv's two libraries with one ninja file.

fastconv/_C*.so   schemas, pybind11 module and CPU kernels; always built.
fastconv/_cuda.so CUDA kernels; built wherever nvcc is found, whatever torch is installed.

Files named csrc/cpu/*_kernel.cpp hold the CPU kernels. They are free of torch and are compiled
once per instruction set; csrc/cpu/isa.h chooses among the results at run time.
"""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"

# Only the part of LibTorch that stays binary compatible from this release on.
TORCH_TARGET_VERSION = "0x020a000000000000"

# Code for sm_80 runs on all GPUs of 8.x; newer ones than 9.0 compile the PTX once, at first use.
# Each further entry adds about a third to the kernels' compile time.
DEFAULT_CUDA_ARCHITECTURES = "8.0+PTX;9.0a"

CXX_FLAGS = [
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wextra",
]

X86_INSTRUCTION_SETS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c", "-mbmi2"],
    "avx512": [
        *["-mavx2", "-mfma", "-mf16c", "-mbmi2"],
        *["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"],
        *["-Wno-maybe-uninitialized", "-Wno-uninitialized"],  # GCC 12 warns of its own intrinsics
    ],
}


class BuildError(SystemExit):
    """Stops the build with a message instead of a traceback."""

    def __init__(self, message):
        super().__init__(f"\nfastconv: {message}\n")


def instruction_sets():
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return X86_INSTRUCTION_SETS if is_x86 else {"baseline": []}


def find_nvcc():
    """Path of nvcc, from CUDA_HOME, PATH or the usual folder; None where there is none."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    candidates = [Path(home, "bin", "nvcc") for home in homes if home]
    on_path = shutil.which("nvcc")
    candidates += [Path(on_path)] if on_path else []
    candidates += [Path("/usr/local/cuda/bin/nvcc")]
    return next((c.resolve() for c in candidates if c.is_file()), None)


def wanted_nvcc():
    """nvcc if the CUDA library is to be built, under the rule of FASTCONV_CUDA."""
    wish = os.environ.get("FASTCONV_CUDA", "auto")
    if wish not in ("0", "1", "auto"):
        raise BuildError(f"FASTCONV_CUDA must be 0, 1 or auto (got FASTCONV_CUDA={wish})")
    nvcc = None if wish == "0" else find_nvcc()
    if wish == "1" and nvcc is None:
        raise BuildError(
            "FASTCONV_CUDA=1 demands the CUDA kernels, but nvcc was not found in CUDA_HOME, on "
            "PATH or in /usr/local/cuda/bin. Install the CUDA toolkit (12.4 or later) or set "
            "CUDA_HOME to it; without FASTCONV_CUDA=1 the CPU kernels alone are built."
        )
    return nvcc


def cuda_architectures():
    """(label, gencode flags) from TORCH_CUDA_ARCH_LIST, written as torch writes it."""
    wish = os.environ.get("TORCH_CUDA_ARCH_LIST") or DEFAULT_CUDA_ARCHITECTURES
    labels, flags = [], []
    for entry in wish.replace(" ", ";").split(";"):
        if not entry:
            continue
        number, plus, suffix = entry.partition("+")
        code = number.replace(".", "")
        if not code.rstrip("af").isdigit() or (plus and suffix != "PTX"):
            raise BuildError(
                "TORCH_CUDA_ARCH_LIST must hold entries such as 8.0, 9.0a or 9.0+PTX "
                f"(got {entry!r})"
            )
        # "9.0+PTX" beside "9.0a" adds the portable PTX alone: the device code is there already.
        if f"sm_{code}a" not in labels:
            labels.append(f"sm_{code}")
            flags.append(f"-gencode=arch=compute_{code},code=sm_{code}")
        if plus:
            labels.append(f"compute_{code}")
            flags.append(f"-gencode=arch=compute_{code},code=compute_{code}")
    return labels, flags


def kernel_flags(source):
    """nvcc's architectures for a .cu.

    Kernels of *_sm90a.cu are compiled for sm_90a alone, and where that is not wanted, not at all.
    """
    labels, flags = cuda_architectures()
    if source.stem.endswith("_sm90a") and "sm_90a" in labels:
        return ["-gencode=arch=compute_90a,code=sm_90a", "-DFASTCONV_SM90A"]
    return flags


def max_jobs():
    """MAX_JOBS, or as many jobs as there are processors and 2 GiB of free memory each."""
    wish = os.environ.get("MAX_JOBS")
    if wish:
        if not wish.isdigit() or int(wish) < 1:
            raise BuildError(f"MAX_JOBS must be a positive whole number (got MAX_JOBS={wish})")
        return int(wish)
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return max(1, min(processors, free_memory() // 2**31))


def free_memory():
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(li.split()[1]) for li in lines if li.startswith("MemAvailable")) * 1024
    except (OSError, StopIteration):
        return 2**32


class NinjaFile:
    """Collects compile and link steps, then runs them."""

    def __init__(self, folder):
        self.folder = Path(folder).resolve()
        self.lines = []

    def rule(self, name, command, deps=True):
        depfile = "\n  depfile = $out.d\n  deps = gcc" if deps else ""
        self.lines.append(
            f"rule {name}\n  command = {command}\n  description = {name} $out{depfile}"
        )

    def compile(self, rule, source, tag="", flags=()):
        stem = Path(source).relative_to(CSRC).with_suffix("")
        target = self.folder / stem.parent / f"{stem.name}{tag}.o"
        joined = " ".join(flags)
        self.lines.append(f"build {_esc(target)}: {rule} {_esc(source)}\n  flags = {joined}")
        return target

    def link(self, rule, objects, target, flags=(), after=()):
        inputs = " ".join(_esc(o) for o in objects)
        inputs += "".join(f" | {_esc(a)}" for a in after)
        self.lines.append(f"build {_esc(target)}: {rule} {inputs}\n  flags = {' '.join(flags)}")

    def run(self, jobs, verbose):
        import ninja

        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "build.ninja").write_text("\n\n".join(self.lines) + "\n")
        name = "ninja.exe" if os.name == "nt" else "ninja"
        program = Path(ninja.BIN_DIR, name)
        command = [str(program), "-C", str(self.folder), "-j", str(jobs)]
        if subprocess.call(command + (["-v"] if verbose else [])) != 0:
            raise BuildError(
                "the compiler stopped with the error above. Out of memory? Set MAX_JOBS=1. "
                "CUDA trouble? FASTCONV_CUDA=0 builds the CPU kernels alone."
            )


def _esc(path):
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def _define(name, value):
    return f"'-D{name}=\"{value}\"'"


class BuildLibraries(build_ext):
    """build_ext that hands the whole work to one ninja file."""

    def get_ext_filename(self, fullname):
        if fullname.endswith("_cuda"):  # a library for torch.ops.load_library, no Python module
            return os.path.join(*fullname.split(".")) + ".so"
        return super().get_ext_filename(fullname)

    def run(self):
        sys.path.insert(0, str(ROOT))
        try:
            import torch
        except ImportError as error:
            raise BuildError(
                f"torch >= 2.10 is needed to build and could not be imported ({error}). "
                "Install it first, or leave out --no-build-isolation."
            ) from None
        if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 10):
            raise BuildError(f"torch >= 2.10 is needed (found torch {torch.__version__})")

        nvcc = wanted_nvcc()
        if nvcc is None:
            self.extensions = [e for e in self.extensions if not e.name.endswith("_cuda")]
        ninja_file = NinjaFile(Path(self.build_temp) / f"torch-{torch.__version__}")
        if nvcc is not None:  # first: its longest steps are the longest of all
            self._plan_cuda(ninja_file, torch, nvcc)
        self._plan_host(ninja_file, torch, nvcc)
        ninja_file.run(max_jobs(), verbose=bool(os.environ.get("FASTCONV_VERBOSE")))
        self._leave_in_source_tree()

    def _target(self, name):
        target = Path(self.get_ext_fullpath(name)).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _torch_flags(self, torch):
        include = Path(torch.__file__).parent / "include"
        return [f"-isystem {_esc(include)}", f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}"]

    def _plan_host(self, plan, torch, nvcc):
        import pybind11

        cxx = os.environ.get("CXX", "c++")
        common = " ".join([*CXX_FLAGS, f"-I{_esc(CSRC)}"])
        plan.rule("cxx", f"{cxx} -MMD -MF $out.d {common} $flags -c $in -o $out")
        plan.rule("link", f"{cxx} -shared $in $flags -o $out", deps=False)

        version = {}
        exec((ROOT / "fastconv" / "_version.py").read_text(), version)
        facts = {
            "FASTCONV_VERSION": version["__version__"],
            "FASTCONV_BUILT_WITH_TORCH": torch.__version__,
            "FASTCONV_BUILT_WITH_PYTHON": platform.python_version(),
            "FASTCONV_BUILT_WITH_NVCC": _nvcc_version(nvcc) if nvcc else "",
            "FASTCONV_CUDA_ARCHITECTURES": ";".join(cuda_architectures()[0]) if nvcc else "",
        }
        module_flags = [
            f"-isystem {_esc(pybind11.get_include())}",
            f"-isystem {_esc(sysconfig.get_paths()['include'])}",
            *[_define(key, value) for key, value in facts.items()],
        ]
        sets = instruction_sets()
        # pybind11 first: torch's headers bring a copy of their own, which torch 2.10 refuses here.
        flags = module_flags + self._torch_flags(torch)
        objects = [plan.compile("cxx", CSRC / "library.cpp", flags=flags)]
        for source in sorted((CSRC / "cpu").glob("*.cpp")):
            if source.stem.endswith("_kernel"):
                for name, flags in sets.items():
                    flags = [*flags, f"-DFASTCONV_ISA={name}"]
                    objects.append(plan.compile("cxx", source, f".{name}", flags))
            else:
                objects.append(plan.compile("cxx", source, flags=self._torch_flags(torch)))
        library = Path(torch.__file__).parent / "lib"
        flags = [f"-L{_esc(library)}", "-ltorch_cpu", "-Wl,--exclude-libs,ALL"]
        plan.link("link", objects, self._target("fastconv._C"), flags)

    def _plan_cuda(self, plan, torch, nvcc):
        common = f"-std=c++17 -Xcompiler -fPIC,-fvisibility=hidden -I{_esc(CSRC)}"
        common = f"{_esc(nvcc)} -MD -MF $out.d {common} $flags -c $in -o $out"
        # nvcc reads a .cu once for each architecture and once for the host, a .cpp only once: what
        # needs torch's large headers stands in the latter.
        kernels = ["-O3", "--expt-relaxed-constexpr"]
        host = ["-O2", "-Xcompiler -Wall,-Wextra", "-DUSE_CUDA", *self._torch_flags(torch)]
        # ptxas says beside each object what its kernels use; cuda_resources.py reads it.
        report = ">$out.ptxas 2>&1 || { cat $out.ptxas; exit 1; }"
        plan.rule("nvcc", f"{common} {' '.join(kernels)} -Xptxas -v {report}")
        plan.rule("nvcc_host", f"{common} {' '.join(host)}")
        # The library must name libtorch_cuda.so among its needs, or torch's symbols are not found
        # when it is loaded; a torch without CUDA has no such file, so an empty stand-in is linked.
        # The stand-in also serves where torch has the file: its symbols are looked up at load.
        stub = plan.folder / "stub" / "libtorch_cuda.so"
        cc = os.environ.get("CC", "cc")
        plan.rule(
            "stub",
            f"mkdir -p {_esc(stub.parent)} && echo | {cc} -shared -x c - "
            "-Wl,-soname,libtorch_cuda.so -o $out",
            deps=False,
        )
        plan.lines.append(f"build {_esc(stub)}: stub")
        # nvcc links, because it alone knows where its own libraries lie.
        plan.rule(
            "link_cuda",
            f"{_esc(nvcc)} -shared -cudart static $in -Xlinker --no-as-needed $flags -o $out",
            deps=False,
        )
        objects = [
            *[
                plan.compile("nvcc", source, ".kernels", kernel_flags(source))
                for source in _sources("cuda", "*.cu")
            ],
            *[plan.compile("nvcc_host", source) for source in _sources("cuda", "*.cpp")],
        ]
        torch_lib = Path(torch.__file__).parent / "lib"
        flags = [
            *[f"-L{_esc(stub.parent)}", f"-L{_esc(torch_lib)}", "-ltorch_cpu", "-ltorch_cuda"],
            *["-Xlinker", "--exclude-libs,ALL"],
        ]
        plan.link("link_cuda", objects, self._target("fastconv._cuda"), flags, [stub])

    def _leave_in_source_tree(self):
        """Python started in the repository's root finds the source folder first: serve it too."""
        for extension in self.extensions:
            built = self._target(extension.name)
            beside = ROOT / "fastconv" / built.name
            if beside.resolve() != built and os.access(beside.parent, os.W_OK):
                # Replace, never overwrite: a running Python may have the old one mapped.
                temporary = beside.with_suffix(".new")
                shutil.copy2(built, temporary)
                os.replace(temporary, beside)


def _nvcc_version(nvcc):
    text = subprocess.run([str(nvcc), "--version"], capture_output=True, text=True).stdout
    return text.partition("release ")[2].partition(",")[0] or "unknown"


def _sources(room, pattern):
    return sorted((CSRC / room).glob(pattern))


def extensions():
    sources = {
        "fastconv._C": [CSRC / "library.cpp", *_sources("cpu", "*.cpp")],
        "fastconv._cuda": [*_sources("cuda", "*.cu"), *_sources("cuda", "*.cpp")],
    }
    return [
        Extension(name, [str(s.relative_to(ROOT)) for s in files])
        for name, files in sources.items()
    ]
