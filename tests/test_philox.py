"""The random number generator against Random123's known answers and a slow one in Python."""

import pytest

from fastconv import _C

ONES = 2**64 - 1

# Salmon et al., SC 2011: kat_vectors of Random123, philox4x32-10. (key, counter, words)
KNOWN_ANSWERS = [
    (0, 0, 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    (ONES, ONES, ONES, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        0x299F31D0A4093822,
        0x85A308D3243F6A88,
        0x0370734413198A2E,
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def slow_philox(seed, counter, counter_high):
    """The paper's figure: ten rounds of two multiplications, the key bumped in between."""
    mask = 2**32 - 1
    key = [seed & mask, seed >> 32]
    words = [counter & mask, counter >> 32, counter_high & mask, counter_high >> 32]
    for _ in range(10):
        high0, low0 = divmod(words[0] * 0xD2511F53, 2**32)
        high1, low1 = divmod(words[2] * 0xCD9E8D57, 2**32)
        words = [high1 ^ words[1] ^ key[0], low1, high0 ^ words[3] ^ key[1], low0]
        key = [(key[0] + 0x9E3779B9) & mask, (key[1] + 0xBB67AE85) & mask]
    return words


@pytest.mark.parametrize(("seed", "counter", "counter_high", "words"), KNOWN_ANSWERS)
def test_known_answers(seed, counter, counter_high, words):
    assert _C.philox4x32(seed, counter, counter_high) == words
    assert slow_philox(seed, counter, counter_high) == words


def test_is_the_slow_one():
    state = 1
    for _ in range(200):
        seed, counter, counter_high = (
            (state * k) % 2**64 for k in (0x9E37, 0x79B97F4A, 0x7C15F39C)
        )
        assert _C.philox4x32(seed, counter, counter_high) == slow_philox(
            seed, counter, counter_high
        )
        state = state * 6364136223846793005 + 1442695040888963407


def test_high_counter_is_zero_unless_given():
    assert _C.philox4x32(3, 4) == _C.philox4x32(3, 4, 0) != _C.philox4x32(3, 4, 1)
