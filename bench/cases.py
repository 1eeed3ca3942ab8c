"""What report.py measures: every op on the shapes of AlexNet and ZFNet, beside its peers.

A peer is what a user of torch would write. Each case says how many bytes a perfect kernel moves and
how many floating-point operations it does, so that a time becomes a fraction of the limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import bench_prepare_images as preparation
import torch
import torch.nn.functional as F
from bench_local_contrast_norm import EPS, KERNEL_SIZE
from bench_stochastic_pool2d import composed_draw, composed_mean, our_mean
from shapes import ALEXNET_CONVS, POOLS, RESPONSES, ZFNET_CONVS
from torch import Tensor

import fastconv


@dataclass
class Case:
    """One op on one shape.

    Attributes:
        tensors: shapes of the op's tensors; gradients are taken of all that ``learns`` names, and
            where it names none there is no backward pass.
        ours, peer: functions of these tensors; of several results the first is compared.
        moved: bytes of a forward pass in elements (read once, written once); ``flops`` likewise.
        backward_moved, backward_flops: of the backward pass alone.
        moved_bytes: what a forward pass moves besides, whatever the elements' type.
        compile_peer: False where torch.compile would unroll a loop over the batch, or corrupts
            memory (torch 2.13, in the gradient of ``Tensor.unfold``).
        compare: whether both results must be close; draws are not.
        positive: the first tensor is rectified, as pools see it.
        on_hopper: other ways of ours, by name, in 16 bits on GPUs of compute capability 9.0.
    """

    op: str
    shape: str
    tensors: list[tuple[int, ...]]
    ours: Callable[..., Tensor]
    peer: Callable[..., Tensor]
    moved: int
    backward_moved: int
    moved_bytes: int = 0
    compile_peer: bool = True
    flops: int = 0
    backward_flops: int = 0
    compare: bool = True
    positive: bool = False
    learns: tuple[int, ...] = (0,)
    tolerance: float = 1e-3
    on_hopper: dict[str, Callable[..., Tensor]] = field(default_factory=dict)
    extra: dict = field(default_factory=dict)


def cases(batch: int, wanted: str = "") -> Iterator[Case]:
    """All cases whose op's name holds ``wanted``."""
    every = _convs, _linears, _pools, _norms, _maxouts, _drop_connects, _tiled_convs, _preparations
    for make in every:
        yield from (case for case in make(batch) if wanted in case.op)


def _count(shape) -> int:
    return torch.Size(shape).numel()


def _convs(batch):
    for layer in ALEXNET_CONVS + ZFNET_CONVS:
        x, w = (batch, *layer.input_shape[1:]), layer.weight_shape
        y = (batch, *layer.output_shape[1:])
        flops = 2 * layer.multiplications * batch // layer.input_shape[0]
        top, bottom, left, right = layer.padding
        uneven = top != bottom or left != right

        def peer(x, w, b, layer=layer, uneven=uneven):
            top, bottom, left, right = layer.padding
            x = F.pad(x, (left, right, top, bottom)) if uneven else x
            padding = 0 if uneven else (top, left)
            return F.conv2d(x, w, b, layer.stride, padding, 1, layer.groups).relu()

        def ours(x, w, b, layer=layer, algorithm="fastconv"):
            window = layer.stride, layer.padding, 1, layer.groups
            return fastconv.conv2d(x, w, b, *window, activation="relu", algorithm=algorithm)

        first = layer.in_channels == 3  # nobody asks for the photographs' gradient
        moved = _count(x) + _count(w) + _count(y)
        yield Case(
            "conv2d",
            layer.name,
            [x, w, (w[0],)],
            ours,
            peer,
            moved=moved,
            backward_moved=moved + (0 if first else _count(x) + _count(y)),
            flops=flops,
            backward_flops=flops * (1 if first else 2),
            learns=(1, 2) if first else (0, 1, 2),
            tolerance=2e-2,
            on_hopper={"wgmma": partial(ours, algorithm="fastconv_wgmma")},
        )


