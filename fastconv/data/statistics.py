"""What a recipe must know of the data: mean image, colours, spread, and how to whiten it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fastconv.data.folder import DatasetError
from fastconv.data.loading import build_loader
from fastconv.data.transforms import CenterCrop, Compose, Grayscale, Resize

_MOST_WHITENED = 5000  # values of an image; the classic recipe for 3x32x32 has 3x37x37 = 4,107


def compute_statistics(
    dataset,
    size: int,
    progress: Callable[[int, int], None] | None = None,
    *,
    channels: int = 3,
    workers: int = 0,
    whiten: bool = False,
) -> dict[str, Tensor]:
    """Go through a dataset once and measure it.

    Every image is resized to a shortest side of ``size`` and cut to its centre, without the
    dataset's own transform. The sums are exact integers, so neither order nor the number of workers
    changes a bit of the result. Unreadable images are left out, or raise if the dataset is strict.

    Args:
        dataset: a dataset of this package whose images have 8 bits.
        size: S, in pixels.
        progress: called as ``progress(done, total)`` now and then, in images.
        channels: 3, or 1 to measure luminance.
        workers: processes that decode.
        whiten: measure all covariances too, for ZCA whitening: C * S * S of at most 5000 values.

    Returns:
        float32 tensors for pixels in [0, 1]: ``mean_image`` (C, S, S); ``mean_color`` (C,);
        ``std`` (1,), the root mean square deviation of all values from the mean colour;
        ``pca_values`` (C,), eigenvalues of the covariance of the colours, falling; ``pca_vectors``
        (C, C), one unit eigenvector a column, its largest entry positive. With ``whiten``,
        ``zca_matrix`` (D, D), D = C * S * S: see `zca_matrix`.

    Raises:
        DatasetError: not one image could be read.
        ValueError: images too large to whiten.
    """
    if channels not in (1, 3):
        raise ValueError(f"compute_statistics: channels must be 1 or 3 (got {channels})")
    if whiten:
        _check_whitening(channels, size)
    dataset = copy.copy(dataset)
    dataset.transform = Compose(
        [*([Grayscale()] if channels == 1 else []), Resize(size), CenterCrop(size), _to_bytes]
    )
    sums = _Sums(channels, size, whiten)
    done = 0
    for images, _, skipped in build_loader(dataset, None, 32, workers=workers):
        if len(images):
            sums.add(images)
        done += len(images) + skipped
        if progress is not None:
            progress(done, len(dataset))
    if not sums.count:
        raise DatasetError(f"{dataset!r}: no image could be read, so there is nothing to measure")
    return sums.statistics()


def principal_components(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, falling, and unit eigenvectors as columns, the largest entry positive."""
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
    largest = np.abs(vectors).argmax(axis=0)
    return values, vectors * np.sign(vectors[largest, range(len(values))])


def zca_matrix(covariance: np.ndarray, epsilon: float = 0.01) -> np.ndarray:
    """V diag((l + e)^-1/2) V^T for a covariance V diag(l) V^T, (D, D).

    Args:
        epsilon: e as a share of the mean of l. Directions in which the data vary less than that,
            the finest of photographs, are mostly noise and are raised less.
    """
    values, vectors = np.linalg.eigh(covariance)
    values = values.clip(min=0)
    scale = (values + epsilon * values.mean()) ** -0.5
    return (vectors * scale) @ vectors.T


def _check_whitening(channels: int, size: int) -> None:
    values = channels * size**2
    if values > _MOST_WHITENED:
        gigabytes, operations = 4e-9 * values**2, values**3 / 1e12
        raise ValueError(
            f"zca whitening: an image must have at most {_MOST_WHITENED:,} values (got {values:,} "
            f"for {channels}x{size}x{size}): its matrix would take {gigabytes:,.1f} GB, and "
            f"{operations:,.0f} times 10^12 operations to find"
        )


class _Sums:
    def __init__(self, channels: int, size: int, whiten: bool = False):
        self.channels = channels
        self.size = size
        self.count = 0
        self.image = np.zeros((channels, size, size), np.int64)
        self.products = np.zeros((channels, channels), np.int64)
        values = channels * size**2
        self.pairs = np.zeros((values, values)) if whiten else None

    def add(self, images: Tensor) -> None:
        """Add uint8 images (N, C, S, S)."""
        self.count += len(images)
        self.image += images.numpy().sum(axis=0, dtype=np.uint32)
        for image in images:
            # float64 holds these integers exactly, and its dot product outruns a thin matmul.
            # torch's, not numpy's: it keeps to the number of threads that the user asked for.
            planes = image.reshape(self.channels, -1).double()
            products = [[torch.dot(one, other).item() for other in planes] for one in planes]
            self.products += np.array(products).astype(np.int64)
        if self.pairs is not None:
            # Exact: 32 products of bytes are below 2^24, and their sums over the data below 2^53.
            flat = images.flatten(1).float()
            self.pairs += (flat.T @ flat).numpy()

    def statistics(self) -> dict[str, Tensor]:
        pixels = self.count * self.size**2
        mean_color = self.image.sum(axis=(1, 2)) / pixels
        covariance = self.products / pixels - np.outer(mean_color, mean_color)
        values, vectors = principal_components(covariance / 255**2)
        results = {
            "mean_image": self.image / (255 * self.count),
            "mean_color": mean_color / 255,
            "std": np.array([np.sqrt(np.trace(covariance) / self.channels) / 255]),
            "pca_values": values,
            "pca_vectors": vectors,
        }
        if self.pairs is not None:
            mean = self.image.ravel() / self.count
            covariance = (self.pairs / self.count - np.outer(mean, mean)) / 255**2
            results["zca_matrix"] = zca_matrix(covariance)
        return {
            name: torch.tensor(np.ascontiguousarray(value), dtype=torch.float32)
            for name, value in results.items()
        }


def _to_bytes(image) -> Tensor:
    """Pillow image to a uint8 tensor (C, H, W)."""
    if image.mode not in ("RGB", "L"):
        raise TypeError(f"compute_statistics: images must have 8 bits (got mode {image.mode})")
    pixels = np.array(image)
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)
