"""The same seed gives the same bits: docs/reliability.md says what is promised."""

import pytest
import torch
from reliability.everything import calls, trained

STEPS = 100


def equal(a, b):
    return torch.equal(a[0], b[0]) and all(map(torch.equal, a[1], b[1]))


def test_training_gives_the_same_bits_twice_and_for_any_number_of_threads():
    once = trained(STEPS, threads=1)
    assert once[0][-10:].mean().isfinite()
    assert equal(once, trained(STEPS, threads=1))
    assert equal(once, trained(STEPS, threads=2))


@pytest.fixture
def deterministic_algorithms():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_deterministic_algorithms_are_all_there_are(deterministic_algorithms):
    # Where torch knew no deterministic way, this would raise; it also fills new memory with NaN.
    with_switch = trained(20, threads=2)
    torch.use_deterministic_algorithms(False)
    assert equal(with_switch, trained(20, threads=2))


@pytest.mark.parametrize("name", calls())
def test_ops_with_deterministic_algorithms(name, deterministic_algorithms):
    torch.manual_seed(0)
    first = calls()[name]()
    torch.manual_seed(0)
    assert all(map(torch.equal, first, calls()[name]()))
