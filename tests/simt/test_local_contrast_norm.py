"""CUDA's local_contrast_norm, run on the CPU, against the composition of convolutions."""

import pytest
import simt_testing as simt
import torch
from op_testing import DTYPES, assert_within_policy, sample

from fastconv.ops.local_contrast_norm import local_contrast_norm_ref

OPS = torch.ops.fastconv
LAYOUTS = pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
CONFIGURATIONS = pytest.mark.parametrize(
    ("across", "mean"),
    [(True, True), (True, False), (False, True), (False, False)],
    ids=["across-mean", "across-threshold", "within-mean", "within-threshold"],
)

ACROSS = pytest.mark.parametrize("across", [True, False], ids=["across", "within"])

# shape, kernel_size, sigma
SEVERAL_TILES = (1, 2, 66, 34), 5, 1.25
PACKS = (2, 16, 9, 7), 5, 2.0  # of maps, where they are normalised together
LANES = (1, 9, 17, 4), 5, 2.0  # several tiles of them, where each map is by itself
SMALL = {
    "wider than the image": ((2, 3, 6, 5), 101, 25.0),
    "one column": ((2, 2, 40, 1), 9, 0.7),
    "one element": ((1, 1, 1, 1), 3, 1.0),
    "one tap": ((1, 4, 6, 5), 1, 1.0),
    "beyond shared memory": ((1, 2, 57, 56), 115, 20.0),
}


def arguments_of(case, across, mean):
    return *case[1:], across, mean, 1e-4 if mean else 0.9  # as a threshold, at times the larger


def call(entry, tensors, outputs, arguments, last, misaligned=False):
    kernel_size, sigma, across, mean, eps = arguments
    x = tensors[0]
    return simt.run(
        "local_contrast_norm", tensors, outputs, entry=entry, dtype=x.dtype,
        ints=[*x.shape, kernel_size, across, mean, last], reals=[sigma, eps], channels_last=last,
        misaligned=misaligned,
    )  # fmt: skip


def kernels(x, g, arguments, last, misaligned=False):
    """The output, the statistics (N, 2 or 0, H, W) and the gradient."""
    n, _, h, w = x.shape
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    kept = (n, 2 if arguments[2] else 0, h * w)  # 3-d: not in the layout of the maps
    y, statistics = call(
        "forward", [x], [(x.shape, x.dtype), (kept, kind)], arguments, last, misaligned
    )
    (dx,) = call("backward", [g, x, statistics], [(x.shape, x.dtype)], arguments, last, misaligned)
    return y, statistics.view(n, -1, h, w) if kept[1] else statistics, dx


def reference(x, g, arguments, dtype):
    leaf = x.to(dtype).requires_grad_()
    y = local_contrast_norm_ref(leaf, *arguments)
    return y.detach(), torch.autograd.grad(y, leaf, g.to(dtype))[0]


def assert_right(case, dtype, across, mean, last, misaligned=False):
    arguments = arguments_of(case, across, mean)
    x, g = sample(*case[0], dtype=dtype), sample(*case[0], dtype=dtype, seed=1)
    y, statistics, dx = kernels(x, g, arguments, last, misaligned)
    exact = reference(x, g, arguments, torch.float64)
    if across:
        expected = OPS.local_contrast_norm(x, *arguments)[1]
        torch.testing.assert_close(statistics, expected)
    if dtype == torch.float64:
        torch.testing.assert_close((y, dx), exact, rtol=1e-11, atol=1e-12)
        return
    for ours, peer, value in zip((y, dx), reference(x, g, arguments, dtype), exact, strict=True):
        assert_within_policy(ours, peer, value)


def assert_is_the_cpus(y, dx, x, g, arguments, **tolerance):
    expected, statistics = OPS.local_contrast_norm(x, *arguments)
    expected_dx = OPS.local_contrast_norm_backward(g, x, statistics, *arguments)
    torch.testing.assert_close((y, dx), (expected, expected_dx), **tolerance)


@CONFIGURATIONS
@LAYOUTS
def test_matches_the_composition(last, across, mean):
    assert_right(SEVERAL_TILES, torch.float32, across, mean, last)


@LAYOUTS
@ACROSS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(dtype, across, last):
    assert_right(PACKS if across else LANES, dtype, across, True, last)


@LAYOUTS
@ACROSS
def test_misaligned(across, last):
    assert_right(PACKS if across else LANES, torch.float32, across, True, last, misaligned=True)


@LAYOUTS
@ACROSS
@pytest.mark.parametrize("case", SMALL.values(), ids=SMALL)
def test_small_images(case, across, last):
    # Deviations of 0 have no gradient in the composition: the CPU op is the measure.
    arguments = arguments_of(case, across, True)
    x, g = (sample(*case[0], dtype=torch.float64, seed=seed) for seed in (0, 1))
    y, _, dx = kernels(x, g, arguments, last)
    assert_is_the_cpus(y, dx, x, g, arguments, rtol=1e-11, atol=1e-12)


@LAYOUTS
@CONFIGURATIONS
def test_a_constant_image_gives_zeros(last, across, mean):
    x = torch.full((1, 2, 9, 11), -333.3)
    y, _, dx = kernels(x, sample(1, 2, 9, 11), (7, 1.75, across, mean, 1e-4), last)
    assert torch.equal(y, torch.zeros_like(y)) and dx.isfinite().all()


@LAYOUTS
@CONFIGURATIONS
def test_not_finite_where_the_cpu_is_not(last, across, mean):
    arguments = (5, 1.25, across, mean, 1e-4)
    x, g = sample(1, 3, 14, 9), sample(1, 3, 14, 9, seed=1)
    x[0, 2, 3, 4], g[0, 1, 10, 5] = torch.nan, torch.inf
    y, _, dx = kernels(x, g, arguments, last)
    assert_is_the_cpus(y, dx, x, g, arguments, rtol=1e-4, atol=1e-5, equal_nan=True)
