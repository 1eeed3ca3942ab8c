"""conv2d's kernels beside torch's: ``pytest bench/bench_conv2d.py``.

The ten layers of AlexNet and ZFNet at batch 16, forward, and forward with both gradients. The
report holds GFLOP/s; a multiply-add counts as two.
"""

import pytest
import torch
from measuring import FORMATS, sample
from shapes import CONVS

import fastconv

ALGORITHMS = {"fastconv": "fastconv", "torch": "library"}
LAYERS = {layer.name: layer for layer in CONVS}


def problem(name, memory_format):
    layer = LAYERS[name]
    memory_format = FORMATS[memory_format]
    x = sample(*layer.input_shape, memory_format=memory_format)
    weight = sample(*layer.weight_shape, memory_format=memory_format)
    return layer, x, weight / weight[0].numel() ** 0.5


def run(benchmark, function, check, flops):
    for got, expected in zip(function(), check(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3 * expected.abs().max())
    benchmark.pedantic(function, warmup_rounds=1, rounds=3)
    benchmark.extra_info["threads"] = torch.get_num_threads()
    if benchmark.stats is not None:  # there are none with --benchmark-disable
        benchmark.extra_info["GFLOP/s"] = round(flops / benchmark.stats.stats.median / 1e9, 1)


@pytest.mark.parametrize("implementation", ALGORITHMS)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("name", LAYERS)
def test_forward(benchmark, name, memory_format, implementation):
    layer, x, weight = problem(name, memory_format)
    benchmark.group = f"conv2d forward {name} {memory_format}"

    def forward(algorithm):
        arguments = (x, weight, None, layer.stride, layer.padding, 1, layer.groups)
        return (fastconv.conv2d(*arguments, algorithm=algorithm),)

    run(
        benchmark,
        lambda: forward(ALGORITHMS[implementation]),
        lambda: forward("library"),
        2 * layer.multiplications,
    )


@pytest.mark.parametrize("implementation", ALGORITHMS)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("name", LAYERS)
def test_forward_and_backward(benchmark, name, memory_format, implementation):
    layer, x, weight = problem(name, memory_format)
    x.requires_grad_()
    weight.requires_grad_()
    g = sample(*layer.output_shape, memory_format=FORMATS[memory_format])
    benchmark.group = f"conv2d forward+backward {name} {memory_format}"

    def gradients(algorithm):
        arguments = (x, weight, None, layer.stride, layer.padding, 1, layer.groups)
        y = fastconv.conv2d(*arguments, algorithm=algorithm)
        return torch.autograd.grad(y, (x, weight), g)

    run(
        benchmark,
        lambda: gradients(ALGORITHMS[implementation]),
        lambda: gradients("library"),
        6 * layer.multiplications,
    )
