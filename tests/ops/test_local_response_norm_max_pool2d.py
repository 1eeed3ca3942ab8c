"""local_response_norm_max_pool2d against its definition, and to the bit against the two ops."""

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
from fastconv import local_response_norm_max_pool2d
from fastconv.ops.local_response_norm_max_pool2d import (
    local_response_norm_max_pool2d_backward_ref,
    local_response_norm_max_pool2d_ref,
)

ops = torch.ops.fastconv
op, op_backward = ops.local_response_norm_max_pool2d, ops.local_response_norm_max_pool2d_backward
NAME = "local_response_norm_max_pool2d"

# shape, size of the norm, its power, (kernel_size, stride, padding, dilation), ceil_mode
CASES = {
    "alexnet": ((2, 96, 13, 27), 5, 0.75, ([3, 3], [2, 2], [0, 0], [1, 1]), False),
    "odd maps, ceil_mode, dilated rows": (
        (3, 17, 23, 30),
        5,
        0.6,
        ([3, 2], [2, 3], [1, 1], [2, 1]),
        True,
    ),
    "windows apart": ((1, 1, 4, 4), 5, 0.5, ([2, 2], [5, 5], [1, 0], [1, 1]), True),
    "dilated columns, even norm": ((2, 40, 1, 70), 4, 1.0, ([1, 3], [1, 1], [0, 1], [1, 3]), False),
    "largest window, norm over all maps": (
        (2, 3, 40, 3),
        9,
        0.75,
        ([16, 16], [1, 7], [8, 8], [1, 1]),
        False,
    ),
    "strides too long for phases": (
        (1, 6, 2, 2),
        3,
        0.75,
        ([2, 2], [5000, 5000], [0, 0], [1, 1]),
        False,
    ),
    "dilation too long for phases": (
        (1, 3, 3, 700),
        3,
        0.75,
        ([2, 2], [3, 600], [0, 0], [2, 600]),
        False,
    ),
    "a window that sees nothing": ((1, 4, 1, 3), 3, 0.75, ([2, 2], [1, 1], [1, 1], [2, 1]), True),
    "dilation over the padding": ((1, 5, 7, 7), 3, 0.5, ([2, 4], [2, 1], [1, 1], [3, 2]), False),
    "more dilation over the padding": (
        (2, 3, 17, 6),
        3,
        0.75,
        ([6, 1], [1, 2], [3, 0], [2, 3]),
        False,
    ),
    "no images": ((0, 3, 5, 5), 3, 0.75, ([2, 2], [2, 2], [0, 0], [1, 1]), False),
}


def gradient(output, input, grad_output):
    return torch.autograd.grad(output, input, grad_output)[0]


def two_ops(x, norm, window, ceil_mode):
    """Output, switches, the gradient that is sent back, and the input's, of the two ops."""
    normalised = ops.local_response_norm(x, *norm, False)
    y, switches = ops.max_pool2d(normalised, *window, ceil_mode)
    memory_format = torch.channels_last if switches.stride(1) == 1 else torch.contiguous_format
    g = sample(*y.shape, dtype=x.dtype, memory_format=memory_format, seed=1)
    unpooled = ops.max_unpool2d(g, switches, *window, list(x.shape[2:]), False)
    return y, switches, g, ops.local_response_norm_backward(unpooled, x, *norm, False)


def same(a, b):
    """Equal to the bit, and in the same layout; one NaN is as good as another."""
    both_nan = a.isnan() & b.isnan()
    return bool(((a == b) | both_nan).all()) and a.stride() == b.stride()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("special", [False, True])
