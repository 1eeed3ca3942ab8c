"""Checks of the transforms' arguments and of the pictures they meet."""

from __future__ import annotations

from torch import Tensor

from fastconv.data._picture import Picture


def is_int(value) -> bool:
    """An int, and not True or False."""
    return isinstance(value, int) and not isinstance(value, bool)


def positive(owner: str, name: str, value) -> int:
    """Check a number of pixels."""
    if not is_int(value) or value < 1:
        raise ValueError(f"{owner}: {name} must be a positive int (got {value!r})")
    return value


def pair(owner: str, size) -> tuple[int, int]:
    """An int for both, or (height, width)."""
    sides = (size, size) if is_int(size) else tuple(size)
    if len(sides) != 2:
        raise ValueError(f"{owner}: size must be an int or (height, width) (got {size!r})")
    return positive(owner, "height", sides[0]), positive(owner, "width", sides[1])


def numbers(value) -> list[float]:
    """A number, or several in any sequence or tensor, as a list."""
    if isinstance(value, Tensor):
        value = value.tolist()
    return [float(value)] if isinstance(value, (int, float)) else [float(v) for v in value]


def fitting(owner: str, picture: Picture, size: tuple[int, int]) -> tuple[int, int]:
    """Check that a window of ``size`` fits into the picture."""
    if picture.height < size[0] or picture.width < size[1]:
        raise ValueError(
            f"{owner}: the image must be at least {size[0]}x{size[1]} "
            f"(got {picture.height}x{picture.width})"
        )
    return size


def want_tensor(owner: str, picture: Picture) -> None:
    """Check that `ToTensor` has been."""
    if not picture.floating:
        raise TypeError(f"{owner} takes tensors, not Pillow images: put it after ToTensor")


def want_channels(owner: str, argument: str, picture: Picture, channels: int) -> None:
    """Check an argument that has one entry a channel."""
    if picture.channels != channels:
        raise ValueError(
            f"{owner}: {argument} must have one entry a channel "
            f"(got {channels} for an image of {picture.channels} channels)"
        )
