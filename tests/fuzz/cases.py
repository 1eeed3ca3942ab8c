"""What is tried: for every op cases that it must compute, and ways to spoil one.

A case is ``{"op": name, "args": {argument: value}, "valid": bool, "seed": int}``. Valid ones must
give the reference's result. A spoiled one has one or two arguments replaced by something hostile,
and must give the reference's result or an error that names the op and an argument.
"""

from __future__ import annotations

from hypothesis import strategies as st

from .tensors import FILLS, FLOATING, OTHERS, describe, is_tensor, tensors

SIZES = st.one_of(st.integers(1, 9), st.integers(1, 20), st.sampled_from([16, 17, 31, 33]))
LONG = st.sampled_from([257, 1000, 4099])
LARGE = [2**15, 2**16 - 1, 2**30, 2**31 - 1, 2**31, 2**32 + 1, 2**62, 2**63 - 1, 2**63, 10**30]


def _pairs(values):
    return st.one_of(values, st.lists(values, min_size=2, max_size=2))


@st.composite
def _maps(draw, fills=FILLS, unbatched=True):
    n, c = draw(st.sampled_from([0, 1, 1, 2, 2, 3])), draw(st.integers(1, 19))
    h, w = draw(SIZES), draw(SIZES)
    if draw(st.integers(0, 15)) == 0:
        n, c, h, w = (1, 1, draw(LONG), 1) if draw(st.booleans()) else (1, 2, 1, draw(LONG))
    shape = [c, h, w] if unbatched and n == 1 and draw(st.booleans()) else [n, c, h, w]
    return draw(tensors(shape, fills))


