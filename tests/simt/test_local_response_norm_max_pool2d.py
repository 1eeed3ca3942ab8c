"""CUDA's local_response_norm_max_pool2d, run on the CPU, against the CPU op."""

import pytest
import simt_testing as simt
import torch
from op_testing import DTYPES, assert_within_policy, sample

from fastconv.ops.local_response_norm_max_pool2d import (
    local_response_norm_max_pool2d_backward_ref,
    local_response_norm_max_pool2d_ref,
)

op = torch.ops.fastconv.local_response_norm_max_pool2d
op_backward = torch.ops.fastconv.local_response_norm_max_pool2d_backward
LAYOUTS = pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])

# shape, (size, alpha, beta, k), (kernel_size, stride, padding, dilation, ceil_mode)
CASES = {
    "alexnet": ((2, 40, 9, 11), (5, 0.2, 0.75, 2.0), ((3, 3), (2, 2), (0, 0), (1, 1), False)),
    "several tiles of outputs": (
        (1, 11, 37, 71),
        (3, 0.7, 0.5, 1.0),
        ((3, 2), (2, 1), (1, 1), (1, 1), True),
    ),
    "several tiles of maps": (
        (1, 150, 4, 5),
        (9, 0.3, 1.0, 0.5),
        ((2, 2), (1, 2), (0, 0), (1, 1), False),
    ),
    "even window of maps, any power, dilation": (
        (2, 7, 9, 8),
        (4, 0.7, 0.6, 1.0),
        ((2, 3), (3, 1), (1, 1), (2, 2), False),
    ),
    "windows apart": ((1, 5, 13, 12), (50, 0.3, 0.3, 1.0), ((2, 2), (4, 5), (0, 1), (1, 1), True)),
    "one element": ((1, 1, 1, 1), (5, 0.7, 0.75, 1.0), ((1, 1), (1, 1), (0, 0), (1, 1), False)),
    "tile cut to fit": (
        (1, 40, 60, 60),
        (3, 0.7, 0.75, 1.0),
        ((2, 2), (1, 1), (0, 0), (50, 50), False),
    ),
}


def forward(x, constants, window, last, **options):
    size, *reals = constants
    *pool, ceil_mode = window
    ints, shape = simt.pool2d_ints(x.shape, *pool, ceil_mode, last=last)
    before, after = min(size // 2, x.shape[1]), min((size - 1) // 2, x.shape[1])
    arguments = {"dtype": x.dtype, "reals": reals, "channels_last": last, **options}
    arguments["ints"] = [*ints, before, after]
    outputs = [(shape, x.dtype), (shape, torch.uint8)]
    y, switches = simt.run(
        "local_response_norm_max_pool2d", [x], outputs, entry="forward", **arguments
    )
    return y, switches, arguments


def values_alone(x, shape, arguments):
    op = "local_response_norm_max_pool2d"
    return simt.run(op, [x], [(shape, x.dtype)], entry="values", **arguments)[0]


def kernels(x, constants, window, last, **options):
    """Output, switches, the gradient that is sent back, and the input's."""
    y, switches, arguments = forward(x, constants, window, last, **options)
    alone = values_alone(x, y.shape, arguments)
    torch.testing.assert_close(alone, y, rtol=0, atol=0, equal_nan=True)
    g = sample(*y.shape, dtype=x.dtype, seed=1)
    (dx,) = simt.run(
        "local_response_norm_max_pool2d",
        [g, x, switches],
        [(x.shape, x.dtype)],
        entry="backward",
        **arguments,
    )
    return y, switches, g, dx


def assert_right(ours, peer, exact):
    if ours.dtype == torch.float64:  # the definition in float64 is all there is to compare with
        torch.testing.assert_close(ours, exact, rtol=1e-13, atol=1e-13)
    else:
        assert_within_policy(ours, peer, exact)


def assert_matches_definition(case, dtype, last, **options):
    shape, constants, window = case
    x = sample(*shape, dtype=dtype)
    y, switches, g, dx = kernels(x, constants, window, last, **options)
    exact, exact_switches = local_response_norm_max_pool2d_ref(x.double(), *constants, *window)
    assert_right(y, local_response_norm_max_pool2d_ref(x, *constants, *window)[0], exact)
    if dtype in (torch.float32, torch.float64):  # others round, and then the first of equals wins
        assert torch.equal(switches, exact_switches)
    else:
        assert torch.equal(switches, op(x, *constants, *window)[1])
    back = (*constants, *window[:4])
    exact = local_response_norm_max_pool2d_backward_ref(g.double(), x.double(), switches, *back)
    peer = local_response_norm_max_pool2d_backward_ref(g, x, switches, *back)
    assert_right(dx, peer, exact)


@LAYOUTS
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_matches_definition(case, last):
    assert_matches_definition(case, torch.float32, last)


@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_other_dtypes(dtype, last):
    assert_matches_definition(CASES["alexnet"], dtype, last)


@LAYOUTS
def test_misaligned(last):
    assert_matches_definition(CASES["alexnet"], torch.float32, last, misaligned=True)


@LAYOUTS
def test_nan_and_inf_reach_what_they_reach_on_the_cpu(last):
    shape, constants, window = CASES["alexnet"]
    x = sample(*shape)
    x[0, 3, 1, 2], x[-1, 8, 4, 5], x[1, 30] = torch.nan, torch.inf, -torch.inf
    y, switches, g, dx = kernels(x, constants, window, last)
    cpu, cpu_switches = op(x, *constants, *window)
    torch.testing.assert_close(y, cpu, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert torch.equal(switches, cpu_switches)
    cpu = op_backward(g, x, switches, *constants, *window[:4])
    torch.testing.assert_close(dx, cpu, rtol=1e-5, atol=1e-5, equal_nan=True)


@LAYOUTS
def test_forward_refuses_what_no_block_holds(last):
    window = ((2, 2), (1, 1), (0, 0), (200, 200), False)
    with pytest.raises(simt.KernelFault):
        forward(sample(1, 2, 201, 201), (3, 0.7, 0.75, 1.0), window, last)
