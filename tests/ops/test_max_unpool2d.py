"""max_unpool2d against its definition, torch's forward, and adjointness."""

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
from fastconv import max_pool2d_with_switches, max_unpool2d
from fastconv.ops.max_pool2d import switches_to_indices
from fastconv.ops.max_unpool2d import max_unpool2d_ref

op = torch.ops.fastconv.max_unpool2d
op_backward = torch.ops.fastconv.max_unpool2d_backward
pool = torch.ops.fastconv.max_pool2d

MODES = ["accumulate", "overwrite"]
SIZE = [9, 12]
# kernel_size, stride, padding, dilation, ceil_mode
WINDOWS = [
    ([2, 2], [2, 2], [0, 0], [1, 1], False),
    ([3, 3], [2, 2], [0, 0], [1, 1], False),
    ([3, 3], [1, 1], [1, 1], [1, 1], False),  # nearly every value is shared
    ([3, 3], [2, 2], [1, 1], [1, 1], True),
    ([3, 2], [1, 3], [1, 0], [2, 1], True),
    ([2, 2], [5, 4], [0, 1], [1, 1], True),
]


def switches_of(window, maps=5, memory_format=torch.contiguous_format):
    """Switches of a pooled map, and pooled values that have nothing to do with it."""
    x = sample(2, maps, *SIZE, memory_format=memory_format, seed=7)
    switches = pool(x, *window)[1]
    return switches, window[:4]


