"""CUDA's prepare_images, run on the CPU, against the CPU op: to the bit."""

import pytest
import simt_testing as simt
import torch

ops = torch.ops.fastconv
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
LAST = pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])

# (N, C, H, W), size: several blocks, rows of packs and not, every number of channels, rows longer
# than what a block's threads make at once.
CASES = {
    "packs of pixels": ((3, 3, 9, 21), (5, 16)),
    "no packs": ((2, 3, 8, 23), (7, 17)),
    "long rows": ((1, 3, 3, 150), (3, 140)),
    "one channel": ((2, 1, 6, 40), (5, 33)),
    "two": ((2, 2, 5, 9), (4, 8)),
    "four": ((2, 4, 5, 30), (5, 27)),
}
EVERY_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def drawn(shape, size, margin=2):
    n, c, h, w = shape
    g = torch.Generator().manual_seed(sum(shape))
    mean_size = size[0] + margin, size[1] + margin

    def places(height, width):
        rooms = (height - size[0] + 1, width - size[1] + 1)
        return torch.stack([torch.randint(room, (n,), generator=g) for room in rooms], 1)

    return [
        torch.randint(256, shape, generator=g, dtype=torch.uint8),
        places(h, w),
        torch.arange(n) % 2 == 0,
        torch.randn(n, c, generator=g) / 10,
        torch.rand(c, *mean_size, generator=g),
        places(*mean_size),
    ]


def bytes_of(tensor):
    """As the kernels read it: pixels (N, H, W, C), a mean image (H, W, C)."""
    if tensor is None or tensor.dim() < 3:
        return tensor
    return tensor.movedim(-3, -1).flatten()


def run(tensors, size, unit, dtype, last, misaligned=False):
    n, c, h, w = tensors[0].shape
    mean = tensors[4]
    mean_size = mean.shape[1:] if mean is not None and mean.dim() == 3 else (0, 0)
    stored = (n, *size, c) if last else (n, c, *size)
    (got,) = simt.run(
        "prepare_images",
        [bytes_of(t) for t in tensors],
        [(stored, dtype)],
        dtype=dtype,
        ints=[n, c, *size, h, w, *mean_size, last],
        reals=unit,
        misaligned=misaligned,
    )
    return got.permute(0, 3, 1, 2) if last else got


def assert_prepares(tensors, size, dtype, last, misaligned=False):
    unit = [0.3, 0.7, 1.1, 255.0][: tensors[0].shape[1]]
    got = run(tensors, size, unit, dtype, last, misaligned)
    expected = ops.prepare_images(*tensors, unit, size, dtype, last)
    assert torch.equal(got, expected)


@LAST
@EVERY_CASE
def test_equals_the_cpus(case, last):
    shape, size = case
    tensors = drawn(shape, size)
    assert_prepares(tensors, size, torch.float32, last)
    colour = [*tensors[:4], tensors[4].mean((1, 2)), None]
    assert_prepares(colour, size, torch.float32, last)


@LAST
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_and_addresses(dtype, last):
    for name in ("packs of pixels", "no packs"):
        shape, size = CASES[name]
        assert_prepares(drawn(shape, size), size, dtype, last, misaligned=True)
    assert_prepares(drawn(*CASES["packs of pixels"]), CASES["packs of pixels"][1], dtype, last)


@LAST
def test_what_is_left_out(last):
    shape, size = CASES["packs of pixels"]
    images, offsets, flips, *_ = drawn(shape, size)
    assert_prepares([images, *[None] * 5], size, torch.float32, last)
    assert_prepares([images, None, flips, None, None, None], size, torch.float32, last)
    # Without places of its own, the mean image's window is the image's.
    mean = images[0].float() / 255
    assert_prepares([images, offsets, flips, None, mean, None], size, torch.float32, last)
    assert_prepares([images[:0], *[None] * 5], size, torch.float32, last)


def test_windows_outside_are_moved_inside():
    shape, size = CASES["packs of pixels"]
    tensors = drawn(shape, size)
    outside = torch.tensor([[-3, 100], [5, -1], [2**40, -(2**40)]])
    inside = torch.tensor([[0, 5], [4, 0], [4, 0]])
    got = run([tensors[0], outside, *[None] * 4], size, [1.0] * 3, torch.float32, True)
    expected = run([tensors[0], inside, *[None] * 4], size, [1.0] * 3, torch.float32, True)
    assert torch.equal(got, expected)


def test_divisions_round_correctly():
    g = torch.Generator().manual_seed(0)
    count = 1800
    a = (torch.rand(count, generator=g) - 0.5) * 4
    b = torch.rand(count, generator=g) + 0.5
    b[:600] *= 2.0 ** torch.randint(-20, 20, (600,), generator=g)
    # Divisors and quotients with all bits set are where one step is not enough.
    b[600:1200] = 2 - 2.0**-23 * torch.randint(1, 200, (600,), generator=g)
    a[600:900] = 1 + 2.0**-23 * torch.randint(0, 200, (300,), generator=g)
    a[-8:] = torch.tensor([0, torch.inf, -torch.inf, torch.nan, 1, -1, 3e38, 1e-20])
    quotients, from_bytes = simt.run(
        "prepare_images",
        [a, b],
        [((count,), torch.float32), ((256,), torch.float32)],
        entry="divide",
        ints=[count],
    )
    torch.testing.assert_close(quotients, a / b, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(from_bytes, torch.arange(256) / 255)
