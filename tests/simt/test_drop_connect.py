"""CUDA's drop_connect, run on the CPU: the CPU op's masks to the bit, sums by the policy."""

import pytest
import simt_testing as simt
import torch
from op_testing import DTYPES, assert_within_policy, sample

SEED = torch.tensor([0x5EED_0123_4567])
OPS = torch.ops.fastconv

# batch, outputs, inputs: tails of every tile; several blocks; whole packs; a single weight
SHAPES = [(5, 7, 150), (34, 37, 40), (3, 18, 264), (1, 1, 1)]


def kept(n, outputs, inputs, p):
    return OPS.drop_connect_mask(SEED, n, outputs, 0, inputs, p)


def run(entry, tensors, output, sizes, p, misaligned=False):
    (result,) = simt.run(
        "drop_connect", [SEED, *tensors], [(output, tensors[0].dtype)], entry=entry,
        dtype=tensors[0].dtype, ints=[*sizes, 0], reals=[p], misaligned=misaligned,
    )  # fmt: skip
    return result


def assert_right(ours, function, *operands):
    """``function`` is the definition, to be computed in the operands' dtype and in float64."""
    exact = function(*(operand.double() for operand in operands))
    if ours.dtype == torch.float64:
        torch.testing.assert_close(ours, exact, rtol=1e-13, atol=1e-13)
    else:
        assert_within_policy(ours, function(*operands), exact)


def assert_all_right(shape, dtype, p, misaligned=False):
    n, outputs, inputs = shape
    x, w = sample(n, inputs, dtype=dtype), sample(outputs, inputs, dtype=dtype, seed=1)
    g, bias = sample(n, outputs, dtype=dtype, seed=2), sample(outputs, dtype=dtype, seed=3)
    mask = kept(n, outputs, inputs, p).to(dtype)

    def forward(x, w, bias):
        return torch.einsum("noi,oi,ni->no", mask.to(x), w, x) + bias

    def input_grad(g, w):
        return torch.einsum("noi,oi,no->ni", mask.to(g), w, g)

    def weight_grad(g, x):
        return torch.einsum("noi,ni,no->oi", mask.to(g), x, g)

    def call(entry, tensors, output):
        return run(entry, tensors, output, shape, p, misaligned)

    assert_right(call("forward", [x, w, bias], (n, outputs)), forward, x, w, bias)
    assert_right(call("input_grad", [g, w], (n, inputs)), input_grad, g, w)
    assert_right(call("weight_grad", [g, x], (outputs, inputs)), weight_grad, g, x)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums(shape):
    assert_all_right(shape, torch.float32, 0.5)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_other_dtypes(dtype):
    assert_all_right((6, 9, 144), dtype, 0.5)


@pytest.mark.parametrize("p", [0.0, 0.3, 1 / 256, 1.0])
def test_probabilities(p):
    assert_all_right((4, 5, 140), torch.float32, p)


def test_misaligned():
    assert_all_right((6, 9, 144), torch.float32, 0.5, misaligned=True)


def test_bias():
    n, outputs, inputs = shape = (4, 35, 33)
    x, w = sample(n, inputs), sample(outputs, inputs, seed=1)
    plain = run("forward", [x, w, None], (n, outputs), shape, 0.5)
    bias, masked = sample(outputs, seed=2), sample(n, outputs, seed=3)
    with_bias = run("forward", [x, w, bias], (n, outputs), shape, 0.5)
    with_masked = run("forward_masked_bias", [x, w, masked], (n, outputs), shape, 0.5)
    assert torch.equal(with_bias, plain + bias) and torch.equal(with_masked, plain + masked)


def test_no_inputs_leave_the_bias():
    bias = sample(3)
    result = run("forward", [sample(2, 0), sample(3, 0), bias], (2, 3), (2, 3, 0), 0.5)
    assert torch.equal(result, bias.expand(2, 3))


def test_nan_and_inf_where_the_cpu_has_them():
    n, outputs, inputs = shape = (4, 6, 50)
    x, w, g = sample(n, inputs), sample(outputs, inputs, seed=1), sample(n, outputs, seed=2)
    x[1, 2], w[3, 7], g[2, 5] = torch.inf, torch.nan, -torch.inf
    pairs = [
        (run("forward", [x, w, None], (n, outputs), shape, 0.5),
         OPS.drop_connect(x, w, None, SEED, 0.5)),
        (run("input_grad", [g, w], (n, inputs), shape, 0.5),
         OPS.drop_connect_input_grad(g, w, SEED, 0.5)),
        (run("weight_grad", [g, x], (outputs, inputs), shape, 0.5),
         OPS.drop_connect_weight_grad(g, x, SEED, 0.5)),
    ]  # fmt: skip
    for ours, cpu in pairs:
        torch.testing.assert_close(ours, cpu, equal_nan=True)


@pytest.mark.parametrize("p", [0.0, 0.5, 0.3, 3 / 256, 2.0**-40, 1.0])
@pytest.mark.parametrize(
    ("first", "end"), [(0, 272), (0, 150), (37, 300), (272, 273), (144, 160), (5, 5)], ids=str
)
def test_masks_are_the_cpus(p, first, end):
    n, outputs = 3, 5
    shape = (n, outputs, end - first)
    (mask,) = simt.run(
        "drop_connect", [SEED], [(shape, torch.uint8)], entry="mask", ints=[*shape, first],
        reals=[p],
    )  # fmt: skip
    expected = OPS.drop_connect_mask(SEED, n, outputs, first, end, p)
    assert torch.equal(mask, expected.to(torch.uint8))


def test_misaligned_mask():
    (mask,) = simt.run(
        "drop_connect", [SEED], [((2, 3, 48), torch.uint8)], entry="mask", ints=[2, 3, 48, 0],
        reals=[0.5], misaligned=True,
    )  # fmt: skip
    assert torch.equal(mask, kept(2, 3, 48, 0.5).to(torch.uint8))
