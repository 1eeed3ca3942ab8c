"""local_response_norm beside torch's: ``pytest bench/bench_local_response_norm.py``."""

import pytest
import torch
import torch.nn.functional as F
from measuring import FORMATS, measure, sample
from shapes import BATCH, RESPONSES

import fastconv

CONSTANTS = (5, 1e-4, 0.75, 2.0)
IMPLEMENTATIONS = {"fastconv": fastconv.local_response_norm, "torch": F.local_response_norm}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", RESPONSES)
def test_forward(benchmark, shape, memory_format, implementation):
    x = sample(BATCH, *RESPONSES[shape], memory_format=FORMATS[memory_format])
    benchmark.group = f"local_response_norm forward {shape} {memory_format}"
    op, peer = IMPLEMENTATIONS[implementation], F.local_response_norm
    measure(benchmark, lambda: op(x, *CONSTANTS), lambda: peer(x, *CONSTANTS), moved=2 * x.nbytes)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", RESPONSES)
def test_forward_and_backward(benchmark, shape, memory_format, implementation):
    x = sample(BATCH, *RESPONSES[shape], memory_format=FORMATS[memory_format]).requires_grad_()
    g = torch.ones_like(x)
    benchmark.group = f"local_response_norm forward+backward {shape} {memory_format}"

    def gradient(op):
        return torch.autograd.grad(op(x, *CONSTANTS), x, g)[0]

    measure(
        benchmark,
        lambda: gradient(IMPLEMENTATIONS[implementation]),
        lambda: gradient(F.local_response_norm),
        moved=5 * x.nbytes,
    )
