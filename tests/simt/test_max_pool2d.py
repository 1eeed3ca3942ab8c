"""CUDA's max_pool2d, run on the CPU, against the CPU op."""

import pytest
import simt_testing as simt
import torch
from op_testing import DTYPES, sample

# shape, kernel, stride, padding, dilation, ceil_mode
CASES = {
    "alexnet": ((2, 16, 13, 15), (3, 3), (2, 2), (0, 0), (1, 1), False),
    "ceil, padded, several blocks": ((3, 40, 9, 8), (3, 2), (2, 1), (1, 1), (1, 1), True),
    "odd maps, dilated": ((2, 7, 11, 10), (2, 3), (3, 2), (1, 1), (3, 2), False),
    "one window": ((1, 8, 4, 4), (4, 4), (4, 4), (0, 0), (1, 1), False),
    "one element": ((1, 1, 1, 1), (1, 1), (1, 1), (0, 0), (1, 1), False),
}


def pooled(x, case, last, misaligned=False, entry="run", results=(torch.uint8,)):
    _, *window, ceil_mode = case
    ints, shape = simt.pool2d_ints(x.shape, *window, ceil_mode, last=last)
    outputs = [(shape, dtype) for dtype in (x.dtype, *results)]
    return simt.run(
        "max_pool2d", [x], outputs, entry=entry, dtype=x.dtype, ints=ints, channels_last=last,
        misaligned=misaligned,
    )  # fmt: skip


def assert_equals_cpu(x, case, last, misaligned=False):
    expected = torch.ops.fastconv.max_pool2d(x, *case[1:])
    for a, b in zip(pooled(x, case, last, misaligned), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_cpu(case, dtype, last):
    assert_equals_cpu(sample(*case[0], dtype=dtype), case, last)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_without_switches(case, last):
    x = sample(*case[0])
    (values,) = pooled(x, case, last, entry="values", results=())
    assert torch.equal(values, torch.ops.fastconv.max_pool2d(x, *case[1:])[0])


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_misaligned(last):
    case = CASES["alexnet"]
    assert_equals_cpu(sample(*case[0]), case, last, misaligned=True)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_ties_nan_and_inf(last):
    case = CASES["ceil, padded, several blocks"]
    x = sample(*case[0]).round()
    x[x == 2] = torch.nan
    x[x == -1] = -torch.inf
    x[x == 3] = torch.inf
    assert_equals_cpu(x, case, last)
