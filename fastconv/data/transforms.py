"""Transforms from a Pillow image to the network's input tensor, and their description as JSON.

They are named, and take their arguments, as in ``torchvision.transforms.v2`` where that has them;
`SubtractMean`, `PCANoise`, `RandomTenCrop`, `Whiten` and `LocalContrast` are steps of the papers'
recipes that it lacks. Each is called as ``t(image, generator=None)``: all randomness comes from
``generator``, or from torch's default one.

Images are Pillow images of mode RGB or L (or uint8 arrays) up to `ToTensor` and float32 tensors
(C, H, W) after it; flips and crops take both. A `Compose` notes down what its steps want and does
it once, at the end, on the window that is left, so an order of steps that reads well is also fast.
The tensors it returns are (C, H, W) over channels-last memory, as torchvision's are.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import Generator, Tensor

from fastconv.data._arguments import (
    fitting,
    is_int,
    numbers,
    pair,
    positive,
    want_channels,
    want_tensor,
)
from fastconv.data._picture import Picture, Plane
from fastconv.data.images import resized_size
from fastconv.ops.local_contrast_norm import local_contrast_norm

__all__ = [
    "CenterCrop",
    "Compose",
    "Grayscale",
    "LocalContrast",
    "Normalize",
    "PCANoise",
    "RandomCrop",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "RandomTenCrop",
    "Resize",
    "SubtractMean",
    "ToTensor",
    "Transform",
    "Whiten",
    "apply_transform",
    "decode_size",
    "five_places",
    "from_config",
    "to_config",
]


class Transform:
    """Base of all transforms: a subclass says in `apply` what it does to a `Picture`."""

    # Arguments that are tensors, and the names under which a run's statistics hold them.
    statistics: Mapping[str, str] = MappingProxyType({})

    def __call__(self, image, generator: Generator | None = None):
        picture = Picture(image)
        self.apply(picture, generator)
        return picture.render()

    def apply(self, picture: Picture, generator: Generator | None) -> None:
        raise NotImplementedError

    def config(self) -> dict:
        """The arguments that make an equal transform, as plain JSON values, without tensors."""
        return {}

    def __repr__(self) -> str:
        arguments = {**self.config(), **self.statistics}
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in arguments.items())})"


class Compose(Transform):
    """One transform after the other. Other callables, image in and image out, may stand between.

    A `Compose` among the transforms is unfolded into its own.
    """

    def __init__(self, transforms: Iterable[Callable]):
        self.transforms: list[Callable] = []
        for step in transforms:
            if not callable(step):
                raise TypeError(f"Compose: every step must be callable (got {step!r})")
            self.transforms += step.transforms if isinstance(step, Compose) else [step]

    def __call__(self, image, generator: Generator | None = None):
        picture = None  # opened by the first transform, closed by the next plain callable
        for step in self.transforms:
            if isinstance(step, Transform):
                picture = Picture(image) if picture is None else picture
                step.apply(picture, generator)
            else:
                image = step(image if picture is None else picture.render())
                picture = None
        return image if picture is None else picture.render()

    def __repr__(self) -> str:
        return "\n".join(["Compose([", *(f"    {step}," for step in self.transforms), "])"])


class Resize(Transform):
    """Resize bilinearly with antialiasing. Pillow images only.

    Args:
        size: an int for the shortest side in pixels, the aspect ratio kept and the long side
            rounded down; or (height, width).
    """

    def __init__(self, size: int | tuple[int, int]):
        self.size: int | tuple[int, int] = (
            positive("Resize", "size", size) if is_int(size) else pair("Resize", size)
        )

    def apply(self, picture: Picture, generator: Generator | None) -> None:
        if isinstance(self.size, int):
            width, height = resized_size(picture.width, picture.height, self.size)
        else:
            height, width = self.size
        picture.resize(height, width)

    def config(self) -> dict:
        return {"size": self.size if isinstance(self.size, int) else list(self.size)}


class CenterCrop(Transform):
    """Cut the middle out. ``size`` is an int (a square) or (height, width) in pixels."""

    def __init__(self, size: int | tuple[int, int]):
        self.size = pair("CenterCrop", size)

    def apply(self, picture: Picture, generator: Generator | None) -> None:
        height, width = fitting("CenterCrop", picture, self.size)
        top = round((picture.height - height) / 2)
        picture.crop(top, round((picture.width - width) / 2), height, width)

    def config(self) -> dict:
        return {"size": list(self.size)}


class RandomCrop(Transform):
    """Cut out a window whose place is drawn uniformly.

    Args:
        size: an int (a square) or (height, width) in pixels.
        padding: rows and columns of zeros put around the image first (4 is usual for CIFAR).
    """

    def __init__(self, size: int | tuple[int, int], padding: int = 0):
        self.size = pair("RandomCrop", size)
        if not is_int(padding) or padding < 0:
            raise ValueError(f"RandomCrop: padding must be an int of at least 0 (got {padding!r})")
        self.padding = padding

    def apply(self, picture: Picture, generator: Generator | None) -> None:
        if self.padding:
            picture.pad(self.padding)
        height, width = fitting("RandomCrop", picture, self.size)
        top = _draw_int(picture.height - height + 1, generator)
        picture.crop(top, _draw_int(picture.width - width + 1, generator), height, width)

    def config(self) -> dict:
        return {"size": list(self.size), "padding": self.padding}


class RandomHorizontalFlip(Transform):
    """Mirror left to right with probability ``p``."""

    def __init__(self, p: float = 0.5):
        if not 0 <= p <= 1:
            raise ValueError(f"RandomHorizontalFlip: p must be between 0 and 1 (got {p})")
        self.p = p

    def apply(self, picture: Picture, generator: Generator | None) -> None:
        if _draw(generator) < self.p:
            picture.mirror()

    def config(self) -> dict:
        return {"p": self.p}


def five_places(height: int, width: int, size: tuple[int, int]) -> list[tuple[int, int]]:
    """Top and left of a window of ``size`` in the corners and in the centre, which is the last."""
    bottom, right = height - size[0], width - size[1]
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right)]
    return [*corners, (round(bottom / 2), round(right / 2))]


class RandomTenCrop(Transform):
    """Cut out one of ten windows: the corners or the centre, mirrored or not, all as likely.

    Zeiler & Fergus (2013), section 3, train on these ten.

    Args:
        size: an int (a square) or (height, width) in pixels.
    """

    def __init__(self, size: int | tuple[int, int]):
        self.size = pair("RandomTenCrop", size)

    def apply(self, picture: Picture, generator: Generator | None) -> None:
        height, width = fitting("RandomTenCrop", picture, self.size)
        draw = _draw_int(10, generator)
        top, left = five_places(picture.height, picture.width, self.size)[draw % 5]
        picture.crop(top, left, height, width)
        if draw >= 5:
            picture.mirror()

    def config(self) -> dict:
        return {"size": list(self.size)}


class RandomResizedCrop(Transform):
    """Cut out a window of random area and aspect ratio and resize it. Pillow images only.

    Args:
        size: an int (a square) or (height, width) in pixels, of the result.
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest width / height of the window, drawn on a log scale. If ten draws
            do not fit into the image, the largest centred window within ``ratio`` is taken.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
    ):
        self.size = pair("RandomResizedCrop", size)
        for name, (low, high) in (("scale", scale), ("ratio", ratio)):
            if not 0 < low <= high:
                raise ValueError(
                    f"RandomResizedCrop: {name} must be two rising positive numbers "
                    f"(got {name}={(low, high)})"
                )
        self.scale, self.ratio = tuple(scale), tuple(ratio)

    def apply(self, picture: Picture, generator: Generator | None) -> None:
        picture.crop(*self._window(picture.height, picture.width, generator))
        picture.resize(*self.size)

    def _window(self, height: int, width: int, generator) -> tuple[int, int, int, int]:
        low, high = self.ratio
        for _ in range(10):
            area = height * width * _between(self.scale[0], self.scale[1], generator)
            ratio = float(np.exp(_between(np.log(low), np.log(high), generator)))
            w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
            if 0 < w <= width and 0 < h <= height:
                top = _draw_int(height - h + 1, generator)
                return top, _draw_int(width - w + 1, generator), h, w
        w, h = min(width, round(height * high)), min(height, round(width / low))
        return (height - h) // 2, (width - w) // 2, h, w

    def config(self) -> dict:
        return {"size": list(self.size), "scale": list(self.scale), "ratio": list(self.ratio)}


