"""From uint8 pixels to a network's input in one pass: crop, mirror, colour shift, mean, units.

The steps of Krizhevsky, Sutskever & Hinton (NIPS 2012), sections 2 and 4.1, that come after
decoding and resizing. `fastconv.data` draws the places, flips and shifts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastconv.ops._arguments import check_tensor, number, pair
from fastconv.ops._kernels import kernel

_prepare_images = kernel("prepare_images")

_OP = "prepare_images"


def prepare_images(
    images: Tensor,
    size: int | Sequence[int] | None = None,
    *,
    offsets: Tensor | None = None,
    flips: Tensor | None = None,
    shifts: Tensor | None = None,
    mean: Tensor | None = None,
    mean_offsets: Tensor | None = None,
    unit: float | Sequence[float] = 1.0,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.channels_last,
) -> Tensor:
    """``(window / 255 - mean + shift) / unit`` for a window of each image, mirrored or not.

    Args:
        images: (N, C, H, W), uint8, C from 1 to 4. Decoded pixels (N, H, W, C) are wanted as
            ``pixels.permute(0, 3, 1, 2)``, whose memory is channels_last; other memory is copied.
        size: (height, width) of the windows, or an int for both; ``None``: the whole images.
        offsets: (N, 2), whole numbers: row and column where each window begins; ``None``: (0, 0).
            The CPU refuses windows that leave the image; a GPU, whose numbers nobody waits for,
            moves them inside.
        flips: (N,), bool or uint8: which windows are mirrored left to right; ``None``: none.
        shifts: (N, C), float32, added to all pixels of an image: the colour noise; ``None``: none.
        mean: a colour (C,) or an image (C, H, W), float32, of pixels in [0, 1]. The window of a
            mean image is that of the image, mirrored with it. Memory in (H, W, C) order is read as
            it is; other memory is copied.
        mean_offsets: (N, 2): where each window lies in the mean image, for images that are windows
            already; ``None``: as ``offsets``, and the mean image has the images' size.
        unit: what the values are divided by, one positive number or one a channel.
        dtype: of the result: float32, float16 or bfloat16. All is computed in float32, each
            operation rounded, in the order of the formula, and rounded once more at the end.
        memory_format: of the result: ``torch.channels_last`` or ``torch.contiguous_format``.

    Returns:
        (N, C, height, width) of ``dtype``: to the bit what the operations one by one give. There is
        no gradient.

    Raises:
        RuntimeError, ValueError, TypeError: naming the argument, the rule and the value.
    """
    tensors = {"images": images, "offsets": offsets, "flips": flips, "shifts": shifts}
    for name, tensor in {**tensors, "mean": mean, "mean_offsets": mean_offsets}.items():
        if tensor is not None or name == "images":
            check_tensor(_OP, name, tensor)
    if images.dim() != 4:
        raise ValueError(
            f"{_OP}: images must have 4 dimensions (N, C, H, W) (got {tuple(images.shape)})"
        )
    size = pair(_OP, "size", list(images.shape[2:]) if size is None else size)
    units = list(unit) if isinstance(unit, tuple | list) else [unit]
    units = [number(_OP, "unit", value) for value in units]
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"{_OP}: dtype must be a torch.dtype (got dtype={dtype!r})")
    if memory_format not in (torch.channels_last, torch.contiguous_format):
        raise ValueError(
            f"{_OP}: memory_format must be torch.channels_last or torch.contiguous_format "
            f"(got {memory_format})"
        )
    return _prepare_images(
        images,
        _whole("offsets", offsets),
        flips.bool() if flips is not None and flips.dtype == torch.uint8 else flips,
        shifts,
        mean,
        _whole("mean_offsets", mean_offsets),
        units,
        size,
        dtype,
        memory_format == torch.channels_last,
    )


def prepare_images_ref(
    images: Tensor,
    size: tuple[int, int],
    offsets: Tensor,
    flips: Tensor,
    shifts: Tensor,
    mean: Tensor,
    mean_offsets: Tensor,
    unit: Tensor,
) -> Tensor:
    """The definition, one image at a time, in float32: ``mean`` is an image, ``unit`` (C,)."""
    height, width = size
    prepared = []
    for n in range(len(images)):
        (top, left), (row, column) = offsets[n].tolist(), mean_offsets[n].tolist()
        window = images[n, :, top : top + height, left : left + width].float() / 255
        window = window - mean[:, row : row + height, column : column + width]
        window = window.flip(2) if flips[n] else window
        prepared.append((window + shifts[n][:, None, None]) / unit[:, None, None])
    return torch.stack(prepared)


def _whole(name: str, offsets: Tensor | None) -> Tensor | None:
    if offsets is None or offsets.dtype == torch.int64:
        return offsets
    if offsets.is_floating_point() or offsets.is_complex() or offsets.dtype == torch.bool:
        raise TypeError(f"{_OP}: {name} must be whole numbers (got {offsets.dtype})")
    return offsets.long()


@torch.library.register_fake("fastconv::prepare_images")
def _fake(images, offsets, flips, shifts, mean, mean_offsets, unit, size, dtype, channels_last):
    return torch.empty(
        (*images.shape[:2], *size),
        dtype=dtype,
        device=images.device,
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )
