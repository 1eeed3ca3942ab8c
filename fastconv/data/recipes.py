"""The standard pipelines from an image to a network's input."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fastconv.data.transforms import (
    CenterCrop,
    Compose,
    Grayscale,
    LocalContrast,
    Normalize,
    PCANoise,
    RandomCrop,
    RandomHorizontalFlip,
    RandomTenCrop,
    Resize,
    SubtractMean,
    ToTensor,
    Transform,
    Whiten,
)

RECIPES = ("classic", "plain", "digits")
CROPS = ("random", "ten")
PREPROCESSES = ("none", "zca", "contrast")


def classic_size(input_size: tuple[int, int, int]) -> int:
    """S, the side of the square that the classic recipe crops from: 256 for an input of 224."""
    _, height, width = input_size
    if height != width:
        raise ValueError(f"the classic recipe needs a square input (got {height}x{width})")
    return round(height * 256 / 224)


def recipe_size(name: str, input_size: tuple[int, int, int]) -> int:
    """S, the side of the square of which a recipe subtracts the mean image."""
    _, height, width = input_size
    if height != width:
        raise ValueError(f"recipe: {name} needs a square input (got {height}x{width})")
    return classic_size(input_size) if name == "classic" else height


def recipe(
    name: str,
    input_size: tuple[int, int, int],
    statistics: Mapping[str, Tensor] | None = None,
    train: bool = False,
    *,
    mean: str = "image",
    units: str = "std",
    pca_noise: float = 0.1,
    crops: str = "random",
    preprocess: str = "none",
) -> Transform:
    """Build the pipeline of a recipe, for training or for evaluation.

    ``"classic"`` is AlexNet's and ZFNet's (Krizhevsky, Sutskever & Hinton, NIPS 2012, sections 2
    and 4.1; Zeiler & Fergus, 2013, section 3): shortest side to S, centre SxS, minus the mean;
    in training a random crop, a flip and colour noise, in evaluation the centre crop. The values
    are at last put into ``units``.

    ``"plain"`` is for small images such as CIFAR's, as in Zeiler & Fergus (ICLR 2013): resized to
    the input size and cut to its centre, minus the mean, nothing random.

    ``"digits"`` is one channel, resized to the input size, with values in [0, 1].

    Args:
        name: "classic", "plain" or "digits".
        input_size: (C, H, W) of the network. C is 3, or 1 for luminance.
        statistics: what `compute_statistics` gave for S = `recipe_size(name, input_size)` and C
            channels; not for "digits".
        train: with the random steps.
        mean: subtract the mean "image" or the mean "color".
        units: "std" divides by the standard deviation of all of the data's values, one number, so
            that the inputs have a spread of 1 whatever the data; "pixels" leaves grey levels, 255
            from black to white, a spread of about 70, which is what the papers' nets are fed and
            their initial weights of 0.01 are made for.
        pca_noise: sigma of `PCANoise` under "classic"; 0 leaves it out.
        crops: where "classic" crops in training: "random" places and flips (Krizhevsky), or one of
            "ten", corners and centre, mirrored or not (Zeiler & Fergus).
        preprocess: what follows the mean, before the crop: "zca", `Whiten` with the statistic
            ``zca_matrix`` (small images only); "contrast", `LocalContrast`. Both give values with a
            spread of at most about 1; under "pixels" it is stretched to the grey levels'.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe: unknown recipe {name!r}; known: {', '.join(RECIPES)}")
    channels, height, width = input_size
    if name == "digits":
        if channels != 1:
            raise ValueError(f"recipe: digits has 1 channel (got input_size={input_size})")
        return Compose([Grayscale(), Resize((height, width)), ToTensor()])
    if channels not in (1, 3):
        raise ValueError(f"recipe: {name} has 1 or 3 channels (got input_size={input_size})")
    if mean not in ("image", "color"):
        raise ValueError(f"recipe: mean must be image or color (got {mean!r})")
    if units not in ("std", "pixels"):
        raise ValueError(f"recipe: units must be std or pixels (got {units!r})")
    for option, value, known in (
        ("crops", crops, CROPS),
        ("preprocess", preprocess, PREPROCESSES),
    ):
        if value not in known:
            raise ValueError(f"recipe: {option} must be {' or '.join(known)} (got {value!r})")
    if preprocess == "zca" and mean != "image":
        raise ValueError(f"recipe: zca whitens what the mean image leaves (got mean={mean!r})")
    size = recipe_size(name, input_size)
    steps: list[Transform] = [Grayscale()] if channels == 1 else []
    steps += [Resize(size), CenterCrop(size), ToTensor()]
    steps += [SubtractMean(_statistic(statistics, f"mean_{mean}"))]
    noise: list[Transform] = []
    window: list[Transform] = []
    if name == "classic" and train:
        window = [RandomCrop((height, width)), RandomHorizontalFlip()]
        if crops == "ten":
            window = [RandomTenCrop((height, width))]
        if pca_noise:
            values, vectors = (_statistic(statistics, f"pca_{k}") for k in ("values", "vectors"))
            noise = [PCANoise(values, vectors, pca_noise)]
    elif name == "classic":
        window = [CenterCrop((height, width))]
    if preprocess == "none":
        unit = _statistic(statistics, "std") if units == "std" else 1 / 255
        return Compose([*steps, *window, *noise, Normalize(0, unit)])
    zca = preprocess == "zca"
    step = Whiten(_statistic(statistics, "zca_matrix")) if zca else LocalContrast()
    # The noise is one of colours, which there are none of behind these steps.
    unit = 1.0 if units == "std" else 1 / (255 * _statistic(statistics, "std"))
    return Compose([*steps, *noise, step, *window, Normalize(0, unit)])


def _statistic(statistics: Mapping[str, Tensor] | None, key: str) -> Tensor:
    if statistics is None or key not in statistics:
        raise ValueError(
            f"recipe: it needs the statistic {key!r} (got {', '.join(statistics or {}) or 'none'})"
        )
    return statistics[key]