class Grayscale(Transform):
    """One channel of luminance, 0.299 R + 0.587 G + 0.114 B. Pillow images only."""

    def apply(self, picture: Picture, generator: Generator | None) -> None:
        picture.to_grey()


class ToTensor(Transform):
    """Pillow image or uint8 array (H, W[, C]) to a float32 tensor (C, H, W) in [0, 1].

    Pillow images of mode F keep their values.
    """

    def apply(self, picture: Picture, generator: Generator | None) -> None:
        picture.to_float()


class SubtractMean(Transform):
    """Subtract the data's mean image or mean colour.

    Args:
        mean: (C, H, W), subtracted from tensors of that very size, or one number a channel, (C,).
    """

    def __init__(self, mean: Tensor):
        if mean.ndim not in (1, 3):
            raise ValueError(
                "SubtractMean: mean must be an image (C, H, W) or a colour (C,) "
                f"(got shape {tuple(mean.shape)})"
            )
        self.mean = mean.detach().float().cpu()
        self.plane = Plane(self.mean) if mean.ndim == 3 else None
        self.statistics = {"mean": "mean_image" if mean.ndim == 3 else "mean_color"}

    def apply(self, picture: Picture, generator: Generator | None) -> None:
        want_tensor("SubtractMean", picture)
        want_channels("SubtractMean", "mean", picture, len(self.mean))
        if self.plane is None:
            picture.subtract(self.mean.numpy())
            return
        if (picture.height, picture.width) != tuple(self.mean.shape[1:]):
            raise ValueError(
                f"SubtractMean: the image must have the mean image's size (got "
                f"{picture.height}x{picture.width}, mean image "
                f"{self.mean.shape[1]}x{self.mean.shape[2]})"
            )
        picture.subtract_plane(self.plane)


