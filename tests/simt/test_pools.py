"""CUDA's max_unpool2d, avg_pool2d, stochastic_pool2d and maxout, run on the CPU.

They are compared with the CPU ops: to the bit where no rounding is involved or the operations are
the same, else within the tolerance policy.
"""

import pytest
import simt_testing as simt
import torch
from op_testing import DTYPES, assert_within_policy, sample

ops = torch.ops.fastconv
LAST = pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)

# shape, kernel, stride, padding, dilation, ceil_mode
CASES = {
    "alexnet": ((2, 16, 13, 15), (3, 3), (2, 2), (0, 0), (1, 1), False),
    "ceil, padded, several blocks": ((3, 40, 9, 8), (3, 2), (2, 1), (1, 1), (1, 1), True),
    "odd maps, gaps": ((2, 7, 11, 10), (2, 3), (3, 4), (1, 1), (1, 1), False),
}
DILATED = ((2, 8, 11, 10), (2, 3), (1, 2), (1, 1), (3, 2), False)
EVERY_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def options_of(case, dtype, last, *more, misaligned=False):
    shape, *window, ceil_mode = case
    ints, pooled = simt.pool2d_ints(shape, *window, ceil_mode, last=last)
    options = {
        "dtype": dtype,
        "ints": [*ints, *more],
        "channels_last": last,
        "misaligned": misaligned,
    }
    return options, pooled


