"""CUDA's conv2d and its gradients, run on the CPU, against the reference in float64."""

from dataclasses import dataclass

import pytest
import simt_testing as simt
import torch
import torch.nn.functional as F
from op_testing import assert_within_policy, sample

PLAIN, TENSOR_CORES, BLOCKS = range(3)


@dataclass
class Case:
    """groups, and channels of one group; padding (top, bottom, left, right)."""

    batch: int
    groups: int
    channels: int
    outputs: int
    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def output(self):
        top, bottom, left, right = self.padding
        return [
            (size + pad - d * (k - 1) - 1) // s + 1
            for size, pad, d, k, s in zip(
                self.size,
                (top + bottom, left + right),
                self.dilation,
                self.kernel,
                self.stride,
                strict=True,
            )
        ]

    def tensors(self, dtype):
        n, g = self.batch, self.groups
        x = sample(n, g * self.channels, *self.size, dtype=dtype, seed=1)
        w = sample(g * self.outputs, self.channels, *self.kernel, dtype=dtype, seed=2)
        b = sample(g * self.outputs, dtype=dtype, seed=3)
        dy = sample(n, g * self.outputs, *self.output, dtype=dtype, seed=4)
        return x, w, b, dy

    def ints(self, path, relu, last, weight_last, splits, warpgroups):
        windows = []
        for i in range(2):
            windows += [self.size[i], self.output[i], self.kernel[i], self.stride[i]]
            windows += [self.padding[2 * i], self.dilation[i]]
        sizes = [self.batch, self.groups, self.channels, self.outputs]
        return [*sizes, *windows, path, relu, last, weight_last, splits, warpgroups]


def expected(case, x, w, b, dy, relu):
    """Output and gradients of input and weight, in the dtype of the tensors."""
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    top, bottom, left, right = case.padding
    padded = F.pad(x, (left, right, top, bottom))
    y = F.conv2d(padded, w, b, case.stride, 0, case.dilation, case.groups)
    gradients = torch.autograd.grad(y, (x, w), dy)
    return (y.relu() if relu else y).detach(), *gradients


def computed(
    case,
    tensors,
    path,
    *,
    relu=False,
    last=True,
    weight_last=True,
    splits=0,
    warpgroups=False,
    **options,
):
    x, w, b, dy = tensors
    ints = case.ints(path, relu, last, weight_last, splits, warpgroups)
    options |= {"dtype": x.dtype, "ints": ints}

    def laid_out(tensor, as_last):  # bytes in the layout that this one tensor has
        return tensor.permute(0, 2, 3, 1).contiguous() if as_last else tensor.contiguous()

    def run(entry, inputs, like, as_last):
        stored = laid_out(like, as_last)
        (flat,) = simt.run("conv2d", inputs, [((stored.numel(),), x.dtype)], entry=entry, **options)
        got = flat.view(stored.shape)
        return got.permute(0, 3, 1, 2) if as_last else got

    output_last = last or path == BLOCKS
    x_in, w_in, dy_in = laid_out(x, last), laid_out(w, weight_last), laid_out(dy, output_last)
    x_in, w_in, dy_in = x_in.flatten(), w_in.flatten(), dy_in.flatten()
    y = run("forward", [x_in, w_in, b], dy, output_last)
    dx = run("input_grad", [dy_in, w_in], x, last)
    dw = run("weight_grad", [dy_in, x_in], w, weight_last)
    return y, dx, dw


