"""A run on the digits, and pictures to send."""

import io
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import fastconv
from fastconv.cli import main

pytest.importorskip("fastapi")  # the extra [demo]


@pytest.fixture(scope="session")
def digits_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "digits"
    assert main(["train", "--epochs", "2", "--output", str(path)]) == 0
    return path


@pytest.fixture
def digits_run(digits_path):
    return fastconv.Run.open(digits_path)


@pytest.fixture(scope="session")
def encode():
    """A random picture in a file format."""

    def make(seed=0, kind="PNG", size=(40, 30), **options):
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, format=kind, **options)
        return stream.getvalue()

    return make


@pytest.fixture(scope="session")
def demo_process(digits_path, tmp_path_factory):
    """Starts `fastconv demo` as a process of its own on a free port; gives its address.

    ``demo_process.at[address]`` is the process.
    """

    def start(*flags):
        folder = tmp_path_factory.mktemp("store")
        command = [sys.executable, "-m", "fastconv", "demo", str(digits_path), "--port", "0"]
        command += ["--folder", str(folder), "--threads", "1", *flags]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        address = found[0].rstrip("/") if found else line
        start.at[address] = process
        assert found, line
        return address

    start.at = {}
    yield start
    for process in start.at.values():
        process.terminate()
        process.wait(20)
        process.stdout.close()
