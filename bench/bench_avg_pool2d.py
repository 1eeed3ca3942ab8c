"""avg_pool2d beside torch's: ``pytest bench/bench_avg_pool2d.py``."""

import pytest
import torch
import torch.nn.functional as F
from measuring import FORMATS, measure, sample
from shapes import BATCH, POOLS

import fastconv

IMPLEMENTATIONS = {"fastconv": fastconv.avg_pool2d, "torch": F.avg_pool2d}
SHAPES = {**POOLS, "global 7x7": ((512, 7, 7), (7, 7, 0, False))}


def problem(shape, memory_format):
    maps, window = SHAPES[shape]
    return sample(BATCH, *maps, memory_format=FORMATS[memory_format]), window


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward(benchmark, shape, memory_format, implementation):
    x, window = problem(shape, memory_format)
    op, y = IMPLEMENTATIONS[implementation], F.avg_pool2d(x, *window)
    benchmark.group = f"avg_pool2d forward {shape} {memory_format}"
    measure(benchmark, lambda: op(x, *window), lambda: y, moved=x.nbytes + y.nbytes)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_backward(benchmark, shape, memory_format, implementation):
    x, window = problem(shape, memory_format)
    x.requires_grad_()
    y = F.avg_pool2d(x, *window).detach()
    g = torch.ones_like(y)
    benchmark.group = f"avg_pool2d forward+backward {shape} {memory_format}"

    def gradient(op):
        return torch.autograd.grad(op(x, *window), x, g)[0]

    measure(
        benchmark,
        lambda: gradient(IMPLEMENTATIONS[implementation]),
        lambda: gradient(F.avg_pool2d),
        moved=2 * x.nbytes + 2 * g.nbytes,
    )
