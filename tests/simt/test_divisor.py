"""Division by multiplication, where it could go wrong: around multiples, up to 2^31 - 1."""

import random

import simt_testing as simt
import torch

MOST = 2**31 - 1


def divisors():
    yield from range(1, 40)
    for power in range(5, 31):
        yield from (2**power - 1, 2**power, 2**power + 1)
    yield from (13, 27, 55, 110, 363, 2304, MOST - 1, MOST)
    yield from (random.Random(0).randint(1, MOST) for _ in range(100))


def numbers(divisor):
    draw = random.Random(divisor)
    yield from (0, 1, MOST - 1, MOST)
    for quotient in (1, 2, MOST // divisor, *(draw.randint(0, MOST // divisor) for _ in range(20))):
        yield from (quotient * divisor + i for i in (-1, 0, 1, divisor - 1))


def test_quotients_and_remainders():
    pairs = [(n, d) for d in divisors() for n in numbers(d) if 0 <= n <= MOST]
    assert len(pairs) > 10_000
    expected = torch.tensor([divmod(n, d) for n, d in pairs], dtype=torch.int32)
    given = torch.tensor(pairs, dtype=torch.int32)
    (got,) = simt.run("divisor", [given], [(given.shape, torch.int32)], ints=[len(pairs)])
    assert torch.equal(got, expected)