class PCANoise(Transform):
    """Shift all pixels along the principal components of the data's colours.

    Adds ``sum_i a_i sqrt(values[i]) vectors[:, i]``, with a_i drawn from N(0, sigma^2) once an
    image: a shift in proportion to the data's own spread of colour. Krizhevsky, Sutskever & Hinton
    (NIPS 2012), section 4.1, print the eigenvalue itself, whose effect would depend on the units of
    the pixels; their code multiplies by the standard deviation along the component, its square
    root, and so does this.

    Args:
        values: (C,) eigenvalues of the covariance of the colours, in the units of the tensors.
        vectors: (C, C), one eigenvector a column.
        sigma: standard deviation of the factors, 0.1 in the paper.
    """

    def __init__(self, values: Tensor, vectors: Tensor, sigma: float = 0.1):
        if values.ndim != 1 or vectors.shape != (len(values), len(values)):
            raise ValueError(
                "PCANoise: values must be (C,) and vectors (C, C) "
                f"(got {tuple(values.shape)} and {tuple(vectors.shape)})"
            )
        if bool((values < 0).any()):
            raise ValueError(f"PCANoise: values must not be negative (got {values.tolist()})")
        if sigma < 0:
            raise ValueError(f"PCANoise: sigma must be at least 0 (got {sigma})")
        self.sigma = sigma
        self.statistics = {"values": "pca_values", "vectors": "pca_vectors"}
        self.axes = (vectors.detach().double() * values.detach().double().sqrt()).cpu()

    def apply(self, picture: Picture, generator: Generator | None) -> None:
        want_tensor("PCANoise", picture)
        want_channels("PCANoise", "values", picture, len(self.axes))
        factors = self.sigma * torch.randn(len(self.axes), generator=generator, dtype=torch.float64)
        picture.add((self.axes @ factors).float().numpy())

    def config(self) -> dict:
        return {"sigma": self.sigma}


class Whiten(Transform):
    """ZCA whitening of small images: all values uncorrelated and of a spread of 1, as near to the
    image as that can be (Krizhevsky, "Learning multiple layers of features from tiny images", 2009,
    appendix A).

    Args:
        matrix: (D, D), symmetric, of `compute_statistics`; D is the tensors' C * H * W. The mean
            image has to be subtracted before.
    """

    def __init__(self, matrix: Tensor):
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"Whiten: matrix must be (D, D) (got shape {tuple(matrix.shape)})")
        self.matrix = matrix.detach().float().cpu()
        self.statistics = {"matrix": "zca_matrix"}

    def apply(self, picture: Picture, generator: Generator | None) -> None:
        want_tensor("Whiten", picture)
        values = picture.channels * picture.height * picture.width
        if values != len(self.matrix):
            raise ValueError(
                f"Whiten: the image must have as many values as the matrix has rows (got "
                f"{picture.channels}x{picture.height}x{picture.width} for {len(self.matrix)})"
            )
        picture.replace(lambda image: (self.matrix @ image.flatten()).view(image.shape))