def _pools(batch):
    for name, (maps, window) in POOLS.items():
        _, _, padding, ceil_mode = window
        x = (batch, *maps)
        y = F.max_pool2d(torch.empty(1, *maps, device="meta"), *window[:3], 1, ceil_mode).shape
        inputs, outputs = _count(x), batch * _count(y)

        def pool(op, x, window=window):
            kernel, stride, padding, ceil_mode = window
            return op(x, kernel, stride, padding, ceil_mode=ceil_mode)

        def case(op, ours, peer, forward, backward, name=name, x=x, **options):
            return Case(op, name, [x], ours, peer, forward, backward, **options)

        def our_max(x, pool=pool):
            return pool(fastconv.max_pool2d, x)

        def their_max(x, pool=pool):
            return pool(F.max_pool2d, x)

        def our_switches(x, pool=pool):
            return pool(fastconv.max_pool2d_with_switches, x)

        def their_indices(x, pool=pool):
            return pool(partial(F.max_pool2d, return_indices=True), x)

        def our_avg(x, pool=pool):
            return pool(fastconv.avg_pool2d, x)

        def their_avg(x, pool=pool):
            return pool(F.avg_pool2d, x)

        def our_sum(x, pool=pool):
            return pool(fastconv.sum_pool2d, x)

        def their_sum(x, pool=pool):
            return pool(partial(F.avg_pool2d, divisor_override=1), x)

        # A switch is a byte: about a fourth or half of an element, counted as nothing.
        both = inputs + outputs
        yield case("max_pool2d", our_max, their_max, both, both)
        yield case("max_pool2d_with_switches", our_switches, their_indices, both, 0, learns=())
        yield case("avg_pool2d", our_avg, their_avg, both, both)
        yield case("sum_pool2d", our_sum, their_sum, both, both)
        if padding or ceil_mode:
            continue  # the composition does without

        def our_draw(x, window=window):
            return fastconv.stochastic_pool2d(x, *window)

        def their_draw(x, window=window):
            return composed_draw(x, *window)

        def our_average(x, window=window):
            return our_mean(x, *window)

        def their_average(x, window=window):
            return composed_mean(x, *window)

        draw = {"positive": True, "compare": False, "compile_peer": False}
        yield case("stochastic_pool2d", our_draw, their_draw, both, both, **draw)
        mean = {"positive": True, "compile_peer": False}
        yield case(
            "stochastic_pool2d_mean", our_average, their_average, both, both + inputs, **mean
        )