def assert_equal(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def assert_unpools(case, dtype, last, overwrite, misaligned=False):
    shape, *window, ceil_mode = case
    x = sample(*shape, dtype=dtype).round()  # ties
    pooled, switches = ops.max_pool2d(x, *window, ceil_mode)
    values = sample(*pooled.shape, dtype=dtype, seed=1)
    options, _ = options_of(case, dtype, last, overwrite, misaligned=misaligned)
    (got,) = simt.run(
        "max_unpool2d", [values, switches], [(shape, dtype)], entry="forward", **options
    )
    expected = ops.max_unpool2d(values, switches, *window, shape[2:], overwrite)
    assert_equal(got, expected)
    grad = sample(*shape, dtype=dtype, seed=2)
    (got,) = simt.run(
        "max_unpool2d", [grad, switches], [(pooled.shape, dtype)], entry="backward", **options
    )
    assert_equal(got, ops.max_unpool2d_backward(grad, switches, *window, overwrite))


@LAST
@EVERY_CASE
def test_max_unpool2d(case, last):
    for overwrite in (False, True):
        assert_unpools(case, torch.float32, last, overwrite)


@LAST
@EVERY_DTYPE
def test_max_unpool2d_dtypes_and_dilation(dtype, last):
    assert_unpools(DILATED, dtype, last, overwrite=False)
    assert_unpools(CASES["alexnet"], dtype, last, overwrite=True, misaligned=True)


def test_switches_that_point_nowhere():
    case = CASES["ceil, padded, several blocks"]
    shape, *window, ceil_mode = case
    x = sample(*shape)
    pooled, switches = ops.max_pool2d(x, *window, ceil_mode)
    switches = torch.randint(0, 256, switches.shape, dtype=torch.uint8)
    options, _ = options_of(case, x.dtype, True, False)
    (got,) = simt.run(
        "max_unpool2d", [pooled, switches], [(shape, x.dtype)], entry="forward", **options
    )
    assert_equal(got, ops.max_unpool2d(pooled, switches, *window, shape[2:], False))
    (got,) = simt.run(
        "max_unpool2d", [x, switches], [(pooled.shape, x.dtype)], entry="backward", **options
    )
    assert_equal(got, ops.max_unpool2d_backward(x, switches, *window, False))


def assert_averages(case, dtype, last, count_include_pad, divisor, misaligned=False):
    shape, kernel, stride, padding, _, ceil_mode = case
    x = sample(*shape, dtype=dtype)
    rule = kernel, stride, padding, ceil_mode, count_include_pad, divisor or None
    options, pooled = options_of(
        case, dtype, last, count_include_pad, divisor, misaligned=misaligned
    )
    (got,) = simt.run("avg_pool2d", [x], [(pooled, dtype)], entry="forward", **options)
    assert_equal(got, ops.avg_pool2d(x, *rule))
    grad = sample(*pooled, dtype=dtype, seed=1)
    (got,) = simt.run("avg_pool2d", [grad], [(shape, dtype)], entry="backward", **options)
    peer = ops.avg_pool2d_backward(grad, shape[2:], last, *rule)
    exact = ops.avg_pool2d_backward(grad.double(), shape[2:], last, *rule)
    if dtype == torch.float64:
        torch.testing.assert_close(got, exact, rtol=1e-14, atol=1e-15)
    else:
        assert_within_policy(got, peer, exact)


@LAST
@EVERY_CASE
def test_avg_pool2d(case, last):
    assert_averages(case, torch.float32, last, True, 0)
    assert_averages(case, torch.float32, last, False, 0)
    assert_averages(case, torch.float32, last, True, 1)


@LAST
@EVERY_DTYPE
def test_avg_pool2d_dtypes(dtype, last):
    assert_averages(CASES["alexnet"], dtype, last, False, 0)
    assert_averages(CASES["alexnet"], dtype, last, True, 0, misaligned=True)


def activations(shape, dtype, special=False):
    x = sample(*shape, dtype=dtype).relu()
    if special:  # each in windows of its own, and together
        flat = x.view(-1)
        flat[5::97] = -1
        flat[11::101] = torch.inf
        flat[17::103] = torch.nan
        flat[3::89] = torch.finfo(dtype).max
        x[0, 0] = 0
        x[0, 1] = torch.finfo(dtype).tiny
    return x


def assert_draws(case, dtype, last, special=False, misaligned=False):
    shape, kernel, stride, padding, _, ceil_mode = case
    x, seed = activations(shape, dtype, special), torch.tensor([-98765432101])
    options, pooled = options_of(case, dtype, last, misaligned=misaligned)
    outputs = [(pooled, dtype), (pooled, torch.uint8)]
    got = simt.run("stochastic_pool2d", [x, seed], outputs, entry="draw", **options)
    expected = ops.stochastic_pool2d(x, seed, kernel, stride, padding, ceil_mode)
    for a, b in zip(got, expected, strict=True):
        assert_equal(a, b)


@LAST
@EVERY_CASE
def test_draws_are_the_cpus_bits(case, last):
    assert_draws(case, torch.float32, last)


@LAST
@EVERY_DTYPE
def test_draws_of_every_dtype_and_of_special_values(dtype, last):
    assert_draws(CASES["alexnet"], dtype, last, special=True)
    assert_draws(CASES["alexnet"], dtype, last, misaligned=True)


def assert_means(case, dtype, last, special=False, misaligned=False):
    shape, kernel, stride, padding, _, ceil_mode = case
    rule = kernel, stride, padding, ceil_mode
    x = activations(shape, dtype, special)
    options, pooled = options_of(case, dtype, last, misaligned=misaligned)
    (mean,) = simt.run("stochastic_pool2d", [x], [(pooled, dtype)], entry="mean", **options)
    grad = sample(*pooled, dtype=dtype, seed=1)
    (dx,) = simt.run("stochastic_pool2d", [x, grad], [(shape, dtype)], entry="grad", **options)
    peers = (
        ops.stochastic_pool2d_mean(x, *rule),
        ops.stochastic_pool2d_mean_backward(grad, x, *rule),
    )
    if special:
        for a, b in zip((mean, dx), peers, strict=True):
            tolerance = 4 * torch.finfo(dtype).eps
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
        return
    exact = (
        ops.stochastic_pool2d_mean(x.double(), *rule),
        ops.stochastic_pool2d_mean_backward(grad.double(), x.double(), *rule),
    )
    for a, b, c in zip((mean, dx), peers, exact, strict=True):
        if dtype == torch.float64:
            torch.testing.assert_close(a, c, rtol=1e-13, atol=1e-14)
        else:
            assert_within_policy(a, b, c)


@LAST
@EVERY_CASE
def test_means(case, last):
    assert_means(case, torch.float32, last)


@LAST
@EVERY_DTYPE
def test_means_of_every_dtype_and_of_special_values(dtype, last):
    assert_means(CASES["alexnet"], dtype, last)
    assert_means(CASES["alexnet"], dtype, last, special=True, misaligned=True)


@LAST
@pytest.mark.parametrize("stride", [5, 16])
def test_means_of_large_windows(stride, last):
    # Sums of hundreds of elements: added one after the other they would be too far off.
    window = (16, 16), (stride, stride), (0, 0), (1, 1), False
    assert_means(((1, 4, 32, 32), *window), torch.float32, last)


@LAST
@EVERY_DTYPE
@pytest.mark.parametrize(
    ("shape", "pool_size", "stride"),
    [
        ((2, 8, 4, 8), 2, 2),
        ((3, 17, 7, 9), 3, 2),
        ((1, 5, 1, 1), 5, 1),
        ((2, 6, 3, 8), 1, 1),
        ((3, 24, 31, 8), 3, 3),  # several blocks of packs of groups
        ((1, 10, 3, 1), 5, 5),  # fewer groups than a pack
    ],
)
def test_maxout(shape, pool_size, stride, dtype, last):
    n, maps, h, w = shape
    x = sample(*shape, dtype=dtype).round()
    x.view(-1)[7::31] = torch.nan
    y, switches = ops.maxout(x, pool_size, stride)
    ints = [n, h * w, maps, y.shape[1], pool_size, stride, last or h * w == 1]
    options = {"dtype": dtype, "ints": ints, "channels_last": last}
    outputs = [(y.shape, dtype), (y.shape, torch.uint8)]
    for misaligned in (False, True):
        got = simt.run("maxout", [x], outputs, entry="forward", misaligned=misaligned, **options)
        assert_equal(got[0], y)
        assert_equal(got[1], switches)
    grad = sample(*y.shape, dtype=dtype, seed=1)
    for misaligned in (False, True):
        (got,) = simt.run(
            "maxout", [grad, switches], [(shape, dtype)], entry="backward", misaligned=misaligned,
            **options,
        )  # fmt: skip
        assert_equal(got, ops.maxout_backward(grad, switches, maps, last, pool_size, stride))


def test_empty_tensors_are_no_fault():
    shape, pooled, kind = (2, 0, 4, 4), (2, 0, 2, 2), torch.float32
    case = (shape, (2, 2), (2, 2), (0, 0), (1, 1), False)
    options, _ = options_of(case, kind, False, False)
    inputs = [torch.zeros(pooled), torch.zeros(pooled, dtype=torch.uint8)]
    simt.run("max_unpool2d", inputs, [(shape, kind)], entry="forward", **options)
    simt.run("max_unpool2d", inputs, [(pooled, kind)], entry="backward", **options)
    options, _ = options_of(case, kind, False, True, 0)
    simt.run("avg_pool2d", inputs[:1], [(shape, kind)], entry="backward", **options)
    ints = [2, 0, 4, 2, 2, 2, False]  # no pixels
    outputs = [((2, 2, 0, 3), kind), ((2, 2, 0, 3), torch.uint8)]
    simt.run("maxout", [torch.zeros(2, 4, 0, 3)], outputs, entry="forward", ints=ints)
