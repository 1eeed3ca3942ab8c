"""The harness proves itself: planted faults are found, and a healthy kernel passes."""

import pytest
import simt_testing as simt
import torch

BLOCK = 64


def run(entry, count=3 * BLOCK):
    x = torch.arange(1.0, count + 1)
    (y,) = simt.run("harness", [x], [((count,), x.dtype)], entry=entry, ints=[count])
    return x, y


def expected(x):
    padded = torch.nn.functional.pad(x, (0, -len(x) % BLOCK))
    opposite = padded.view(-1, BLOCK).flip(1).flatten()
    of_warp = padded.view(-1, 32).sum(1).repeat_interleave(32)
    return (opposite + of_warp)[: len(x)]


@pytest.mark.parametrize("count", [1, BLOCK, 3 * BLOCK - 5])
def test_a_healthy_kernel_passes(count):
    x, y = run("none", count)
    assert torch.equal(y, expected(x))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("shared_overrun", "heap-buffer-overflow"),
        ("dynamic_shared_overrun", "heap-buffer-overflow"),
        ("tail", "heap-buffer-overflow"),
        ("barrier_in_branch", "threads wait at different places|deadlock"),
        ("shuffle_in_branch", "deadlock|threads wait at different places"),
        ("part_of_a_warp", "a shuffle must name the whole warp"),
        ("misaligned_pack", "misaligned address"),
        ("last_writer_wins", "depends on the order of the threads"),
        ("overflow", "signed integer overflow"),
    ],
)
def test_a_fault_is_named(entry, message):
    with pytest.raises(simt.KernelFault, match=message):
        run(entry, 3 * BLOCK - 5)


@pytest.mark.parametrize("entry", ["missing_barrier", "missing_wait", "unwritten"])
def test_what_was_never_written_shows(entry):
    try:
        x, y = run(entry)
    except simt.KernelFault as fault:  # seen at once, because the orders disagree
        assert "depends on the order of the threads" in str(fault)
    else:
        assert y.isnan().any() and not torch.equal(y, expected(x))


@pytest.mark.parametrize(
    ("batch", "image", "parts"),
    [
        (5, 1000, [(0, 5)]),
        (5, 2**30, [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1)]),
        (7, 2**29, [(0, 3), (3, 3), (6, 1)]),
        (0, 1000, []),
    ],
)
def test_large_batches_are_launched_in_parts(batch, image, parts):
    outputs = [((2 * len(parts),), torch.int64)]
    (got,) = simt.run("harness", [], outputs, entry="parts", ints=[batch, image])
    assert got.tolist() == [number for part in parts for number in part]


def test_an_image_too_large_for_a_launch_is_refused():
    with pytest.raises(simt.KernelFault, match="launch failed"):
        simt.run("harness", [], [((2,), torch.int64)], entry="parts", ints=[1, 2**31])
