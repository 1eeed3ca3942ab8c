"""What each op must give: the slow references of the op pages, on contiguous float64.

``REFERENCES[op](args, tensors)`` returns an :class:`Expected`. ``None`` stands for a case whose
reference would itself need gigabytes; it must then only neither crash nor hang.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable

import torch
from torch import Tensor

from fastconv.ops._arguments import window_output_size

_MOST = 1_000_000  # elements of a padded image


@dataclasses.dataclass
class Expected:
    """The op as a function of its differentiable tensors, in whatever dtype they come.

    ``exact``: results are the reference's bits. ``linear``: errors are measured against the result
    for absolute values. ``switches``: of the op, if it records any.
    """

    function: Callable[..., Tensor]
    tensors: list[str]
    exact: bool = False
    linear: bool = False
    switches: Tensor | None = None


def page(op):
    return importlib.import_module(f"fastconv.ops.{op}")


def pair(value):
    values = value if isinstance(value, list | tuple) else [value]
    return [int(values[0]), int(values[-1])]


def four(tensor):
    return tensor if tensor.dim() == 4 else tensor[None]


def window(args):
    kernel = pair(args["kernel_size"])
    stride = kernel if args.get("stride") in (None, [], ()) else pair(args["stride"])
    return kernel, stride, pair(args["padding"])


def _like(output, input):
    return output if input.dim() == 4 else output[0]


def gather(x, size_in, switches, kernel, stride, padding, dilation):
    """Flat positions in H x W that the switches mean, and which of them exist."""
    ho, wo = switches.shape[-2:]
    which = switches.long()
    row = torch.arange(ho)[:, None] * stride[0] - padding[0] + which // kernel[1] * dilation[0]
    column = torch.arange(wo) * stride[1] - padding[1] + which % kernel[1] * dilation[1]
    inside = (row >= 0) & (row < size_in[0]) & (column >= 0) & (column < size_in[1])
    inside &= which < kernel[0] * kernel[1]
    return torch.where(inside, row * size_in[1] + column, 0), inside


def _taken(x, switches, args, dilation):
    """The elements that the switches mean."""
    x4, sw = four(x), four(switches)
    at, inside = gather(x4, x4.shape[2:], sw, *window(args), dilation)
    taken = x4.flatten(2).gather(2, at.flatten(2)).view(sw.shape)
    return _like(torch.where(inside, taken, 0), x)


def _max_pool(args, t):
    x = four(t["input"]).double()
    kernel, stride, padding = window(args)
    dilation = pair(args.get("dilation", 1))
    sizes = [
        window_output_size(n, k, s, p, d, args["ceil_mode"])
        for n, k, s, p, d in zip(x.shape[2:], kernel, stride, padding, dilation, strict=True)
    ]
    # Where each tap of each window stands, (windows, taps), on either axis.
    rows, columns = (
        (torch.arange(o) * s - p)[:, None] + torch.arange(k) * d
        for o, s, p, k, d in zip(sizes, stride, padding, kernel, dilation, strict=True)
    )
    in_rows, in_columns = (rows >= 0) & (rows < x.shape[2]), (columns >= 0) & (columns < x.shape[3])
    taps = x[:, :, rows.clamp(0, x.shape[2] - 1)][..., columns.clamp(0, x.shape[3] - 1)]
    inside = in_rows[:, :, None, None] & in_columns  # (Ho, kh, Wo, kw), as taps behind (N, C)
    taps = torch.where(inside, taps, -torch.inf).transpose(-3, -2).flatten(-2)
    inside = inside.transpose(-3, -2).flatten(-2)
    first = ((taps == taps.amax(-1, keepdim=True)) & inside).long().argmax(-1)
    last_nan = torch.where(taps.isnan(), torch.arange(taps.shape[-1]), -1).amax(-1)
    # Dilation can leave a window without elements: it names the first tap that is not before them.
    before = (rows >= 0).long().argmax(-1)[:, None] * kernel[1] + (columns >= 0).long().argmax(-1)
    switches = torch.where(last_nan >= 0, last_nan, torch.where(inside.any(-1), first, before))
    switches = _like(switches.to(torch.uint8), t["input"])
    second = switches if args.get("return_indices", True) else None
    if args.get("return_indices"):
        to_indices = page("max_pool2d").switches_to_indices
        second = to_indices(switches, x.shape[3], kernel, stride, padding, dilation)
    any_inside = inside.any(-1)
    return Expected(
        lambda x: torch.where(any_inside, _taken(x, switches, args, dilation), -torch.inf),
        ["input"],
        exact=True,
        switches=second,
    )


def _avg_pool(args, t):
    kernel, stride, padding = window(args)
    count, divisor = args.get("count_include_pad", True), args.get("divisor_override")
    if "divisor_override" not in args:
        divisor = 1
    ref = page("avg_pool2d").avg_pool2d_ref

    def function(x):
        return _like(ref(four(x), kernel, stride, padding, args["ceil_mode"], count, divisor), x)

    return Expected(function, ["input"], linear=True)


def _stochastic_pool(args, t):
    x = four(t["input"])
    kernel, stride, padding = window(args)
    module = page("stochastic_pool2d")
    if not args["training"]:
        sizes = module._output_size(x.shape[2:], kernel, stride, padding, args["ceil_mode"])
        after = [(o - 1) * s + k for o, s, k in zip(sizes, stride, kernel, strict=True)]
        if math.prod(after) * max(1, x.shape[0] * x.shape[1]) > _MOST:
            return None
        stride = [min(s, 2**20) for s in stride]
        ref = module.stochastic_pool2d_mean_ref

        def mean(x):
            return _like(ref(four(x), kernel, stride, padding, args["ceil_mode"]), x)

        # A sum that is tiny makes slopes that float32 has no more digits for.
        return Expected(mean, ["input"])
    seed = torch.randint(2**63 - 1, (1,)).item()
    ref = module.stochastic_pool2d_ref
    value, switches = ref(x.contiguous(), seed, kernel, stride, padding, args["ceil_mode"])
    drawn, switches = _like(value != 0, t["input"]), _like(switches, t["input"])
    second = switches if args["return_switches"] else None
    return Expected(
        lambda x: torch.where(drawn, _taken(x, switches, args, [1, 1]), 0),
        ["input"],
        exact=True,
        switches=second,
    )


def _max_unpool(args, t):
    size = pair(args["output_size"][-2:])
    sw = four(t["switches"])
    if math.prod(size) * max(1, sw.shape[0] * sw.shape[1]) > _MOST:
        return None
    at, inside = gather(None, size, sw, *window(args), [1, 1])
    if args["mode"] == "overwrite":  # the last window that means an element keeps it
        flat, here = at.flatten(2), inside.flatten(2)
        for n in range(flat.shape[0]):
            for c in range(flat.shape[1]):
                seen = set()
                for i in reversed(range(flat.shape[2])):
                    if here[n, c, i] and int(flat[n, c, i]) in seen:
                        here[n, c, i] = False
                    elif here[n, c, i]:
                        seen.add(int(flat[n, c, i]))
        inside = here.view(inside.shape)

    def function(x):
        x4 = four(x)
        values = torch.where(inside, x4, 0).flatten(2)
        zeros = x4.new_zeros((*x4.shape[:2], math.prod(size)))
        return _like(zeros.scatter_add(2, at.flatten(2), values).view(*x4.shape[:2], *size), x)

    return Expected(function, ["input"], linear=True)


def _paddings(args, weight):
    padding = args["padding"]
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(pair(args.get("dilation", 1)), weight.shape[-2:],
                                             strict=True)]  # fmt: skip
        return [total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2]
    if padding == "valid":
        return [0] * 4
    if isinstance(padding, list | tuple) and len(padding) == 4:
        return [int(p) for p in padding]
    (down, across) = pair(padding)
    return [down, down, across, across]


def _conv(args, t):
    around = _paddings(args, t["weight"])
    x = four(t["input"])
    padded = (x.shape[2] + around[0] + around[1]) * (x.shape[3] + around[2] + around[3])
    if padded * max(1, x.shape[0]) * x.shape[1] > _MOST:
        return None
    ref = page("conv2d").conv2d_ref
    stride, dilation = pair(args["stride"]), pair(args["dilation"])

    def function(x, weight, bias=None):
        return _like(ref(four(x), weight, bias, stride, around, dilation, args["groups"], False), x)

    return Expected(function, ["input", "weight", "bias"], linear=True)


def _tiled_conv(args, t):
    padding = pair(args["padding"])
    x = four(t["input"])
    padded = (x.shape[2] + 2 * padding[0]) * (x.shape[3] + 2 * padding[1])
    if padded * max(1, x.shape[0]) * x.shape[1] > _MOST:
        return None
    tiles, kernel = t["weight"].shape[:2], t["weight"].shape[4:]
    stride, groups = pair(args["stride"]), args["groups"]
    around = [padding[0], padding[0], padding[1], padding[1]]
    ref = page("conv2d").conv2d_ref

    def function(x, weight, bias=None):
        # Every tile's convolution over the whole image, of which its pixels are taken.
        outputs = [
            [ref(four(x), weight[i, j], None if bias is None else bias[i, j], stride, around,
                 [1, 1], groups, False) for j in range(tiles[1])] for i in range(tiles[0])
        ]  # fmt: skip
        output = torch.zeros_like(outputs[0][0])
        for i in range(tiles[0]):
            for j in range(tiles[1]):
                mine = torch.zeros(output.shape[2:], dtype=torch.bool)
                mine[i :: tiles[0], j :: tiles[1]] = True
                output = torch.where(mine, outputs[i][j], output)
        return _like(output, x)

    assert kernel.numel() > 0
    return Expected(function, ["input", "weight", "bias"], linear=True)


def _maxout(args, t):
    pool, stride = args["pool_size"], args["stride"] or args["pool_size"]
    x = t["input"]
    ref = page("maxout").maxout_ref
    _, switches = ref(x.double(), pool, stride)
    maps = switches.long() + (torch.arange(switches.shape[1]) * stride).view(
        -1, *[1] * (x.dim() - 2)
    )
    second = switches if args["return_switches"] else None
    return Expected(lambda x: x.gather(1, maps), ["input"], exact=True, switches=second)


def _response_norm(args, t):
    x = t["input"]
    within = args["region"] == "within"
    alpha, beta, k = (float(args[name]) for name in ("alpha", "beta", "k"))
    size = args["size"]
    if args["alpha_mode"] == "mean":
        alpha = alpha / (size * size if within else size)
    # What a larger window reaches is outside the input.
    reach = 2 * max(x.shape[2:]) + 2 if within else 2 * x.shape[1] + 2
    if size > reach:
        size = reach + (size - reach) % 2
    module = page("local_response_norm")
    ref = module.local_response_norm_ref

    def maps(x):
        return x if x.dim() == 4 else x.flatten(2).unsqueeze(2)

    def function(x):
        x4 = maps(x)
        return ref(x4, size, alpha, beta, k, within).view(x.shape) if x.numel() else x * 1

    if x.numel() * (size * size if within else size) > 20 * _MOST:
        return None
    if x.numel() and (k <= 0 or alpha < 0):  # near a pole float32 cannot tell where it stands
        scale = k + alpha * module._window_sum(maps(x).double().square(), size, within)
        if (scale < 1e-30).any():  # NaN among them or not
            return None
    return Expected(function, ["input"])


def _response_norm_max_pool(args, t):
    norm = {**args, "region": "across"}
    expected = _response_norm(norm, {"input": four(t["input"])})
    if expected is None:
        return None
    # The winners are those of the normalised map as our op for it rounds it, which is compared with
    # its own reference elsewhere.
    names = "size", "alpha", "beta", "k", "alpha_mode"
    normalised = page("local_response_norm").local_response_norm(
        four(t["input"]).detach(), **{name: args[name] for name in names}
    )
    names = "kernel_size", "stride", "padding", "ceil_mode"
    pool = {name: args[name] for name in names}
    pool["dilation"] = args.get("dilation", 1)
    winners = _max_pool(pool, {"input": normalised})

    def function(x):
        return _like(winners.function(expected.function(four(x))), x)

    second = _like(winners.switches, t["input"]) if args["return_switches"] else None
    return Expected(function, ["input"], switches=second)


def _contrast_norm(args, t):
    x = four(t["input"])
    kernel, sigma = args["kernel_size"], args["sigma"]
    sigma = kernel / 4 if sigma is None else float(sigma)
    kernel = min(kernel, 2 * max(x.shape[2:]) + 1)
    if x.numel() * kernel * kernel > 400 * _MOST:
        return None
    ref = page("local_contrast_norm").local_contrast_norm_ref
    rest = args["across_maps"], args["divisor"] == "mean", float(args["eps"])
    return Expected(lambda x: _like(ref(four(x), kernel, sigma, *rest), x), ["input"])


def _drop_connect(args, t):
    x, weight, p = t["input"], t["weight"], args["p"]
    outputs, inputs = weight.shape
    rows = math.prod(x.shape[:-1])
    keep, keep_bias = torch.ones(()), torch.ones(())
    if p > 0 and not args["training"]:
        keep = keep_bias = torch.tensor(1 - p, dtype=torch.float64)
    elif p > 0:
        seed = torch.randint(2**63 - 1, (1,))
        examples = 1 if args["mask"] == "batch" else rows
        mask = torch.ops.fastconv.drop_connect_mask
        keep = mask(seed, examples, outputs, 0, inputs, p)
        keep_bias = mask(seed, examples, outputs, inputs, inputs + 1, p)[..., 0]
    if not args["mask_bias"]:
        keep_bias = torch.ones(())

    def function(x, weight, bias=None):
        flat = x.reshape(rows, inputs)
        output = (keep.to(x.dtype) * weight @ flat[:, :, None]).squeeze(2)
        if bias is not None:
            output = output + keep_bias.to(x.dtype) * bias
        return output.reshape(*x.shape[:-1], outputs)

    return Expected(function, ["input", "weight", "bias"], linear=True)


def _linear(args, t):
    def function(x, weight, bias=None):
        return torch.nn.functional.linear(x, weight, bias)

    return Expected(function, ["input", "weight", "bias"], linear=True)


REFERENCES = {
    "max_pool2d": _max_pool,
    "max_pool2d_with_switches": _max_pool,
    "max_unpool2d": _max_unpool,
    "avg_pool2d": _avg_pool,
    "sum_pool2d": _avg_pool,
    "stochastic_pool2d": _stochastic_pool,
    "conv2d": _conv,
    "tiled_conv2d": _tiled_conv,
    "maxout": _maxout,
    "local_response_norm": _response_norm,
    "local_response_norm_max_pool2d": _response_norm_max_pool,
    "local_contrast_norm": _contrast_norm,
    "drop_connect": _drop_connect,
    "linear": _linear,
}
