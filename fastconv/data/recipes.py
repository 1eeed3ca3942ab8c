"""The standard pipelines from an image to a network's input."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fastconv.data.transforms import (
    CenterCrop,
    Compose,
    Grayscale,
    Normalize,
    PCANoise,
    RandomCrop,
    RandomHorizontalFlip,
    Resize,
    SubtractMean,
    ToTensor,
    Transform,
)

RECIPES = ("classic", "digits")


def classic_size(input_size: tuple[int, int, int]) -> int:
    """S, the side of the square that the classic recipe crops from: 256 for an input of 224."""
    _, height, width = input_size
    if height != width:
        raise ValueError(f"the classic recipe needs a square input (got {height}x{width})")
    return round(height * 256 / 224)


def recipe(
    name: str,
    input_size: tuple[int, int, int],
    statistics: Mapping[str, Tensor] | None = None,
    train: bool = False,
    *,
    mean: str = "image",
    units: str = "std",
    pca_noise: float = 0.1,
) -> Transform:
    """Build the pipeline of a recipe, for training or for evaluation.

    ``"classic"`` is AlexNet's and ZFNet's (Krizhevsky, Sutskever & Hinton, NIPS 2012, sections 2
    and 4.1; Zeiler & Fergus, 2013, section 3): shortest side to S, centre SxS, minus the mean;
    in training a random crop, a flip and colour noise, in evaluation the centre crop. The values
    are at last put into ``units``.

    ``"digits"`` is one channel, resized to the input size, with values in [0, 1].

    Args:
        name: "classic" or "digits".
        input_size: (C, H, W) of the network. C is 3, or 1 for luminance.
        statistics: what `compute_statistics` gave for S = `classic_size(input_size)` and C
            channels; for "classic" only.
        train: with the random steps.
        mean: subtract the mean "image" or the mean "color".
        units: "std" divides by the standard deviation of all of the data's values, one number, so
            that the inputs have a spread of 1 whatever the data; "pixels" leaves grey levels, 255
            from black to white, a spread of about 70, which is what the papers' nets are fed and
            their initial weights of 0.01 are made for.
        pca_noise: sigma of `PCANoise`; 0 leaves it out.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe: unknown recipe {name!r}; known: {', '.join(RECIPES)}")
    channels, height, width = input_size
    if name == "digits":
        if channels != 1:
            raise ValueError(f"recipe: digits has 1 channel (got input_size={input_size})")
        return Compose([Grayscale(), Resize((height, width)), ToTensor()])
    if channels not in (1, 3):
        raise ValueError(f"recipe: classic has 1 or 3 channels (got input_size={input_size})")
    if mean not in ("image", "color"):
        raise ValueError(f"recipe: mean must be image or color (got {mean!r})")
    if units not in ("std", "pixels"):
        raise ValueError(f"recipe: units must be std or pixels (got {units!r})")
    size = classic_size(input_size)
    steps = [Grayscale()] if channels == 1 else []
    steps += [Resize(size), CenterCrop(size), ToTensor()]
    steps += [SubtractMean(_statistic(statistics, f"mean_{mean}"))]
    if train:
        steps += [RandomCrop((height, width)), RandomHorizontalFlip()]
        if pca_noise:
            values, vectors = (_statistic(statistics, f"pca_{k}") for k in ("values", "vectors"))
            steps += [PCANoise(values, vectors, pca_noise)]
    else:
        steps += [CenterCrop((height, width))]
    unit = _statistic(statistics, "std") if units == "std" else 1 / 255
    return Compose([*steps, Normalize(0, unit)])


def _statistic(statistics: Mapping[str, Tensor] | None, key: str) -> Tensor:
    if key not in (statistics or {}):
        raise ValueError(
            f"recipe: classic needs the statistic {key!r} "
            f"(got {', '.join(statistics or {}) or 'none'})"
        )
    return statistics[key]