def _composed_contrast(x, across_maps):
    c = 1 if across_maps else x.shape[1]
    distance = torch.arange(KERNEL_SIZE, device=x.device, dtype=torch.float32) - KERNEL_SIZE // 2
    gaussian = torch.exp(-0.5 * (distance / (KERNEL_SIZE / 4)) ** 2)
    window = (torch.outer(gaussian, gaussian) / gaussian.sum() ** 2).to(x.dtype)
    window = window.expand(c, 1, -1, -1).contiguous()
    ones = torch.ones(1, 1, *x.shape[2:], device=x.device, dtype=x.dtype)
    edge = F.conv2d(ones, window[:1], padding=KERNEL_SIZE // 2)

    def local_average(values):
        maps = values.mean(1, keepdim=True) if across_maps else values
        return F.conv2d(maps, window, padding=KERNEL_SIZE // 2, groups=c) / edge

    v = x - local_average(x)
    s = local_average(v.square()).sqrt()
    return v / torch.maximum(s, s.mean((2, 3), keepdim=True).clamp_min(EPS))


def _norms(batch):
    for name, maps in RESPONSES.items():
        x = (batch, *maps)
        size = _count(x)
        yield Case(
            "local_response_norm",
            name,
            [x],
            lambda x: fastconv.local_response_norm(x, 5, 1e-4, 0.75, 2.0),
            lambda x: F.local_response_norm(x, 5, 1e-4, 0.75, 2.0),
            moved=2 * size,
            backward_moved=3 * size,
        )
        pooled = batch * maps[0] * ((maps[1] - 3) // 2 + 1) * ((maps[2] - 3) // 2 + 1)
        yield Case(
            "local_response_norm_max_pool2d",
            name,
            [x],
            lambda x: fastconv.local_response_norm_max_pool2d(x, 5, 3, 2, k=2.0),
            lambda x: F.max_pool2d(F.local_response_norm(x, 5, 1e-4, 0.75, 2.0), 3, 2),
            moved=size + pooled,
            backward_moved=2 * size + pooled,
        )
    # What no kernel that keeps less than an image on the chip can save: the deviations of the whole
    # image come before the first quotient, so x passes twice, and so do x and g on the way back.
    x = (batch, *RESPONSES["alexnet norm1"])
    for across in (True, False):
        yield Case(
            "local_contrast_norm",
            f"alexnet norm1 {'across' if across else 'within'}",
            [x],
            lambda x, a=across: fastconv.local_contrast_norm(
                x, KERNEL_SIZE, across_maps=a, eps=EPS
            ),
            lambda x, a=across: _composed_contrast(x, a),
            moved=3 * _count(x),
            backward_moved=5 * _count(x),
            tolerance=3e-2,
        )


def _maxouts(batch):
    for name, maps in RESPONSES.items():
        x = (batch, *maps)
        size = _count(x)
        yield Case(
            "maxout",
            f"{name} groups of 2",
            [x],
            lambda x: fastconv.maxout(x, 2),
            lambda x: x.unflatten(1, (-1, 2)).max(2).values,
            moved=size + size // 2,
            backward_moved=size + size // 2,
        )


# Inputs and outputs of AlexNet's and ZFNet's fully connected layers.
FULLY_CONNECTED = {"fc6": (9216, 4096), "fc7": (4096, 4096), "fc8": (4096, 1000)}


def _linears(batch):
    for name, (inputs, outputs) in FULLY_CONNECTED.items():
        work = 2 * batch * inputs * outputs
        moved = batch * (inputs + outputs) + inputs * outputs
        yield Case(
            "linear",
            name,
            [(batch, inputs), (outputs, inputs), (outputs,)],
            lambda x, w, b: fastconv.linear(x, w, b, activation="relu", algorithm="fastconv"),
            lambda x, w, b: F.linear(x, w, b).relu(),
            moved=moved,
            backward_moved=2 * moved,
            flops=work,
            backward_flops=2 * work,
            learns=(0, 1, 2),
            tolerance=2e-2,
        )


def _drop_connects(batch):
    for name in ("fc6", "fc7"):
        inputs, outputs = FULLY_CONNECTED[name]
        work = 2 * batch * inputs * outputs
        moved = batch * (inputs + outputs) + inputs * outputs
        yield Case(
            "drop_connect",
            f"{name}, peer: plain linear",
            [(batch, inputs), (outputs, inputs), (outputs,)],
            lambda x, w, b: fastconv.drop_connect(x, w, b, 0.5),
            F.linear,
            moved=moved,
            backward_moved=2 * moved,
            flops=work,
            backward_flops=2 * work,
            compare=False,
            learns=(0, 1, 2),
        )


def _tiled_convs(batch):
    x, w = (batch, 64, 27, 27), (2, 2, 64, 64, 3, 3)
    flops = 2 * batch * 64 * 64 * 9 * 27 * 27
    moved = 2 * _count(x) + _count(w)
    yield Case(
        "tiled_conv2d",
        "64 maps 27x27, 3x3, period 2, peer: conv2d",
        [x, w, (2, 2, 64)],
        lambda x, w, b: fastconv.tiled_conv2d(x, w, b, padding=1),
        lambda x, w, b: F.conv2d(x, w[0, 0], b[0, 0], padding=1),
        moved=moved,
        backward_moved=2 * moved,
        flops=flops,
        backward_flops=2 * flops,
        compare=False,
        learns=(0, 1, 2),
    )


def _preparations(batch):
    images, offsets, flips, _, mean = preparation.arguments(batch)
    pixels = batch * 3 * preparation.SIZE**2
    cache = {}

    def on(device):
        if device not in cache:
            cache[device] = [t.to(device) for t in (images, offsets, flips, mean)]
        return cache[device]

    def ours(shifts):
        x, at, mirrored, minus = on(shifts.device)
        return preparation.prepared(x, at, mirrored, shifts.float(), minus, dtype=shifts.dtype)

    def peer(shifts):  # places and mirrors in the host's memory, where a loop wants them
        x, _, _, minus = on(shifts.device)
        return preparation.composed(x, offsets, flips, shifts.float(), minus, shifts.dtype)

    def our_centre(like):
        x, _, _, minus = on(like.device)
        return preparation.prepared_centre(x, minus, dtype=like.dtype)

    def their_centre(like):
        x, _, _, minus = on(like.device)
        return preparation.composed_centre(x, minus, like.dtype)

    shapes = {"moved": pixels, "moved_bytes": pixels, "backward_moved": 0, "learns": ()}
    name = "prepare_images"
    yield Case(name, "alexnet training", [(batch, 3)], ours, peer, compile_peer=False, **shapes)
    yield Case(name, "alexnet evaluation", [(batch, 3)], our_centre, their_centre, **shapes)
