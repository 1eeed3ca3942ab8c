"""max_unpool2d beside torch's, which overwrites: ``pytest bench/bench_max_unpool2d.py``."""

import pytest
import torch
from measuring import FORMATS, measure, sample
from shapes import BATCH, POOLS

import fastconv


@pytest.mark.parametrize("implementation", ["accumulate", "overwrite", "torch"])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", POOLS)
def test_forward(benchmark, shape, memory_format, implementation):
    maps, (kernel, stride, padding, ceil_mode) = POOLS[shape]
    x = sample(BATCH, *maps, memory_format=FORMATS[memory_format])
    window, size = (kernel, stride, padding), x.shape[2:]
    y, switches = fastconv.max_pool2d_with_switches(x, *window, ceil_mode)
    _, indices = fastconv.max_pool2d(x, *window, 1, ceil_mode, return_indices=True)

    def ours():
        return fastconv.max_unpool2d(y, switches, *window, output_size=size, mode=implementation)

    def overwrite():
        return torch.ops.aten.max_unpool2d(y, indices, size)

    def accumulate():
        flat = y.new_zeros(*y.shape[:2], size.numel())
        return flat.scatter_add(2, indices.flatten(2), y.flatten(2)).unflatten(2, size)

    benchmark.group = f"max_unpool2d {shape} {memory_format}"
    measure(
        benchmark,
        overwrite if implementation == "torch" else ours,
        accumulate if implementation == "accumulate" else overwrite,
        moved=x.nbytes + y.nbytes + switches.nbytes,
    )
