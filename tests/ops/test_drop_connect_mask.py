"""The masks of drop_connect against slow Philox, and their frequencies against the binomial.

The seed is fixed: a test that passes passes for ever. Each statistical test would reject one seed
in a million if the masks were perfect.
"""

import math

import pytest
import torch
from op_testing import (
    CAPABILITIES,
    assert_passes_with_capability,
    assert_same_for_all_thread_counts,
)

import fastconv
from fastconv import _C

op_mask = torch.ops.fastconv.drop_connect_mask

SEED = torch.tensor([0x1234_5678_9ABC_DEF0])
FREQUENCIES = [0.5, 0.25, 77 / 256, 0.3, 0.8, 1e-3]


def mask_of(shape, p, seed=SEED):
    batch, outputs, inputs = shape
    return op_mask(seed, batch, outputs, 0, inputs, p)


def kept_by_hand(n, o, i, p):
    """core/drop_connect.h in slow motion: compare u with p, digit by digit."""
    rest = p
    for digit in range(64):
        if rest == 0:
            return True  # no digit 1 is left in p: u >= p
        rest *= 2
        p_digit, rest = rest >= 1, rest - (rest >= 1)
        words = _C.philox4x32(int(SEED), i // 128 | o << 32, n | digit << 32)
        u_digit = words[i // 32 % 4] >> i % 32 & 1
        if u_digit != p_digit:
            return u_digit > p_digit
    raise AssertionError("64 digits did not decide")


@pytest.mark.parametrize("p", [0.5, 0.25, 77 / 256, 0.3, 1e-3, 1 - 2**-40])
def test_mask_is_the_definition(p):
    shape = (40, 20, 1100)
    mask = mask_of(shape, p)
    generator = torch.Generator().manual_seed(0)
    places = [torch.randint(size, (400,), generator=generator).tolist() for size in shape]
    corners = [(0, 0, 0), (39, 19, 1099), (31, 15, 511), (32, 16, 512), (0, 0, 127), (0, 0, 128)]
    for n, o, i in [*zip(*places, strict=True), *corners]:
        assert mask[n, o, i] == kept_by_hand(n, o, i, p), (n, o, i)


@pytest.mark.parametrize("p", [0.5, 0.3])
def test_mask_does_not_depend_on_the_shape(p):
    whole = mask_of((5, 40, 1100), p)
    assert torch.equal(mask_of((2, 18, 600), p), whole[:2, :18, :600])
    for first, end in [(0, 1), (127, 129), (500, 520), (512, 1100), (1099, 1100), (3, 3)]:
        assert torch.equal(op_mask(SEED, 5, 40, first, end, p), whole[:, :, first:end])


def test_mask_at_the_ends():
    assert mask_of((3, 20, 600), 0.0).all()
    assert not mask_of((3, 20, 600), 1.0).any()
    assert mask_of((3, 20, 600), 2.0**-70).all()  # below the finest digit


def assert_binomial(count, trials, p, false_alarm=1e-6):
    """``count`` successes are within the two-sided normal bound of that false-alarm rate."""
    z = (count - trials * p) / math.sqrt(trials * p * (1 - p))
    assert abs(z) < math.sqrt(2) * torch.special.erfinv(torch.tensor(1 - false_alarm)).item(), z


@pytest.mark.parametrize("p", FREQUENCIES)
def test_frequency(p):
    """8.4 million weights."""
    mask = mask_of((64, 64, 2048), p)
    assert_binomial(int(mask.sum()), mask.numel(), 1 - p)


@pytest.mark.parametrize("p", FREQUENCIES)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_line_has_its_share(axis, p):
    """Chi-squared over the examples, the outputs, the columns."""
    mask = mask_of((64, 64, 2048), p)
    kept = mask.sum([d for d in range(3) if d != axis], dtype=torch.double)
    trials = mask.numel() / len(kept)
    chi2 = ((kept - trials * (1 - p)) ** 2 / (trials * p * (1 - p))).sum().item()
    # Wilson and Hilferty: the cube root of chi2 / k is close to normal.
    k = len(kept)
    z = ((chi2 / k) ** (1 / 3) - (1 - 2 / (9 * k))) / math.sqrt(2 / (9 * k))
    assert abs(z) < 4.9, z


# (example, output, column) steps to a weight whose mask must be independent
STEPS = [
    (1, 0, 0),
    (0, 1, 0),
    (0, 0, 1),
    (0, 0, 32),
    (0, 0, 128),
    (0, 0, 512),
    (1, 1, 0),
    (0, 16, 0),
]


@pytest.mark.parametrize("p", [0.5, 0.3])
@pytest.mark.parametrize("step", STEPS, ids=str)
def test_neighbours_are_independent(step, p):
    """Both of a pair are dropped with probability p * p; the pairs are disjoint."""
    mask = mask_of((64, 64, 2048), p)
    axis = next(d for d in (2, 1, 0) if step[d])
    if axis == 1 and step[0]:  # along the diagonal: even examples with the next odd ones
        first, second = mask[::2, :-1], mask[1::2, 1:]
    else:
        pairs = mask.unflatten(axis, (-1, 2, step[axis]))
        first, second = pairs.select(axis + 1, 0), pairs.select(axis + 1, 1)
    both = ~first & ~second
    assert_binomial(int(both.sum()), both.numel(), p * p)


def test_seeds_give_independent_masks():
    first = mask_of((64, 64, 512), 0.5)
    for other in (SEED + 1, SEED ^ (1 << 40), torch.tensor([-1])):
        same = first == mask_of((64, 64, 512), 0.5, other)
        assert_binomial(int(same.sum()), same.numel(), 0.5)


def test_threads_give_equal_bits():
    for p in (0.5, 0.3):
        assert_same_for_all_thread_counts(lambda p=p: (mask_of((70, 50, 1100), p),))


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_instruction_set(capability):
    if capability == fastconv.info()["cpu_capability"]:
        pytest.skip("that is the one that this run uses")
    assert_passes_with_capability(capability, __file__, "definition or shape or ends")
