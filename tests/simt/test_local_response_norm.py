"""CUDA's local_response_norm, run on the CPU, against the definition and the CPU op."""

import pytest
import simt_testing as simt
import torch
from op_testing import DTYPES, assert_within_policy, sample

from fastconv.ops.local_response_norm import (
    local_response_norm_backward_ref,
    local_response_norm_ref,
)

LAYOUTS = pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])

# shape, (size, alpha, beta, k), within
CASES = {
    "alexnet": ((2, 96, 5, 7), (5, 0.2, 0.75, 2.0), False),
    "window of 3, power 1/2": ((2, 48, 6, 5), (3, 0.7, 0.5, 1.0), False),
    "window of 9, power 1": ((1, 56, 9, 5), (9, 0.3, 1.0, 0.5), False),
    "even window, any power": ((2, 40, 5, 9), (4, 0.7, 0.6, 1.0), False),
    "odd maps": ((3, 19, 7, 6), (5, 0.7, 0.75, 1.0), False),
    "window wider than the maps": ((2, 24, 5, 3), (51, 0.3, 0.3, 1.0), False),
    "one pixel": ((3, 64, 1, 1), (5, 0.7, 0.75, 1.0), False),
    "maps over several tiles": ((1, 290, 2, 37), (9, 0.2, 0.75, 1.0), False),
    "pixels in packs": ((2, 67, 6, 8), (5, 0.2, 0.75, 2.0), False),
    "pixels in packs, even window": ((1, 21, 9, 8), (4, 0.7, 0.6, 1.0), False),
    "within, maps in packs": ((1, 24, 11, 19), (5, 0.2, 0.75, 1.0), True),
    "within": ((2, 9, 23, 19), (3, 0.2, 0.75, 1.0), True),
    "within, even, any power": ((1, 5, 13, 70), (4, 0.1, -0.6, 1.0), True),
    "within, wider than the map": ((2, 3, 6, 5), (21, 0.02, 0.75, 1.0), True),
    "one element": ((1, 1, 1, 1), (5, 0.7, 0.75, 1.0), False),
}


def kernels(x, g, constants, within, last, misaligned=False):
    """The output and the gradient with respect to the input."""
    size, *reals = constants
    reach = max(x.shape[2:]) if within else x.shape[1]
    before, after = min(size // 2, reach), min((size - 1) // 2, reach)
    arguments = {
        "dtype": x.dtype,
        "ints": [*x.shape, before, after, within, last],
        "reals": reals,
        "channels_last": last,
        "misaligned": misaligned,
    }
    outputs = [(x.shape, x.dtype)]
    (y,) = simt.run("local_response_norm", [x], outputs, entry="forward", **arguments)
    (dx,) = simt.run("local_response_norm", [g, x], outputs, entry="backward", **arguments)
    return y, dx


def assert_right(ours, peer, exact):
    if ours.dtype == torch.float64:  # the definition in float64 is all there is to compare with
        torch.testing.assert_close(ours, exact, rtol=1e-13, atol=1e-13)
    else:
        assert_within_policy(ours, peer, exact)


def assert_matches_definition(case, dtype, last, misaligned=False):
    shape, constants, within = case
    x, g = sample(*shape, dtype=dtype), sample(*shape, dtype=dtype, seed=1)
    arguments = (*constants, within)
    y, dx = kernels(x, g, constants, within, last, misaligned)
    exact = local_response_norm_ref(x.double(), *arguments)
    assert_right(y, local_response_norm_ref(x, *arguments), exact)
    exact = local_response_norm_backward_ref(g.double(), x.double(), *arguments)
    assert_right(dx, local_response_norm_backward_ref(g, x, *arguments), exact)


@LAYOUTS
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_matches_definition(case, last):
    assert_matches_definition(case, torch.float32, last)


@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize(
    "case",
    ["alexnet", "window of 9, power 1", "odd maps", "pixels in packs", "within, maps in packs"],
)
def test_other_dtypes(case, dtype, last):
    assert_matches_definition(CASES[case], dtype, last)


@LAYOUTS
@pytest.mark.parametrize("case", ["alexnet", "pixels in packs", "within, maps in packs"])
def test_misaligned(case, last):
    assert_matches_definition(CASES[case], torch.float32, last, misaligned=True)


@LAYOUTS
@pytest.mark.parametrize("case", [CASES["alexnet"], CASES["within"]], ids=["across", "within"])
def test_nan_and_inf_reach_what_they_reach_on_the_cpu(case, last):
    shape, constants, within = case
    x, g = sample(*shape), sample(*shape, seed=1)
    x[0, 3, 1, 2], x[-1, 8, 4, 5], g[0, 5, 3, 3] = torch.nan, torch.inf, torch.inf
    op, backward = (
        torch.ops.fastconv.local_response_norm,
        torch.ops.fastconv.local_response_norm_backward,
    )
    y, dx = kernels(x, g, constants, within, last)
    for ours, cpu in ((y, op(x, *constants, within)), (dx, backward(g, x, *constants, within))):
        torch.testing.assert_close(ours, cpu, rtol=1e-5, atol=1e-5, equal_nan=True)
