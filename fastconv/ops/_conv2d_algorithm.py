"""Which convolution runs: this package's kernels, or the library's that torch brings."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

_ALGORITHMS = ("auto", "fastconv", "library")
_DEVICES_WITH_KERNELS = ("cpu", "cuda")
_ROUNDS = 3

_fastest: dict[tuple, str] = {}  # what "auto" measured on a GPU, by problem


def choose_algorithm(
    algorithm: str, problem: tuple, run: Callable[[str, tuple[Tensor | None, ...]], Tensor]
) -> str:
    """``"fastconv"`` or ``"library"``; settles what ``"auto"`` means.

    Args:
        algorithm: what the caller asked for.
        problem: a checked one: input, weight, bias, and then plain values.
        run: computes it by an algorithm, with input, weight and bias given anew.
    """
    input, weight, bias, *rest = problem
    if algorithm not in _ALGORITHMS:
        raise ValueError(
            "conv2d: algorithm must be 'auto', 'fastconv' or 'library' "
            f"(got algorithm={algorithm!r})"
        )
    has_kernel = input.device.type in _DEVICES_WITH_KERNELS
    if algorithm == "fastconv" and not has_kernel:
        raise RuntimeError(
            f"conv2d: algorithm='fastconv' runs on {', '.join(_DEVICES_WITH_KERNELS)} "
            f"(got a tensor on {input.device})"
        )
    if algorithm != "auto":
        return algorithm
    # On CPUs the library is the faster one, or as fast, on every layer of AlexNet and ZFNet that
    # was measured (batch 16, AVX-512): our forward pass takes 1.0 to 1.4 times its time.
    if input.device.type != "cuda":
        return "library"
    tensors = input, weight, bias
    key = (*map(_description, tensors), *map(str, rest), torch.is_grad_enabled())
    if key not in _fastest:
        # Neither a trace nor a graph can hold a measurement; the next ordinary call makes it.
        if torch.compiler.is_compiling() or torch.cuda.is_current_stream_capturing():
            return "library"
        _fastest[key] = fastest(lambda name: _step(lambda new: run(name, new), tensors), input)
    return _fastest[key]


def fastest(run: Callable[[str], None], input: Tensor) -> str:
    """The name of the algorithm that takes the least time on the input's device."""
    seconds = {}
    for name in ("fastconv", "library"):
        run(name)  # the first call may set things up
        synchronize = torch.cuda.synchronize if input.device.type == "cuda" else lambda _: None
        synchronize(input.device)
        start = time.perf_counter()
        for _ in range(_ROUNDS):
            run(name)
        synchronize(input.device)
        seconds[name] = time.perf_counter() - start
    return min(seconds, key=seconds.__getitem__)


def _step(run, tensors) -> None:
    """What one call costs: its forward pass, and its backward pass where there will be one."""
    new = [t if t is None else t.detach().requires_grad_(t.requires_grad) for t in tensors]
    leaves = [t for t in new if t is not None and t.requires_grad]
    output = run(tuple(new))
    if output.requires_grad:
        torch.autograd.grad(output, leaves, torch.ones_like(output))


def _description(tensor: Tensor | None) -> tuple:
    if tensor is None:
        return ()
    return (
        *(tuple(tensor.shape), tensor.stride(), tensor.dtype),
        *(tensor.device, tensor.requires_grad),
    )


def tf32_allowed(input: Tensor) -> bool:
    """Whether torch's switches let a convolution round float32 to tf32: a GPU's matter alone."""
    if input.device.type != "cuda" or input.dtype != torch.float32:
        return False
    return torch.backends.cudnn.conv.fp32_precision == "tf32"