def test_is_the_two_ops_to_the_bit(special, dtype, memory_format, case):
    shape, size, beta, window, ceil_mode = case
    x = sample(*shape, dtype=dtype, memory_format=memory_format)
    if special and x.numel():
        x[0, 0, 0, 0], x[-1, -1, -1, -1], x[0, -1, -1, 0] = torch.nan, torch.inf, -torch.inf
        x[:, x.shape[1] // 2] = -torch.inf
    norm = (size, 0.3, beta, 1.5)
    y, switches, g, dx = two_ops(x, norm, window, ceil_mode)
    ours, our_switches = op(x, *norm, *window, ceil_mode)
    assert same(ours, y) and torch.equal(our_switches, switches)
    assert our_switches.stride() == switches.stride()
    without, none = op(x, *norm, *window, ceil_mode, False)
    assert same(without, y) and none.numel() == 0
    assert same(op_backward(g, x, switches, *norm, *window), dx)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_policy(dtype):
    x = sample(2, 11, 9, 8, dtype=dtype).requires_grad_()
    exact_x = x.detach().double().requires_grad_()
    arguments = 3, 0.7, 0.75, 1.0, [3, 2], [2, 2], [1, 0], [1, 1], True
    ours, switches = op(x, *arguments)
    peer, _ = local_response_norm_max_pool2d_ref(x, *arguments)
    exact, _ = local_response_norm_max_pool2d_ref(exact_x, *arguments)
    assert_within_policy(ours, peer, exact)
    g = sample(*ours.shape, dtype=dtype, seed=1)
    back = (switches, *arguments[:-1])
    assert_within_policy(
        gradient(ours, x, g),
        local_response_norm_max_pool2d_backward_ref(g, x.detach(), *back),
        local_response_norm_max_pool2d_backward_ref(g.double(), exact_x.detach(), *back),
    )


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_float64_is_torch(memory_format):
    x = sample(2, 21, 13, 15, dtype=torch.float64, memory_format=memory_format).requires_grad_()
    ours = local_response_norm_max_pool2d(x, 5, 3, 2, alpha=0.2, k=2.0)
    theirs = F.max_pool2d(F.local_response_norm(x, 5, 0.2, 0.75, 2.0), 3, 2)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)
    g = torch.randn_like(theirs)
    torch.testing.assert_close(gradient(ours, x, g), gradient(theirs, x, g), rtol=1e-12, atol=1e-12)


def test_arguments_of_the_two_functions():
    x = sample(2, 9, 12, 11)
    for mode in ("mean", "sum"):
        normalised = fastconv.local_response_norm(x, 3, 0.3, 0.6, 1.5, alpha_mode=mode)
        y, switches = fastconv.max_pool2d_with_switches(normalised, (3, 2), 2, 1, True)
        norm = {"alpha": 0.3, "beta": 0.6, "k": 1.5, "alpha_mode": mode}
        ours, our_switches = local_response_norm_max_pool2d(
            x, 3, (3, 2), 2, 1, ceil_mode=True, **norm, return_switches=True
        )
        assert torch.equal(ours, y) and torch.equal(our_switches, switches)
        alone = local_response_norm_max_pool2d(x[1], 3, (3, 2), 2, 1, ceil_mode=True, **norm)
        assert torch.equal(alone, y[1])


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_thread_counts_give_equal_bits(memory_format):
    x = sample(3, 24, 40, 40, memory_format=memory_format)
    g = sample(3, 24, 19, 19, memory_format=memory_format, seed=1)
    norm, window = (5, 0.3, 0.75, 2.0), ([3, 3], [2, 2], [0, 0], [1, 1])

    def both():
        y, switches = op(x, *norm, *window, False)
        return y, switches, op_backward(g, x, switches, *norm, *window)

    assert_same_for_all_thread_counts(both)


def test_awkward_memory():
    values = sample(2, 19, 7, 6)
    norm, window = (5, 0.3, 0.75, 2.0), ([3, 3], [2, 2], [1, 0], [1, 1])
    expected, switches = op(values, *norm, *window, False)
    g = sample(*expected.shape, seed=1)
    expected_grad = op_backward(g, values, switches, *norm, *window)
    for name, x in awkward(values).items():
        got = op(x, *norm, *window, False)
        assert torch.equal(got[0], expected) and torch.equal(got[1], switches), name
        for grad_name, grad_output in awkward(g).items():
            got = op_backward(grad_output, x, switches, *norm, *window)
            assert torch.equal(got, expected_grad), (name, grad_name)
    for name, sw in awkward(switches).items():
        assert torch.equal(op_backward(g, values, sw, *norm, *window), expected_grad), name


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_switches_that_point_nowhere_send_nothing(memory_format):
    x = sample(1, 3, 5, 5, dtype=torch.float64, memory_format=memory_format)
    norm, window = (3, 0.7, 0.75, 1.0), ([3, 3], [2, 2], [1, 1], [1, 1])
    g = torch.ones(1, 3, 3, 3, dtype=torch.float64)
    into_padding = torch.zeros(1, 3, 3, 3, dtype=torch.uint8)
    got = op_backward(g, x, into_padding, *norm, *window)
    unpooled = ops.max_unpool2d(g, into_padding, *window, [5, 5], False)
    assert unpooled.count_nonzero() == 12  # the windows of the first row and column see padding
    assert torch.equal(got, ops.local_response_norm_backward(unpooled, x, *norm, False))
    beyond = torch.full_like(into_padding, 255)
    assert not op_backward(g, x, beyond, *norm, *window).any()


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_gradcheck(memory_format):
    x = sample(2, 4, 5, 4, dtype=torch.float64, memory_format=memory_format).requires_grad_()

    def function(x):
        return local_response_norm_max_pool2d(x, 3, 3, 2, 1, alpha=0.9, beta=0.7, k=1.5)

    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(function, x)


