"""maxout against the slow definition, max_pool2d along the maps, and torch's amax."""

import pytest
import torch
from op_testing import (
    CAPABILITIES,
    DTYPES,
    FORMATS,
    assert_compiles,
    assert_large_is_single_images,
    assert_passes_with_capability,
    assert_refuses,
    assert_same_for_all_thread_counts,
    awkward,
    sample,
    standard_proofs,
)

import fastconv
from fastconv import maxout
from fastconv.ops.maxout import maxout_ref

op = torch.ops.fastconv.maxout
op_backward = torch.ops.fastconv.maxout_backward

# (maps, pool_size, stride): apart, overlapping, every step of the kernel, one group, groups of one.
GROUPS = [
    (40, 2, 2),
    (39, 3, 3),
    (40, 4, 4),
    (45, 5, 5),
    (84, 7, 7),
    (37, 3, 2),
    (38, 5, 3),
    (37, 4, 1),
    (45, 9, 4),
    (37, 37, 37),
    (20, 1, 1),
    (256, 256, 1),
    (2, 2, 2),
]


def gradient(output, input, grad_output):
    return torch.autograd.grad(output, input, grad_output)[0]


@pytest.mark.parametrize("groups", GROUPS, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_is_the_definition(dtype, memory_format, groups):
    maps, pool_size, stride = groups
    # Few levels, so that there are ties.
    x = (sample(2, maps, 3, 7) * 2).round().to(dtype).contiguous(memory_format=memory_format)
    x.requires_grad_()
    ours, switches = maxout(x, pool_size, stride, return_switches=True)
    expected, expected_switches = maxout_ref(x.detach(), pool_size, stride)
    assert torch.equal(ours, expected) and torch.equal(switches, expected_switches)
    assert torch.equal(maxout(x, pool_size, stride), ours)
    assert ours.is_contiguous(memory_format=memory_format)

    g = sample(*ours.shape, dtype=dtype, memory_format=memory_format, seed=1)
    rows = torch.zeros(2, maps, 3, 7, dtype=torch.float64)
    for group in range(ours.shape[1]):
        at = switches[:, group : group + 1].long() + group * stride
        rows.scatter_add_(1, at, g[:, group : group + 1].double())
    grad = gradient(ours, x, g)
    assert grad.is_contiguous(memory_format=memory_format)
    tolerance = 4 * torch.finfo(dtype).eps * rows.abs().max()
    torch.testing.assert_close(grad.double(), rows, rtol=0, atol=tolerance.item())
    if stride == pool_size:
        assert torch.equal(grad.double(), rows)


@pytest.mark.parametrize("groups", GROUPS[:9], ids=str)
def test_is_max_pooling_along_the_maps(groups):
    maps, pool_size, stride = groups
    x = sample(3, maps, 4, 5)
    x[0] = x[0].round()
    pooled, switches = fastconv.max_pool2d_with_switches(
        x.view(3, 1, maps, 20), (pool_size, 1), (stride, 1)
    )
    ours, ours_switches = maxout(x, pool_size, stride, return_switches=True)
    assert torch.equal(ours.view(pooled.shape), pooled)
    assert torch.equal(ours_switches.view(pooled.shape), switches)


@pytest.mark.parametrize("shape", [(4, 12), (4, 12, 5), (2, 12, 3, 4), (2, 12, 2, 3, 4)])
@pytest.mark.parametrize("maps_last", [False, True])
def test_any_rank(shape, maps_last):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if maps_last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    x.requires_grad_()
    ours, switches = maxout(x, 3, return_switches=True)
    peer = x.unflatten(1, (4, 3)).amax(2)
    assert torch.equal(ours, peer) and switches.shape == peer.shape
    assert ours.movedim(1, -1).is_contiguous() or not maps_last
    g = torch.randn(peer.shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(gradient(ours, x, g), gradient(peer, x, g))


@pytest.mark.parametrize("groups", GROUPS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_formats_give_equal_bits(dtype, groups):
    maps, pool_size, stride = groups
    x, results = sample(2, maps, 3, 7, dtype=dtype), []
    for memory_format in FORMATS:
        leaf = x.contiguous(memory_format=memory_format).requires_grad_()
        y = maxout(leaf, pool_size, stride)
        g = sample(*y.shape, dtype=dtype, memory_format=memory_format, seed=1)
        results.append((y, gradient(y, leaf, g)))
    for first, last in zip(*results, strict=True):
        assert torch.equal(first, last)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_thread_counts_give_equal_bits(memory_format):
    x = sample(3, 25, 40, 40, memory_format=memory_format).requires_grad_()

    def run():
        y = maxout(x, 5, 2)
        return y, gradient(y, x, y.detach())

    assert_same_for_all_thread_counts(run)


def test_awkward_memory():
    values = sample(2, 18, 5, 6)
    expected, switches = op(values, 3, 3)
    g = sample(*expected.shape, seed=1)
    expected_grad = op_backward(g, switches, 18, False, 3, 3)
    for name, x in awkward(values).items():
        assert torch.equal(maxout(x, 3), expected), name
    for name, grad_output in awkward(g).items():
        for switch_name, sw in awkward(switches).items():
            got = op_backward(grad_output, sw, 18, False, 3, 3)
            assert torch.equal(got, expected_grad), (name, switch_name)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("groups", [(6, 3, 3), (7, 3, 2), (4, 3, 1)], ids=str)
def test_gradcheck(groups, memory_format):
    maps, *sizes = groups
    x = torch.randperm(2 * maps * 6, generator=torch.Generator().manual_seed(0)).double()
    x = x.view(2, maps, 2, 3).contiguous(memory_format=memory_format).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: maxout(x, *sizes), x)
    assert torch.autograd.gradgradcheck(lambda x: maxout(x, *sizes).square(), x)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_nan_infinity_and_ties_as_in_max_pooling(memory_format):
    x = torch.tensor(
        [
            [1, 2, 2],
            [torch.nan, 5, torch.nan],
            [-torch.inf] * 3,
            [torch.inf, 0, torch.inf],
            [0, torch.nan, torch.inf],
            [-0.0, 0.0, -1],
        ]
    )
    x = x.view(1, 18, 1, 1).expand(1, 18, 2, 2).contiguous(memory_format=memory_format)
    values, switches = maxout(x, 3, return_switches=True)
    expected = torch.tensor([2, torch.nan, -torch.inf, torch.inf, torch.nan, 0])
    torch.testing.assert_close(values[0, :, 1, 0], expected, equal_nan=True)
    assert switches[0, :, 0, 1].tolist() == [1, 2, 0, 0, 1, 0]


@pytest.mark.parametrize("shape", [(0, 6, 3, 3), (2, 6, 0, 3), (0, 6)])
def test_empty(shape):
    x = torch.empty(shape, requires_grad=True)
    y = maxout(x, 2)
    assert y.shape == (shape[0], 3, *shape[2:])
    y.sum().backward()
    assert x.grad.shape == shape


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_standard_proofs(memory_format):
    x = sample(2, 7, 3, 4, memory_format=memory_format).requires_grad_()
    g = sample(2, 3, 3, 4, memory_format=memory_format, seed=1).requires_grad_()
    _, switches = op(x, 3, 2)
    standard_proofs(op, x, 3, 2)
    last = memory_format == torch.channels_last
    standard_proofs(op_backward, g, switches, 7, last, 3, 2)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_compiles(memory_format):
    x = sample(2, 6, 3, 4, memory_format=memory_format).requires_grad_()
    assert_compiles(lambda x: maxout(x, 3, return_switches=True), x)
    assert_compiles(lambda x: maxout(x, 2), torch.randn(3, 6, requires_grad=True))


def test_autocast_leaves_the_dtype():
    with torch.autocast("cpu", torch.bfloat16):
        assert maxout(sample(1, 4, 2, 2), 2).dtype == torch.float32
        assert maxout(sample(1, 4, 2, 2, dtype=torch.bfloat16), 2).dtype == torch.bfloat16


def test_wrong_inputs():
    x = sample(2, 10, 3, 3)
    switches = op(x, 2, 2)[1]
    assert_refuses(
        [
            (maxout, (x, 0), {}, "maxout: pool_size must be from 1 to 256, because a switch is"),
            (maxout, (sample(1, 300, 1, 1), 300), {}, "(got pool_size=300)"),
            (maxout, (x, 11), {}, "maxout: pool_size must be at most the number of maps (got pool"),
            (maxout, (x, 2.0), {}, "maxout: pool_size must be an int (got pool_size=2.0)"),
            (maxout, (x, 2, True), {}, "maxout: stride must be an int (got stride=True)"),
            (
                maxout,
                (x, 2, 3),
                {},
                "maxout: stride must be from 1 to pool_size, or maps between groups are lost "
                "(got stride=3, pool_size=2)",
            ),
            (maxout, (x, 2, 0), {}, "maxout: stride must be from 1 to pool_size"),
            (
                maxout,
                (x, 4),
                {},
                "maxout: the last group must end at the last map (got 10 maps, pool_size=4, "
                "stride=4: 2 maps are left over)",
            ),
            (maxout, (x[0, 0, 0], 2), {}, "maxout: input must have shape (N, C, *), at least 2"),
            (maxout, (x.long(), 2), {}, "maxout: input must be float32, float64, float16 or bf"),
            (op, (x[0], 2, 2), {}, "maxout: input must have 4 dimensions"),
            (
                op_backward,
                (x, switches, 10, False, 2, 2),
                {},
                "maxout_backward: grad_output must have the shape of switches "
                "(got (2, 10, 3, 3) and (2, 5, 3, 3))",
            ),
            (
                op_backward,
                (x, x.byte(), 10, False, 2, 2),
                {},
                "maxout_backward: switches must have a map for each of 5 groups",
            ),
            (op_backward, (x, x, 10, False, 2, 2), {}, "maxout_backward: switches must be uint8"),
        ]
    )


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_large_results_are_those_of_single_images(memory_format):
    assert_large_is_single_images(lambda x: maxout(x, 2), memory_format, (3, 72, 64, 64))


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_instruction_set(capability):
    if capability == fastconv.info()["cpu_capability"]:
        pytest.skip("that is the one that this run uses")
    assert_passes_with_capability(capability, __file__, "definition or formats or nan")
