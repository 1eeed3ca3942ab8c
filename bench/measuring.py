"""What every benchmark shares: formats, inputs, checking before timing."""

import torch

FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


def sample(*shape, memory_format):
    """Normal random numbers, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator).contiguous(memory_format=memory_format)


def measure(benchmark, function, check, *, moved):
    """Time ``function`` after its result was found close to that of ``check``.

    ``moved``: bytes that a perfect kernel reads and writes; the report gets GB/s.
    """
    torch.testing.assert_close(function(), check(), rtol=1e-5, atol=1e-5)
    benchmark(function)
    benchmark.extra_info["threads"] = torch.get_num_threads()
    if benchmark.stats is not None:  # there are none with --benchmark-disable
        benchmark.extra_info["GB/s"] = round(moved / benchmark.stats.stats.median / 1e9, 2)
