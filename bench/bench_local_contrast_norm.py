"""local_contrast_norm against the same formula composed of torch's convolutions.

    pytest bench/bench_local_contrast_norm.py --benchmark-columns=min,median

The composition is the quickest that we know: across maps they are averaged first, so that one map
is convolved instead of all; within maps the convolution is depthwise. `gbytes` is what a perfect
kernel would read and write.
"""

import pytest
import torch
import torch.nn.functional as F
from measuring import FORMATS, sample

import fastconv

# AlexNet's conv1 at batch 16, and photographs as preprocessing.
SHAPES = {"conv1": (16, 96, 55, 55), "photographs": (16, 3, 224, 224)}
KERNEL_SIZE, EPS = 7, 1e-4


def composed(x, across_maps):
    c = 1 if across_maps else x.shape[1]
    distance = torch.arange(KERNEL_SIZE) - KERNEL_SIZE // 2
    gaussian = torch.exp(-0.5 * (distance / (KERNEL_SIZE / 4)) ** 2)
    window = torch.outer(gaussian, gaussian) / gaussian.sum() ** 2
    window = window.expand(c, 1, -1, -1).contiguous()
    padding = KERNEL_SIZE // 2
    edge = F.conv2d(torch.ones(1, 1, *x.shape[2:]), window[:1], padding=padding)

    def local_average(values):
        maps = values.mean(1, keepdim=True) if across_maps else values
        return F.conv2d(maps, window, padding=padding, groups=c) / edge

    v = x - local_average(x)
    s = local_average(v.square()).sqrt()
    return v / torch.maximum(s, s.mean((2, 3), keepdim=True).clamp_min(EPS))


def ours(x, across_maps):
    return fastconv.local_contrast_norm(x, KERNEL_SIZE, across_maps=across_maps, eps=EPS)


def both_ways(function, x, across_maps):
    y = function(x, across_maps)
    return torch.autograd.grad(y, x, torch.ones_like(y))[0]


@pytest.mark.parametrize("peer", ["fastconv", "composed"])
@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
@pytest.mark.parametrize("across_maps", [True, False], ids=["across", "within"])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_local_contrast_norm(benchmark, shape, memory_format, across_maps, direction, peer):
    x = sample(*SHAPES[shape], memory_format=FORMATS[memory_format])
    function = ours if peer == "fastconv" else composed
    backward = direction == "forward+backward"
    x.requires_grad_(backward)

    torch.testing.assert_close(ours(x, across_maps), composed(x, across_maps), rtol=0, atol=2e-4)
    if backward:
        a, b = both_ways(ours, x, across_maps), both_ways(composed, x, across_maps)
        # As a whole: where s is c up to rounding, the two may take different sides of the maximum.
        assert (a - b).norm() < 5e-3 * b.norm()

    which = "across" if across_maps else "within"
    benchmark.group = f"{shape} {memory_format} {which} {direction}"
    tensors = 5 if backward else 2  # x, y; then the gradient of y, x again, the gradient of x
    benchmark.extra_info["gbytes"] = tensors * x.numel() * x.element_size() / 1e9
    call = both_ways if backward else lambda function, *args: function(*args)
    benchmark.pedantic(call, (function, x, across_maps), warmup_rounds=1, rounds=5)
