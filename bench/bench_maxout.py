"""maxout beside a maximum over groups in plain torch: ``pytest bench/bench_maxout.py``.

Groups apart: torch views them as a dimension of their own. Overlapping groups: as windows.
"""

import pytest
import torch
from measuring import FORMATS, measure, sample
from shapes import BATCH, RESPONSES

import fastconv

GROUPS = {"2 apart": (2, 2), "4 apart": (4, 4), "4 every 2": (4, 2)}


def composed(x, pool_size, stride):
    if pool_size == stride:
        return x.unflatten(1, (-1, pool_size)).amax(2)
    return x.unfold(1, pool_size, stride).amax(-1)


def composed_max(x, pool_size, stride):  # max: the gradient goes to one maximum, as in ours
    if pool_size == stride:
        return x.unflatten(1, (-1, pool_size)).max(2).values
    return x.unfold(1, pool_size, stride).max(-1).values


FORWARD = {"fastconv": fastconv.maxout, "torch": composed}
BACKWARD = {"fastconv": fastconv.maxout, "torch": composed_max}


@pytest.mark.parametrize("implementation", FORWARD)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("shape", RESPONSES)
def test_forward(benchmark, shape, groups, memory_format, implementation):
    x = sample(BATCH, *RESPONSES[shape], memory_format=FORMATS[memory_format])
    y = composed(x, *GROUPS[groups])
    benchmark.group = f"maxout forward {shape} {groups} {memory_format}"
    measure(
        benchmark,
        lambda: FORWARD[implementation](x, *GROUPS[groups]),
        lambda: y,
        moved=x.nbytes + y.nbytes,
    )


@pytest.mark.parametrize("implementation", BACKWARD)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("groups", GROUPS)
def test_forward_and_backward(benchmark, groups, memory_format, implementation):
    shape = "alexnet norm2"
    x = sample(BATCH, *RESPONSES[shape], memory_format=FORMATS[memory_format]).requires_grad_()
    g = torch.ones_like(composed(x, *GROUPS[groups]))
    benchmark.group = f"maxout forward+backward {shape} {groups} {memory_format}"

    def gradient(op):
        return torch.autograd.grad(op(x, *GROUPS[groups]), x, g)[0]

    measure(
        benchmark,
        lambda: gradient(BACKWARD[implementation]),
        lambda: gradient(composed_max),
        moved=2 * x.nbytes + 2 * g.nbytes,
    )
