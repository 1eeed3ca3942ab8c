"""The checks and small conversions that several op pages share.

Everything that a user hands to an op is checked here or on the op's page, so that a wrong argument
is named whatever runs the op: a kernel, a trace, or the meta device. The kernels check again what
they rely on.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd import forward_ad

IntOrPair = int | Sequence[int]


_FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_FLOAT32_MAX = torch.finfo(torch.float32).max
_INT32_MAX = 2**31 - 1


def check_tensor(op: str, name: str, value: Any) -> None:
    """An ordinary (strided) tensor."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{op}: {name} must be a tensor (got {type(value).__name__})")
    if value.layout != torch.strided:
        raise TypeError(f"{op}: {name} must be a dense tensor (got layout {value.layout})")
    if op != "conv2d":  # which leaves it to the algorithm
        check_no_tangent(op, name, value)


def has_tangent(tensor: torch.Tensor) -> bool:
    """Whether forward-mode differentiation (``torch.func.jvp``) goes through the tensor."""
    if torch.compiler.is_compiling() or getattr(forward_ad, "_current_level", 0) < 0:
        return False
    return forward_ad.unpack_dual(tensor).tangent is not None


def check_no_tangent(op: str, name: str, value: torch.Tensor) -> None:
    """torch would take the tangent of a result of our kernels for 0, without a word."""
    if has_tangent(value):
        raise NotImplementedError(
            f"{op}: {name} must have no tangent, for forward-mode derivatives are not implemented "
            "(got a dual tensor)"
        )


def check_floating(op: str, name: str, value: Any) -> None:
    """A tensor of one of the dtypes that the kernels know."""
    check_tensor(op, name, value)
    if value.dtype not in _FLOATING:
        raise TypeError(
            f"{op}: {name} must be float32, float64, float16 or bfloat16 (got {value.dtype})"
        )


def check_like(op: str, name: str, value: Any, other_name: str, other: torch.Tensor) -> None:
    """A tensor of the dtype and on the device of another one."""
    check_tensor(op, name, value)
    if value.dtype != other.dtype:
        raise TypeError(
            f"{op}: {name} must have the dtype of {other_name} (got {value.dtype} and "
            f"{other.dtype})"
        )
    check_device(op, name, value, other_name, other)


def check_device(op: str, name: str, value: torch.Tensor, other_name: str, other: torch.Tensor):
    if value.device != other.device:
        raise ValueError(
            f"{op}: {name} must be on the device of {other_name} "
            f"(got {value.device} and {other.device})"
        )


def integer(op: str, name: str, value: Any, least: int = 1) -> int:
    """An int of at least ``least`` that fits into 64 bits."""
    if not _is_int(value):
        raise TypeError(f"{op}: {name} must be an int (got {name}={value!r})")
    if value < least:
        raise ValueError(f"{op}: {name} must be at least {least} (got {name}={value})")
    if isinstance(value, int) and value >= 2**63:
        raise ValueError(f"{op}: {name} must be at most {2**63 - 1} (got {name}={value})")
    return _as_int(value)


def number(op: str, name: str, value: Any) -> float:
    """An int or float that is finite in float32, in which the kernels compute, as a float."""
    if not _is_int(value) and not isinstance(value, float | torch.SymFloat):
        raise TypeError(f"{op}: {name} must be a number (got {name}={value!r})")
    if isinstance(value, int | float) and not abs(value) <= _FLOAT32_MAX:
        raise ValueError(f"{op}: {name} must be finite in float32 (got {name}={value})")
    is_symbol = isinstance(value, torch.SymInt | torch.SymFloat)
    return value if is_symbol else float(value)


def check_bool(op: str, name: str, value: Any) -> None:
    if not isinstance(value, bool | torch.SymBool):
        raise TypeError(f"{op}: {name} must be True or False (got {name}={value!r})")


def check_generator(op: str, generator: Any) -> None:
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            f"{op}: generator must be a torch.Generator or None (got {type(generator).__name__})"
        )


def _is_int(value):
    # torch.SymInt counts as an int: sizes are symbolic under torch.compile. So do NumPy's.
    if type(value) is int:  # nearly always, and quicker to ask
        return True
    return isinstance(value, numbers.Integral | torch.SymInt) and not isinstance(value, bool)


def _as_int(value: Any) -> Any:
    return value if isinstance(value, torch.SymInt) else int(value)


def pair(op: str, name: str, value: Any, least: int = 0) -> list[int]:
    """An int or a sequence of one or two ints as ``[height, width]``, each from ``least`` on."""
    if type(value) is tuple and len(value) == 2 and type(value[0]) is type(value[1]) is int:
        both = list(value)  # what layers keep, and quicker to ask
    elif _is_int(value):
        both = [_as_int(value)] * 2
    elif isinstance(value, Sequence) and len(value) in (1, 2) and all(map(_is_int, value)):
        both = [_as_int(value[0]), _as_int(value[-1])]
    else:
        raise TypeError(f"{op}: {name} must be an int or a pair of ints (got {name}={value!r})")
    for size in both:
        if size < least:
            raise ValueError(f"{op}: {name} must be at least {least} (got {name}={size})")
        if size > _INT32_MAX:
            raise ValueError(f"{op}: {name} must be at most {_INT32_MAX} (got {name}={size})")
    return both


