"""max_pool2d against torch: values, indices and gradients, exactly; switches against the loop."""

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
from fastconv import max_pool2d, max_pool2d_with_switches
from fastconv.ops.max_pool2d import max_pool2d_ref

op = torch.ops.fastconv.max_pool2d

# kernel_size, stride, padding, dilation, ceil_mode
WINDOWS = [
    ([2, 2], [2, 2], [0, 0], [1, 1], False),
    ([3, 3], [2, 2], [0, 0], [1, 1], False),  # AlexNet
    ([3, 3], [2, 2], [1, 1], [1, 1], True),  # ZFNet
    ([3, 3], [1, 1], [1, 1], [1, 1], False),
    ([3, 2], [1, 3], [1, 0], [2, 1], True),
    ([4, 5], [3, 2], [2, 2], [1, 2], False),
    ([2, 2], [5, 4], [0, 1], [1, 1], True),
    ([1, 1], [2, 3], [0, 0], [1, 1], False),
]


def tied(*shape, dtype, memory_format=torch.contiguous_format, seed=0):
    """Few different values, so that most windows hold their maximum more than once."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-2, 3, shape, generator=generator).to(dtype)
    return values.contiguous(memory_format=memory_format)


def assert_pools_as_torch(x, window):
    values, indices = max_pool2d(x, *window, return_indices=True)
    expected, expected_indices = F.max_pool2d(x, *window, return_indices=True)
    assert values.dtype == x.dtype and indices.dtype == torch.int64
    assert torch.equal(values.nan_to_num(nan=1e4), expected.nan_to_num(nan=1e4))
    assert torch.equal(indices, expected_indices)
    assert torch.equal(values.isnan(), expected.isnan())


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_and_indices_are_torchs(dtype, memory_format, window):
    for make in (sample, tied):
        x = make(2, 19, 11, 14, dtype=dtype, memory_format=memory_format)
        assert_pools_as_torch(x, window)
        assert max_pool2d(x, *window).is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_nan_and_infinity_as_torch(memory_format, window):
    x = tied(2, 19, 11, 14, dtype=torch.float32, memory_format=memory_format)
    kind = torch.rand(x.shape, generator=torch.Generator().manual_seed(1))
    x[kind < 0.1] = torch.nan
    x[(kind >= 0.1) & (kind < 0.8)] = -torch.inf
    x[kind > 0.99] = torch.inf
    x[0, 3], x[1, 18] = -torch.inf, torch.nan
    assert_pools_as_torch(x, window)
    _, switches = op(x, *window)
    assert torch.equal(switches, max_pool2d_ref(x, *window)[1])


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_switches_are_the_references_in_both_formats(window):
    for make in (sample, tied):
        x = make(2, 5, 9, 12, dtype=torch.float64)
        expected, expected_switches = max_pool2d_ref(x, *window)
        for memory_format in FORMATS:
            values, switches = op(x.contiguous(memory_format=memory_format), *window)
            assert switches.dtype == torch.uint8
            assert torch.equal(values, expected)
            assert torch.equal(switches, expected_switches)
            assert switches.stride() == values.stride()


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_are_the_same_without_switches(dtype, memory_format, window):
    x = tied(2, 19, 11, 14, dtype=dtype, memory_format=memory_format)
    x[0, 3, 5], x[1, 18, 2, 2] = torch.nan, torch.inf
    x[1, 18, 3, 3] = -torch.inf
    values, switches = op(x, *window, False)
    assert switches.numel() == 0
    torch.testing.assert_close(values, op(x, *window)[0], rtol=0, atol=0, equal_nan=True)


def test_records_where_a_gradient_may_come_back():
    x = sample(1, 2, 6, 6).requires_grad_()
    ones = torch.ones(1, 2, 1, 1)
    recorded = torch.zeros_like(x).masked_fill_(x == x.amax((2, 3), keepdim=True), 1)
    for compute in (
        lambda: torch.autograd.grad(max_pool2d(x, 6).sum(), x)[0],
        lambda: torch.func.grad(lambda x: max_pool2d(x, 6).sum())(x.detach()),
        lambda: torch.func.vjp(lambda x: max_pool2d(x, 6), x.detach())[1](ones)[0],
    ):
        assert torch.equal(compute(), recorded)
    with torch.no_grad():
        values, switches = max_pool2d_with_switches(x, 6)
        assert switches.shape == values.shape


def test_output_sizes_are_torchs():
    for size in range(1, 12):
        x = sample(1, 1, size, 7)
        for kernel, stride, padding, dilation in [
            (1, 1, 0, 1), (2, 2, 1, 1), (3, 2, 1, 1), (3, 5, 1, 1), (2, 3, 1, 2), (4, 3, 2, 1),
        ]:  # fmt: skip
            for ceil_mode in (False, True):
                arguments = ([kernel, 1], [stride, 1], [padding, 0], [dilation, 1], ceil_mode)
                if size + 2 * padding < dilation * (kernel - 1) + 1:
                    continue
                assert_pools_as_torch(x, arguments)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient(dtype, memory_format, window):
    x = tied(2, 19, 11, 14, dtype=dtype, memory_format=memory_format).requires_grad_()
    exact_x = x.detach().double().requires_grad_()
    ours, peer, exact = (
        max_pool2d(x, *window),
        F.max_pool2d(x, *window),
        F.max_pool2d(exact_x, *window),
    )
    g = sample(*ours.shape, dtype=dtype, seed=1)
    (grad,) = torch.autograd.grad(ours, x, g)
    (peer_grad,) = torch.autograd.grad(peer, x, g)
    (exact_grad,) = torch.autograd.grad(exact, exact_x, g.double())
    assert grad.stride() == x.stride()
    if dtype == torch.float64:
        torch.testing.assert_close(grad, exact_grad)
    else:
        assert_within_policy(grad, peer_grad, exact_grad)


def test_awkward_memory():
    values = sample(2, 19, 9, 8)
    window = WINDOWS[2]
    expected, expected_switches = op(values, *window)
    for name, x in awkward(values).items():
        got, switches = op(x, *window)
        assert torch.equal(got, expected) and torch.equal(switches, expected_switches), name


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_thread_counts_give_equal_bits(memory_format):
    x = sample(3, 24, 40, 40, memory_format=memory_format)
    assert_same_for_all_thread_counts(lambda: op(x, *WINDOWS[2]))


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("window", [WINDOWS[1], WINDOWS[4]], ids=str)
def test_gradcheck(window, memory_format):
    values = torch.randperm(2 * 3 * 7 * 8, generator=torch.Generator().manual_seed(0)).double()
    x = values.view(2, 3, 7, 8).contiguous(memory_format=memory_format).requires_grad_()

    def function(x):
        return max_pool2d(x, *window)

    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(function, x)


def test_arguments_as_torch():
    x = sample(2, 3, 9, 8)
    for arguments in [(2,), (3, 2), ((3, 2),), ([2], [1]), (3, (2, 1), 1), (2, None, 1, 2, True)]:
        assert torch.equal(max_pool2d(x, *arguments), F.max_pool2d(x, *arguments)), arguments
    assert torch.equal(max_pool2d(x, 3, []), F.max_pool2d(x, 3))
    assert torch.equal(
        max_pool2d(x, kernel_size=2, ceil_mode=True), F.max_pool2d(x, 2, 2, 0, 1, True)
    )


def test_unbatched():
    x = sample(2, 3, 9, 8)
    for result, expected in zip(
        max_pool2d(x[0], 3, 2, return_indices=True),
        F.max_pool2d(x[0], 3, 2, return_indices=True),
        strict=True,
    ):
        assert torch.equal(result, expected)
    values, switches = max_pool2d_with_switches(x[0], 3, 2)
    assert values.shape == switches.shape == (3, 4, 3)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_empty_batch(memory_format):
    x = torch.empty(0, 3, 9, 8).contiguous(memory_format=memory_format).requires_grad_()
    values, indices = max_pool2d(x, 3, 2, return_indices=True)
    assert values.shape == indices.shape == (0, 3, 4, 3)
    values.sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_standard_proofs(memory_format):
    x = sample(2, 5, 7, 6, memory_format=memory_format).requires_grad_()
    standard_proofs(op, x, *WINDOWS[2])
    standard_proofs(op, x.detach(), *WINDOWS[2], False)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_compiles(memory_format):
    x = sample(2, 5, 7, 6, memory_format=memory_format).requires_grad_()
    assert_compiles(lambda x: max_pool2d(x, 3, 2, 1), x)
    assert_compiles(lambda x: max_pool2d(x, 3, 2, 1, return_indices=True), x)
    assert_compiles(lambda x: max_pool2d_with_switches(x, 3, 2, ceil_mode=True), x)


def test_autocast_leaves_the_dtype():
    with torch.autocast("cpu", torch.bfloat16):
        assert max_pool2d(sample(1, 4, 4, 4), 2).dtype == torch.float32


def test_wrong_inputs():
    x = sample(2, 3, 6, 5)
    call, name = max_pool2d, "max_pool2d"
    cases = [
        (
            (x, 3, 1, 2),
            "padding must be at most half of kernel_size (got padding=2, kernel_size=3)",
        ),
        ((x, 0), "kernel_size must be at least 1 (got kernel_size=0)"),
        ((x, 2, 0), "stride must be at least 1 (got stride=0)"),
        ((x, 2, 1, -1), "padding must be at least 0 (got padding=-1)"),
        ((x, 2, 1, 0, 0), "dilation must be at least 1 (got dilation=0)"),
        ((x, 2**31), "kernel_size must be at most 2147483647 (got kernel_size=2147483648)"),
        ((x, 2.0), "kernel_size must be an int or a pair of ints (got kernel_size=2.0)"),
        (
            (x, (2, 2, 2)),
            "kernel_size must be an int or a pair of ints (got kernel_size=(2, 2, 2))",
        ),
        ((x, 2, True), "stride must be an int or a pair of ints (got stride=True)"),
        (
            (sample(1, 1, 20, 20), 17),
            "kernel_size must cover at most 256 elements, because a switch is one byte (got 17x17)",
        ),
        (
            (x, 6),
            "the window must fit into the padded input "
            "(got input size 5, kernel_size=6, padding=0, dilation=1)",
        ),
        ((x[0, 0], 2), "input must have shape (N, C, H, W) or (C, H, W) (got (6, 5))"),
        ((x.int(), 2), "input must be float32, float64, float16 or bfloat16 (got torch.int32)"),
        (
            (x[:, :0], 2),
            "input must have no empty dimension but the batch (got shape (2, 0, 6, 5))",
        ),
    ]
    assert_refuses([(call, args, {}, f"{name}: {text}") for args, text in cases])


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_large_results_are_those_of_single_images(memory_format):
    assert_large_is_single_images(lambda x: max_pool2d(x, 3, 2), memory_format)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_instruction_set(capability):
    if capability == fastconv.info()["cpu_capability"]:
        pytest.skip("that is the one that this run uses")
    assert_passes_with_capability(capability, __file__, "torch or references")
