"""What a type checker tells a user of the package."""

import subprocess
import sys
from pathlib import Path

import pytest

import fastconv

pytest.importorskip("mypy")

_SCRIPT = """
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import fastconv
from fastconv import Run

x = torch.zeros(1, 3, 8, 8)
assert_type(fastconv.conv2d(x, torch.zeros(4, 3, 3, 3)), Tensor)
assert_type(fastconv.max_pool2d(x, 2), Tensor)
assert_type(fastconv.max_pool2d(x, 2, return_indices=True), tuple[Tensor, Tensor])
assert_type(fastconv.max_pool2d_with_switches(x, 2), tuple[Tensor, Tensor])
assert_type(fastconv.stochastic_pool2d(x, 2), Tensor)
assert_type(fastconv.stochastic_pool2d(x, 2, return_switches=True), tuple[Tensor, Tensor])
assert_type(fastconv.maxout(x, 3), Tensor)
assert_type(fastconv.local_response_norm(x, 5), Tensor)
assert_type(fastconv.local_response_norm_max_pool2d(x, 5, 3), Tensor)
assert_type(fastconv.create_model("alexnet"), nn.Module)
assert_type(Run.open("runs/digits").classes, list[str])
layers = nn.Sequential(fastconv.nn.Conv2d(3, 4, 3), fastconv.nn.MaxPool2d(2, ceil_mode=True))
"""


def check(script: str, tmp_path: Path) -> subprocess.CompletedProcess:
    (tmp_path / "user.py").write_text(script)
    package = Path(fastconv.__file__).parent.parent
    installed = package.name == "site-packages"  # where mypy looks by itself
    return subprocess.run(
        [sys.executable, "-m", "mypy", "user.py", "--follow-imports=silent"],
        cwd=tmp_path,
        env={"MYPYPATH": "" if installed else str(package), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_users_script_is_typed(tmp_path):
    done = check(_SCRIPT, tmp_path)
    assert done.returncode == 0, done.stdout
    wrong = check(_SCRIPT + "fastconv.conv2d(x, 'weight')\nfastconv.maxout(x, pools=2)\n", tmp_path)
    assert wrong.returncode == 1
    assert 'incompatible type "str"; expected "Tensor"' in wrong.stdout
    assert 'Unexpected keyword argument "pools"' in wrong.stdout or "No overload" in wrong.stdout
