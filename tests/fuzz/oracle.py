"""Runs one case and judges it: ``failure_of(case)`` is ``None``, or what is wrong."""

from __future__ import annotations

import math

import torch

import fastconv

from .references import REFERENCES
from .tensors import build, is_tensor

ERRORS = (ValueError, TypeError, RuntimeError, NotImplementedError)
MESSAGE_NAMES = {"max_pool2d_with_switches": "max_pool2d", "linear": ("linear", "conv2d")}


def failure_of(case):
    """What is wrong with the op's answer to a case, or ``None``."""
    op, meta = case["op"], case.get("meta", False)
    shapes = [value["tensor"] for value in case["args"].values() if is_tensor(value)]
    if any(
        math.prod(size or 1 for size in shape) >= 2**63 for shape in shapes
    ):  # torch has no such tensors
        return None
    args = {name: _argument(value, case) for name, value in case["args"].items()}
    tensors = {name: v for name, v in args.items() if isinstance(v, torch.Tensor)}
    leaves = [t.requires_grad_() for t in tensors.values() if t.is_floating_point() and _differs(t)]
    torch.manual_seed(case["seed"])
    try:
        result = getattr(fastconv, op)(**args)
    except Exception as error:
        return _wrong_error(case, error)
    outputs = result if isinstance(result, tuple) else (result,)
    if any(t.device.type == "meta" for t in tensors.values()):
        return None
    # The references take memory by the elements and time by every size, also where another is 0.
    if any(t.numel() > 10**7 or max(t.shape, default=0) > 10**5 for t in tensors.values()):
        return None
    torch.manual_seed(case["seed"])
    values = {name: t.detach().contiguous() for name, t in tensors.items()}
    expected = REFERENCES[op](args, values)
    if expected is None:
        return None
    wrong = _wrong_result(case, args, values, expected, outputs, leaves)
    return wrong or (_wrong_meta(case, outputs) if meta else None)


def _argument(value, case):
    if is_tensor(value):
        return build(value)
    if isinstance(value, dict):
        return {}
    return tuple(value) if isinstance(value, list) and case["seed"] % 2 else value


def _differs(t):
    return t.dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _wrong_error(case, error):
    text = str(error)
    if "DefaultCPUAllocator" in text and not case["valid"]:  # what torch itself computes
        return None
    if not isinstance(error, ERRORS) or not text.startswith(
        MESSAGE_NAMES.get(case["op"], case["op"])
    ):
        return f"error without the op's name: {type(error).__name__}: {text[:200]}"
    if "not enough memory" in text and not case["valid"]:
        return None
    names = [*case["args"], "window", "groups", "group", "padded"]
    if not any(name in text for name in names):
        return f"error that names no argument: {text[:200]}"
    return f"refused: {text[:200]}" if case["valid"] else None


def _wrong_result(case, args, values, expected, outputs, leaves):
    output = outputs[0]
    names = [name for name in expected.tensors if name in values]
    given = [values[name] for name in names]
    if expected.switches is not None and not torch.equal(outputs[1], expected.switches):
        return "switches differ"
    exact = expected.function(*(t.double() for t in given))
    if args.get("activation") == "relu":
        exact = exact.relu()
    wrong = _too_far("output", output.detach(), exact, expected, given)
    if wrong or not output.requires_grad:
        return wrong
    numbers = [v for v in args.values() if isinstance(v, float)]
    if case["args"]["input"]["fill"] == "not_finite" or not all(map(math.isfinite, numbers)):
        return None
    generator = torch.Generator().manual_seed(case["seed"])
    grad = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
    ours = torch.autograd.grad(output, leaves, grad, allow_unused=True)
    grad = grad.double()
    if args.get("activation") == "relu":
        grad = grad * (output > 0)
    found = dict(zip((name for name in values if values[name].is_floating_point()), ours,
                     strict=True))  # fmt: skip
    doubles = [t.double().requires_grad_() for t in given]
    exact_grads = torch.autograd.grad(expected.function(*doubles), doubles, grad, allow_unused=True)
    for i, name in enumerate(names):
        mine = found[name]
        if exact_grads[i] is None or mine is None:
            if mine is not None and mine.count_nonzero():
                return f"gradient of {name} should be 0"
            continue

        def sizes(*others, i=i):
            leaves = [t.double().abs().requires_grad_() for t in others]
            return torch.autograd.grad(expected.function(*leaves), leaves[i], grad.abs())[0]

        def gradient(*others, i=i):
            *leaves, seen = (t.requires_grad_() for t in others)
            return torch.autograd.grad(expected.function(*leaves), leaves[i], seen)[0]

        if not exact_grads[i].isfinite().all():
            if case["op"] == "local_contrast_norm" and not mine.isfinite().all():
                return f"gradient of {name} is not finite"
            continue
        wrong = _too_far(
            f"gradient of {name}", mine, exact_grads[i], expected, given, sizes, gradient, grad
        )
        if wrong:
            return wrong
    return None