def assert_right(case, dtype, path, *, relu=False, **options):
    tensors = case.tensors(dtype)
    got = computed(case, tensors, path, relu=relu, **options)
    exact = expected(case, *(t.double() if t is not None else None for t in tensors), relu)
    if dtype == torch.float64:
        for a, b in zip(got, exact, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        return
    peer = expected(case, *tensors, relu)
    for a, b, c in zip(got, peer, exact, strict=True):
        assert_within_policy(a, b, c)


def assert_right_in_tf32(case, path, **options):
    """Operands that tf32 holds exactly, so that only float32's sums round: by a few units."""
    tensors = case.tensors(torch.float32)
    tensors = [(t.view(torch.int32) & ~0x1FFF).view(torch.float32) for t in tensors]
    got = computed(case, tensors, path, **options)
    exact = expected(case, *(t.double() for t in tensors), False)
    for a, b in zip(got, exact, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=2**-21 * float(b.abs().max()))


PLAIN_CASES = {
    "several tiles": Case(2, 1, 3, 67, (7, 6), (3, 3), padding=(1, 1, 1, 1)),
    "alexnet conv1": Case(2, 1, 3, 8, (23, 23), (11, 11), (4, 4), (0, 3, 0, 3)),
    "groups, stride, dilation": Case(2, 2, 3, 5, (11, 12), (2, 3), (3, 2), (2, 0, 1, 3), (1, 2)),
    "stride beyond the kernel": Case(1, 1, 2, 3, (9, 7), (1, 2), (3, 3)),
    "one element": Case(1, 1, 1, 1, (1, 1), (1, 1)),
}
CORE_CASES = {
    "several tiles": Case(2, 1, 16, 136, (9, 8), (3, 3), padding=(1, 1, 1, 1)),
    "groups": Case(2, 2, 8, 24, (7, 6), (5, 5), padding=(2, 2, 2, 2)),
    "stride": Case(2, 1, 8, 16, (12, 11), (5, 5), (2, 2), (1, 0, 0, 2)),
    "dilation": Case(1, 1, 16, 8, (10, 9), (2, 3), (1, 2), (1, 1, 1, 1), (2, 1)),
    "long sum": Case(1, 1, 64, 64, (6, 6), (3, 3), padding=(1, 1, 1, 1)),
    "one pixel": Case(1, 1, 8, 8, (1, 1), (1, 1)),
}
WARPGROUP_CASES = {  # a tile of 128 x 128 and both its neighbours; terms that fill no stage of 64
    "all edges": Case(3, 1, 72, 200, (8, 7), (2, 3), padding=(1, 0, 1, 1)),
    "rows of one tile, columns of two": Case(1, 2, 136, 64, (11, 11), (1, 1)),
    "phases without taps": Case(2, 1, 8, 8, (9, 8), (1, 1), (2, 3)),
}
BLOCK_CASES = {
    "alexnet conv1": Case(2, 1, 3, 16, (35, 35), (11, 11), (4, 4), (0, 3, 0, 3)),
    "zfnet conv1": Case(2, 1, 3, 24, (20, 19), (7, 7), (2, 2), (0, 1, 0, 1)),
    "stride 1": Case(1, 1, 5, 8, (8, 7), (3, 2), padding=(1, 1, 0, 1)),
    "rows that no window sees": Case(1, 1, 1, 8, (12, 11), (3, 2), (4, 3)),
}


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("case", PLAIN_CASES.values(), ids=PLAIN_CASES)
def test_plain(case, last):
    assert_right(case, torch.float32, PLAIN, last=last, weight_last=not last)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_plain_dtypes(dtype):
    case = PLAIN_CASES["groups, stride, dilation"]
    assert_right(case, dtype, PLAIN, relu=dtype == torch.float64, misaligned=True)


@pytest.mark.parametrize("case", CORE_CASES.values(), ids=CORE_CASES)
def test_tensor_cores(case):
    assert_right(case, torch.bfloat16, TENSOR_CORES)


@pytest.mark.parametrize("name", ["groups", "stride"])
def test_tensor_cores_in_half(name):
    assert_right(CORE_CASES[name], torch.float16, TENSOR_CORES, relu=True)


@pytest.mark.parametrize("name", ["several tiles", "groups", "stride"])
def test_tensor_cores_in_tf32(name):
    assert_right_in_tf32(CORE_CASES[name], TENSOR_CORES)


@pytest.mark.parametrize(
    "case", (CORE_CASES | WARPGROUP_CASES).values(), ids=CORE_CASES | WARPGROUP_CASES
)
def test_warpgroups(case):
    assert_right(case, torch.bfloat16, TENSOR_CORES, warpgroups=True)


@pytest.mark.parametrize("name", ["groups", "stride"])
def test_warpgroups_in_half(name):
    assert_right(CORE_CASES[name], torch.float16, TENSOR_CORES, relu=True, warpgroups=True)


@pytest.mark.parametrize("splits", [1, 2, 7])
def test_warpgroups_with_any_number_of_splits(splits):
    assert_right(CORE_CASES["groups"], torch.bfloat16, TENSOR_CORES, splits=splits, warpgroups=True)


@pytest.mark.parametrize("name", ["alexnet conv1", "stride 1"])
def test_warpgroups_on_blocks(name):
    assert_right(BLOCK_CASES[name], torch.bfloat16, BLOCKS, last=False, warpgroups=True)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("case", BLOCK_CASES.values(), ids=BLOCK_CASES)
def test_blocks(case, last):
    assert_right(case, torch.bfloat16, BLOCKS, last=last, weight_last=last)


def test_blocks_in_tf32():
    assert_right_in_tf32(BLOCK_CASES["zfnet conv1"], BLOCKS)


@pytest.mark.parametrize("path", [PLAIN, TENSOR_CORES])
@pytest.mark.parametrize("splits", [1, 2, 7])
def test_any_number_of_splits(path, splits):
    case = CORE_CASES["groups"]
    assert_right(case, torch.bfloat16, path, splits=splits)


def test_without_bias_and_with_relu():
    case = CORE_CASES["groups"]
    x, w, _, dy = case.tensors(torch.float16)
    got = computed(case, (x, w, None, dy), TENSOR_CORES, relu=True)[0]
    exact = expected(case, x.double(), w.double(), None, dy.double(), True)[0]
    assert_within_policy(got, expected(case, x, w, None, dy, True)[0], exact)


def test_nan_passes_the_relu():
    case = CORE_CASES["one pixel"]
    x, w, b, dy = case.tensors(torch.bfloat16)
    x[0, 0] = torch.nan
    for path in (PLAIN, TENSOR_CORES):
        assert computed(case, (x, w, b, dy), path, relu=True)[0].isnan().all()
