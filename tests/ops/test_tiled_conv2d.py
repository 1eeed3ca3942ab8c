"""tiled_conv2d against unfolded patches, torch's convolution and a loop over tiles."""

import pytest
import torch
import torch.nn.functional as F
from op_testing import (
    CAPABILITIES,
    DTYPES,
    FORMATS,
    assert_compiles,
    assert_passes_with_capability,
    assert_refuses,
    assert_same_for_all_thread_counts,
    assert_within_policy,
    awkward,
    sample,
    standard_proofs,
)

import fastconv
from fastconv.ops.tiled_conv2d import tiled_conv2d_ref

OP = torch.ops.fastconv.tiled_conv2d

# input, weight, stride, padding, groups
CASES = {
    "square period": ((2, 3, 9, 11), (2, 2, 4, 3, 3, 3), (1, 1), (1, 1), 1),
    "oblong everything": ((2, 8, 9, 11), (2, 3, 10, 4, 3, 2), (2, 1), (0, 1), 2),
    "period = output": ((1, 2, 6, 5), (6, 5, 3, 2, 3, 3), (1, 1), (1, 1), 1),
    "period > output": ((2, 3, 7, 7), (9, 8, 4, 3, 3, 3), (1, 1), (0, 0), 1),
    "period 1": ((2, 3, 8, 8), (1, 1, 6, 1, 3, 3), (2, 2), (1, 1), 3),
    "stride > window": ((1, 20, 8, 9), (2, 2, 40, 20, 2, 2), (3, 3), (0, 0), 1),
    "padding > window": ((2, 3, 9, 9), (2, 2, 4, 3, 3, 3), (1, 1), (5, 4), 1),
    "window > period": ((2, 3, 12, 12), (3, 2, 4, 3, 5, 7), (3, 2), (2, 3), 1),
    "one pixel": ((3, 5, 1, 1), (2, 2, 4, 5, 1, 1), (1, 1), (0, 0), 1),
    "vectors": ((3, 18, 14, 15), (2, 3, 34, 18, 3, 3), (1, 1), (1, 1), 1),
}


def tensors(case, dtype, memory_format=torch.contiguous_format, requires_grad=True):
    shape, weight_shape, *window = CASES[case]
    x = sample(*shape, dtype=dtype, memory_format=memory_format)
    weight = sample(*weight_shape, dtype=dtype, seed=1)
    bias = sample(*weight_shape[:3], dtype=dtype, seed=2)
    leaves = [t.requires_grad_(requires_grad) for t in (x, weight, bias)]
    return *leaves, *window


def value_and_gradients(function, arguments, dtype, grad):
    x, weight, bias, *window = arguments
    leaves = [t.detach().to(dtype).requires_grad_() for t in (x, weight, bias)]
    y = function(*leaves, *window)
    return y.detach(), *torch.autograd.grad(y, leaves, grad.to(dtype))


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("case", CASES)
def test_equals_the_definition(case, memory_format):
    arguments = tensors(case, torch.float64, memory_format)
    grad = sample(*tiled_conv2d_ref(*arguments).shape, dtype=torch.float64, seed=3)
    ours = value_and_gradients(OP, arguments, torch.float64, grad)
    exact = value_and_gradients(tiled_conv2d_ref, arguments, torch.float64, grad)
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    last = torch.channels_last
    for result in ours[:2]:  # as the input, where the strides can tell
        channels_last = memory_format == last and min(result.shape[1], result[0, 0].numel()) > 1
        assert result.is_contiguous(memory_format=last if channels_last else memory_format)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", ["oblong everything", "period = output"])
