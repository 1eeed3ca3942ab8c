"""avg_pool2d and sum_pool2d against torch and the slow definition."""

import pytest
import torch
import torch.nn.functional as F
from op_testing import (
    CAPABILITIES,
    DTYPES,
    FORMATS,
    assert_compiles,
    assert_large_is_single_images,
    assert_passes_with_capability,
    assert_refuses,
    assert_same_for_all_thread_counts,
    assert_within_policy,
    awkward,
    sample,
    standard_proofs,
)

import fastconv
from fastconv import avg_pool2d, sum_pool2d
from fastconv.ops.avg_pool2d import avg_pool2d_ref

op = torch.ops.fastconv.avg_pool2d
op_backward = torch.ops.fastconv.avg_pool2d_backward

# (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override): every stride with
# a kernel of its own, both ways of counting, windows that hang over, skipped elements, one window.
WINDOWS = [
    (3, 2, 0, False, True, None),
    (2, None, 0, False, True, None),
    (3, 1, 1, False, True, None),
    (3, 1, 1, False, False, None),
    (3, 2, 1, True, True, None),
    (3, 2, 1, True, False, None),
    (4, 3, 2, True, False, None),
    ((3, 5), (1, 3), (1, 2), True, True, None),
    ((5, 2), (4, 5), (0, 1), False, False, None),
    (1, 3, 0, True, True, None),
    (2, 6, 1, False, True, None),
    ((9, 13), None, 0, False, True, None),
    (3, 2, 1, False, True, 5),
    (3, 2, 0, False, True, -2),
]


def gradient(output, input, grad_output):
    return torch.autograd.grad(output, input, grad_output)[0]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_float64_is_torch(memory_format, window):
    x = sample(2, 21, 9, 13, dtype=torch.float64, memory_format=memory_format).requires_grad_()
    ours, peer = avg_pool2d(x, *window), F.avg_pool2d(x, *window)
    torch.testing.assert_close(ours, peer, rtol=1e-14, atol=1e-15)
    g = sample(*ours.shape, dtype=torch.float64, seed=1)
    torch.testing.assert_close(gradient(ours, x, g), gradient(peer, x, g), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_policy(dtype, memory_format, window):
    x = sample(2, 21, 9, 13, dtype=dtype, memory_format=memory_format).requires_grad_()
    exact_x = x.detach().double().requires_grad_()
    ours, peer = avg_pool2d(x, *window), F.avg_pool2d(x, *window)
    exact = F.avg_pool2d(exact_x, *window)
    assert ours.is_contiguous(memory_format=memory_format)
    assert_within_policy(ours, peer, exact)
    g = sample(*ours.shape, dtype=dtype, memory_format=memory_format, seed=1)
    grad = gradient(ours, x, g)
    assert grad.is_contiguous(memory_format=memory_format)
    assert_within_policy(grad, gradient(peer, x, g), gradient(exact, exact_x, g.double()))


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_is_the_definition(window):
    x = sample(2, 3, 9, 13, dtype=torch.float64)
    kernel_size, stride, padding, *rest = window
    pairs = [
        list(v) if isinstance(v, tuple) else [v, v]
        for v in (kernel_size, stride or kernel_size, padding)
    ]
    torch.testing.assert_close(avg_pool2d(x, *window), avg_pool2d_ref(x, *pairs, *rest))


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_sum_is_the_average_undivided(memory_format):
    x = sample(2, 5, 9, 12, memory_format=memory_format).requires_grad_()
    ours = sum_pool2d(x, (3, 2), 2, 1, True)
    peer = F.avg_pool2d(x, (3, 2), 2, 1, True, divisor_override=1)
    torch.testing.assert_close(ours, peer)
    g = sample(*ours.shape, seed=1)
    torch.testing.assert_close(gradient(ours, x, g), gradient(peer, x, g))
    assert sum_pool2d(torch.ones(1, 1, 4, 4), 4).item() == 16


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_formats_give_equal_bits(dtype, window):
    x = sample(2, 37, 9, 13, dtype=dtype)
    results = []
    for memory_format in FORMATS:
        leaf = x.contiguous(memory_format=memory_format).requires_grad_()
        y = avg_pool2d(leaf, *window)
        g = sample(*y.shape, dtype=dtype, memory_format=memory_format, seed=1)
        results.append((y, gradient(y, leaf, g)))
    for first, last in zip(*results, strict=True):
        assert torch.equal(first, last)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_thread_counts_give_equal_bits(memory_format):
    x = sample(3, 24, 41, 40, memory_format=memory_format).requires_grad_()

    def run():
        y = avg_pool2d(x, 3, 2, 1)
        return y, gradient(y, x, y.detach())

    assert_same_for_all_thread_counts(run)


def test_awkward_memory():
    values = sample(2, 19, 6, 7)
    expected = avg_pool2d(values, 3, 2, 1)
    g = sample(*expected.shape, seed=1)
    arguments = ([6, 7], False, [3, 3], [2, 2], [1, 1], False, True, None)
    expected_grad = op_backward(g, *arguments)
    for name, x in awkward(values).items():
        assert torch.equal(avg_pool2d(x, 3, 2, 1), expected), name
    for name, grad_output in awkward(g).items():
        assert torch.equal(op_backward(grad_output, *arguments), expected_grad), name


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("window", WINDOWS[:8], ids=str)
def test_gradcheck(window, memory_format):
    x = sample(2, 3, 6, 7, dtype=torch.float64, memory_format=memory_format).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: avg_pool2d(x, *window), x)
    assert torch.autograd.gradgradcheck(lambda x: avg_pool2d(x, *window).square(), x)


