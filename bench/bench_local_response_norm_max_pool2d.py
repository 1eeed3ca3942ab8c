"""local_response_norm_max_pool2d beside our two ops, one after the other, and torch's:
``pytest bench/bench_local_response_norm_max_pool2d.py``.
"""

import pytest
import torch
import torch.nn.functional as F
from measuring import FORMATS, measure, sample
from shapes import BATCH, RESPONSES

import fastconv

CONSTANTS = {"alpha": 1e-4, "beta": 0.75, "k": 2.0}
SIZE, KERNEL_SIZE, STRIDE = 5, 3, 2


def in_one_pass(x):
    return fastconv.local_response_norm_max_pool2d(x, SIZE, KERNEL_SIZE, STRIDE, **CONSTANTS)


def apart(x):
    normalised = fastconv.local_response_norm(x, SIZE, **CONSTANTS)
    return fastconv.max_pool2d(normalised, KERNEL_SIZE, STRIDE)


def torchs(x):
    return F.max_pool2d(F.local_response_norm(x, SIZE, **CONSTANTS), KERNEL_SIZE, STRIDE)


IMPLEMENTATIONS = {"fastconv": in_one_pass, "two ops": apart, "torch": torchs}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", RESPONSES)
def test_forward(benchmark, shape, memory_format, implementation):
    x = sample(BATCH, *RESPONSES[shape], memory_format=FORMATS[memory_format])
    benchmark.group = f"local_response_norm_max_pool2d forward {shape} {memory_format}"
    op, y = IMPLEMENTATIONS[implementation], torchs(x)
    measure(benchmark, lambda: op(x), lambda: y, moved=x.nbytes + y.nbytes)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", RESPONSES)
def test_forward_and_backward(benchmark, shape, memory_format, implementation):
    x = sample(BATCH, *RESPONSES[shape], memory_format=FORMATS[memory_format]).requires_grad_()
    y = torchs(x)
    g = torch.ones_like(y)
    benchmark.group = f"local_response_norm_max_pool2d forward+backward {shape} {memory_format}"

    def gradient(op):
        return torch.autograd.grad(op(x), x, g)[0]

    measure(
        benchmark,
        lambda: gradient(IMPLEMENTATIONS[implementation]),
        lambda: gradient(torchs),
        moved=3 * x.nbytes + 2 * y.nbytes,
    )