def test_precision(case, dtype, memory_format):
    arguments = tensors(case, dtype, memory_format)
    grad = sample(*tiled_conv2d_ref(*arguments).shape, dtype=dtype, seed=3)
    ours = value_and_gradients(OP, arguments, dtype, grad)
    peer = value_and_gradients(tiled_conv2d_ref, arguments, dtype, grad)
    exact = value_and_gradients(tiled_conv2d_ref, arguments, torch.float64, grad)
    for a, b, c in zip(ours, peer, exact, strict=True):
        assert_within_policy(a, b, c)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_precision_of_one_tile(dtype, memory_format):
    """Longer sums, against torch's own op, in torch's default format for both of ours."""
    x = sample(3, 18, 14, 15, dtype=dtype, memory_format=memory_format)
    weight, bias = sample(1, 1, 34, 18, 3, 3, dtype=dtype, seed=1), sample(1, 1, 34, dtype=dtype)
    grad = sample(3, 34, 14, 15, dtype=dtype, seed=2)
    arguments = (x, weight, bias, [1, 1], [1, 1], 1)

    def torchs(x, weight, bias, *window):
        return F.conv2d(x, weight[0, 0], bias[0, 0], window[0], window[1])

    ours = value_and_gradients(OP, arguments, dtype, grad)
    arguments = (x.contiguous(), *arguments[1:])
    peer = value_and_gradients(torchs, arguments, dtype, grad)
    exact = value_and_gradients(torchs, arguments, torch.float64, grad)
    for a, b, c in zip(ours, peer, exact, strict=True):
        assert_within_policy(a, b, c)


@pytest.mark.parametrize("case", ["square period", "oblong everything", "period > output"])
def test_gradcheck(case):
    x, weight, bias, *window = tensors(case, torch.float64)
    x = x[:1, :, :6, :7].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda *t: OP(*t, *window), (x, weight, bias), fast_mode=True)
    assert torch.autograd.gradgradcheck(
        lambda *t: OP(*t, *window), (x, weight, bias), fast_mode=True
    )