class LocalContrast(Transform):
    """Local contrast normalisation of the image, see `fastconv.local_contrast_norm`.

    Args:
        kernel_size: of the Gaussian window, odd.
        across_maps: whether the colours share mean and deviation.
    """

    def __init__(self, kernel_size: int = 7, across_maps: bool = True):
        self.kernel_size = positive("LocalContrast", "kernel_size", kernel_size)
        self.across_maps = across_maps

    def apply(self, picture: Picture, generator: Generator | None) -> None:
        want_tensor("LocalContrast", picture)
        picture.replace(
            lambda image: local_contrast_norm(
                image.unsqueeze(0), self.kernel_size, across_maps=self.across_maps
            ).squeeze(0)
        )

    def config(self) -> dict:
        return {"kernel_size": self.kernel_size, "across_maps": self.across_maps}


class Normalize(Transform):
    """``(x - mean) / std``, one number a channel each, or one for all channels."""

    def __init__(self, mean: Iterable[float] | float, std: Iterable[float] | float):
        self.mean, self.std = numbers(mean), numbers(std)
        if not all(value > 0 for value in self.std):
            raise ValueError(f"Normalize: std must be positive (got {self.std})")

    def apply(self, picture: Picture, generator: Generator | None) -> None:
        want_tensor("Normalize", picture)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) > 1:
                want_channels("Normalize", name, picture, len(values))
        if any(self.mean):
            picture.subtract(np.array(self.mean, np.float32))
        picture.divide(np.array(self.std, np.float32))

    def config(self) -> dict:
        return {"mean": self.mean, "std": self.std}


_TRANSFORMS = {
    cls.__name__: cls
    for cls in (
        CenterCrop,
        Grayscale,
        LocalContrast,
        Normalize,
        PCANoise,
        RandomCrop,
        RandomHorizontalFlip,
        RandomResizedCrop,
        RandomTenCrop,
        Resize,
        SubtractMean,
        ToTensor,
        Whiten,
    )
}


def to_config(transform: Callable) -> list | dict:
    """Describe a transform in plain JSON values: a list for a `Compose`, else an object.

    Tensors are left out; ``"statistics"`` names them, and `from_config` takes them from there.
    """
    if isinstance(transform, Compose):
        return [to_config(step) for step in transform.transforms]
    name = type(transform).__name__
    if not isinstance(transform, Transform) or _TRANSFORMS.get(name) is not type(transform):
        raise TypeError(
            f"to_config: only fastconv's own transforms can be described (got {transform!r})"
        )
    tensors = {"statistics": dict(transform.statistics)} if transform.statistics else {}
    return {"name": name, **transform.config(), **tensors}


def from_config(config: list | dict, statistics: Mapping[str, Tensor] | None = None) -> Transform:
    """Build the transform that `to_config` described, with the tensors of ``statistics``."""
    if isinstance(config, list):
        return Compose([from_config(step, statistics) for step in config])
    if not isinstance(config, dict) or "name" not in config:
        raise ValueError(f"from_config: a transform must be an object with a name (got {config!r})")
    arguments = dict(config)
    name = arguments.pop("name")
    if name not in _TRANSFORMS:
        close = difflib.get_close_matches(str(name), _TRANSFORMS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(_TRANSFORMS)}"
        raise ValueError(f"from_config: unknown transform {name!r}; {hint}")
    for argument, key in arguments.pop("statistics", {}).items():
        if statistics is None or key not in statistics:
            raise ValueError(
                f"from_config: {name} needs the statistic {key!r} "
                f"(got {', '.join(statistics or {}) or 'none'})"
            )
        arguments[argument] = statistics[key]
    try:
        return _TRANSFORMS[name](**arguments)
    except TypeError as error:
        raise ValueError(f"from_config: {name}: {error}") from error


def apply_transform(transform: Callable | None, image, generator: Generator | None = None):
    """Call a transform; one that knows no generator (a plain function) is called without."""
    if transform is None:
        return image
    return transform(image, generator) if isinstance(transform, Transform) else transform(image)


def decode_size(transform: Callable | None) -> int | None:
    """What to pass as `open_image`'s ``shortest_side`` when ``transform`` follows."""
    first = transform
    if isinstance(transform, Compose) and transform.transforms:
        first = transform.transforms[0]
    size = first.size if isinstance(first, Resize) else None
    return size if isinstance(size, int) else None


def _draw(generator: Generator | None) -> float:
    return torch.rand((), generator=generator).item()


def _draw_int(high: int, generator: Generator | None) -> int:
    return int(torch.randint(high, (), generator=generator))


def _between(low: float, high: float, generator: Generator | None) -> float:
    return low + (high - low) * _draw(generator)
