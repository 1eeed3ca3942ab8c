"""The stand-ins for mma.sync, ldmatrix and cp.async, against the PTX manual's tables.

PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point type", "... mma.m16n8k8", and
"ldmatrix": which lane and register hold which element.
"""

import pytest
import simt_testing as simt
import torch
from op_testing import sample


def multiplied(entry, a, b, c):
    """d = a b + c on one warp; a (16, k), b (k, 8), c (16, 8)."""
    inputs = [a, b.t().contiguous(), c]
    (d,) = simt.run("ptx", inputs, [((16, 8), torch.float32)], entry=entry)
    return d


@pytest.mark.parametrize(
    ("entry", "dtype", "depth"),
    [("half", torch.float16, 16), ("bfloat16", torch.bfloat16, 16), ("tf32", torch.float32, 8)],
)
def test_mma_multiplies(entry, dtype, depth):
    a = sample(16, depth, dtype=dtype, seed=1)
    b = sample(depth, 8, dtype=dtype, seed=2)
    c = sample(16, 8, seed=3)
    if entry == "tf32":  # 10 bits of fraction, as a kernel hands them over
        a, b = ((t.view(torch.int32) & ~0x1FFF).view(torch.float32) for t in (a, b))
    expected = a.double() @ b.double() + c.double()
    torch.testing.assert_close(multiplied(entry, a, b, c).double(), expected, rtol=1e-6, atol=1e-6)


def test_tf32_ignores_the_lowest_bits():
    a, b = torch.eye(16, 8) * (1 + 2**-12), torch.ones(8, 8)
    expected = torch.eye(16, 8) @ b
    assert torch.equal(multiplied("tf32", a, b, torch.zeros(16, 8)), expected)


@pytest.mark.parametrize("entry", ["plain", "transposed"])
def test_ldmatrix(entry):
    matrices = torch.arange(4 * 64, dtype=torch.int16).view(4, 8, 8)
    (words,) = simt.run("ptx", [matrices], [((32, 4), torch.int32)], entry=entry)
    got = words.view(torch.int16).view(32, 4, 2)
    for lane in range(32):
        g, t = lane // 4, lane % 4
        for i in range(4):
            for e in range(2):
                y, x = (2 * t + e, g) if entry == "transposed" else (g, 2 * t + e)
                assert got[lane, i, e] == matrices[i, y, x]


def test_cp_async_arrives_when_waited_for_and_not_before():
    x = sample(128)
    (y,) = simt.run("ptx", [x], [((192,), x.dtype)], entry="cp_async")
    first = x.clone()
    first.view(32, 4)[1::2] = 0
    second = x[:32].clone()
    second[::3] = 0
    assert torch.equal(y[:128], first)
    assert y[128:160].isnan().all()
    assert torch.equal(y[160:], second)
