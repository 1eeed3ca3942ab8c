"""The build: what the sdist holds, what a wheel needs, what the environment variables do."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (".h", ".cpp", ".cu", ".cuh")

needs_source_tree = pytest.mark.skipif(
    not (ROOT / "setup.py").is_file(), reason="the tests run outside a source tree"
)
pytestmark = needs_source_tree


@pytest.fixture(scope="module")
def build():
    path = ROOT / "build_support" / "extensions.py"
    spec = importlib.util.spec_from_file_location("extensions", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def copy_of_source_tree(target):
    """The tracked files, without what earlier builds left."""
    ignore = shutil.ignore_patterns(
        ".git", "build", "dist", "*.so", "*.egg-info", "__pycache__", "runs", "*venv*", ".*cache"
    )
    shutil.copytree(ROOT, target, ignore=ignore)
    return target


def csrc_files(root):
    return {str(p.relative_to(root)) for p in (root / "csrc").rglob("*") if p.suffix in SOURCES}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    tree = copy_of_source_tree(folder / "tree")
    code = f"import backend; print(backend.build_sdist({str(folder)!r}))"
    environment = {**os.environ, "PYTHONPATH": str(tree / "build_support")}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return folder / result.stdout.strip().splitlines()[-1]


def test_sdist_holds_every_csrc_file(sdist):
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert csrc_files(ROOT) <= inside
    assert {"LICENSE", "README.md", "pyproject.toml", "setup.py"} <= inside
    assert "build_support/backend.py" in inside and "tests/packaging/test_build.py" in inside


@pytest.fixture(scope="module")
def wheel_build(sdist, tmp_path_factory):
    """A wheel of the CPU kernels, built from the sdist alone, and the folder it was built in."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        if hasattr(tarfile, "data_filter"):  # Python from 3.10.12 and 3.11.4 on
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(folder)
    (tree,) = folder.iterdir()
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps"]
    result = subprocess.run(
        [*command, "--quiet", "--wheel-dir", str(folder / "out"), "."],
        cwd=tree,
        env={**os.environ, "FASTCONV_CUDA": "0"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = (folder / "out").glob("*.whl")
    return wheel, tree


@pytest.mark.slow
def test_wheel_from_the_sdist_alone_works(wheel_build, tmp_path):
    wheel, _ = wheel_build
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path)
    assert any(re.fullmatch(r"fastconv/_C\..*\.so", n) for n in names)
    assert "fastconv/presets/alexnet2012.yaml" in names
    assert not any(n.startswith(("csrc/", "tests/", "bench/", "build_support/")) for n in names)
    code = "import fastconv, torch; print(fastconv.max_pool2d(torch.arange(4.).view(1, 2, 2), 2))"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.stdout.strip() == "tensor([[[3.]]])", result.stderr


@pytest.mark.slow
def test_kernels_share_no_code_across_instruction_sets(wheel_build):
    """A merged (weak) symbol could leave AVX-512 code where only the baseline may run."""
    _, tree = wheel_build
    objects = list(tree.glob("build/temp*/torch-*/cpu/*_kernel.*.o"))
    assert objects
    for path in objects:
        isa = path.suffixes[-2][1:]
        lines = subprocess.run(["nm", str(path)], capture_output=True, text=True).stdout
        weak = [li.split()[-1] for li in lines.splitlines() if re.search(r" [WVu] ", li)]
        # DW.ref.*: a pointer for the unwinder, the same in every object and no code.
        code = [name for name in weak if not name.startswith("DW.ref.")]
        outside = [name for name in code if f"{len(isa)}{isa}" not in name]
        assert not outside, f"{path.name}: {outside}"


def test_cuda_wish_is_checked(build, monkeypatch):
    monkeypatch.setenv("FASTCONV_CUDA", "yes")
    with pytest.raises(SystemExit, match="FASTCONV_CUDA must be 0, 1 or auto"):
        build.wanted_nvcc()
    monkeypatch.setenv("FASTCONV_CUDA", "0")
    assert build.wanted_nvcc() is None


def test_cuda_demanded_without_nvcc_names_the_remedy(build, monkeypatch):
    monkeypatch.setattr(build, "find_nvcc", lambda: None)
    monkeypatch.setenv("FASTCONV_CUDA", "1")
    with pytest.raises(SystemExit, match=r"nvcc was not found.*Install the CUDA toolkit"):
        build.wanted_nvcc()
    monkeypatch.setenv("FASTCONV_CUDA", "auto")
    assert build.wanted_nvcc() is None


def test_default_architectures(build, monkeypatch):
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    labels, flags = build.cuda_architectures()
    assert labels == ["sm_80", "compute_80", "sm_90a"]
    assert flags[1] == "-gencode=arch=compute_80,code=compute_80"


@pytest.mark.parametrize(
    ("wish", "labels"),
    [
        ("8.0", ["sm_80"]),
        ("7.5 8.6+PTX", ["sm_75", "sm_86", "compute_86"]),
        ("9.0a", ["sm_90a"]),
        ("12.0+PTX", ["sm_120", "compute_120"]),
        ("9.0a;9.0+PTX", ["sm_90a", "compute_90"]),
    ],
)
def test_architecture_list(build, monkeypatch, wish, labels):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", wish)
    assert build.cuda_architectures()[0] == labels


@pytest.mark.parametrize("wish", ["8.0", "8.0+PTX;9.0a", "9.0"])
def test_kernels_of_one_architecture_are_compiled_for_no_other(build, monkeypatch, wish):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", wish)
    flags = build.kernel_flags(Path("conv2d_sm90a.cu"))
    if "9.0a" in wish:
        assert flags == ["-gencode=arch=compute_90a,code=sm_90a", "-DFASTCONV_SM90A"]
    else:
        assert flags == build.cuda_architectures()[1]
    assert build.kernel_flags(Path("conv2d.cu")) == build.cuda_architectures()[1]


@pytest.mark.parametrize("wish", ["Hopper", "9.0+SASS", "9.0;x"])
def test_wrong_architecture_list_is_named(build, monkeypatch, wish):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", wish)
    with pytest.raises(SystemExit, match="TORCH_CUDA_ARCH_LIST must hold entries such as"):
        build.cuda_architectures()


def test_jobs(build, monkeypatch):
    monkeypatch.setenv("MAX_JOBS", "3")
    assert build.max_jobs() == 3
    monkeypatch.setenv("MAX_JOBS", "many")
    with pytest.raises(SystemExit, match="MAX_JOBS must be a positive whole number"):
        build.max_jobs()
    monkeypatch.delenv("MAX_JOBS")
    monkeypatch.setattr(build, "free_memory", lambda: 3 * 2**30)
    assert build.max_jobs() == 1