def _axis(draw, size, most_kernel, dilated):
    """Kernel, stride, padding, dilation that fit an axis and leave few windows."""
    kernel = draw(st.integers(1, min(most_kernel, size + 4)))
    padding = draw(st.integers(0, kernel // 2))
    dilation = draw(st.integers(1, 3)) if dilated else 1
    room = size + 2 * padding - 1
    if dilation * (kernel - 1) > room:
        dilation = 1
        kernel = min(kernel, room + 1)
        padding = min(padding, kernel // 2)
        kernel = min(kernel, size + 2 * padding)
        padding = min(padding, kernel // 2)
    windows = size + 2 * padding - dilation * (kernel - 1)
    least = max(1, windows // 14)
    far = st.sampled_from([windows + 5, 1000, 2**20 + 1, 2**31 - 1])
    stride = draw(st.one_of(st.integers(least, least + 3), st.integers(least, least + 3), far))
    return kernel, stride, padding, dilation


@st.composite
def _pool(draw, most_kernel=9, dilated=False, fills=FILLS):
    input = draw(_maps(fills))
    down, across = (_axis(draw, s, most_kernel, dilated) for s in input["tensor"][-2:])
    kernel, stride, padding, dilation = map(list, zip(down, across, strict=True))
    args = {"input": input, "kernel_size": kernel, "stride": stride, "padding": padding}
    args["ceil_mode"] = draw(st.booleans())
    if dilated:
        args["dilation"] = dilation
    sizes = input["tensor"][-2:]
    square = min(sizes) >= kernel[0] == kernel[1] and max(sizes) < 60 and padding == [0, 0]
    if square and draw(st.booleans()):  # as most people write it
        args["kernel_size"], args["padding"] = kernel[0], 0
        args["stride"] = None if kernel[0] > 1 else 2
        args.pop("dilation", None)
    return args


@st.composite
def max_pool2d(draw):
    args = draw(_pool(dilated=True))
    args["return_indices"] = draw(st.booleans())
    return args


def max_pool2d_with_switches():
    return _pool()


@st.composite
def avg_pool2d(draw):
    args = draw(_pool(most_kernel=30))
    args["count_include_pad"] = draw(st.booleans())
    args["divisor_override"] = draw(st.sampled_from([None, None, None, 1, 3, -2, 2**31, -(2**63)]))
    if draw(st.integers(0, 9)) == 0:  # one window, far larger than the map
        kernel = draw(st.sampled_from([2**16, 2**31 - 2]))
        args |= {"kernel_size": kernel, "padding": kernel // 2, "stride": kernel}
    return args


@st.composite
def sum_pool2d(draw):
    args = draw(avg_pool2d())
    del args["count_include_pad"], args["divisor_override"]
    return args


@st.composite
def stochastic_pool2d(draw):
    args = draw(_pool(most_kernel=6, fills=["normal", "positive", "ties", "zeros"]))
    args["training"] = draw(st.booleans())
    args["return_switches"] = args["training"] and draw(st.booleans())
    return args


@st.composite
def max_unpool2d(draw):
    args = draw(_pool(fills=["normal", "ties", "zeros", "positive"]))
    input = args.pop("input")
    ceil_mode = args.pop("ceil_mode")
    *lead, h, w = input["tensor"]
    out = []
    for i, size in enumerate((h, w)):
        kernel, padding = (v[i] if isinstance(v, list) else v for v in
                           (args["kernel_size"], args["padding"]))  # fmt: skip
        stride = args["stride"] or kernel
        stride = stride[i] if isinstance(stride, list) else stride
        room = size + 2 * padding - kernel
        o = -(-room // stride) + 1 if ceil_mode else room // stride + 1
        out.append(o - (ceil_mode and (o - 1) * stride >= size + padding))
    taps = args["kernel_size"]
    taps = taps[0] * taps[1] if isinstance(taps, list) else taps**2
    args["input"] = {**input, "tensor": [*lead, *out]}
    seed = draw(st.integers(0, 7))
    args["switches"] = describe([*lead, *out], "uint8", draw(st.sampled_from(
        ["contiguous", "channels_last", "sliced", "permuted", "expanded"])), "switches", seed,
        most=draw(st.sampled_from([taps, taps, 256])))  # fmt: skip
    args["output_size"] = [h, w]
    args["mode"] = draw(st.sampled_from(["accumulate", "overwrite"]))
    return args


def _conv_axis(draw, size, dilated):
    kernel = draw(st.sampled_from([1, 1, 2, 3, 3, 5, 7, 11]))
    before, after = draw(st.integers(0, kernel)), draw(st.integers(0, kernel))
    dilation = draw(st.sampled_from([1, 1, 2, 3])) if dilated else 1
    if dilation * (kernel - 1) + 1 > size + before + after:
        kernel = dilation = 1
    windows = size + before + after - dilation * (kernel - 1)
    least = max(1, windows // 24)
    far = st.sampled_from([17, 1000, 2**20 + 1, 2**31 - 1])
    stride = draw(st.one_of(*[st.integers(least, least + 3)] * 3, far))
    return kernel, stride, before, after, dilation


@st.composite
def conv2d(draw, dilated=True):
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    channels, maps = draw(st.sampled_from([1, 2, 3, 4, 5, 16, 17])), draw(st.integers(1, 40))
    input = draw(_maps([f for f in FILLS if f != "large"]))
    input["tensor"][-3] = groups * channels
    down, across = (_conv_axis(draw, s, dilated) for s in input["tensor"][-2:])
    dtype = input["dtype"]
    weight = draw(tensors([groups * maps, channels, down[0], across[0]], ["normal"], dtype))
    bias = draw(tensors([groups * maps], ["normal"], dtype)) if draw(st.booleans()) else None
    args = {"input": input, "weight": weight, "bias": bias, "stride": [down[1], across[1]]}
    if draw(st.booleans()):
        down, across = (a if a[2] == a[3] else (*a[:3], a[2], a[4]) for a in (down, across))
    args["padding"] = [down[2], down[3], across[2], across[3]]
    if down[2] == down[3] and across[2] == across[3]:
        args["padding"] = [down[2], across[2]]
    args |= {"dilation": [down[4], across[4]], "groups": groups}
    args["activation"] = draw(st.sampled_from(["none", "relu"]))
    args["algorithm"] = draw(st.sampled_from(["auto", "fastconv", "fastconv", "fastconv"]))
    if dtype in ("float16", "bfloat16") or input["fill"] == "not_finite":
        args["algorithm"] = "fastconv"  # the library rounds more, and its NaN reach further
    sides = zip((down, across), args["input"]["tensor"][-2:], strict=True)
    if any(a[4] * (a[0] - 1) + 1 > s + a[2] + a[3] for a, s in sides):
        args["weight"]["tensor"][2:], args["dilation"] = [1, 1], [1, 1]
    return args


@st.composite
def tiled_conv2d(draw):
    args = draw(conv2d(dilated=False))
    for name in ("dilation", "activation", "algorithm"):
        del args[name]
    if len(args["padding"]) == 4:
        args["padding"] = [args["padding"][0], args["padding"][2]]
        sizes = zip(args["input"]["tensor"][-2:], args["padding"], strict=True)
        args["weight"]["tensor"][2:] = [
            min(k, s + 2 * p) for k, (s, p) in
            zip(args["weight"]["tensor"][2:], sizes, strict=True)]  # fmt: skip
    tiles = [draw(st.integers(1, 4)), draw(st.integers(1, 4))]
    args["weight"]["tensor"] = tiles + args["weight"]["tensor"]
    if args["bias"]:
        args["bias"]["tensor"] = tiles + args["bias"]["tensor"]
    return args


@st.composite
def maxout(draw):
    pool = draw(st.one_of(st.integers(1, 9), st.sampled_from([17, 64, 256])))
    stride = draw(st.integers(max(1, pool // 8), pool))
    groups = draw(st.integers(1, 5))
    shape = [draw(st.integers(0, 3)), pool + (groups - 1) * stride]
    shape += draw(st.lists(st.integers(0, 9), max_size=3))
    input = draw(tensors(shape))
    return {"input": input, "pool_size": pool, "stride": stride,
            "return_switches": draw(st.booleans())}  # fmt: skip


NUMBERS = [0.0, 1e-4, 0.5, 0.75, 1.0, 2, -1.5]


@st.composite
def local_response_norm(draw):
    within = draw(st.booleans())
    fills = ["normal", "ties", "zeros", "positive", "tiny", "not_finite"]
    input = draw(_maps(fills, unbatched=False))
    if not within:
        input["tensor"] = draw(st.sampled_from([input["tensor"], input["tensor"][:3],
                                                [*input["tensor"][:3], 2, 3]]))  # fmt: skip
    size = draw(st.one_of(st.integers(1, 12), st.sampled_from([33, 2**31 if not within else 50])))
    return {"input": input, "size": size, "alpha": draw(st.sampled_from([1e-4, 0.5, 2, 0])),
            "beta": draw(st.sampled_from(NUMBERS)), "k": draw(st.sampled_from([1.0, 2, 0.25])),
            "alpha_mode": draw(st.sampled_from(["mean", "sum"])),
            "region": "within" if within else "across"}  # fmt: skip


@st.composite
def local_response_norm_max_pool2d(draw):
    # A maximum of rounded numbers: ties and NaN are the same for all, and so are the winners.
    args = draw(_pool(dilated=True, fills=["normal", "ties", "zeros", "positive", "not_finite"]))
    return {**args, "size": draw(st.one_of(st.integers(1, 12), st.just(33))),
            "alpha": draw(st.sampled_from([1e-4, 0.5, 2, 0])),
            "beta": draw(st.sampled_from(NUMBERS)), "k": draw(st.sampled_from([1.0, 2, 0.25])),
            "alpha_mode": draw(st.sampled_from(["mean", "sum"])),
            "return_switches": draw(st.booleans())}  # fmt: skip


@st.composite
def local_contrast_norm(draw):
    args = {"input": draw(_maps(["normal", "ties", "zeros", "positive"]))}
    args["kernel_size"] = draw(st.sampled_from([1, 3, 5, 7, 9, 21, 2**20 + 1, 2**63 - 1]))
    if max(args["input"]["tensor"][-2:]) > 18:  # the reference is a convolution
        args["kernel_size"] = draw(st.sampled_from([1, 3, 9]))
    args["sigma"] = draw(st.sampled_from([None, 0.5, 3, 1e-3, 1e20]))
    args["across_maps"] = draw(st.booleans())
    args["divisor"] = draw(st.sampled_from(["mean", "threshold"]))
    args["eps"] = draw(st.sampled_from([1e-4, 1e-2, 0.97]))  # at 1, ties have two gradients
    return args


@st.composite
def linear(draw):
    examples = draw(st.sampled_from([1, 2, 9, 70]))
    lead = [*draw(st.lists(st.integers(0, 5), max_size=2)), examples]
    inputs, outputs = (draw(st.one_of(st.integers(1, 60), st.sampled_from([128, 257, 700])))
                       for _ in range(2))  # fmt: skip
    input = draw(tensors([*lead[draw(st.integers(0, 2)) :], inputs], ["normal", "ties", "zeros"]))
    dtype = input["dtype"]
    bias = draw(tensors([outputs], ["normal"], dtype)) if draw(st.booleans()) else None
    return {"input": input, "weight": draw(tensors([outputs, inputs], ["normal"], dtype)),
            "bias": bias, "activation": draw(st.sampled_from(["none", "relu"])),
            "algorithm": "fastconv"}  # fmt: skip


@st.composite
def drop_connect(draw):
    lead = draw(st.lists(st.integers(0, 5), max_size=3))
    inputs, outputs = (draw(st.one_of(st.integers(0, 40), st.sampled_from([128, 129, 300])))
                       for _ in range(2))  # fmt: skip
    input = draw(tensors([*lead, inputs], ["normal", "ties", "zeros"]))
    dtype = input["dtype"]
    bias = draw(tensors([outputs], ["normal"], dtype)) if draw(st.booleans()) else None
    return {"input": input, "weight": draw(tensors([outputs, inputs], ["normal"], dtype)),
            "bias": bias, "p": draw(st.sampled_from([0, 0.0, 0.5, 0.25, 0.3, 1e-300, 1, 1.0])),
            "training": draw(st.booleans()), "mask": draw(st.sampled_from(["sample", "batch"])),
            "mask_bias": draw(st.booleans())}  # fmt: skip


OPS = {
    strategy.__name__: strategy
    for strategy in (
        *(conv2d, tiled_conv2d, max_pool2d, max_pool2d_with_switches, max_unpool2d, avg_pool2d),
        *(sum_pool2d, stochastic_pool2d, maxout, local_response_norm, local_contrast_norm),
        *(local_response_norm_max_pool2d, drop_connect, linear),
    )
}

_HOSTILE = st.one_of(
    st.sampled_from([0, -1, -(2**31), -(2**63), -(2**63) - 1, *LARGE]),
    st.sampled_from([True, False, None, 1.5, 2.0, "same", "", "nan", 0.0]),
    st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e308, -1e-308]),
    st.lists(st.sampled_from([0, 1, 2, 3, -1, 2**31, 2**62, 1.5, True, "1", None]), max_size=5),
    st.just({"object": "dict"}),
)


@st.composite
def _spoiled_tensor(draw, tensor):
    kind = draw(st.sampled_from(["dtype", "device", "shape", "empty", "huge", "layout", "object"]))
    shape = list(tensor["tensor"])
    at = draw(st.integers(0, max(0, len(shape) - 1)))
    if kind == "dtype":
        return {**tensor, "dtype": draw(st.sampled_from(FLOATING + OTHERS)), "fill": "positive"}
    if kind == "device":
        return {**tensor, "device": "meta"}
    if kind == "layout":
        return {**tensor, "layout": "sparse"}
    if kind == "object":
        return draw(_HOSTILE)
    if kind == "shape":
        extra = draw(st.integers(0, 3))
        if draw(st.booleans()) and shape:
            shape.pop(at)
        else:
            shape.insert(at, extra)
        return {**tensor, "tensor": shape}
    if not shape:
        return tensor
    shape[at] = 0 if kind == "empty" else draw(st.sampled_from([2**33, 2**37, 2**40]))
    return {**tensor, "tensor": shape}


@st.composite
def cases(draw, op):
    args = draw(OPS[op]())
    valid = draw(st.booleans())
    if not valid:
        for _ in range(draw(st.integers(1, 2))):
            name = draw(st.sampled_from(sorted(args)))
            whole_size = isinstance(args[name], list) and draw(st.booleans())
            if is_tensor(args[name]):
                args[name] = draw(_spoiled_tensor(args[name]))
            elif whole_size and args[name]:
                at = draw(st.integers(0, len(args[name]) - 1))
                args[name] = [*args[name][:at], draw(st.sampled_from([*LARGE, 0, -1, 1.5, None])),
                              *args[name][at + 1 :]]  # fmt: skip
            else:
                args[name] = draw(_HOSTILE)
    on_meta = draw(st.integers(0, 11)) == 0
    return {"op": op, "args": args, "valid": valid, "seed": draw(st.integers(0, 3)),
            "meta": on_meta}  # fmt: skip
