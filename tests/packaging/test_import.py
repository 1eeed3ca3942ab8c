"""What `import fastconv` says where something does not fit."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastconv

PACKAGE = Path(fastconv.__file__).parent


@pytest.fixture
def broken_install(tmp_path):
    """A copy of the package for a test to break."""
    ignore = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(PACKAGE, tmp_path / "fastconv", ignore=ignore))


# An editable install's finder would find the missing libraries where they were built.
WITHOUT_EDITABLE_FINDERS = """
import sys
sys.meta_path = [f for f in sys.meta_path if "editable" not in getattr(f, "__module__", "").lower()]
import fastconv
"""


def import_error(package):
    code = WITHOUT_EDITABLE_FINDERS
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=package.parent, capture_output=True, text=True
    )
    assert result.returncode == 1
    return result.stderr


def test_missing_library_is_named_with_the_remedy(broken_install):
    for library in broken_install.glob("_C*.so"):
        library.unlink()
    error = import_error(broken_install)
    assert "its compiled library is missing" in error
    assert "built:   nothing" in error and "running: Python" in error
    assert "pip install --force-reinstall --no-deps ." in error


def test_library_of_another_python_is_named(broken_install):
    (library,) = broken_install.glob("_C*.so")
    library.rename(library.with_name("_C.cpython-39-x86_64-linux-gnu.so"))
    error = import_error(broken_install)
    assert "its compiled library was built for another Python" in error
    assert "_C.cpython-39-x86_64-linux-gnu.so" in error


def test_library_of_another_version_is_named(broken_install):
    (broken_install / "_version.py").write_text('__version__ = "99.0"\n')
    error = import_error(broken_install)
    assert f"its compiled library is of version {fastconv.__version__}" in error


def test_damaged_library_is_named(broken_install):
    (library,) = broken_install.glob("_C*.so")
    library.write_bytes(b"not a library")
    assert "its compiled library does not load" in import_error(broken_install)


def test_info_tells_what_runs():
    info = fastconv.info()
    assert info["fastconv"] == fastconv.__version__
    assert info["cpu_capability"] in ("baseline", "avx2", "avx512")
    assert info["threads"] >= 1
    assert Path(info["cpu_library"]).is_file()
    assert set(info["built_with"]) == {"torch", "python", "compiler", "nvcc"}


@pytest.mark.parametrize("capability", ["baseline", "avx2"])
def test_cpu_capability_can_be_lowered(capability):
    if fastconv.info()["cpu_capability"] == "baseline" and capability == "avx2":
        pytest.skip("this processor has no AVX2")
    code = "import fastconv; print(fastconv.info()['cpu_capability'])"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "FASTCONV_CPU_CAPABILITY": capability},
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
    )
    assert result.stdout.strip() == capability


_OFFLINE = """
import sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"):
        raise SystemExit(f"network: {event} {arguments}")

sys.addaudithook(refuse)
from fastconv import cli
for command in (
    ["info"],
    ["train", "--epochs", "1", "--output", sys.argv[1] + "/run"],
    ["eval", sys.argv[1] + "/run"],
    ["visualize", sys.argv[1] + "/run", "--pages", "filters"],
    ["export", sys.argv[1] + "/run", "--format", "safetensors"],
):
    assert cli.main(command) == 0, command
"""


def test_nothing_reaches_for_the_network(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", _OFFLINE, str(tmp_path)],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
