"""The layers that the benchmarks time: AlexNet's and ZFNet's, as fastconv.models builds them."""

from __future__ import annotations

from typing import NamedTuple

BATCH = 16


class ConvLayer(NamedTuple):
    """One convolution; ``padding`` is (top, bottom, left, right), ``size`` the input's side."""

    name: str
    in_channels: int
    size: int
    out_channels: int
    kernel_size: int
    stride: int
    padding: tuple[int, int, int, int]
    groups: int

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        return BATCH, self.in_channels, self.size, self.size

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        side = self.kernel_size
        return self.out_channels, self.in_channels // self.groups, side, side

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        padded = self.size + self.padding[0] + self.padding[1]
        side = (padded - self.kernel_size) // self.stride + 1
        return BATCH, self.out_channels, side, side

    @property
    def multiplications(self) -> int:
        """Multiply-adds of one forward pass; each gradient takes as many."""
        n, o, h, w = self.output_shape
        return n * o * h * w * self.weight_shape[1] * self.kernel_size**2


def _layers(net, *rows):
    return [ConvLayer(f"{net} conv{i}", *row) for i, row in enumerate(rows, start=1)]


_NONE, _ONE, _TWO = (0, 0, 0, 0), (1, 1, 1, 1), (2, 2, 2, 2)

ALEXNET_CONVS = _layers(
    "alexnet",
    (3, 224, 96, 11, 4, (0, 3, 0, 3), 1),
    (96, 27, 256, 5, 1, _TWO, 2),
    (256, 13, 384, 3, 1, _ONE, 1),
    (384, 13, 384, 3, 1, _ONE, 2),
    (384, 13, 256, 3, 1, _ONE, 2),
)
ZFNET_CONVS = _layers(
    "zfnet",
    (3, 224, 96, 7, 2, (0, 1, 0, 1), 1),
    (96, 55, 256, 5, 2, _NONE, 1),
    (256, 13, 384, 3, 1, _ONE, 1),
    (384, 13, 384, 3, 1, _ONE, 1),
    (384, 13, 256, 3, 1, _ONE, 1),
)
CONVS = ALEXNET_CONVS + ZFNET_CONVS

# Maps that are normalised across their neighbours: (channels, height, width).
RESPONSES = {"alexnet norm1": (96, 55, 55), "alexnet norm2": (256, 27, 27)}

# Maps that are pooled, and (kernel_size, stride, padding, ceil_mode).
POOLS = {
    "alexnet pool1": ((96, 55, 55), (3, 2, 0, False)),
    "alexnet pool5": ((256, 13, 13), (3, 2, 0, False)),
    "zfnet pool1": ((96, 110, 110), (3, 2, 0, True)),
    "zfnet pool2": ((256, 26, 26), (3, 2, 0, True)),
}