def test_sum_gradcheck():
    x = sample(2, 3, 6, 7, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sum_pool2d(x, 3, 2, 1, True), x)
    assert torch.autograd.gradgradcheck(lambda x: sum_pool2d(x, 3, 2, 1, True).square(), x)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_nan_and_infinity_as_torch(memory_format):
    x = sample(1, 20, 7, 9, memory_format=memory_format)
    x[0, 3, 1, 2] = torch.nan
    x[0, 18, 0, 0] = torch.inf
    x[0, 5, 6, 7] = -torch.inf
    torch.testing.assert_close(avg_pool2d(x, 3, 2), F.avg_pool2d(x, 3, 2), equal_nan=True)
    # A window that does not hold the infinity is not touched by it.
    assert avg_pool2d(x, 3, 3, 1).isfinite().sum() == 20 * 9 - 3


def test_float16_sums_do_not_overflow():
    x = torch.full((1, 2, 8, 8), 6e4, dtype=torch.float16)
    assert (avg_pool2d(x, 8) == 6e4).all()


@pytest.mark.parametrize("function", [avg_pool2d, sum_pool2d])
def test_unbatched_and_empty(function):
    x = sample(3, 8, 8)
    assert torch.equal(function(x, 3, 2), function(x[None], 3, 2)[0])
    empty = torch.empty(0, 3, 8, 8, requires_grad=True)
    y = function(empty, 2)
    assert y.shape == (0, 3, 4, 4)
    y.sum().backward()
    assert empty.grad.shape == empty.shape


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_standard_proofs(memory_format):
    x = sample(2, 3, 6, 7, memory_format=memory_format).requires_grad_()
    g = sample(2, 3, 3, 4, memory_format=memory_format, seed=1).requires_grad_()
    window = ([3, 3], [2, 2], [1, 1], False)
    standard_proofs(op, x, *window, False, None)
    standard_proofs(op, x, *window, True, 3)
    last = memory_format == torch.channels_last
    standard_proofs(op_backward, g, [6, 7], last, *window, False, None)
    standard_proofs(torch.ops.fastconv.sum_pool2d, x, *window)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_compiles(memory_format):
    x = sample(2, 3, 6, 7, memory_format=memory_format).requires_grad_()
    assert_compiles(lambda x: avg_pool2d(x, 3, 2, 1, True, False), x)
    assert_compiles(lambda x: sum_pool2d(x, 3), x)


def test_autocast_leaves_the_dtype():
    with torch.autocast("cpu", torch.bfloat16):
        assert avg_pool2d(sample(1, 4, 2, 2), 2).dtype == torch.float32
        assert avg_pool2d(sample(1, 4, 2, 2, dtype=torch.bfloat16), 2).dtype == torch.bfloat16


def test_wrong_inputs():
    x = sample(2, 4, 5, 5)
    cases = []
    for call in (avg_pool2d, sum_pool2d):
        name = call.__name__
        cases += [
            (call, (x, 0), {}, f"{name}: kernel_size must be at least 1 (got kernel_size=0)"),
            (call, (x, 2.0), {}, f"{name}: kernel_size must be an int or a pair of ints"),
            (call, (x, (1, 2, 3)), {}, f"{name}: kernel_size must be an int or a pair of ints"),
            (call, (x, 3, 0), {}, f"{name}: stride must be at least 1 (got stride=0)"),
            (
                call,
                (x, 3, 2, 2),
                {},
                f"{name}: padding must be at most half of kernel_size (got padding=2, "
                "kernel_size=3)",
            ),
            (call, (x, 6), {}, f"{name}: the window must fit into the padded input"),
            (call, (x[0, 0], 2), {}, f"{name}: input must have shape (N, C, H, W) or (C, H, W)"),
            (call, (x.long(), 2), {}, f"{name}: input must be float32, float64, float16 or"),
            (call, (x[:, :0], 2), {}, f"{name}: input must have no empty dimension but the batch"),
        ]
    window = ([3, 3], [2, 2], [0, 0], False, True)
    cases += [
        (
            avg_pool2d,
            (x, 2),
            {"divisor_override": 0},
            "avg_pool2d: divisor_override must not be 0",
        ),
        (op, (x[0], *window, None), {}, "avg_pool2d: input must have 4 dimensions"),
        (
            op_backward,
            (x, [5, 5], False, *window, None),
            {},
            "avg_pool2d_backward: grad_output must have the size that input_size pools to "
            "(got (2, 4, 5, 5), and input_size pools to 2x2)",
        ),
        (
            op_backward,
            (x.long(), [11, 11], False, *window, None),
            {},
            "grad_output must be float32",
        ),
    ]
    assert_refuses(cases)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_large_results_are_those_of_single_images(memory_format):
    assert_large_is_single_images(lambda x: avg_pool2d(x, 3, 2), memory_format)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_instruction_set(capability):
    if capability == fastconv.info()["cpu_capability"]:
        pytest.skip("that is the one that this run uses")
    assert_passes_with_capability(capability, __file__, "policy or formats or float64")