def test_empty_batch():
    x = torch.empty(0, 4, 5, 5, requires_grad=True)
    y = local_response_norm_max_pool2d(x, 5, 3, 2)
    assert y.shape == (0, 4, 2, 2)
    y.sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_standard_proofs(memory_format):
    norm, window = (3, 0.5, 0.75, 1.0), ([3, 3], [2, 2], [1, 1], [1, 1])
    x = sample(2, 5, 6, 5, memory_format=memory_format).requires_grad_()
    y, switches = op(x, *norm, *window, False)
    g = sample(*y.shape, memory_format=memory_format, seed=1).requires_grad_()
    standard_proofs(op, x, *norm, *window, False)
    standard_proofs(op_backward, g, x, switches, *norm, *window)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_compiles(memory_format):
    x = sample(2, 5, 6, 5, memory_format=memory_format).requires_grad_()
    assert_compiles(lambda x: local_response_norm_max_pool2d(x, 3, 3, 2), x)
    assert_compiles(lambda x: local_response_norm_max_pool2d(x, 3, 2, return_switches=True), x)


def test_autocast_leaves_the_dtype():
    with torch.autocast("cpu", torch.bfloat16):
        x = sample(1, 4, 4, 4)
        assert local_response_norm_max_pool2d(x, 3, 2).dtype == torch.float32
        assert local_response_norm_max_pool2d(x.bfloat16(), 3, 2).dtype == torch.bfloat16


def test_wrong_inputs():
    x = sample(2, 4, 5, 5)
    call = local_response_norm_max_pool2d
    norm, window = (3, 1.0, 0.75, 1.0), ([2, 2], [2, 2], [0, 0], [1, 1])
    y, switches = op(x, *norm, *window, False)
    assert_refuses(
        [
            (call, (x, 0, 2), {}, f"{NAME}: size must be at least 1 (got size=0)"),
            (call, (x, 2.0, 2), {}, f"{NAME}: size must be an int (got size=2.0)"),
            (call, (x, 3, 0), {}, f"{NAME}: kernel_size must be at least 1 (got kernel_size=0)"),
            (call, (x, 3, 17), {}, f"{NAME}: kernel_size must cover at most 256 elements"),
            (
                call,
                (x, 3, 2, 2, 2),
                {},
                f"{NAME}: padding must be at most half of kernel_size "
                "(got padding=2, kernel_size=2)",
            ),
            (call, (x, 3, 6), {}, f"{NAME}: the window must fit into the padded input"),
            (
                call,
                (x, 3, 2),
                {"alpha_mode": "max"},
                f"{NAME}: alpha_mode must be 'mean' or 'sum' (got alpha_mode='max')",
            ),
            (call, (x, 3, 2), {"ceil_mode": 1}, f"{NAME}: ceil_mode must be"),
            (call, (x, 3, 2), {"return_switches": 1}, f"{NAME}: return_switches must be"),
            (call, (x, 3, 2), {"alpha": "a"}, f"{NAME}: alpha must be"),
            (call, (x[0, 0], 3, 2), {}, f"{NAME}: input must"),
            (
                call,
                (x.long(), 3, 2),
                {},
                f"{NAME}: input must be float32, float64, float16 or bfloat16",
            ),
            (op, (x[0], *norm, *window, False), {}, f"{NAME}: input must have 4 dimensions"),
            (
                op_backward,
                (y.double(), x, switches, *norm, *window),
                {},
                f"{NAME}_backward: grad_output must have the dtype of input (got Double and Float)",
            ),
            (
                op_backward,
                (y[:1], x, switches, *norm, *window),
                {},
                f"{NAME}_backward: switches must have the shape of grad_output",
            ),
            (
                op_backward,
                (y, x[:1], switches, *norm, *window),
                {},
                f"{NAME}_backward: switches must have the batch and channels of input",
            ),
            (
                op_backward,
                (y, x, switches.int(), *norm, *window),
                {},
                f"{NAME}_backward: switches must be uint8",
            ),
            (
                op_backward,
                (y, x, switches, *norm, [2, 2], [1, 1], [0, 0], [1, 1]),
                {},
                f"{NAME}_backward: output_size must be a size that pools to the size of switches",
            ),
        ]
    )


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_large_results_are_those_of_single_images(memory_format):
    assert_large_is_single_images(
        lambda x: local_response_norm_max_pool2d(x, 5, 3, 2, k=2.0), memory_format
    )


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_instruction_set(capability):
    if capability == fastconv.info()["cpu_capability"]:
        pytest.skip("that is the one that this run uses")
    assert_passes_with_capability(capability, __file__, "policy or bit or nowhere")
