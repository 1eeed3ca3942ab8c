"""More than 2^31 elements: offsets that 32 bits do not hold."""

import os
import pathlib

import pytest
import torch

import fastconv


def _free_memory():
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024
    return 0


def needs(gigabytes):
    if not pathlib.Path("/proc/meminfo").exists() or _free_memory() < gigabytes * 2**30:
        pytest.skip(f"needs {gigabytes} GB of free memory")


@pytest.mark.parametrize("stride", [2**14, 2**15 - 1])
def test_convolution_of_an_expanded_image(stride):
    # 2^32 elements that are one in memory: the convolution reads them where they are.
    x = torch.ones(()).expand(1, 1, 2**16, 2**16)
    weight = torch.randn(3, 1, 2, 2)
    y = fastconv.conv2d(x, weight, stride=stride, algorithm="fastconv")
    assert torch.allclose(y, weight.sum((1, 2, 3))[None, :, None, None].expand_as(y))
    tiled = weight.expand(2, 2, *weight.shape)
    assert torch.equal(fastconv.tiled_conv2d(x, tiled, stride=stride), y)


def test_what_does_not_fit_is_refused():
    x = torch.ones(()).expand(2**20, 2**20, 2, 2)
    for call in (fastconv.max_pool2d, fastconv.avg_pool2d, fastconv.stochastic_pool2d):
        with pytest.raises(RuntimeError, match=f"{call.__name__}: not enough memory for a tensor"):
            call(x, 2)


@pytest.mark.slow
@pytest.mark.skipif("FASTCONV_LARGE" not in os.environ, reason="9 GB: FASTCONV_LARGE=1 runs it")
@pytest.mark.parametrize("format", ["contiguous", "channels_last"])
def test_pooling_of_more_than_two_to_the_31_elements(format):
    needs(9)
    size = (2, 2**14 + 1, 2**16) if format == "contiguous" else (2**14 + 1, 2**16, 2)
    memory = torch.zeros(size, dtype=torch.float16)
    x = memory[None] if format == "contiguous" else memory.permute(2, 0, 1)[None]
    assert x.numel() > 2**31
    at = [(0, 0, 0), (1, 2**14, 2**16 - 1), (1, 2**13, 5)]
    for i, (c, h, w) in enumerate(at):
        x[0, c, h, w] = i + 1
    pooled, switches = fastconv.max_pool2d_with_switches(x, (16, 16), ceil_mode=True)
    assert pooled.count_nonzero() == len(at)
    for i, (c, h, w) in enumerate(at):
        assert pooled[0, c, h // 16, w // 16] == i + 1
        assert switches[0, c, h // 16, w // 16] == h % 16 * 16 + w % 16
    summed = fastconv.sum_pool2d(x, (2**14, 2**15), ceil_mode=True)
    assert summed[0, 1].tolist() == [[3.0, 0.0], [0.0, 2.0]]
