"""tiled_conv2d against torch's convolutions, one for each tile.

    pytest bench/bench_tiled_conv2d.py --benchmark-columns=min,median

The peer writes each tile's strided convolution into its pixels; where every pixel has a tile of its
own it is a batched product over unfolded patches. `gflop` counts a multiplication and an addition
as two; forward and backward is three times the forward.
"""

import pytest
import torch
import torch.nn.functional as F
from measuring import FORMATS, sample

import fastconv

# input, weight; windows are 3x3 or 5x5 and keep the size.
SHAPES = {
    "alexnet conv2": ((4, 96, 27, 27), (2, 2, 256, 96, 5, 5)),
    "alexnet conv3": ((8, 256, 13, 13), (3, 3, 384, 256, 3, 3)),
    "locally connected": ((16, 64, 8, 8), (8, 8, 32, 64, 3, 3)),
}


def per_tile(x, weight, padding):
    tiles_h, tiles_w = weight.shape[:2]
    if (tiles_h, tiles_w) == x.shape[2:]:
        patches = F.unfold(x, weight.shape[4:], padding=padding).permute(2, 0, 1)
        output = patches @ weight.flatten(3).flatten(0, 1).transpose(1, 2)
        return output.permute(1, 2, 0).unflatten(2, (tiles_h, tiles_w))
    padded = F.pad(x, [padding] * 4)
    output = x.new_empty(x.shape[0], weight.shape[2], *x.shape[2:])
    for i in range(tiles_h):
        for j in range(tiles_w):
            pixels = output[:, :, i::tiles_h, j::tiles_w]
            made = F.conv2d(padded[:, :, i:, j:], weight[i, j], stride=(tiles_h, tiles_w))
            pixels.copy_(made[:, :, : pixels.shape[2], : pixels.shape[3]])
    return output


def ours(x, weight, padding):
    return fastconv.tiled_conv2d(x, weight, padding=padding)


def both_ways(function, x, weight, padding):
    y = function(x, weight, padding)
    return torch.autograd.grad(y, (x, weight), torch.ones_like(y))


@pytest.mark.parametrize("peer", ["fastconv", "torch per tile"])
@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_tiled_conv2d(benchmark, shape, memory_format, direction, peer):
    x_shape, weight_shape = SHAPES[shape]
    backward = direction == "forward+backward"
    x = sample(*x_shape, memory_format=FORMATS[memory_format])
    weight = torch.randn(weight_shape, generator=torch.Generator().manual_seed(1))
    weight.requires_grad_(backward)
    x.requires_grad_(backward)
    padding = weight_shape[-1] // 2
    function = ours if peer == "fastconv" else per_tile

    check = both_ways if backward else lambda function, *args: (function(*args),)
    for a, b in zip(
        check(ours, x, weight, padding), check(per_tile, x, weight, padding), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * b.abs().max().item())

    benchmark.group = f"{shape} {memory_format} {direction}"
    n, _, h, w = x_shape
    passes = 3 if backward else 1
    benchmark.extra_info["gflop"] = passes * 2 * n * h * w * weight[0, 0].numel() / 1e9
    benchmark.pedantic(check, (function, x, weight, padding), warmup_rounds=1, rounds=5)