def test_gradcheck_of_every_element():
    x = sample(1, 2, 4, 5, dtype=torch.float64).requires_grad_()
    weight = sample(2, 3, 2, 2, 2, 3, dtype=torch.float64, seed=1).requires_grad_()
    bias = sample(2, 3, 2, dtype=torch.float64, seed=2).requires_grad_()
    call = fastconv.tiled_conv2d
    assert torch.autograd.gradcheck(lambda *t: call(*t, (1, 2), (1, 1)), (x, weight, bias))


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("groups", [1, 3])
def test_one_tile_is_a_convolution(groups, memory_format):
    x = sample(2, 6, 13, 12, dtype=torch.float64, memory_format=memory_format)
    weight = sample(9, 6 // groups, 3, 5, dtype=torch.float64, seed=1)
    bias = sample(9, dtype=torch.float64, seed=2)
    y = fastconv.tiled_conv2d(x, weight[None, None], bias[None, None], (2, 1), (1, 2), groups)
    expected = F.conv2d(x, weight, bias, (2, 1), (1, 2), 1, groups)
    torch.testing.assert_close(y, expected)


def test_equal_tiles_are_a_convolution():
    x = sample(2, 3, 10, 11, dtype=torch.float64)
    weight = sample(4, 3, 3, 3, dtype=torch.float64, seed=1)
    y = fastconv.tiled_conv2d(x, weight.expand(3, 2, 4, 3, 3, 3), padding=1)
    torch.testing.assert_close(y, F.conv2d(x, weight, padding=1))


def test_period_of_the_output_is_locally_connected():
    x = sample(2, 3, 7, 8, dtype=torch.float64)
    weight = sample(5, 6, 4, 3, 3, 3, dtype=torch.float64, seed=1)
    bias = sample(5, 6, 4, dtype=torch.float64, seed=2)
    patches = F.unfold(x, 3).view(2, 27, 5, 6)
    expected = torch.empty(2, 4, 5, 6, dtype=torch.float64)
    for i in range(5):
        for j in range(6):
            filters = weight[i, j].reshape(4, 27)
            expected[:, :, i, j] = patches[:, :, i, j] @ filters.T + bias[i, j]
    torch.testing.assert_close(fastconv.tiled_conv2d(x, weight, bias), expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_each_tile_makes_its_pixels(stride):
    """Every tile by itself, as an ordinary convolution, and the gradient that reaches it."""
    x = sample(2, 3, 11, 12, dtype=torch.float64)
    weight = sample(2, 3, 4, 3, 3, 3, dtype=torch.float64, seed=1).requires_grad_()
    y = fastconv.tiled_conv2d(x, weight, stride=stride, padding=1)
    for i in range(2):
        for j in range(3):
            whole = F.conv2d(x, weight[i, j], stride=stride, padding=1)
            mine, expected = y[:, :, i::2, j::3], whole[:, :, i::2, j::3]
            torch.testing.assert_close(mine, expected)
            (grad,) = torch.autograd.grad(mine.square().sum(), weight, retain_graph=True)
            (same,) = torch.autograd.grad(expected.square().sum(), weight)
            torch.testing.assert_close(grad, same)
            others = torch.ones(2, 3, dtype=torch.bool)
            others[i, j] = False
            assert (grad[others] == 0).all() and (grad[i, j] != 0).all()


def test_bias_gradient_counts_each_tiles_pixels():
    x = sample(2, 3, 7, 8)
    weight = sample(3, 3, 4, 3, 1, 1, seed=1)
    bias = torch.zeros(3, 3, 4, requires_grad=True)
    fastconv.tiled_conv2d(x, weight, bias).sum().backward()
    counts = 2 * torch.outer(torch.tensor([3.0, 2, 2]), torch.tensor([3.0, 3, 2]))
    assert torch.equal(bias.grad, counts[..., None].expand(3, 3, 4))


def test_without_a_batch_or_a_bias():
    x, weight, bias, *window = tensors("oblong everything", torch.float32)
    y = fastconv.tiled_conv2d(x[0], weight, None, *window)
    expected = fastconv.tiled_conv2d(x, weight, torch.zeros_like(bias), *window)
    torch.testing.assert_close(y, expected[0])


def test_an_empty_batch():
    weight = sample(2, 2, 4, 3, 3, 3).requires_grad_()
    bias = sample(2, 2, 4).requires_grad_()
    x = torch.empty(0, 3, 8, 8, requires_grad=True)
    y = fastconv.tiled_conv2d(x, weight, bias)
    assert y.shape == (0, 4, 6, 6)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert not weight.grad.any() and not bias.grad.any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_awkward_memory(dtype):
    x = sample(2, 4, 9, 10, dtype=dtype)
    weight = sample(2, 3, 6, 4, 3, 3, dtype=dtype, seed=1)
    grad = sample(2, 6, 9, 10, dtype=dtype, seed=2)
    tolerance = {"rtol": 8 * torch.finfo(dtype).eps, "atol": 64 * torch.finfo(dtype).eps}
    strided_weight = weight.permute(5, 4, 3, 2, 1, 0).contiguous().permute(5, 4, 3, 2, 1, 0)
    first = None
    for name, tensor in awkward(x).items():
        for w in (weight, strided_weight):
            leaves = tensor.detach().requires_grad_(), w.detach().requires_grad_()
            y = fastconv.tiled_conv2d(*leaves, padding=1)
            for upstream in awkward(grad).values():
                got = (y, *torch.autograd.grad(y, leaves, upstream, retain_graph=True))
                first = first or got
                for a, b in zip(got, first, strict=True):
                    torch.testing.assert_close(a, b, msg=name, **tolerance)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_not_finite(value, memory_format):
    x = sample(2, 3, 9, 9, memory_format=memory_format)
    weight = sample(2, 2, 4, 3, 3, 3, seed=1)
    clean = fastconv.tiled_conv2d(x, weight, padding=1)
    x[0, 1, 4, 4] = value
    y = fastconv.tiled_conv2d(x, weight, padding=1)
    reached = torch.zeros_like(y, dtype=torch.bool)
    reached[0, :, 3:6, 3:6] = True
    assert not y[reached].isfinite().any()
    assert torch.equal(y[~reached], clean[~reached])


@pytest.mark.parametrize("memory_format", FORMATS)
def test_results_do_not_depend_on_threads(memory_format):
    x, weight, bias, *window = tensors("vectors", torch.float32, memory_format)

    def run():
        y = OP(x, weight, bias, *window)
        return y, *torch.autograd.grad(y.square().sum(), (x, weight, bias))

    assert_same_for_all_thread_counts(run)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("case", ["square period", "oblong everything"])
def test_opcheck(case, memory_format):
    x, weight, bias, *window = tensors(case, torch.float32, memory_format)
    standard_proofs(OP, x, weight, bias, *window)
    standard_proofs(OP, x, weight, None, *window)
    grad = sample(*OP(x, weight, None, *window).shape).requires_grad_()
    ops = torch.ops.fastconv
    last = memory_format == torch.channels_last
    standard_proofs(ops.tiled_conv2d_input_grad, grad, weight, x.shape, *window, last)
    standard_proofs(ops.tiled_conv2d_weight_grad, grad, x, weight.shape, *window)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_compiles(memory_format):
    x, weight, bias, *window = tensors("oblong everything", torch.float32, memory_format)
    assert_compiles(lambda *t: fastconv.tiled_conv2d(*t, *window), x, weight, bias)
    image = x[0].detach().contiguous().requires_grad_()
    assert_compiles(lambda *t: fastconv.tiled_conv2d(*t, *window), image, weight, bias)


def test_autocast_as_torchs_convolution():
    x, weight, bias, *window = tensors("square period", torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = fastconv.tiled_conv2d(x, weight, bias, *window)
        assert F.conv2d(x, weight[0, 0]).dtype == torch.bfloat16
    assert y.dtype == torch.bfloat16
    low = [t.bfloat16() for t in (x, weight, bias)]
    assert torch.equal(y, fastconv.tiled_conv2d(*low, *window))
    grads = torch.autograd.grad(y.float().sum(), (x, weight, bias))
    assert all(g.dtype == torch.float32 for g in grads)


def test_wrong_inputs():
    call = fastconv.tiled_conv2d
    x, weight = torch.zeros(1, 4, 6, 6), torch.zeros(2, 3, 8, 4, 3, 3)
    bias = torch.zeros(2, 3, 8)
    ops = torch.ops.fastconv
    grad = call(x, weight)
    window = ([1, 1], [0, 0], 1)
    assert_refuses(
        [
            (call, (x[0, 0], weight), {}, "input must have shape (N, C, H, W) or (C, H, W)"),
            (call, (x, weight[0, 0]), {}, "weight must have 6 dimensions"),
            (call, (x, weight[:0]), {}, "weight must have no empty dimension"),
            (call, (x, weight[..., :0]), {}, "weight must have no empty dimension"),
            (call, (x[:, :0], weight), {}, "input must have no empty dimension but the batch"),
            (call, (x.long(), weight), {}, "input must be float32, float64, float16 or bfloat16"),
            (call, (x, weight.double()), {}, "weight must have the dtype of input"),
            (call, (x, weight, bias.double()), {}, "bias must have the dtype of input"),
            (call, (x, weight, bias[0]), {}, "bias must have shape (2, 3, 8) (got (3, 8))"),
            (call, (x, weight, bias[..., :1]), {}, "bias must have shape (2, 3, 8)"),
            (call, (x, weight, bias, 0), {}, "stride must be at least 1 (got stride=0)"),
            (call, (x, weight, bias, 1, -1), {}, "padding must be at least 0 (got padding=-1)"),
            (call, (x, weight, bias, "a"), {}, "stride must be an int or a pair of ints"),
            (call, (x, weight), {"groups": 0}, "groups must be at least 1 (got groups=0)"),
            (call, (x, weight), {"groups": 3}, "groups must divide the output channels"),
            (call, (x, weight), {"groups": 2}, "input must have weight.shape[1] * groups"),
            (call, (x[..., :2], weight), {}, "the window must fit into the padded input"),
            (
                ops.tiled_conv2d_input_grad,
                (grad[..., 1:], weight, x.shape, *window, False),
                {},
                "grad_output must have the output's shape",
            ),
            (
                ops.tiled_conv2d_weight_grad,
                (grad, x.double(), weight.shape, *window),
                {},
                "input must have the dtype of grad_output",
            ),
            (
                ops.tiled_conv2d_weight_grad,
                (grad, x, weight.shape[1:], *window),
                {},
                "weight must have 6 dimensions",
            ),
        ]
    )


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_instruction_set(capability):
    assert_passes_with_capability(capability, __file__, "precision or each_tile")