def values_for(switches, dtype=torch.float32, seed=1):
    return sample(*switches.shape, dtype=dtype, seed=seed).to(
        memory_format=torch.channels_last
        if not switches.is_contiguous()
        else torch.contiguous_format
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_is_the_reference(memory_format, window, mode):
    switches, window = switches_of(window, memory_format=memory_format)
    x = values_for(switches, torch.float64)
    overwrite = mode == "overwrite"
    output = op(x, switches, *window, SIZE, overwrite)
    assert torch.equal(output, max_unpool2d_ref(x, switches, *window, SIZE, overwrite))
    assert output.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_overwrite_is_torchs_forward(dtype, memory_format, window):
    switches, window = switches_of(window, maps=19, memory_format=memory_format)
    x = values_for(switches, dtype)
    indices = switches_to_indices(switches, SIZE[1], *window)
    # torch's channels_last kernel runs its threads over pooled pixels: only this order is defined.
    expected = torch.ops.aten.max_unpool2d(x.contiguous(), indices.contiguous(), SIZE)
    assert torch.equal(op(x, switches, *window, SIZE, True), expected)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_accumulate_within_policy(dtype, memory_format, window):
    switches, window = switches_of(window, maps=19, memory_format=memory_format)
    x = values_for(switches, dtype)
    indices = switches_to_indices(switches, SIZE[1], *window).flatten(2)

    def scatter(x):
        flat = x.new_zeros(*x.shape[:2], SIZE[0] * SIZE[1])
        return flat.scatter_add(2, indices, x.flatten(2)).unflatten(2, SIZE)

    ours = op(x, switches, *window, SIZE, False)
    if dtype == torch.float64:
        torch.testing.assert_close(ours, scatter(x))
    else:
        assert_within_policy(ours, scatter(x), scatter(x.double()))


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_backward_gathers(dtype, memory_format, window):
    switches, window = switches_of(window, maps=19, memory_format=memory_format)
    g = sample(2, 19, *SIZE, dtype=dtype, seed=3)
    indices = switches_to_indices(switches, SIZE[1], *window)
    expected = g.flatten(2).gather(2, indices.flatten(2)).view(switches.shape)
    assert torch.equal(op_backward(g, switches, *window, False), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_backward_is_the_adjoint(window, mode):
    switches, window = switches_of(window)
    overwrite = mode == "overwrite"
    x = values_for(switches, torch.float64)
    g = sample(2, 5, *SIZE, dtype=torch.float64, seed=3)
    forward = (op(x, switches, *window, SIZE, overwrite) * g).sum()
    backward = (x * op_backward(g, switches, *window, overwrite)).sum()
    torch.testing.assert_close(forward, backward)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_unpooling_inverts_pooling_where_windows_do_not_overlap(memory_format):
    x = sample(2, 5, 8, 12, memory_format=memory_format)
    values, switches = max_pool2d_with_switches(x, 2)
    for mode in MODES:
        back = max_unpool2d(values, switches, 2, output_size=(8, 12), mode=mode)
        kept = back != 0
        assert kept.sum() == values.numel()
        assert torch.equal(back[kept], x[kept])
        again, same = max_pool2d_with_switches(back.where(kept, torch.tensor(-9.0)), 2)
        assert torch.equal(again, values) and torch.equal(same, switches)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("window", [WINDOWS[2], WINDOWS[4]], ids=str)
def test_gradcheck(window, memory_format, mode):
    switches, window = switches_of(window, maps=2, memory_format=memory_format)
    x = values_for(switches, torch.float64).requires_grad_()

    def function(x):
        return op(x, switches, *window, SIZE, mode == "overwrite")

    assert torch.autograd.gradcheck(function, x)
    # Linear: its second derivative is 0, but the way there must hold too.
    assert torch.autograd.gradgradcheck(function, x)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_garbage_switches_are_harmless(window, mode):
    good, window = switches_of(window)
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = window
    generator = torch.Generator().manual_seed(5)
    switches = torch.randint(0, 256, good.shape, generator=generator, dtype=torch.uint8)
    switches[1] = good[1]
    x = values_for(switches, torch.float64)
    expected = torch.zeros(2, 5, *SIZE, dtype=torch.float64)
    for n, c, i, j in torch.cartesian_prod(*map(torch.arange, x.shape)).tolist():
        switch = int(switches[n, c, i, j])
        h = i * sh - ph + switch // kw * dh
        w = j * sw - pw + switch % kw * dw
        if switch < kh * kw and 0 <= h < SIZE[0] and 0 <= w < SIZE[1]:
            before = 0 if mode == "overwrite" else expected[n, c, h, w]
            expected[n, c, h, w] = before + x[n, c, i, j]
    overwrite = mode == "overwrite"
    g = sample(2, 5, *SIZE, dtype=torch.float64, seed=3)
    for memory_format in FORMATS:
        sw = switches.contiguous(memory_format=memory_format)
        output = op(x.contiguous(memory_format=memory_format), sw, *window, SIZE, overwrite)
        assert torch.equal(output, expected)
        taken = op_backward(g, sw, *window, overwrite)
        torch.testing.assert_close((taken * x).sum(), (g * expected).sum())


@pytest.mark.parametrize("mode", MODES)
def test_formats_and_threads_give_equal_bits(mode):
    window = WINDOWS[2]
    x = sample(3, 24, 40, 40)
    values, switches = pool(x, *window)
    overwrite = mode == "overwrite"

    def both(memory_format):
        v = values.contiguous(memory_format=memory_format)
        sw = switches.contiguous(memory_format=memory_format)
        output = op(v, sw, *window[:4], [40, 40], overwrite)
        return output, op_backward(x, sw, *window[:4], overwrite)

    for first, last in zip(*map(both, FORMATS), strict=True):
        assert torch.equal(first, last)
    for memory_format in FORMATS:
        assert_same_for_all_thread_counts(lambda f=memory_format: both(f))


@pytest.mark.parametrize("mode", MODES)
def test_awkward_memory(mode):
    switches, window = switches_of(WINDOWS[2], maps=19)
    overwrite = mode == "overwrite"
    x, g = values_for(switches), sample(2, 19, *SIZE, seed=3)
    expected = op(x, switches, *window, SIZE, overwrite)
    expected_grad = op_backward(g, switches, *window, overwrite)
    for name, sw in awkward(switches).items():
        for other, values in awkward(x).items():
            assert torch.equal(op(values, sw, *window, SIZE, overwrite), expected), (name, other)
        for other, grad in awkward(g).items():
            got = op_backward(grad, sw, *window, overwrite)
            assert torch.equal(got, expected_grad), (name, other)


def test_nan_travels_only_through_its_switch():
    x = sample(1, 3, 6, 6)
    values, switches = max_pool2d_with_switches(x, 2)
    values[0, 1, 0, 2] = torch.nan
    output = max_unpool2d(values, switches, 2, output_size=(6, 6))
    assert output.isnan().sum() == 1 and output[0, 1, :2, 4:].isnan().any()


def test_unbatched_and_output_size():
    x = sample(2, 3, 9, 8)
    values, switches = max_pool2d_with_switches(x, 3, 2)
    expected = max_unpool2d(values, switches, 3, 2, output_size=(9, 8))
    assert torch.equal(max_unpool2d(values, switches, 3, 2, output_size=x.shape), expected)
    single = max_unpool2d(values[0], switches[0], 3, 2, output_size=[9, 8])
    assert torch.equal(single, expected[0])
    square = max_pool2d_with_switches(x[..., :8, :], 2)
    assert max_unpool2d(*square, 2, output_size=8).shape == (2, 3, 8, 8)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_empty_batch(memory_format):
    x = torch.empty(0, 3, 4, 3).contiguous(memory_format=memory_format).requires_grad_()
    y = max_unpool2d(x, torch.empty(0, 3, 4, 3, dtype=torch.uint8), 3, 2, output_size=(9, 8))
    assert y.shape == (0, 3, 9, 8)
    y.sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_standard_proofs(memory_format, mode):
    switches, window = switches_of(WINDOWS[3], memory_format=memory_format)
    x = values_for(switches).requires_grad_()
    g = sample(2, 5, *SIZE, memory_format=memory_format, seed=3).requires_grad_()
    standard_proofs(op, x, switches, *window, SIZE, mode == "overwrite")
    standard_proofs(op_backward, g, switches, *window, mode == "overwrite")


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_compiles(memory_format):
    switches, _ = switches_of(WINDOWS[1], memory_format=memory_format)
    x = values_for(switches).requires_grad_()
    for mode in MODES:
        assert_compiles(
            lambda x, mode=mode: max_unpool2d(x, switches, 3, 2, output_size=SIZE, mode=mode), x
        )


def test_autocast_leaves_the_dtype():
    values, switches = max_pool2d_with_switches(sample(1, 4, 4, 4), 2)
    with torch.autocast("cpu", torch.bfloat16):
        output = max_unpool2d(values, switches, 2, output_size=(4, 4))
    assert output.dtype == torch.float32


def test_wrong_inputs():
    values, switches = max_pool2d_with_switches(sample(2, 3, 9, 8), 3, 2)
    name = "max_unpool2d"

    def call(x=values, sw=switches, kernel=3, stride=2, padding=0, size=(9, 8), mode="accumulate"):
        return max_unpool2d(x, sw, kernel, stride, padding, output_size=size, mode=mode)

    cases = [
        ({"mode": "add"}, "mode must be 'accumulate' or 'overwrite' (got mode='add')"),
        (
            {"sw": switches.long()},
            "switches must be uint8, as max_pool2d_with_switches returns them (got torch.int64)",
        ),
        (
            {"sw": switches[:1]},
            "switches must have the shape of input (got (1, 3, 4, 3) and (2, 3, 4, 3))",
        ),
        (
            {"size": (11, 8)},
            "output_size must be a size that pools to the size of switches (got output_size=11, "
            "which pools to 5, and switches of size 4)",
        ),
        ({"size": (0, 8)}, "output_size must be at least 1 (got output_size=0)"),
        ({"size": None}, "output_size must be an int or a pair of ints (got output_size=None)"),
        ({"size": 9.0}, "output_size must be an int or a pair of ints (got output_size=9.0)"),
        (
            {"padding": 2},
            "padding must be at most half of kernel_size (got padding=2, kernel_size=3)",
        ),
        ({"kernel": 17}, "kernel_size must cover at most 256 elements"),
        ({"stride": 0}, "stride must be at least 1 (got stride=0)"),
        ({"x": values[0, 0]}, "input must have shape (N, C, H, W) or (C, H, W) (got (4, 3))"),
        ({"sw": switches[0, 0]}, "switches must have shape (N, C, H, W) or (C, H, W) (got (4, 3))"),
        (
            {"x": values.int()},
            "input must be float32, float64, float16 or bfloat16",
        ),
    ]
    assert_refuses([(call, (), kwargs, f"{name}: {text}") for kwargs, text in cases])
    g = sample(1, 3, 9, 8)
    text = (
        "grad_output must have the batch and channels of switches "
        "(got (1, 3, 9, 8) and (2, 3, 4, 3))"
    )
    window = ([3, 3], [2, 2], [0, 0], [1, 1])
    assert_refuses([(op_backward, (g, switches, *window, False), {}, f"{name}_backward: {text}")])


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_instruction_set(capability):
    if capability == fastconv.info()["cpu_capability"]:
        pytest.skip("that is the one that this run uses")
    selection = "reference or torchs or policy or gathers or garbage"
    assert_passes_with_capability(capability, __file__, selection)
