"""What becomes of the memory of large results on the CPU."""

import concurrent.futures
import os
import re
import subprocess
import sys

import pytest
import torch
from op_testing import sample

import fastconv

MB = 1 << 20
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or tuple(map(int, torch.__version__.split(".")[:2])) < (2, 11),
    reason="memory is kept on Linux, with torch from 2.11 on",
)


@pytest.fixture(autouse=True)
def nothing_kept():
    fastconv.empty_cache()
    yield
    fastconv.empty_cache()


def result(megabytes):
    """A result of this size, all ones."""
    return fastconv.sum_pool2d(torch.ones(1, megabytes, 512, 512), 1)


def resident():
    with open("/proc/self/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+) kB", status.read())[1]) << 10


def test_the_next_result_has_the_memory_of_the_last():
    first = result(8)
    address = first.data_ptr()
    assert fastconv.empty_cache() == 0  # it is in use
    del first
    second = result(8)
    assert second.data_ptr() == address
    assert second.eq(1).all()


def test_small_results_keep_nothing():
    fastconv.sum_pool2d(torch.ones(1, 1, 16, 16), 1)
    assert fastconv.empty_cache() == 0


def test_given_back():
    x = torch.ones(1, 64, 512, 512)
    y = fastconv.sum_pool2d(x, 1)
    before = resident()
    del y
    assert resident() > before - 8 * MB
    assert fastconv.empty_cache() >= 64 * MB
    assert resident() < before - 56 * MB
    assert fastconv.empty_cache() == 0


def test_never_more_than_twice_what_was_in_use():
    # In a process of its own, where nothing else was in use before.
    code = """
import torch, fastconv
for megabytes in (20, 27, 36, 15, 48, 64, 20, 80, 11, 60):  # none fits into the last
    fastconv.sum_pool2d(torch.ones(1, megabytes, 512, 512), 1)
print(fastconv.empty_cache() >> 20)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert 80 <= int(ran.stdout) <= 160


def test_what_is_kept_shrinks_with_what_is_needed():
    y = result(64)
    del y
    small = torch.ones(1, 2, 512, 512)
    for _ in range(2200):
        fastconv.sum_pool2d(small, 1)
    assert fastconv.empty_cache() < 8 * MB


def test_a_block_that_is_much_larger_stays_for_others():
    large = result(32)
    address = large.data_ptr()
    del large
    small = result(4)
    assert small.data_ptr() != address


def test_views_keep_the_block():
    y = result(8)
    view = y[:, 3]
    address = y.data_ptr()
    del y
    other = result(8)
    assert other.data_ptr() != address
    other.zero_()
    assert view.eq(1).all()


def test_from_many_threads():
    x = sample(2, 16, 160, 160)
    expected = fastconv.max_pool2d(x, 1)

    def many(_):
        return all(torch.equal(fastconv.max_pool2d(x, 1), expected) for _ in range(40))

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        assert all(threads.map(many, range(4)))


def test_forked_processes_go_on():
    code = """
import os, torch, fastconv
x = torch.ones(1, 8, 512, 512)  # torch's own loops would wait for ever for the parent's threads
y = fastconv.sum_pool2d(x, 1)
del y
child = os.fork()
if child == 0:
    y = fastconv.sum_pool2d(x, 1)
    good = y[0, 7, 511, 511].item() == 1
    del y
    os._exit(0 if good and fastconv.empty_cache() > 0 else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_results_go_to_other_processes_and_to_numpy(tmp_path):
    y = result(4)
    y.share_memory_()
    assert y.is_shared() and y.eq(1).all()
    array = result(4).numpy()
    other = result(4).zero_()
    assert (array == 1).all() and other.eq(0).all()
    torch.save(result(4), tmp_path / "y.pt")
    assert torch.load(tmp_path / "y.pt").eq(1).all()


def test_gradients_of_every_layer_are_the_same_without(tmp_path):
    """A step with memory that held other numbers before, and one with fresh memory."""
    code = """
import sys, torch, fastconv
torch.manual_seed(0)
torch.set_num_threads(2)
model = fastconv.fuse(fastconv.create_model("alexnet", init="he")).eval()
x = torch.randn(4, *model.input_size).contiguous(memory_format=torch.channels_last)
for _ in range(3):
    model.zero_grad(set_to_none=True)
    loss = model(x).square().sum()
    loss.backward()
torch.save([loss.detach(), *(p.grad for p in model.parameters())], sys.argv[1])
"""
    for wish in ("0", "1"):
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / wish)],
            env={**os.environ, "FASTCONV_KEEP_MEMORY": wish},
            check=True,
        )
    without, kept = (torch.load(tmp_path / wish) for wish in ("0", "1"))
    for a, b in zip(without, kept, strict=True):
        assert torch.equal(a, b)


def test_turned_off():
    code = (
        "import torch, fastconv\n"
        "y = fastconv.sum_pool2d(torch.ones(1, 8, 512, 512), 1)\n"
        "del y\n"
        "print(fastconv.empty_cache())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "FASTCONV_KEEP_MEMORY": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == "0"
