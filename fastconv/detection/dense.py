"""Dense evaluation: a classifier slid over a larger image in one pass.

A fully connected layer over maps of h x w is a convolution whose kernel covers them. Written so,
the network takes larger images, and gives class scores for every window instead of one: what the
windows share is computed once. Sermanet et al., "OverFeat", arXiv:1312.6229, sections 3.3 to 3.5;
R. Fergus's NIPS 2013 tutorial, "sliding window with ConvNet".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastconv import nn as fnn
from fastconv._layers import blank_image, looking
from fastconv._receptive_field import receptive_field
from fastconv.models._stages import FitMap2d
from fastconv.ops._arguments import as_pair, pair

_POOLS = (nn.MaxPool2d, nn.AvgPool2d, fnn.SumPool2d, fnn.StochasticPool2d)
_FITTING = (FitMap2d, nn.AdaptiveAvgPool2d)
# Nothing at all in evaluation.
_IDLE = (nn.Dropout, nn.Identity)
# What may follow the flattening beside linear layers: each place for itself.
_POINTWISE = (
    *(*_IDLE, fnn.Maxout, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU),
    *(nn.Hardtanh, nn.Sigmoid, nn.Softplus, nn.Tanh),
)


class DenseLinear(nn.Conv2d):
    """A linear layer at every place of maps: a convolution of stride 1 without padding.

    For few places it is computed as the linear layer is, reading the weights as they lie. They are
    many (150 MB in AlexNet's fc6), and a convolution would first lay them out anew.
    """

    few = 1024  # places in a batch, from here on laying out pays

    def forward(self, input: Tensor) -> Tensor:
        size = [n - k + 1 for n, k in zip(input.shape[2:], self.kernel_size, strict=True)]
        if len(input) * size[0] * size[1] > self.few:
            return super().forward(input)
        if self.kernel_size == (1, 1):
            columns = input.flatten(2)
        else:
            columns = F.unfold(input, self.kernel_size)
        scores = F.linear(columns.transpose(1, 2), self.weight.flatten(1), self.bias)
        return scores.transpose(1, 2).unflatten(2, size)


class DenseNet(nn.Sequential):
    """A classifier as convolutions only; made by `to_dense`.

    Attributes:
        window: (height, width) in pixels of what each score judges: the classifier's input.
        stride: pixels from one score's window to the next, (vertical, horizontal).
        fine_stride: the same for `fine`.
        num_classes: scores a window.
    """

    def __init__(
        self,
        stages: OrderedDict[str, nn.Module],
        *,
        window: tuple[int, int],
        stride: tuple[int, int],
        last_pool: str | None,
        num_classes: int,
    ):
        super().__init__(stages)
        self.window, self.stride, self.num_classes = window, stride, num_classes
        self._last_pool = last_pool
        self._steps = (1, 1)
        if last_pool is not None:
            pool: Any = stages[last_pool]
            self._steps = as_pair(pair("layer", "stride", pool.stride))
        self.fine_stride = tuple(s // step for s, step in zip(stride, self._steps, strict=True))

    def forward(self, images: Tensor) -> Tensor:
        """Class scores (N, num_classes, h, w) of images (N, C, H, W) of at least a window's size.

        Raises:
            ValueError: smaller images.
        """
        self._check(images)
        return super().forward(images)

    def fine(self, images: Tensor) -> Tensor:
        """Scores of more windows, ``fine_stride`` pixels apart: OverFeat's offset pooling.

        The last pooling is done once for each offset below its stride, and what becomes of the
        offsets is interleaved. Every ``stride / fine_stride``-th score is one of `forward`'s.

        Args:
            images: as for `forward`.

        Returns:
            (N, num_classes, h, w).
        """
        self._check(images)
        stages = list(self.named_children())
        place = [name for name, _ in stages].index(self._last_pool) if self._last_pool else 0
        maps = images
        for _, stage in stages[:place]:
            maps = stage(maps)
        after = [stage for _, stage in stages[place:]]
        ys, xs = (range(step) for step in self._steps)
        return _interleave([[_run(after, maps[:, :, y:, x:]) for x in xs] for y in ys])

    def windows(self, size: Sequence[int], *, fine: bool = False) -> Tensor:
        """Which window of the image each score judges.

        Args:
            size: (h, w) of the scores.
            fine: of `fine`.

        Returns:
            (h, w, 4): left, top, right, bottom in pixels. The last ones reach a few pixels beyond
            the image where the network rounds its maps' sizes up, or uses not all of its window.
        """
        sy, sx = self.fine_stride if fine else self.stride
        tops = (torch.arange(size[0]) * sy)[:, None].expand(*size)
        lefts = (torch.arange(size[1]) * sx).expand(*size)
        height, width = self.window
        return torch.stack([lefts, tops, lefts + width, tops + height], dim=2)

    def _check(self, images: Tensor) -> None:
        height, width = self.window
        if images.dim() != 4 or images.shape[2] < height or images.shape[3] < width:
            raise ValueError(
                "DenseNet: images must have shape (N, C, H, W) and at least the window's size of "
                f"{height}x{width} (got {tuple(images.shape)})"
            )


def to_dense(model: nn.Module, input_size: tuple[int, int, int] | None = None) -> DenseNet:
    """The classifier as convolutions: class scores for every window of an image of any size.

    Given an image of the classifier's own size it computes the same scores. In a larger image a
    window sees what surrounds it where a crop would see the zeros that convolutions pad with; in a
    network without padding the scores are those of the crops.

    Args:
        model: an ``nn.Sequential``, as all models of the package are: layers on maps, ``Flatten``,
            linear layers. Layers that fit the maps to one size (``FitMap2d``,
            ``AdaptiveAvgPool2d``) before the flattening become part of what follows it.
        input_size: (C, H, W) that the model was trained on; None: ``model.input_size``.

    Returns:
        A network from images (N, C, H, W), at least as large as ``input_size``, to scores
        (N, classes, h, w), in evaluation mode. The layers before the flattening are the model's
        own, and the new convolutions use the memory of its linear layers' weights, except where
        fitting or DropConnect changed them.

    Raises:
        ValueError: the model is no chain of layers, or has one without a dense form; the message
            names it.
    """
    if not isinstance(model, nn.Sequential):
        raise ValueError(
            "to_dense: model must be an nn.Sequential, a chain of layers "
            f"(got {type(model).__name__})"
        )
    input_size = getattr(model, "input_size", None) if input_size is None else input_size
    if input_size is None:
        raise ValueError("to_dense: input_size is needed for a model without that attribute")
    chain = list(_chain(model))
    flat = next((i for i, (_, stage) in enumerate(chain) if isinstance(stage, nn.Flatten)), None)
    if flat is None:
        raise ValueError("to_dense: model must have a Flatten before its linear layers")
    body, head = chain[:flat], chain[flat + 1 :]
    fitting: list[nn.Module] = []
    while body and isinstance(body[-1][1], (*_FITTING, *_IDLE)):
        fitting.insert(0, body.pop()[1])
    if not body:
        raise ValueError("to_dense: model must have layers on maps before its Flatten")
    for name, stage in body:
        if isinstance(stage, _FITTING):
            raise ValueError(f"to_dense: {name} fits maps to a size before the last of the layers")
    field = receptive_field(model, body[-1][0], input_size)
    if field.whole:
        raise ValueError(f"to_dense: up to {body[-1][0]}, layers must see windows of their maps")
    with torch.no_grad(), looking(model):
        maps = blank_image(model, input_size)
        for _, stage in body:
            maps = stage(maps)
        fit = _fit_matrix(fitting, maps)
    stages = OrderedDict((_key(name), stage) for name, stage in body)
    stages.update(_dense_head(head, maps, fit))
    last_pool = next(
        (_key(name) for name, stage in reversed(body) if isinstance(stage, _POOLS)), None
    )
    return DenseNet(
        stages,
        window=tuple(input_size[1:]),
        stride=field.stride,
        last_pool=last_pool,
        num_classes=_outputs(stages, maps.shape[1]),
    ).eval()


def dense_scores(
    dense: DenseNet,
    images: Tensor,
    *,
    sizes: Sequence[int] | None = None,
    fine: bool = False,
    flip: bool = False,
    reduce: str = "mean",
) -> Tensor:
    """Class probabilities of whole images from all of their windows, at several sizes.

    Args:
        images: (N, C, H, W), as the model takes them.
        sizes: shortest sides in pixels to which the images are resized (bilinear, antialiased);
            None: as they are. OverFeat takes six.
        fine: with offset pooling, see `DenseNet.fine`.
        flip: look at the mirrored images, too.
        reduce: "mean" or "max" over the windows of one size; sizes and mirror images are averaged.

    Returns:
        (N, num_classes); "mean" sums to 1.
    """
    if reduce not in ("mean", "max"):
        raise ValueError(f"dense_scores: reduce must be 'mean' or 'max' (got reduce={reduce!r})")
    run = dense.fine if fine else dense
    found = []
    with torch.no_grad():
        for resized in _pyramid(dense, images, sizes):
            for view in (resized, resized.flip(3)) if flip else (resized,):
                probabilities = run(view).float().softmax(1).flatten(2)
                found.append(probabilities.mean(2) if reduce == "mean" else probabilities.amax(2))
    return torch.stack(found).mean(0)


def resize_shortest(images: Tensor, size: int) -> Tensor:
    """Images (N, C, H, W) whose shortest side becomes ``size`` pixels, the ratio kept."""
    height, width = images.shape[2:]
    if min(height, width) == size:
        return images
    factor = size / min(height, width)
    target = [max(size, round(n * factor)) for n in (height, width)]
    return F.interpolate(images, target, mode="bilinear", antialias=True, align_corners=False)


def _pyramid(dense: DenseNet, images: Tensor, sizes: Sequence[int] | None) -> Iterator[Tensor]:
    if images.dim() != 4:
        raise ValueError(
            f"dense_scores: images must have shape (N, C, H, W) (got {tuple(images.shape)})"
        )
    for size in (min(images.shape[2:]),) if sizes is None else sizes:
        if size < max(dense.window):
            raise ValueError(
                f"dense_scores: sizes must be at least the window's {max(dense.window)} pixels "
                f"(got {size})"
            )
        yield resize_shortest(images, size)


def _chain(model: nn.Sequential, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The layers by their names in ``model``, with chains in the chain opened."""
    for name, stage in model.named_children():
        if isinstance(stage, nn.Sequential):
            yield from _chain(stage, f"{prefix}{name}.")
        else:
            yield prefix + name, stage


def _key(name: str) -> str:
    return name.replace(".", "_")  # a module's own name has no dots


def _fit_matrix(fitting: Sequence[nn.Module], maps: Tensor) -> Tensor | None:
    """What fits (N, C, h, w) to h' x w' as a matrix (h', w', h, w); None where it does nothing."""
    height, width = maps.shape[2:]
    unit = torch.eye(height * width, dtype=maps.dtype, device=maps.device)
    fitted = unit.reshape(-1, 1, height, width)
    for stage in fitting:
        fitted = stage(fitted)
    if fitted.shape[2:] == maps.shape[2:] and torch.equal(fitted.flatten(1), unit):
        return None
    return fitted[:, 0].permute(1, 2, 0).unflatten(2, (height, width))


def _dense_head(
    head: Sequence[tuple[str, nn.Module]], maps: Tensor, fit: Tensor | None
) -> Iterator[tuple[str, nn.Module]]:
    """The layers behind the flattening of ``maps``, fitted by ``fit``, as layers on maps."""
    size = as_pair(maps.shape[2:] if fit is None else fit.shape[:2])
    if fit is not None and size == (1, 1):
        yield "average", fnn.AvgPool2d(as_pair(maps.shape[2:]), stride=1)
        fit = None
    for name, stage in head:
        if isinstance(stage, nn.Linear):
            yield from _dense_linear(name, stage, size, fit)
            size, fit = (1, 1), None
        elif isinstance(stage, _POINTWISE):
            if fit is not None and not isinstance(stage, _IDLE):
                raise ValueError(
                    f"to_dense: {name} ({type(stage).__name__}) must not stand between fitted maps "
                    "and the first linear layer"
                )
            yield _key(name), stage
        else:
            raise ValueError(f"to_dense: {name} ({type(stage).__name__}) has no dense form")
    if size != (1, 1):
        raise ValueError("to_dense: model must have a linear layer behind its Flatten")


def _dense_linear(
    name: str, layer: nn.Linear, size: tuple[int, int], fit: Tensor | None
) -> Iterator[tuple[str, nn.Module]]:
    """A linear layer over maps of ``size`` as a convolution, and its activation if it has one."""
    weight, bias = layer.weight.detach(), layer.bias
    bias = None if bias is None else bias.detach()
    activation = None
    if isinstance(layer, fnn.DropConnectLinear):
        if layer.inference != "mean":
            raise ValueError(
                f"to_dense: {name} draws at inference; set its inference to 'mean' first"
            )
        weight = weight * (1 - layer.p)
        bias = bias * (1 - layer.p) if bias is not None and layer.mask_bias else bias
        activation = layer.activation
        if activation not in ("none", "relu"):
            raise ValueError(
                f"to_dense: {name} must have the activation none or relu (got {activation!r})"
            )
    elif isinstance(layer, fnn.Linear):
        activation = layer.activation
    elif type(layer) is not nn.Linear:
        raise ValueError(f"to_dense: {name} ({type(layer).__name__}) has no dense form")
    weight = weight.unflatten(1, (-1, *size))
    if fit is not None:
        weight = torch.einsum("ocyx,yxhw->ochw", weight, fit)
    # Without memory first: the parameters become those of the linear layer, in its memory.
    convolution = DenseLinear(
        *(weight.shape[1], weight.shape[0], tuple(weight.shape[2:])),
        bias=bias is not None,
        device="meta",
    )
    convolution.weight = nn.Parameter(weight)
    if bias is not None:
        convolution.bias = nn.Parameter(bias)
    yield _key(name), convolution
    if activation == "relu":
        yield f"{_key(name)}_relu", nn.ReLU()


def _outputs(stages: OrderedDict[str, nn.Module], channels: int) -> int:
    """Channels that come out of the last stage; ``channels`` where none changes them."""
    for stage in reversed(stages.values()):
        if isinstance(stage, nn.Conv2d):
            return stage.out_channels
    return channels


def _run(stages: Sequence[nn.Module], maps: Tensor) -> Tensor | None:
    """What comes out of ``stages``; None where the maps have become too small for one."""
    for stage in stages:
        if isinstance(stage, (nn.Conv2d, *_POOLS)):
            kernel = pair("layer", "kernel_size", stage.kernel_size)
            window: Any = stage
            padding = pair("layer", "padding", window.padding)
            sizes = zip(maps.shape[2:], kernel, padding, strict=True)
            if any(n + 2 * p < k for n, k, p in sizes):
                return None
        maps = stage(maps)
    return maps


def _interleave(parts: list[list[Tensor | None]]) -> Tensor:
    """Scores of offsets (dy, dx), each (N, K, h, w), as one map: offset dy is in rows dy, dy + s...

    A later offset has at most one row less; where it has none, it is None.
    """
    first = parts[0][0]
    assert first is not None  # offset (0, 0) is the whole
    height = sum(row[0].shape[2] for row in parts if row[0] is not None)
    width = sum(part.shape[3] for part in parts[0] if part is not None)
    whole = first.new_empty(*first.shape[:2], height, width)
    for dy, row in enumerate(parts):
        for dx, part in enumerate(row):
            if part is not None:
                whole[:, :, dy :: len(parts), dx :: len(row)] = part
    return whole
