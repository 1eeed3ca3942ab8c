"""The stand-in for wgmma.mma_async, against layouts that the PTX manual writes out.

PTX ISA, "Asynchronous warpgroup level matrix instructions": the canonical layouts of shared memory
in CuTe's notation, the strides that go with them, and the fragment of the accumulator. Here each
layout stands as shape and strides of elements, as the manual's examples have them, with the swizzle
that it names; the stand-in decodes descriptors with formulas of its own.
"""

from itertools import product

import pytest
import simt_testing as simt
import torch
from op_testing import sample

NONE, SWIZZLE_128, SWIZZLE_64, SWIZZLE_32 = range(4)
SWIZZLE_BITS = {NONE: 0, SWIZZLE_32: 1, SWIZZLE_64: 2, SWIZZLE_128: 3}  # of Swizzle<bits, 4, 3>
FAULTS = {
    "no proxy fence": (1, "fence.proxy.async"),
    "no fence of the sums": (2, "wgmma.fence"),
    "no commit": (3, "commit_group"),
    "no wait": (4, "before its warpgroup's products"),
    "overwritten operand": (6, "change under it"),
    "another matrix in each warp": (7, "different matrices"),
}


# (mode, shape of lines, strides of lines, shape of terms, strides of terms, leading, stride): in
# elements of 16 bits, lines for m64 or n64; a second row of each below is n128's.
def along(mode, lines):
    eight = {NONE: 8, SWIZZLE_32: 16, SWIZZLE_64: 32, SWIZZLE_128: 64}[mode]  # a line's step
    next_lines = 8 * eight
    if mode == NONE:  # ((8,m),(T,2)):((1T,SBO),(1,LBO))
        second = lines * 8
        return (8, lines // 8), (8, 64), (8, 2), (1, second), second, 64
    return (8, lines // 8), (eight, next_lines), (8, 2), (1, 8), 1, next_lines


def across(mode, lines):
    if mode == NONE:  # ((T,1,m),(8,k)):((1,T,SBO),(1T,LBO)); the manual's example: 64, 128
        return (8, 1, lines // 8), (1, 8, 64), (8, 2), (8, 8 * lines), 8 * lines, 64
    chunks = {SWIZZLE_32: 2, SWIZZLE_64: 4, SWIZZLE_128: 8}[mode]
    # ((T,chunks,m),(8,k)):((1,T,LBO),(chunks T,SBO)); examples: 32B 128, 256; 64B 256, 512
    panels, leading = lines // (8 * chunks), 64 * chunks
    stride = leading * panels
    return (8, chunks, panels), (1, 8, leading), (8, 2), (8 * chunks, stride), leading, stride


def offset(index, shape, strides):
    total = 0
    for size, stride in zip(shape, strides, strict=True):
        total += index % size * stride
        index //= size
    return total


def swizzled(byte, mode):
    """CuTe's Swizzle<bits, 4, 3> of a byte's address."""
    mask = (1 << SWIZZLE_BITS[mode]) - 1
    return byte ^ ((byte >> 7) & mask) << 4


def laid_out(memory, start, matrix, mode, is_across):
    """Writes (lines, 16) into the bytes from start on; returns leading and stride in bytes."""
    layout = (across if is_across else along)(mode, matrix.shape[0])
    *shapes, leading, stride = layout
    lines, line_strides, terms, term_strides = shapes
    for line, term in product(range(matrix.shape[0]), range(16)):
        element = offset(line, lines, line_strides) + offset(term, terms, term_strides)
        memory[swizzled(start + 2 * element, mode) // 2] = matrix[line, term]
    return (leading * 2, stride * 2)


def multiplied(a, b, modes, acrosses, fault=0, spoil=lambda *fields: fields):
    """1 + a b on one warpgroup; a (64, 16), b (columns, 16)."""
    memory = torch.full((16384,), torch.nan, dtype=torch.bfloat16)
    start_b = 8192
    fields = []
    for start, matrix, mode, is_across in zip((0, start_b), (a, b), modes, acrosses, strict=True):
        leading, stride = laid_out(memory, start, matrix, mode, is_across)
        mode, leading, stride = spoil(mode, leading, stride)
        fields += [mode, leading // 16, stride // 16, start]
    columns = b.shape[0]
    ints = [columns, *acrosses, *fields, fault]
    (words,) = simt.run("wgmma", [memory], [((columns // 2, 128), torch.float32)], ints=ints)
    d = torch.empty(64, columns)
    for thread, i in product(range(128), range(columns // 2)):  # the manual's fragment of D
        lane, warp = thread % 32, thread // 32
        row = 16 * warp + lane // 4 + 8 * (i // 2 % 2)
        d[row, 8 * (i // 4) + lane % 4 * 2 + i % 2] = words[i, thread]
    return d


def operands(columns):
    return sample(64, 16, dtype=torch.bfloat16, seed=1), sample(
        columns, 16, dtype=torch.bfloat16, seed=2
    )


def exact(a, b):
    return (1 + a.double() @ b.double().t()).float()


@pytest.mark.parametrize("columns", [64, 128])
@pytest.mark.parametrize("is_across", [False, True], ids=["along", "across"])
@pytest.mark.parametrize("mode", SWIZZLE_BITS, ids=["none", "32", "64", "128"])
def test_layouts(mode, is_across, columns):
    a, b = operands(columns)
    other = (SWIZZLE_128, not is_across)
    for modes, acrosses in (
        ((mode, other[0]), (is_across, other[1])),
        ((other[0], mode), (other[1], is_across)),
    ):
        torch.testing.assert_close(multiplied(a, b, modes, acrosses), exact(a, b))


def test_layouts_as_the_manual_writes_them():
    """Its examples for bf16: strides in elements."""
    assert across(NONE, 16) == ((8, 1, 2), (1, 8, 64), (8, 2), (8, 128), 128, 64)
    assert across(SWIZZLE_32, 32) == ((8, 2, 2), (1, 8, 128), (8, 2), (16, 256), 128, 256)
    assert across(SWIZZLE_64, 64) == ((8, 4, 2), (1, 8, 256), (8, 2), (32, 512), 256, 512)


@pytest.mark.parametrize("is_across", [False, True], ids=["along", "across"])
def test_a_wrong_layout_gives_wrong_numbers(is_across):
    a, b = operands(128)
    modes, acrosses = (SWIZZLE_128, SWIZZLE_128), (is_across, is_across)
    for spoil in (
        lambda mode, leading, stride: (SWIZZLE_64, leading, stride),
        lambda mode, leading, stride: (mode, leading, stride // 2),
        lambda mode, leading, stride: (mode, stride, leading),
    ):
        got = multiplied(a, b, modes, acrosses, spoil=spoil)
        wrong = got.isnan() | ((got - exact(a, b)).abs() > 1e-2)
        assert wrong.float().mean() > 0.3


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(fault):
    number, message = FAULTS[fault]
    a, b = operands(64)
    with pytest.raises(simt.KernelFault, match=message):
        multiplied(a, b, (SWIZZLE_128, SWIZZLE_128), (False, False), number)


def test_sums_are_not_there_before_the_wait():
    a, b = operands(64)
    got = multiplied(a, b, (SWIZZLE_128, SWIZZLE_128), (False, False), 5)
    assert got.isnan().sum() == 128
