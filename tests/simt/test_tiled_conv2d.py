"""CUDA's tiled_conv2d and its gradients, run on the CPU, against the CPU op in float64."""

import pytest
import simt_testing as simt
import torch
from op_testing import assert_within_policy, sample

ops = torch.ops.fastconv

# batch, groups, channels and outputs of a group, size, kernel, stride, padding, tiles
PLAIN = {
    "period 2x3, stride": (2, 1, 3, 5, (9, 8), (3, 2), (2, 1), (1, 1), (2, 3)),
    "groups": (1, 2, 2, 3, (7, 6), (3, 3), (1, 1), (1, 1), (2, 2)),
    "locally connected": (2, 1, 2, 3, (4, 5), (2, 2), (1, 1), (0, 0), (3, 4)),
    "more tiles than outputs": (1, 1, 2, 2, (4, 4), (3, 3), (1, 1), (0, 0), (3, 3)),
    "one tile": (1, 1, 3, 4, (6, 5), (3, 3), (1, 1), (1, 1), (1, 1)),
    "tiles of one and of two blocks": (3, 1, 2, 3, (13, 9), (3, 2), (2, 1), (0, 1), (3, 2)),
    "stride beyond the input": (2, 1, 2, 3, (3, 4), (2, 2), (5, 1), (1, 0), (2, 2)),
}
CORES = {
    "period 2": (2, 1, 16, 24, (7, 8), (3, 3), (1, 1), (1, 1), (2, 2)),
    "groups, stride": (1, 2, 8, 8, (9, 7), (3, 3), (2, 1), (1, 1), (2, 1)),
    "several blocks": (7, 1, 8, 72, (11, 9), (1, 2), (1, 1), (0, 0), (2, 2)),
}


def tensors_of(case, dtype):
    n, g, c, o, size, kernel, stride, padding, tiles = case
    x = sample(n, g * c, *size, dtype=dtype, seed=1)
    w = sample(*tiles, g * o, c, *kernel, dtype=dtype, seed=2)
    b = sample(*tiles, g * o, dtype=dtype, seed=3)
    output = ops.tiled_conv2d(x, w, b, stride, padding, g)
    return x, w, b, sample(*output.shape, dtype=dtype, seed=4)


def results(case, x, w, b, dy):
    _, g, *_, stride, padding, _ = case
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    y = ops.tiled_conv2d(x, w, b, stride, padding, g)
    return y.detach(), *torch.autograd.grad(y, (x, w), dy)


def computed(case, x, w, b, dy, cores, last, splits, misaligned=False):
    n, g, c, o, size, kernel, stride, padding, tiles = case
    windows = []
    for i in range(2):
        windows += [size[i], dy.shape[2 + i], kernel[i], stride[i], padding[i], 1]
    options = {
        "dtype": x.dtype,
        "ints": [n, g, c, o, *windows, *tiles, cores, last, splits],
        "channels_last": last,
        "misaligned": misaligned,
    }
    ordered = w.permute(0, 1, 2, 4, 5, 3).contiguous() if cores else w
    y = simt.run("tiled_conv2d", [x, ordered, b], [(dy.shape, x.dtype)], entry="forward", **options)
    dx = simt.run("tiled_conv2d", [dy, w], [(x.shape, x.dtype)], entry="input_grad", **options)
    dw = simt.run("tiled_conv2d", [dy, x], [(w.shape, x.dtype)], entry="weight_grad", **options)
    return *y, *dx, *dw


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("case", PLAIN.values(), ids=PLAIN)
def test_plain(case, last):
    tensors = tensors_of(case, torch.float64)
    got = computed(case, *tensors, cores=False, last=last, splits=2)
    for a, b in zip(got, results(case, *tensors), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def assert_within(case, dtype, **options):
    tensors = tensors_of(case, dtype)
    got, peer = computed(case, *tensors, **options), results(case, *tensors)
    exact = results(case, *(t.double() for t in tensors))
    for a, b, c in zip(got, peer, exact, strict=True):
        assert_within_policy(a, b, c)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_plain_dtypes(dtype):
    case = PLAIN["period 2x3, stride"]
    assert_within(case, dtype, cores=False, last=False, splits=1, misaligned=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CORES.values(), ids=CORES)
def test_tensor_cores(case, dtype):
    assert_within(case, dtype, cores=True, last=True, splits=2)