def _too_far(what, ours, exact, expected, given, sizes=None, gradient=None, *seen):
    if ours.shape != exact.shape or ours.dtype != given[0].dtype:
        return f"{what} is {ours.dtype} of {tuple(ours.shape)}, not of {tuple(exact.shape)}"
    if exact.numel() == 0:
        return None
    info = torch.finfo(ours.dtype)
    rounded = exact.to(ours.dtype)
    near_most = exact.abs() > 0.98 * info.max
    finite = rounded.isfinite() & ~near_most
    same = torch.equal(ours[~finite & ~near_most].double().nan_to_num(7.5),
                       rounded[~finite & ~near_most].double().nan_to_num(7.5))  # fmt: skip
    if not same or not ours[finite].isfinite().all():
        return f"{what}: infinities or NaN differ"
    if not finite.any():
        return None
    error = (ours[finite].double() - exact[finite]).abs()
    largest = exact[finite].abs().max()
    if expected.exact and sizes is None:
        return f"{what} differs by {error.max():.3e}" if error.max() > 0 else None
    accumulate = 2.0**-52 if ours.dtype == torch.float64 else 2.0**-23
    scale = largest
    if expected.linear or expected.exact:
        of = sizes or (lambda *t: expected.function(*(a.double().abs() for a in t)))
        scale = of(*(t.nan_to_num(0, 0, 0) for t in given))[finite].abs().max()
    else:
        scale = scale + _sensitivity(gradient or expected.function, [*given, *seen], finite)
    allowed = info.eps * largest + 16 * accumulate * scale + info.tiny
    if error.max() > allowed:
        return f"{what} differs by {error.max():.3e}, more than {allowed:.3e}"
    return None


def _sensitivity(function, tensors, where):
    """How far rounding may take a result, to the relative error of one rounding.

    At most of four tries: what a small change of the inputs does, and what the reference itself is
    off in float32. The first misses terms that cancel for any input, the second may have luck.
    """
    generator, step, most = torch.Generator().manual_seed(0), 1e-7, 0.0
    exact = function(*(t.double() for t in tensors))[where]
    for _ in range(4):
        near = [
            (t.double() * (1 + step * torch.randn(t.shape, generator=generator))).float()
            for t in tensors
        ]
        moved = function(*(t.double() for t in near))[where]
        rounded = function(*near)[where].double()
        for difference in ((moved - exact) / step, (rounded - moved) / 2.0**-23):
            most = max(most, difference.abs().nan_to_num(0, 0, 0).max().item())
    return most


def _wrong_meta(case, outputs):
    """On the meta device the same shapes, dtypes and strides come out."""
    args = {}
    for name, value in case["args"].items():
        value = _argument(value, case)
        if isinstance(value, torch.Tensor):
            empty = torch.empty_strided(
                value.shape, value.stride(), dtype=value.dtype, device="meta"
            )
            value = empty
        args[name] = value
    try:
        result = getattr(fastconv, case["op"])(**args)
    except Exception as error:
        return f"fails on the meta device alone: {type(error).__name__}: {str(error)[:200]}"
    for ours, there in zip(outputs, result if isinstance(result, tuple) else (result,),
                           strict=True):  # fmt: skip
        if ours.shape != there.shape or ours.dtype != there.dtype:
            return f"on the meta device {there.dtype} of {tuple(there.shape)} comes out"
        if args.get("algorithm") == "auto":  # torch's convolution, whose strides are its own
            continue
        steps = [
            (a, b)
            for a, b, n in zip(ours.stride(), there.stride(), ours.shape, strict=True)
            if n > 1
        ]
        if ours.numel() and any(a != b for a, b in steps):
            return f"on the meta device strides are {there.stride()}, not {ours.stride()}"
    return None
