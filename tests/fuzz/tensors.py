"""Tensors as plain data: a case is JSON, so that it can be kept, named and run again."""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st

FLOATING = ["float32", "float64", "float16", "bfloat16"]
OTHERS = ["int64", "uint8", "int32", "bool", "complex64", "float8_e4m3fn"]
LAYOUTS = [
    *("contiguous", "channels_last", "permuted", "sliced", "offset", "expanded", "overlapping"),
    *("negated", "flipped_copy"),
]
FILLS = ["normal", "normal", "normal", "ties", "zeros", "positive", "not_finite", "tiny", "large"]


def describe(shape, dtype="float32", layout="contiguous", fill="normal", seed=0, **more):
    return {
        "tensor": list(shape),
        "dtype": dtype,
        "layout": layout,
        "fill": fill,
        "seed": seed,
        **more,
    }


def is_tensor(value):
    return isinstance(value, dict) and "tensor" in value


def build(d):
    """The tensor that a description means: always the same."""
    shape, dtype = d["tensor"], getattr(torch, d["dtype"])
    device = d.get("device", "cpu")
    if device == "meta":
        return torch.empty(shape, dtype=dtype, device="meta")
    if math.prod(shape) > 10**7:  # more than memory should hold: a stride of 0 all over
        return torch.ones((), dtype=dtype).expand(shape)
    values = _values(d, shape)
    if d["fill"] == "switches":
        values = values.clamp(0, 255)
    tensor = values.to(dtype)
    if d["layout"] == "sparse" and dtype != torch.float8_e4m3fn:
        return tensor.to_sparse()
    return _laid_out(tensor, d["layout"])


def _values(d, shape):
    generator = torch.Generator().manual_seed(d["seed"])
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    fill = d["fill"]
    largest = 6e4 if d["dtype"] == "float16" else 1e15
    if fill == "ties":
        return normal.round()
    if fill == "zeros":
        return torch.zeros_like(normal)
    if fill == "positive":
        return normal.abs()
    if fill == "tiny":
        return normal * (1e-7 if d["dtype"] == "float16" else 1e-30)
    if fill == "large":
        return normal.clamp(-1, 1) * largest
    if fill == "switches":
        return torch.randint(0, d.get("most", 256), shape, generator=generator).double()
    if fill == "not_finite":
        where = torch.rand(shape, generator=generator)
        normal[where < 0.1] = torch.inf
        normal[where > 0.9] = -torch.inf
        normal[(where > 0.45) & (where < 0.5)] = torch.nan
    return normal


def _laid_out(t, layout):
    if layout == "channels_last" and t.dim() == 4:
        return t.contiguous(memory_format=torch.channels_last)
    if layout == "permuted" and t.dim() > 1:
        order = list(reversed(range(t.dim())))
        return t.permute(order).contiguous().permute(order)
    if layout == "sliced" and t.dim() > 0:
        wide = t.new_zeros((*t.shape[:-1], 2 * t.shape[-1] + 3))
        wide[..., 2 : 2 + 2 * t.shape[-1] : 2] = t
        return wide[..., 2 : 2 + 2 * t.shape[-1] : 2]
    if layout == "offset":
        long = t.new_zeros(t.numel() + 5)
        long[3 : 3 + t.numel()] = t.flatten()
        return long[3 : 3 + t.numel()].view(t.shape)
    if layout == "expanded" and t.dim() > 0 and t.numel():
        return t[:1].expand(t.shape)
    if layout == "overlapping" and t.dim() > 1 and t.numel():
        return t.flatten().as_strided(t.shape, [1] * t.dim()) if sum(t.shape) <= t.numel() else t
    if layout == "negated" and t.is_floating_point() and t.dtype in (torch.float32, torch.float64):
        return torch.complex(torch.zeros_like(t), -t).conj().imag
    if layout == "flipped_copy" and t.dim() > 0 and t.dtype != torch.float8_e4m3fn:
        return t.flip(-1).transpose(0, -1).contiguous().transpose(0, -1)
    return t


@st.composite
def tensors(draw, shape, fills=FILLS, dtype=None, seed=None):
    return describe(
        shape,
        dtype or draw(st.sampled_from(FLOATING)),
        draw(st.sampled_from(LAYOUTS)),
        draw(st.sampled_from(fills)),
        draw(st.integers(0, 7)) if seed is None else seed,
    )
