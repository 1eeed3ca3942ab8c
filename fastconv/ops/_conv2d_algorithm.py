"""Which convolution runs: this package's kernels, or the library's that torch brings."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastconv._library import _C
from fastconv.ops._arguments import check_no_tangent, has_tangent

_ALGORITHMS = ("auto", "fastconv", "fastconv_wgmma", "library")
_DEVICES_WITH_KERNELS = {"fastconv": ("cpu", "cuda"), "fastconv_wgmma": ("cuda",)}
_ROUNDS = 3

_fastest: dict[tuple, str] = {}  # what "auto" measured on a GPU, by problem


def choose_algorithm(
    algorithm: str, problem: tuple, run: Callable[[str, Any], Tensor], prepared: bool = False
) -> str:
    """One of the algorithms but ``"auto"``; settles what that means.

    Args:
        algorithm: what the caller asked for.
        problem: a checked one: input, weight, bias, and then plain values.
        run: computes it by an algorithm, with input, weight and bias given anew.
        prepared: whether our kernels on a CPU find the weight's transform ready.
    """
    input, weight, bias, *rest = problem
    if algorithm not in _ALGORITHMS:
        raise ValueError(
            "conv2d: algorithm must be 'auto', 'fastconv', 'fastconv_wgmma' or 'library' "
            f"(got algorithm={algorithm!r})"
        )
    devices = _DEVICES_WITH_KERNELS.get(algorithm, ())
    if devices and input.device.type not in (*devices, "meta"):
        raise RuntimeError(
            f"conv2d: algorithm={algorithm!r} runs on {', '.join(devices)} "
            f"(got a tensor on {input.device})"
        )
    named = zip(("input", "weight", "bias"), (input, weight, bias), strict=True)
    tensors = {name: t for name, t in named if t is not None}
    if algorithm == "auto" and any(map(has_tangent, tensors.values())):
        return "library"
    if algorithm != "auto":
        for name in tensors if algorithm != "library" else ():
            check_no_tangent("conv2d", name, tensors[name])
        return algorithm
    if torch.compiler.is_exporting():  # for any batch, and for machines without our kernels
        return "library"
    if input.device.type == "cuda" and torch.compiler.is_compiling():
        return "library"  # a graph cannot measure, and must not depend on every size
    if input.device.type != "cuda":
        ours = input.device.type == "cpu" and _ours_is_faster_on_cpus(problem, prepared)
        return "fastconv" if ours else "library"
    operands = input, weight, bias
    key = (*map(_description, operands), *map(str, rest), torch.is_grad_enabled())
    if key not in _fastest:
        # A graph can hold no measurement; the next ordinary call makes it.
        if torch.cuda.is_current_stream_capturing():
            return "library"
        names = ["fastconv", "library"]
        if _has_warpgroup_products(input) and _agrees("fastconv_wgmma", run, operands):
            names.append("fastconv_wgmma")
        _fastest[key] = fastest(lambda name: _step(run, name, operands), input, names)
    return _fastest[key]


def _ours_is_faster_on_cpus(problem: tuple, prepared: bool) -> bool:
    """Whether Winograd's way (csrc/cpu/winograd.h) saves enough multiplications, or packing is.

    The rule was fitted to AlexNet's and ZFNet's layers (bench/NOTES.md): the
    library multiplies at nearly the processor's peak, so ours is ahead where it has to multiply
    less, or where the library's own copying of images with few channels holds it up.
    """
    input, weight, _bias, stride, padding, dilation, groups = problem
    if max(stride) > 64:  # oneDNN's gradients in bfloat16 take time by the stride, even hours
        return True
    if input.dtype != torch.float32 or list(dilation) != [1, 1]:
        return False
    if input.shape[0] < 4 and not prepared:
        return False
    batch, (maps, channels, *kernel) = input.shape[0], weight.shape
    top, bottom, left, right = padding
    sizes = input.shape[2] + top + bottom, input.shape[3] + left + right
    outputs = [(n - k) // s + 1 for n, k, s in zip(sizes, kernel, stride, strict=True)]
    folded = [-(-k // s) for k, s in zip(kernel, stride, strict=True)]
    blocks = -(-folded[0] // 3) * -(-folded[1] // 3)
    terms = blocks * rounded_up(stride[0] * stride[1] * channels, 16)
    tiles = batch * -(-outputs[0] // 2) * -(-outputs[1] // 2)
    columns = rounded_up(maps // groups, 32)
    plain = batch * outputs[0] * outputs[1] * kernel[0] * kernel[1] * channels * (maps // groups)
    # In steps of 16 multiplications, transforming the weight, the input and the output included.
    weights = 0 if prepared else 128
    winograd = (tiles + weights) * terms * columns + tiles * (5 * terms + 3 * columns)
    few_channels = (
        groups == 1 and channels <= 4 and maps >= 16 and min(stride) > 1 and input.shape[0] >= 4
    )
    return winograd < 0.8 * plain / 16 or few_channels


def rounded_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def fastest(run: Callable[[str], Any], input: Tensor, names=("fastconv", "library")) -> str:
    """The name of the algorithm that takes the least time on the input's device.

    One that refuses the problem, but for the library's, does not take part: images that are too
    large for it, say, or a GPU that it holds no code for.
    """
    seconds = {}
    for name in names:
        try:
            run(name)  # the first call may set things up
        except RuntimeError:
            if name == "library":
                raise
            continue
        synchronize = torch.cuda.synchronize if input.device.type == "cuda" else lambda _: None
        synchronize(input.device)
        start = time.perf_counter()
        for _ in range(_ROUNDS):
            run(name)
        synchronize(input.device)
        seconds[name] = time.perf_counter() - start
    return min(seconds, key=seconds.__getitem__)


def _step(run, name: str, tensors) -> list[Tensor]:
    """What one call computes: its output, and its gradients where there will be some."""
    new = [t if t is None else t.detach().requires_grad_(t.requires_grad) for t in tensors]
    leaves = [t for t in new if t is not None and t.requires_grad]
    output = run(name, tuple(new))
    if not output.requires_grad:
        return [output]
    return [output, *torch.autograd.grad(output, leaves, torch.ones_like(output))]


def _has_warpgroup_products(input: Tensor) -> bool:
    # A fault of a kernel would end the process, so these wait for a first GPU to prove them.
    return (
        os.environ.get("FASTCONV_WGMMA") == "1"
        and input.dtype in (torch.float16, torch.bfloat16)
        and torch.cuda.get_device_capability(input.device) == (9, 0)
        and "sm_90a" in _C.build_info()["cuda_architectures"].split(";")
    )


def _agrees(name: str, run, tensors) -> bool:
    """Whether an algorithm that no GPU has tried computes here what the library computes."""
    try:
        with torch.autocast(tensors[0].device.type, enabled=False):
            whole = [t if t is None else t.float() for t in tensors]
            exact = _step(run, "library", whole)  # tf32 or not: it holds 16-bit types exactly
        agrees = within_policy(_step(run, name, tensors), _step(run, "library", tensors), exact)
        reason = "its result is not the library's"
    except RuntimeError as error:
        agrees, reason = False, str(error)
    if not agrees:
        warnings.warn(f"conv2d: algorithm='auto' leaves out {name!r}: {reason}", stacklevel=4)
    return agrees


def within_policy(ours: list[Tensor], peers: list[Tensor], exact: list[Tensor]) -> bool:
    """Whether each error is at most twice the peer's, and half a unit in the last place."""
    for a, b, c in zip(ours, peers, exact, strict=True):
        if c.numel() == 0:
            continue
        error, peer_error = ((t.to(c.dtype) - c).abs().max() for t in (a, b))
        unit = torch.finfo(a.dtype).eps * c.abs().max()
        if not error <= 2 * peer_error + unit / 2:  # nor where one is NaN
            return False
    return True


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
    cudnn: Any = torch.backends.cudnn
    return cudnn.conv.fp32_precision == "tf32"
