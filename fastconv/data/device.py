"""Batches whose last pass runs where the network is: bytes are sent, the device does the rest.

A worker decodes, resizes and cuts out, and draws what is random, as ever. It hands over the uint8
pixels of the windows and the draws, a quarter of the bytes of finished images. The device then
mirrors, subtracts the mean, shifts the colours and scales, in the one pass of
`fastconv.prepare_images`. The images are those of the other way, to the bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.utils.data import DataLoader

from fastconv.data._picture import Parts, Picture, Plane
from fastconv.data.transforms import Compose, Transform
from fastconv.ops.prepare_images import prepare_images


class PixelBatch(NamedTuple):
    """What `prepare_images` wants of N images: their windows, and what was drawn for each.

    Attributes:
        pixels: (N, C, H, W), uint8, channels_last.
        places: (N, 2), int64, where the windows lie in the mean image.
        flips: (N,), bool.
        shifts: (N, C), float32.
    """

    pixels: Tensor
    places: Tensor
    flips: Tensor
    shifts: Tensor

    @staticmethod
    def of(images: list[Parts]) -> PixelBatch:
        """Stack images, at least one."""
        still = np.zeros(images[0].pixels.shape[2], np.float32)
        shifts = np.stack([still if image.shift is None else image.shift for image in images])
        pixels = np.stack([image.pixels for image in images])
        return PixelBatch(
            torch.from_numpy(pixels).permute(0, 3, 1, 2),
            torch.tensor([image.place for image in images]),
            torch.tensor([image.mirrored for image in images]),
            torch.from_numpy(shifts),
        )


class HostSteps(Compose):
    """A pipeline without its last pass: a call gives `Parts` in place of the finished image.

    Attributes:
        mean: what the last pass subtracts from every image: (C, H, W), (C,) or None.
        unit: what it divides by, a number a channel.

    Raises:
        ValueError: the pipeline's arithmetic takes more than that one pass.
    """

    def __init__(self, transform: Callable):
        super().__init__([transform])
        parts = self(Image.new("RGB", (512, 512)), Generator().manual_seed(0))
        mean = parts.mean.rows.transpose(2, 0, 1) if isinstance(parts.mean, Plane) else parts.mean
        self.mean = None if mean is None else torch.from_numpy(mean)
        self.unit = parts.unit.tolist()

    def __call__(self, image: Any, generator: Generator | None = None) -> Parts:
        picture, parts = Picture(image), None
        if all(isinstance(step, Transform) for step in self.transforms):
            steps: list[Any] = list(self.transforms)
            for step in steps:
                step.apply(picture, generator)
            parts = picture.parts()
        if parts is None:
            raise ValueError(
                "device_transforms: the pipeline must end in a mean, a colour shift and a unit at "
                f"most (got {', '.join(type(step).__name__ for step in self.transforms)})"
            )
        return parts


def suits_device(transform: Callable) -> bool:
    """Whether the last pass of a pipeline can be left to the device."""
    try:
        HostSteps(transform)
    except (ValueError, TypeError):
        return False
    return True


class DeviceLoader:
    """A loader whose last pass over the pixels runs on a device; its batches come from there.

    Args:
        dataset: whose transform is to be parted.
        build: makes the loader of a data set.
        device, dtype, channels_last: where the images go, and as what.

    Attributes:
        dataset: as given: its samples are finished images.
        batch_sampler, collate_fn: the loader's.
    """

    def __init__(
        self,
        dataset: Any,
        build: Callable[[Any], DataLoader],
        *,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
    ):
        steps = HostSteps(dataset.transform)
        on_host = copy.copy(dataset)
        on_host.transform = steps
        self.dataset, self.loader = dataset, build(on_host)
        self.batch_sampler, self.collate_fn = self.loader.batch_sampler, self.loader.collate_fn
        self.device = torch.device(device)
        self.mean = None if steps.mean is None else steps.mean.to(self.device)
        self.options = {
            "unit": steps.unit,
            "dtype": dtype,
            "memory_format": torch.channels_last if channels_last else torch.contiguous_format,
        }

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, int]]:
        for images, targets, skipped in self.loader:
            yield self.prepare(images) if len(targets) else images, targets, skipped

    def prepare(self, batch: PixelBatch) -> Tensor:
        """The finished images, on the device."""
        pixels, places, flips, shifts = (t.to(self.device, non_blocking=True) for t in batch)
        has_image = self.mean is not None and self.mean.ndim == 3
        return prepare_images(
            pixels,
            flips=flips,
            shifts=shifts,
            mean=self.mean,
            mean_offsets=places if has_image else None,
            **self.options,
        )
