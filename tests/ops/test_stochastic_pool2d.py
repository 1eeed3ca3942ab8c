"""stochastic_pool2d against its definition, its distribution, and plain torch."""

import math

import pytest
import torch
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
from fastconv import stochastic_pool2d
from fastconv.ops.stochastic_pool2d import stochastic_pool2d_mean_ref, stochastic_pool2d_ref

op = torch.ops.fastconv.stochastic_pool2d
op_mean = torch.ops.fastconv.stochastic_pool2d_mean
op_mean_backward = torch.ops.fastconv.stochastic_pool2d_mean_backward

SEED = 0x1234567890ABCDEF
# (kernel_size, stride, padding, ceil_mode)
WINDOWS = [
    ([3, 3], [2, 2], [0, 0], False),
    ([2, 2], [2, 2], [0, 0], False),
    ([3, 3], [1, 1], [1, 1], False),
    ([3, 2], [1, 3], [1, 1], True),
    ([5, 4], [4, 2], [2, 1], True),
    ([1, 2], [5, 6], [0, 1], False),
    ([7, 19], [7, 19], [0, 0], False),
]


def seed(value=SEED):
    return torch.tensor([value])


def gradient(output, input, grad_output):
    return torch.autograd.grad(output, input, grad_output)[0]


def tutorial_maps(count):
    """The tutorial's window, ``count`` times: 1.6 and 2.4 among zeros."""
    maps = torch.zeros(1, count, 3, 3)
    maps[..., 0, 1], maps[..., 2, 0] = 1.6, 2.4
    return maps


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_draws_are_the_definition(dtype, memory_format, window):
    x = sample(2, 19, 7, 19, dtype=dtype, memory_format=memory_format)
    ours, switches = op(x, seed(), *window)
    expected, expected_switches = stochastic_pool2d_ref(x, SEED, *window)
    assert torch.equal(ours, expected) and torch.equal(switches, expected_switches)
    assert ours.is_contiguous(memory_format=memory_format)


def test_draws_invert_the_cumulated_probabilities():
    # Independent of the kernel's arithmetic: torch's own cumulated sum and search, in float64.
    x = sample(4, 8, 8, 8)
    _, switches = op(x, seed(), [4, 4], [4, 4], [0, 0], False)
    windows = x.double().clamp_min(0).unfold(2, 4, 4).unfold(3, 4, 4).flatten(4)
    steps = windows.cumsum(-1)
    words = [fastconv._C.philox4x32(SEED, i)[0] >> 8 for i in range(switches.numel())]
    target = torch.tensor(words).view_as(switches) / 2**24 * steps[..., -1]
    expected = torch.searchsorted(steps, target[..., None].contiguous(), right=True)[..., 0]
    clear = (steps - target[..., None]).abs().amin(-1) > 1e-5  # not at an edge
    assert clear.sum() > 0.95 * clear.numel()
    assert torch.equal(switches[clear].long(), expected[clear])


def test_tutorial_example():
    count = 100_000
    values, switches = stochastic_pool2d(
        tutorial_maps(count),
        3,
        return_switches=True,
        generator=torch.Generator().manual_seed(0),
    )
    large = values.flatten() == 2.4
    assert torch.equal(switches.flatten() == 6, large)
    assert torch.equal(switches.flatten() == 1, values.flatten() == 1.6)
    assert set(switches.flatten().tolist()) == {1, 6}
    # p = 0.6: 4.9 standard deviations, two-sided false-alarm rate 1e-6.
    assert abs(large.double().mean().item() - 0.6) < 4.9 * math.sqrt(0.24 / count)
    mean = stochastic_pool2d(tutorial_maps(1), 3, training=False)
    torch.testing.assert_close(mean.item(), 0.4 * 1.6 + 0.6 * 2.4)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_frequencies(memory_format):
    # Chi-squared with 24 degrees of freedom for each of 8 windows: 68.9 is exceeded by chance once
    # in 3e6, so that a false alarm in all 16 has a rate below 1e-5.
    draws = 20_000
    windows = sample(8, 25).exp() * (sample(8, 25, seed=1) > -1)
    x = windows.view(1, 8, 5, 5).expand(draws, 8, 5, 5).contiguous(memory_format=memory_format)
    values, switches = op(x, seed(), [5, 5], [5, 5], [0, 0], False)
    for c in range(8):
        count = torch.bincount(switches[:, c].flatten().long(), minlength=25).double()
        expected = draws * windows[c].double() / windows[c].double().sum()
        assert (count[expected == 0] == 0).all()
        real = expected > 0
        assert ((count - expected).square()[real] / expected[real]).sum() < 68.9
        assert torch.equal(values[:, c].flatten(), windows[c][switches[:, c].flatten().long()])


@pytest.mark.parametrize("window", WINDOWS[:5], ids=str)
def test_mean_of_many_draws_is_the_test_time_value(window):
    x, count = sample(1, 3, 7, 19).relu(), 4000
    draws = op(x.expand(count, 3, 7, 19), seed(), *window)[0].double()
    mean = op_mean(x, *window).double()[0]
    # 6 standard errors: for the few hundred windows a false-alarm rate below 1e-5.
    error = draws.std(0) / math.sqrt(count)
    assert ((draws.mean(0) - mean).abs() <= 6 * error + 1e-6).all()


def test_seed_and_index_decide_alone():
    x = sample(2, 8, 9, 9).exp()
    window = ([3, 3], [3, 3], [0, 0], False)
    first = op(x, seed(), *window)[1]
    assert torch.equal(op(x, seed(), *window)[1], first)
    assert not torch.equal(op(x, seed(SEED + 1), *window)[1], first)
    assert not torch.equal(op(x, seed(SEED + (1 << 32)), *window)[1], first)
    flat = op(torch.ones(1, 64, 16, 16), seed(), [16, 16], [16, 16], [0, 0], False)[1].flatten()
    assert len(set(flat.tolist())) > 32  # neighbours draw apart


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_formats_give_equal_bits(dtype, window):
    x, results = sample(2, 37, 7, 19, dtype=dtype), []
    x[0, 3, 2, 4], x[1, 20, 5, 5], x[0, 30, 1, 18] = torch.nan, torch.inf, -torch.inf
    for memory_format in FORMATS:
        leaf = x.contiguous(memory_format=memory_format).requires_grad_()
        drawn, switches = op(leaf, seed(), *window)
        mean = op_mean(leaf, *window)
        g = sample(*mean.shape, dtype=dtype, memory_format=memory_format, seed=1)
        results.append((drawn, switches, mean, gradient(drawn, leaf, g), gradient(mean, leaf, g)))
    for first, last in zip(*results, strict=True):
        torch.testing.assert_close(first, last, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_thread_counts_give_equal_bits(memory_format):
    x = sample(3, 24, 41, 40, memory_format=memory_format).requires_grad_()
    window = ([3, 3], [2, 2], [1, 1], True)

    def run():
        drawn, switches = op(x, seed(), *window)
        mean = op_mean(x, *window)
        g = mean.detach()
        return drawn, switches, mean, gradient(drawn, x, g), gradient(mean, x, g)

    assert_same_for_all_thread_counts(run)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_mean_and_its_gradient(dtype, memory_format, window):
    x = sample(2, 19, 7, 19, dtype=dtype, memory_format=memory_format).requires_grad_()
    exact_x = x.detach().double().requires_grad_()
    ours, peer = op_mean(x, *window), stochastic_pool2d_mean_ref(x, *window)
    exact = stochastic_pool2d_mean_ref(exact_x, *window)
    g = sample(*ours.shape, dtype=dtype, memory_format=memory_format, seed=1)
    grad, peer_grad = gradient(ours, x, g), gradient(peer, x, g)
    exact_grad = gradient(exact, exact_x, g.double())
    assert ours.is_contiguous(memory_format=memory_format)
    assert grad.is_contiguous(memory_format=memory_format)
    if dtype == torch.float64:
        torch.testing.assert_close(ours, exact, rtol=1e-14, atol=0)
        torch.testing.assert_close(grad, exact_grad, rtol=1e-12, atol=1e-13)
    else:
        assert_within_policy(ours, peer, exact)
        assert_within_policy(grad, peer_grad, exact_grad)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("window", WINDOWS[:5], ids=str)
def test_gradcheck(window, memory_format):
    x = sample(2, 3, 5, 6, dtype=torch.float64, memory_format=memory_format).requires_grad_()
    window = ([min(k, 5) for k in window[0]], *window[1:])
    assert torch.autograd.gradcheck(lambda x: op_mean(x, *window), x)
    assert torch.autograd.gradgradcheck(lambda x: op_mean(x, *window), x)
    # A draw is locally the identity on the drawn elements, for as long as the draw stays the same.
    assert torch.autograd.gradcheck(lambda x: op(x, seed(), *window)[0], x)
    assert torch.autograd.gradgradcheck(lambda x: op(x, seed(), *window)[0].square(), x)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_gradient_is_unpooling_through_the_switches(memory_format):
    x = sample(2, 21, 9, 8, memory_format=memory_format).requires_grad_()
    pooled, switches = stochastic_pool2d(x, 3, 2, 1, return_switches=True)
    unpooled = fastconv.max_unpool2d(pooled, switches, 3, 2, 1, output_size=(9, 8))
    # Every element that was drawn gets its own value back, as often as it was drawn.
    times = gradient(pooled, x, torch.ones_like(pooled))
    assert times.sum() == (pooled > 0).sum() and times.max() > 1
    torch.testing.assert_close(unpooled, times * x)
    g = sample(*pooled.shape, seed=1)
    again = stochastic_pool2d(x, 3, 2, 1, generator=torch.Generator().manual_seed(1))
    assert gradient(again, x, g).sum() == pytest.approx(g[again > 0].sum().item(), abs=1e-3)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_windows_without_probability(training, memory_format):
    x = -sample(1, 20, 5, 5).abs()
    x[:, ::2] = 0
    x = x.contiguous(memory_format=memory_format).requires_grad_()
    y = stochastic_pool2d(x, 3, 2, 1, training=training)
    assert (y == 0).all()
    assert (gradient(y, x, torch.ones_like(y)) == 0).all()
    _, switches = op(x, seed(), [3, 3], [2, 2], [1, 1], False)
    assert switches[0, 7].tolist() == [[4, 3, 3], [1, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_padding_and_negatives_are_never_drawn(memory_format):
    x = torch.full((64, 19, 3, 3), -1.0).contiguous(memory_format=memory_format)
    x[:, :, 1, 1] = 1e-30
    values, switches = op(x, seed(), [5, 5], [1, 1], [2, 2], False)
    assert (values == 1e-30).all()
    assert switches[5, 5].tolist() == [[18, 17, 16], [13, 12, 11], [8, 7, 6]]
    # The test-time value neither underflows nor overflows on the way.
    assert (op_mean(x, [5, 5], [1, 1], [2, 2], False) == 1e-30).all()


# One window of 4: (elements, drawn value, its switch or None where several are possible, mean).
MAX = torch.finfo(torch.float32).max
SPECIAL = [
    ([1, torch.nan, torch.inf, torch.nan], torch.nan, 1, torch.nan),
    ([torch.inf, 3, torch.nan, 0], torch.nan, 2, torch.nan),
    ([5, 0, torch.inf, torch.inf], torch.inf, 2, torch.inf),
    ([-torch.inf, 2, -1, 0], 2, 1, 2),
    ([-torch.inf, -torch.inf, -1, 0], 0, 0, 0),
    ([MAX, MAX, MAX, MAX], MAX, None, MAX),
    ([0, MAX, MAX, -MAX], MAX, None, MAX),
    ([1e-45, 1e-45, 0, 0], 1e-45, None, 1e-45),
    ([0, 0, 1e-45, 0], 1e-45, 2, 1e-45),
    ([1e-38, 1e30, 1e-38, 0], 1e30, 1, 1e30),
]


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("elements, value, switch, mean", SPECIAL, ids=str)
def test_special_windows(elements, value, switch, mean, memory_format):
    x = torch.tensor(elements, dtype=torch.float32).view(2, 2).repeat(3, 37, 1, 20)
    x = x.contiguous(memory_format=memory_format)
    values, switches = op(x, seed(), [2, 2], [2, 2], [0, 0], False)
    expected = torch.full_like(values, value)
    torch.testing.assert_close(values, expected, rtol=0, atol=0, equal_nan=True)
    if switch is None:
        drawn = torch.tensor(elements)[switches.flatten().long()]
        assert (drawn == torch.tensor(value)).all()
        probable = {i for i, element in enumerate(elements) if element > 0}
        assert set(switches.flatten().tolist()) == probable
    else:
        assert (switches == switch).all()
    means = op_mean(x, [2, 2], [2, 2], [0, 0], False)
    torch.testing.assert_close(means, torch.full_like(means, mean), equal_nan=True)


def test_float64_beyond_the_range_of_sums():
    x = torch.full((1, 64, 4, 4), torch.finfo(torch.float64).max, dtype=torch.float64)
    values, switches = op(x, seed(), [4, 4], [4, 4], [0, 0], False)
    assert (values == x[0, 0, 0, 0]).all() and len(set(switches.flatten().tolist())) > 8
    torch.testing.assert_close(op_mean(x, [4, 4], [4, 4], [0, 0], False), values)


def test_infinity_touches_its_own_windows_alone():
    x = sample(1, 3, 8, 8).exp()
    x[0, 1, 2, 2] = torch.inf
    x.requires_grad_()
    y = stochastic_pool2d(x, 2, training=False)
    grad = gradient(y, x, torch.ones_like(y))
    assert y.isinf().sum() == 1 and grad.isnan().sum() == 4
    assert grad[0, 1, 2:4, 2:4].isnan().all()


def test_rounding_cannot_fall_off_the_end():
    # 256 elements whose sum rounds at every step, many windows: whatever is drawn has probability.
    x = sample(64, 128, 16, 16).exp() * (sample(64, 128, 16, 16, seed=1) > 1)
    x[..., 8:, :] = 0
    values, switches = op(x, seed(), [16, 16], [16, 16], [0, 0], False)
    drawn = x.flatten(2).gather(2, switches.flatten(2).long())
    assert (drawn > 0).all() and torch.equal(drawn, values.flatten(2))


def test_awkward_memory():
    values = sample(2, 19, 6, 7)
    window = ([3, 3], [2, 2], [1, 1], False)
    expected, mean = op(values, seed(), *window), op_mean(values, *window)
    g = sample(*mean.shape, seed=1)
    expected_grad = op_mean_backward(g, values, *window)
    for name, x in awkward(values).items():
        for ours, theirs in zip(op(x, seed(), *window), expected, strict=True):
            assert torch.equal(ours, theirs), name
        assert torch.equal(op_mean(x, *window), mean), name
        for grad_name, grad_output in awkward(g).items():
            got = op_mean_backward(grad_output, x, *window)
            assert torch.equal(got, expected_grad), (name, grad_name)


def test_generators_govern():
    x = sample(2, 3, 8, 8).exp()

    def draw(**options):
        return stochastic_pool2d(x, 4, return_switches=True, **options)[1]

    torch.manual_seed(3)
    first, second = draw(), draw()
    torch.manual_seed(3)
    assert torch.equal(draw(), first) and not torch.equal(second, first)
    state = torch.get_rng_state()
    own = draw(generator=torch.Generator().manual_seed(3))
    assert torch.equal(own, first) and torch.equal(torch.get_rng_state(), state)
    stochastic_pool2d(x, 4, training=False)
    assert torch.equal(torch.get_rng_state(), state)


def test_unbatched_and_empty():
    x = sample(3, 8, 8)
    values, switches = stochastic_pool2d(x, 2, return_switches=True)
    assert values.shape == switches.shape == (3, 4, 4)
    assert stochastic_pool2d(x, 2).shape == stochastic_pool2d(x, 2, training=False).shape
    for training in (True, False):
        empty = torch.empty(0, 3, 8, 8, requires_grad=True)
        y = stochastic_pool2d(empty, 2, training=training)
        assert y.shape == (0, 3, 4, 4)
        y.sum().backward()
        assert empty.grad.shape == empty.shape


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_standard_proofs(memory_format):
    x = sample(2, 3, 6, 7, memory_format=memory_format).requires_grad_()
    g = sample(2, 3, 3, 4, memory_format=memory_format, seed=1).requires_grad_()
    window = ([3, 3], [2, 2], [1, 1], False)
    standard_proofs(op, x, seed(), *window)
    standard_proofs(op_mean, x, *window)
    standard_proofs(op_mean_backward, g, x, *window)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_compiles(memory_format):
    x = sample(2, 3, 6, 7, memory_format=memory_format).requires_grad_()
    assert_compiles(lambda x: stochastic_pool2d(x, 3, 2, 1, training=False), x)

    # Compiled or not, torch.manual_seed gives the same draw.
    def draw(x):
        return stochastic_pool2d(x, 3, 2, 1, return_switches=True)

    torch._dynamo.reset()
    compiled = torch.compile(draw, fullgraph=True, backend="aot_eager")
    torch.manual_seed(5)
    expected, expected_switches = draw(x)
    torch.manual_seed(5)
    got, switches = compiled(x)
    assert torch.equal(got, expected) and torch.equal(switches, expected_switches)
    assert torch.equal(gradient(got, x, g := torch.ones_like(got)), gradient(expected, x, g))
    assert not torch.equal(compiled(x)[1], switches)


def test_autocast_leaves_the_dtype():
    half = sample(1, 4, 2, 2, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        for training in (True, False):
            assert stochastic_pool2d(half, 2, training=training).dtype == torch.bfloat16
            assert stochastic_pool2d(half.float(), 2, training=training).dtype == torch.float32


def test_wrong_inputs():
    x = sample(2, 4, 5, 5)
    call, name = stochastic_pool2d, "stochastic_pool2d"
    cases = []
    for options in ({}, {"training": False}):
        cases += [
            (call, (x, 0), options, f"{name}: kernel_size must be at least 1 (got kernel_size=0)"),
            (call, (x, 2.0), options, f"{name}: kernel_size must be an int or a pair of ints"),
            (call, (x, 3, 0), options, f"{name}: stride must be at least 1 (got stride=0)"),
            (
                call,
                (x, 3, 2, 2),
                options,
                f"{name}: padding must be at most half of kernel_size (got padding=2, "
                "kernel_size=3)",
            ),
            (call, (x, 6), options, f"{name}: the window must fit into the padded input"),
            (
                call,
                (sample(1, 1, 20, 20), 17),
                options,
                f"{name}: kernel_size must cover at most 256 elements, because a switch is one "
                "byte (got 17x17)",
            ),
            (call, (x[0, 0], 2), options, f"{name}: input must have shape (N, C, H, W) or (C, H"),
            (call, (x.long(), 2), options, f"{name}: input must be float32, float64, float16 or"),
        ]
    window = ([2, 2], [2, 2], [0, 0], False)
    cases += [
        (
            call,
            (x, 2),
            {"training": False, "return_switches": True},
            f"{name}: return_switches=True needs training=True, for at test time nothing is drawn "
            "(got training=False)",
        ),
        (
            op,
            (x, torch.tensor([1, 2]), *window),
            {},
            f"{name}: seed must be one int64 number (got Long of shape (2,))",
        ),
        (op, (x, torch.tensor([1.0]), *window), {}, f"{name}: seed must be one int64 number"),
        (op, (x[0], seed(), *window), {}, f"{name}: input must have 4 dimensions"),
        (
            op_mean_backward,
            (x, x, *window),
            {},
            f"{name}_mean_backward: grad_output must have the shape that input pools to "
            "(got (2, 4, 5, 5) for an input of (2, 4, 5, 5))",
        ),
        (op_mean_backward, (x.double(), x, *window), {}, "grad_output must have the dtype of in"),
    ]
    assert_refuses(cases)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_instruction_set(capability):
    if capability == fastconv.info()["cpu_capability"]:
        pytest.skip("that is the one that this run uses")
    assert_passes_with_capability(
        capability, __file__, "definition or formats or special or gradient"
    )
