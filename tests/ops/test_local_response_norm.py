"""local_response_norm against its definition, torch, and slow loops."""

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
from fastconv import local_response_norm
from fastconv.ops.local_response_norm import (
    local_response_norm_backward_ref,
    local_response_norm_ref,
)

op = torch.ops.fastconv.local_response_norm
op_backward = torch.ops.fastconv.local_response_norm_backward

# (size, alpha, beta, k): AlexNet's, torch's defaults, every special power, even sizes, a window
# wider than the maps, and energies that matter.
CONSTANTS = [
    (5, 1e-4, 0.75, 2.0),
    (3, 0.7, 0.75, 1.0),
    (4, 0.7, 0.5, 2.0),
    (2, 0.7, 1.0, 0.5),
    (1, 0.7, 0.6, 1.0),
    (5, 3.0, 2.5, 1.0),
    (5, 0.2, -0.75, 1.0),
    (50, 0.7, 0.75, 1.0),
    (51, 0.7, 0.3, 1.0),
]


def gradient(output, input, grad_output):
    return torch.autograd.grad(output, input, grad_output)[0]


def slow_within(x, size, alpha, beta, k):
    """Caffe's WITHIN_CHANNEL with a free k, one pixel at a time."""
    height, width = x.shape[2:]
    result = torch.empty_like(x)
    for h in range(height):
        for w in range(width):
            rows = slice(max(0, h - size // 2), h + (size - 1) // 2 + 1)
            columns = slice(max(0, w - size // 2), w + (size - 1) // 2 + 1)
            energy = x[:, :, rows, columns].square().sum((2, 3)) / size**2
            result[:, :, h, w] = x[:, :, h, w] * (k + alpha * energy) ** -beta
    return result


@pytest.mark.parametrize("constants", CONSTANTS, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_float64_is_torch(memory_format, constants):
    x = sample(2, 21, 7, 13, dtype=torch.float64, memory_format=memory_format).requires_grad_()
    g = sample(2, 21, 7, 13, dtype=torch.float64, seed=1)
    ours, theirs = local_response_norm(x, *constants), F.local_response_norm(x, *constants)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(gradient(ours, x, g), gradient(theirs, x, g), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("constants", CONSTANTS, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("region", ["across", "within"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_policy(dtype, region, memory_format, constants):
    size, alpha, beta, k = constants
    within = region == "within"
    x = sample(2, 21, 7, 13, dtype=dtype, memory_format=memory_format).requires_grad_()
    g = sample(2, 21, 7, 13, dtype=dtype, memory_format=memory_format, seed=1)
    exact_x = x.detach().double().requires_grad_()
    as_ref = (size, alpha / (size**2 if within else size), beta, k, within)

    ours = local_response_norm(x, *constants, region=region)
    exact = local_response_norm_ref(exact_x, *as_ref)
    if region == "across" and dtype == torch.float32:
        peer = F.local_response_norm(x, *constants)
    else:  # torch has neither the region nor, on the CPU, the other dtypes
        peer = local_response_norm_ref(x, *as_ref)
    assert ours.stride() == x.stride()
    assert_within_policy(ours, peer, exact)
    grad = gradient(ours, x, g)
    assert grad.stride() == x.stride()
    assert_within_policy(grad, gradient(peer, x, g), gradient(exact, exact_x, g.double()))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
def test_within_is_the_slow_loop(size):
    x = sample(2, 3, 5, 6, dtype=torch.float64)
    ours = local_response_norm(x, size, 0.7, 0.6, 2.0, region="within")
    torch.testing.assert_close(ours, slow_within(x, size, 0.7, 0.6, 2.0))


@pytest.mark.parametrize("region", ["across", "within"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("beta", [0.5, 0.75, 1.0, 0.6])
@pytest.mark.parametrize("shape", [(4, 37, 13, 23), (1, 64, 16, 16), (3, 1, 4, 70), (1, 200, 1, 1)])
def test_formats_give_equal_bits(shape, beta, dtype, region):
    x, g = sample(*shape, dtype=dtype), sample(*shape, dtype=dtype, seed=1)
    constants = (5, 0.3, beta, 2.0, region == "within")
    results = []
    for memory_format in FORMATS:
        y = op(x.contiguous(memory_format=memory_format), *constants)
        dx = op_backward(g, x.contiguous(memory_format=memory_format), *constants)
        results.append((y, dx))
    for first, last in zip(*results, strict=True):
        assert torch.equal(first, last)


@pytest.mark.parametrize("region", ["across", "within"])
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_thread_counts_give_equal_bits(memory_format, region):
    x = sample(3, 24, 40, 40, memory_format=memory_format)
    g = sample(3, 24, 40, 40, memory_format=memory_format, seed=1)
    constants = (5, 0.3, 0.75, 2.0, region == "within")
    assert_same_for_all_thread_counts(lambda: (op(x, *constants), op_backward(g, x, *constants)))


@pytest.mark.parametrize("region", ["across", "within"])
def test_awkward_memory(region):
    values = sample(2, 19, 5, 6)
    g = sample(2, 19, 5, 6, seed=1)
    constants = (5, 0.3, 0.75, 2.0, region == "within")
    expected, expected_grad = op(values, *constants), op_backward(g, values, *constants)
    for name, x in awkward(values).items():
        assert torch.equal(op(x, *constants), expected), name
        for grad_name, grad_output in awkward(g).items():
            got = op_backward(grad_output, x, *constants)
            assert torch.equal(got, expected_grad), (name, grad_name)


@pytest.mark.parametrize("shape", [(2, 9, 11), (2, 9, 4, 5), (2, 9, 2, 3, 4), (2, 9, 2, 1, 3, 2)])
@pytest.mark.parametrize("maps_last", [False, True])
def test_any_rank_as_torch(shape, maps_last):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if maps_last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    x.requires_grad_()
    ours, peer = local_response_norm(x, 4, 0.7), F.local_response_norm(x, 4, 0.7)
    assert ours.stride() == x.stride()
    torch.testing.assert_close(ours, peer)
    torch.testing.assert_close(gradient(ours, x, peer.detach()), gradient(peer, x, peer.detach()))


@pytest.mark.parametrize("region", ["across", "within"])
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("size", [2, 3])
def test_gradcheck(size, memory_format, region):
    x = sample(2, 4, 3, 4, dtype=torch.float64, memory_format=memory_format).requires_grad_()

    def function(x):
        return local_response_norm(x, size, 0.9, 0.7, 1.5, region=region)

    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(function, x)


def test_third_derivative():
    x = sample(1, 3, 1, 2, dtype=torch.float64).requires_grad_()

    def slope(x):
        energy = local_response_norm(x, 3, 0.9).pow(3).sum()
        return torch.autograd.grad(energy, x, create_graph=True)[0]

    assert torch.autograd.gradgradcheck(slope, x)


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("size", [2, 5])
def test_backward_is_its_reference(size, within):
    x = sample(2, 6, 5, 4, dtype=torch.float64)
    g = sample(2, 6, 5, 4, dtype=torch.float64, seed=1)
    constants = (size, 0.9, 0.7, 1.5, within)
    expected = local_response_norm_backward_ref(g, x, *constants)
    torch.testing.assert_close(op_backward(g, x, *constants), expected)


def test_alpha_modes_differ_by_the_elements_of_the_window():
    x = sample(2, 8, 6, 6, dtype=torch.float64)
    for region, elements in (("across", 5), ("within", 25)):
        total = local_response_norm(x, 5, 1e-4, alpha_mode="sum", region=region)
        mean = local_response_norm(x, 5, 1e-4 * elements, alpha_mode="mean", region=region)
        torch.testing.assert_close(total, mean, rtol=1e-14, atol=0)
    # The paper's formula at the paper's constants.
    energy = sum(F.pad(x, (0, 0, 0, 0, 2, 2))[:, j : j + 8].square() for j in range(5))
    paper = x / (2 + 1e-4 * energy) ** 0.75
    torch.testing.assert_close(local_response_norm(x, 5, 1e-4, 0.75, 2, alpha_mode="sum"), paper)


def test_power_is_accurate_over_the_whole_range():
    exponents = torch.arange(-62, 63, dtype=torch.float64)
    x = torch.cat([2.0**exponents * m for m in (1, 1.2, 1.41, 1.42, 1.99)]).float()
    for beta in (0.1, 0.3, 0.6, 0.9, 1.7, -0.4):
        got = local_response_norm(x.view(1, -1, 1, 1), 1, 1.0, beta, 0.0).flatten().double()
        # The square is rounded, then the power, then the quotient: each by half a unit.
        square = (x * x).double()
        power = square**beta
        exact = x.double() / power
        normal = torch.ones_like(exact, dtype=torch.bool)
        for value in (power, exact):
            normal &= (value > 2.0**-126) & (value < 2.0**127)
        error = ((got - exact) / exact).abs()[normal]
        assert normal.sum() > 300 and error.max() < 2.1 * 2**-24


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("beta", [0.5, 0.75, 1.0, 0.6])
def test_nan_infinity_and_overflow_as_torch(beta, memory_format):
    x = sample(2, 24, 3, 4, memory_format=memory_format)
    x[0, 3, 1, 2] = torch.nan
    x[0, 20, 0, 0] = torch.inf
    x[1, 10, 2, 3] = -torch.inf
    x[1, 0, 0, 0] = 1e30
    ours, peer = local_response_norm(x, 5, 0.5, beta), F.local_response_norm(x, 5, 0.5, beta)
    torch.testing.assert_close(ours, peer, equal_nan=True)
    assert ours.isnan().sum() == 5 + 2


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("beta", [0.5, 0.75, 1.0, 0.6])
def test_k_zero_as_torch(beta, memory_format):
    x = sample(1, 19, 2, 3, memory_format=memory_format)
    x[:, 4:12, 1, 1] = 0
    x.requires_grad_()
    ours, peer = local_response_norm(x, 3, 1, beta, 0), F.local_response_norm(x, 3, 1, beta, 0)
    assert ours.isnan().sum() == 6
    torch.testing.assert_close(ours, peer, equal_nan=True)
    g = torch.ones_like(x)
    grad, peer_grad = gradient(ours, x, g), gradient(peer, x, g)
    sound = ~peer_grad.isnan()
    assert sound[:, :3].all() and sound[:, 13:].all()
    torch.testing.assert_close(grad[sound], peer_grad[sound], rtol=1e-5, atol=1e-4)


def test_float16_squares_do_not_overflow():
    x = torch.full((1, 6, 2, 2), 6e4, dtype=torch.float16)
    exact = F.local_response_norm(x.double(), 5)
    got = local_response_norm(x, 5).double()
    assert ((got - exact) / exact).abs().max() <= 2**-11


@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (2, 0, 3, 3), (2, 4, 0, 3), (0, 4, 3)])
def test_empty(shape):
    x = torch.empty(shape, requires_grad=True)
    y = local_response_norm(x, 5)
    assert y.shape == shape
    y.sum().backward()
    assert x.grad.shape == shape


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_standard_proofs(memory_format, within):
    x = sample(2, 5, 4, 3, memory_format=memory_format).requires_grad_()
    g = sample(2, 5, 4, 3, memory_format=memory_format, seed=1).requires_grad_()
    standard_proofs(op, x, 3, 0.5, 0.75, 1.0, within)
    standard_proofs(op_backward, g, x, 3, 0.5, 0.75, 1.0, within)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_compiles(memory_format):
    x = sample(2, 5, 4, 3, memory_format=memory_format).requires_grad_()
    assert_compiles(lambda x: local_response_norm(x, 3), x)
    assert_compiles(lambda x: local_response_norm(x, 3, region="within", alpha_mode="sum"), x)
    line = torch.randn(2, 5, 7, requires_grad=True)
    assert_compiles(lambda x: local_response_norm(x, 3), line)


def test_autocast_leaves_the_dtype():
    with torch.autocast("cpu", torch.bfloat16):
        assert local_response_norm(sample(1, 4, 2, 2), 3).dtype == torch.float32
        half = sample(1, 4, 2, 2, dtype=torch.bfloat16)
        assert local_response_norm(half, 3).dtype == torch.bfloat16


def test_wrong_inputs():
    x = sample(2, 4, 3, 3)
    name = "local_response_norm"
    call = local_response_norm
    within = {"region": "within"}
    assert_refuses(
        [
            (call, (x, 0), {}, f"{name}: size must be at least 1 (got size=0)"),
            (call, (x, 2.0), {}, f"{name}: size must be an int (got size=2.0)"),
            (call, (x, True), {}, f"{name}: size must be an int (got size=True)"),
            (
                call,
                (x, 3),
                {"alpha_mode": "max"},
                f"{name}: alpha_mode must be 'mean' or 'sum' (got alpha_mode='max')",
            ),
            (
                call,
                (x, 3),
                {"region": "between"},
                f"{name}: region must be 'across' or 'within' (got region='between')",
            ),
            (
                call,
                (x[0, 0], 3),
                {},
                f"{name}: input must have shape (N, C, *), at least 3 dimensions (got (3, 3))",
            ),
            (
                call,
                (x[0], 3),
                within,
                f"{name}: input must have shape (N, C, H, W) for region='within' (got (4, 3, 3))",
            ),
            (
                call,
                (x.long(), 3),
                {},
                f"{name}: input must be float32, float64, float16 or bfloat16 (got torch.int64)",
            ),
            (op, (x, 0, 1.0, 0.75, 1.0, False), {}, f"{name}: size must be at least 1"),
            (op, (x[0], 3, 1.0, 0.75, 1.0, False), {}, f"{name}: input must have 4 dimensions"),
            (
                op_backward,
                (x[:1], x, 3, 1.0, 0.75, 1.0, False),
                {},
                f"{name}_backward: grad_output must have the shape of input "
                "(got (1, 4, 3, 3) and (2, 4, 3, 3))",
            ),
            (
                op_backward,
                (x.double(), x, 3, 1.0, 0.75, 1.0, False),
                {},
                f"{name}_backward: grad_output must have the dtype of input (got Double and Float)",
            ),
        ]
    )


@pytest.mark.parametrize("beta", [0.5, 0.75])
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_scales_of_every_size(memory_format, beta):
    """Kernels estimate roots where the scale is of a usual size, and must do without elsewhere."""
    sizes = torch.logspace(-17, 18, 60, dtype=torch.float64).repeat_interleave(5)
    x = (sizes[:, None, None] * sample(300, 3, 5, dtype=torch.float64)).float()[None]
    x = x.contiguous(memory_format=memory_format)
    g = sample(1, 300, 3, 5, seed=1).contiguous(memory_format=memory_format)
    constants = (5, 5.0, beta, 3e-31)

    def run(dtype):
        leaf = x.to(dtype).requires_grad_()
        y = local_response_norm(leaf, *constants)
        return y.detach(), gradient(y, leaf, g.to(dtype))

    (y, grad), (exact_y, exact_grad) = run(torch.float32), run(torch.float64)
    torch.testing.assert_close(y.double(), exact_y, rtol=1e-6, atol=0)
    # The gradient is g y / x less something that can cancel it, and that nears float32's least
    # numbers for the largest x.
    size = (g * exact_y / x).abs() + exact_grad.abs()
    usual = x.abs() < 1e14
    assert ((grad.double() - exact_grad).abs() <= 1e-5 * size)[usual].all()


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_squares_beyond_float32_give_zeros(memory_format):
    x = torch.full((1, 40, 3, 3), 3e19).contiguous(memory_format=memory_format)
    assert torch.equal(local_response_norm(x, 5, 1e-4, 0.75, 2.0), torch.zeros_like(x))


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_large_results_are_those_of_single_images(memory_format):
    assert_large_is_single_images(
        lambda x: local_response_norm(x, 5, 1e-4, 0.75, 2.0), memory_format
    )


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_instruction_set(capability):
    if capability == fastconv.info()["cpu_capability"]:
        pytest.skip("that is the one that this run uses")
    selection = "(policy and across) or power or formats or infinity"
    assert_passes_with_capability(capability, __file__, selection)
