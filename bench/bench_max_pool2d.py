"""max_pool2d beside torch's: ``pytest bench/bench_max_pool2d.py``."""

import pytest
import torch
import torch.nn.functional as F
from measuring import FORMATS, measure, sample
from shapes import BATCH, POOLS

import fastconv

IMPLEMENTATIONS = {"fastconv": fastconv.max_pool2d, "torch": F.max_pool2d}


def problem(shape, memory_format):
    maps, (kernel, stride, padding, ceil_mode) = POOLS[shape]
    x = sample(BATCH, *maps, memory_format=FORMATS[memory_format])
    return x, (kernel, stride, padding, 1, ceil_mode)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", POOLS)
def test_forward(benchmark, shape, memory_format, implementation):
    x, window = problem(shape, memory_format)
    op, y = IMPLEMENTATIONS[implementation], F.max_pool2d(x, *window)
    benchmark.group = f"max_pool2d forward {shape} {memory_format}"
    measure(
        benchmark,
        lambda: op(x, *window),
        lambda: y,
        moved=x.nbytes + y.nbytes,
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", POOLS)
def test_forward_and_backward(benchmark, shape, memory_format, implementation):
    x, window = problem(shape, memory_format)
    x.requires_grad_()
    g = torch.ones_like(F.max_pool2d(x, *window))
    benchmark.group = f"max_pool2d forward+backward {shape} {memory_format}"

    def gradient(op):
        return torch.autograd.grad(op(x, *window), x, g)[0]

    measure(
        benchmark,
        lambda: gradient(IMPLEMENTATIONS[implementation]),
        lambda: gradient(F.max_pool2d),
        moved=2 * x.nbytes + 2 * g.nbytes,
    )
