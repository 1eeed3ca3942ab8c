"""What every op's tests share: the tolerance policy, awkward inputs, the standard proofs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

CAPABILITIES = ["baseline", "avx2", "avx512"]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
FORMATS = [torch.contiguous_format, torch.channels_last]


def sample(*shape, dtype=torch.float32, memory_format=torch.contiguous_format, seed=0):
    """Normal random numbers that depend on the seed alone, rounded to ``dtype``."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)
    return values.contiguous(memory_format=memory_format) if len(shape) == 4 else values


def awkward(tensor):
    """The same values in every kind of memory that a user may hand in: {name: tensor}."""
    n, c, h, w = tensor.shape
    wide = tensor.new_zeros(n, c, h, 2 * w)
    wide[..., ::2] = tensor
    offset = tensor.new_zeros(tensor.numel() + 1)
    offset[1:] = tensor.flatten()
    offset_last = tensor.new_zeros(tensor.numel() + 3)
    offset_last[3:] = tensor.permute(0, 2, 3, 1).flatten()
    return {
        "contiguous": tensor.contiguous(),
        "channels_last": tensor.contiguous(memory_format=torch.channels_last),
        "strided": wide[..., ::2],
        "transposed": tensor.transpose(2, 3).contiguous().transpose(2, 3),
        "misaligned": offset[1:].view(n, c, h, w),
        "misaligned channels_last": offset_last[3:].view(n, h, w, c).permute(0, 3, 1, 2),
    }


def assert_within_policy(ours, peer, exact):
    """The tolerance policy: error against float64 at most twice that of the peer.

    ``ours`` and ``peer`` have the same dtype; ``exact`` is the float64 result. Half a unit in the
    last place of the result's range is allowed on top, for the peer can be exact by luck.
    """
    assert ours.dtype == peer.dtype and ours.shape == exact.shape
    error = (ours.double() - exact).abs()
    peer_error = (peer.double() - exact).abs()
    unit = torch.finfo(ours.dtype).eps * exact.abs().max().clamp_min(1e-30)
    assert error.max() <= 2 * peer_error.max() + unit / 2, (
        f"largest error {error.max():.3e}, peer's {peer_error.max():.3e}"
    )


def standard_proofs(op, *args):
    """torch.library.opcheck of the op with these arguments: schema, fake, autograd, AOT."""
    torch.library.opcheck(op, args)


def assert_compiles(function, *args):
    """``torch.compile(fullgraph=True)`` gives the eager result and gradients."""
    torch._dynamo.reset()
    leaves = [a for a in args if isinstance(a, torch.Tensor) and a.requires_grad]

    def run(call):
        outputs = call(*args)
        first = outputs[0] if isinstance(outputs, tuple) else outputs
        grads = torch.autograd.grad(first.square().sum(), leaves) if leaves else ()
        return outputs if isinstance(outputs, tuple) else (outputs,), grads

    expected, expected_grads = run(function)
    got, grads = run(torch.compile(function, fullgraph=True, backend="aot_eager"))
    for a, b in zip((*expected, *expected_grads), (*got, *grads), strict=True):
        assert torch.equal(a, b) and a.stride() == b.stride()


def assert_refuses(cases):
    """Each case is (function, args, kwargs, text that the error must hold)."""
    for function, args, kwargs, text in cases:
        with pytest.raises((RuntimeError, ValueError, TypeError)) as caught:
            function(*args, **kwargs)
        assert text in str(caught.value), f"{text!r} is not in {str(caught.value)!r}"


def assert_same_for_all_thread_counts(function):
    """``function`` returns tensors; their bits must not depend on the number of threads."""
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(function())
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        for a, b in zip(results[0], result, strict=True):
            assert torch.equal(a, b)


def assert_large_is_single_images(function, memory_format, shape=(3, 36, 64, 64)):
    """Results so large that kernels write them past the caches, output and gradient, are those of
    the images one by one, which they do not; to the bit."""
    x, grad = (sample(*shape, memory_format=memory_format, seed=seed) for seed in (0, 1))

    def run(x):
        leaf = x.clone().requires_grad_()
        y = function(leaf)
        scales = grad.flatten()[: y.numel() // len(y)].view(y.shape[1:])
        return y.detach(), torch.autograd.grad(y, leaf, scales.expand_as(y))[0]

    apart = zip(*(run(image) for image in x.split(1)), strict=True)
    for together, parts in zip(run(x), apart, strict=True):
        assert torch.equal(together, torch.cat(parts))


_RUN_WITH_CAPABILITY = """
import sys, pytest, fastconv
if fastconv.info()["cpu_capability"] != sys.argv[1]:
    sys.exit(77)
sys.exit(pytest.main(["-p", "no:cacheprovider", sys.argv[2], "-k", sys.argv[3]]))
"""


def assert_passes_with_capability(capability, file, selection):
    """The tests of ``file`` that ``selection`` names pass with another instruction set."""
    process = subprocess.run(
        [sys.executable, "-c", _RUN_WITH_CAPABILITY, capability, file, selection],
        env={**os.environ, "FASTCONV_CPU_CAPABILITY": capability},
        capture_output=True,
        text=True,
    )
    if process.returncode == 77:
        pytest.skip(f"this processor has no {capability}")
    assert process.returncode == 0, process.stdout + process.stderr