def pool_window(
    op: str,
    kernel_size: IntOrPair,
    stride: IntOrPair | None,
    padding: IntOrPair,
    dilation: IntOrPair = 1,
    most: int | None = None,
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Kernel size, stride, padding and dilation of a pool as pairs, with torch's defaults.

    ``most``: elements that a window may have; a switch is one byte.
    """
    kernel_size = pair(op, "kernel_size", kernel_size, 1)
    no_stride = stride is None or (isinstance(stride, list | tuple) and not stride)
    stride = kernel_size if no_stride else pair(op, "stride", stride, 1)
    padding, dilation = pair(op, "padding", padding), pair(op, "dilation", dilation, 1)
    for size, around in zip(kernel_size, padding, strict=True):
        if around > size // 2:
            raise ValueError(
                f"{op}: padding must be at most half of kernel_size (got padding={around}, "
                f"kernel_size={size})"
            )
    if most is not None and kernel_size[0] * kernel_size[1] > most:
        raise ValueError(
            f"{op}: kernel_size must cover at most {most} elements, because a switch is one byte "
            f"(got {kernel_size[0]}x{kernel_size[1]})"
        )
    return kernel_size, stride, padding, dilation


def pooled_size(
    op: str,
    input: torch.Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    ceil_mode: bool,
) -> list[int]:
    """Height and width of the pooled maps of a (N, C, H, W) input that can be pooled."""
    if min(input.shape[1:]) < 1:
        raise ValueError(
            f"{op}: input must have no empty dimension but the batch (got shape "
            f"{tuple(input.shape)})"
        )
    sizes = []
    for size, k, s, p, d in zip(
        input.shape[2:], kernel_size, stride, padding, dilation, strict=True
    ):
        sizes.append(window_output_size(size, k, s, p, d, ceil_mode))
        if sizes[-1] < 1:
            raise ValueError(
                f"{op}: the window must fit into the padded input (got input size {size}, "
                f"kernel_size={k}, padding={p}, dilation={d})"
            )
    return sizes


def as_pair(values: Sequence[int]) -> tuple[int, int]:
    """Two numbers, (height, width)."""
    height, width = values
    return int(height), int(width)


def batched(op: str, name: str, tensor: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """``tensor`` as (N, C, H, W), and whether it came as (C, H, W)."""
    check_tensor(op, name, tensor)
    if tensor.dim() == 3:
        return tensor.unsqueeze(0), True
    if tensor.dim() != 4:
        raise ValueError(
            f"{op}: {name} must have shape (N, C, H, W) or (C, H, W) (got {tuple(tensor.shape)})"
        )
    return tensor, False


def batched_maps(op: str, name: str, tensor: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """The same for a tensor that must be floating point."""
    check_floating(op, name, tensor)
    return batched(op, name, tensor)


def memory_format(tensor: torch.Tensor) -> torch.memory_format:
    """The format of an op's output: the input's, as the kernels see it."""
    if tensor.is_contiguous() or tensor.dim() != 4:
        return torch.contiguous_format
    _, c, h, w = tensor.shape
    n_stride, c_stride, h_stride, w_stride = tensor.stride()
    ordered = c_stride == 1 and w_stride >= c and h_stride >= w_stride * w
    if ordered and (tensor.shape[0] == 1 or n_stride >= h_stride * h):
        return torch.channels_last
    return torch.contiguous_format


def window_output_size(
    size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool
) -> int:
    """Number of window positions along one axis, as torch counts them.

    With ``ceil_mode`` a last, partial window counts if it starts inside the input or its left
    padding.
    """
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    output = (room + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (output - 1) * stride >= size + padding:
        output -= 1
    return output


def autocast(first: torch.Tensor, *others: torch.Tensor | None) -> tuple[Any, ...]:
    """The tensors in the dtype that autocast asks of an op like torch's convolution.

    Inside an autocast region of the first tensor's device floating point tensors take the region's
    dtype, all but float64, which autocast leaves alone; outside nothing changes. An op that knows
    one fixed dtype could use ``torch.library.register_autocast``; the region's is known here only.
    """
    tensors = (first, *others)
    device_type = first.device.type
    # Not torch.amp.is_autocast_available: torch 2.11 cannot trace it.
    if device_type not in ("cpu", "cuda") or not torch.is_autocast_enabled(device_type):
        return tensors
    dtype = torch.get_autocast_dtype(device_type)
    return tuple(
        t.to(dtype) if t is not None and t.is_floating_point() and t.dtype != torch.float64 else t
        for t in tensors
    )
