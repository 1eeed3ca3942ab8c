"""The recipes: which steps, in which order, with which sizes."""

import json

import numpy as np
import pytest
import torch

from fastconv.data import classic_size, compute_statistics, open_dataset, recipe
from fastconv.data.transforms import from_config, to_config


def statistics(size, channels=3):
    return {
        "mean_image": torch.full((channels, size, size), 0.5),
        "mean_color": torch.full((channels,), 0.25),
        "std": torch.tensor([0.25]),
        "pca_values": torch.linspace(0.1, 0.01, channels),
        "pca_vectors": torch.eye(channels),
    }


def names(transform):
    return [type(step).__name__ for step in transform.transforms]


def test_classic_size():
    assert classic_size((3, 224, 224)) == 256
    assert classic_size((3, 32, 32)) == 37
    with pytest.raises(ValueError, match=r"square input \(got 32x64\)"):
        classic_size((3, 32, 64))


def test_the_steps_of_classic():
    common = ["Resize", "CenterCrop", "ToTensor", "SubtractMean"]
    train = recipe("classic", (3, 224, 224), statistics(256), True)
    assert names(train) == [*common, "RandomCrop", "RandomHorizontalFlip", "PCANoise", "Normalize"]
    assert train.transforms[0].size == 256 and train.transforms[4].size == (224, 224)
    evaluate = recipe("classic", (3, 224, 224), statistics(256), False)
    assert names(evaluate) == [*common, "CenterCrop", "Normalize"]
    assert names(recipe("classic", (1, 32, 32), statistics(37, 1), False))[0] == "Grayscale"
    without = recipe("classic", (3, 224, 224), statistics(256), True, pca_noise=0)
    assert "PCANoise" not in names(without)


def test_zfnets_crops_are_ten():
    train = recipe("classic", (3, 224, 224), statistics(256), True, crops="ten", pca_noise=0)
    assert names(train)[3:] == ["SubtractMean", "RandomTenCrop", "Normalize"]
    evaluate = recipe("classic", (3, 224, 224), statistics(256), False, crops="ten")
    assert "CenterCrop" in names(evaluate)[4:] and "RandomTenCrop" not in names(evaluate)


@pytest.mark.parametrize(("preprocess", "step"), [("zca", "Whiten"), ("contrast", "LocalContrast")])
def test_preprocessing_stands_between_the_mean_and_the_crop(preprocess, step):
    measured = {**statistics(9), "zca_matrix": torch.eye(243)}
    train = recipe("classic", (3, 8, 8), measured, True, preprocess=preprocess)
    flips = ["RandomCrop", "RandomHorizontalFlip", "Normalize"]
    assert names(train)[3:] == ["SubtractMean", "PCANoise", step, *flips]
    evaluate = recipe("classic", (3, 8, 8), measured, False, preprocess=preprocess)
    assert names(evaluate)[3:] == ["SubtractMean", step, "CenterCrop", "Normalize"]
    assert evaluate.transforms[-1].std == [1.0]
    grey = recipe("classic", (3, 8, 8), measured, False, preprocess=preprocess, units="pixels")
    assert grey.transforms[-1].std == pytest.approx([1 / (255 * 0.25)])


def test_whitened_data_are_hardly_correlated(make_folder):
    """The whole way. More images than values, so that every direction is measured."""
    dataset = open_dataset(make_folder(images=60), "train")
    measured = compute_statistics(dataset, 6, whiten=True)
    correlations = []
    for preprocess in ("none", "zca"):
        dataset.transform = recipe("plain", (3, 6, 6), measured, True, preprocess=preprocess)
        inputs = torch.stack([image for image, _ in dataset]).flatten(1).double()
        assert inputs.shape == (180, 108) and inputs.mean().abs() < 1e-3
        correlations.append((torch.corrcoef(inputs.T) - torch.eye(108)).square().mean())
    assert inputs.var(0).max() < 1.01  # at most 1: the weak directions are raised less
    assert correlations[1] < 0.3 * correlations[0]


@pytest.mark.parametrize(
    ("mean", "units", "value"),
    [("image", "std", 2.0), ("color", "std", 3.0), ("image", "pixels", 127.5)],
)
def test_evaluation_subtracts_the_mean_and_divides_by_the_unit(make_picture, mean, units, value):
    white = make_picture(50, 70).point(lambda v: 255)
    transform = recipe("classic", (3, 32, 32), statistics(37), False, mean=mean, units=units)
    result = transform(white)
    assert result.shape == (3, 32, 32)
    torch.testing.assert_close(result, torch.full_like(result, value), rtol=1e-6, atol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_inputs_have_mean_0_and_spread_1(make_folder, channels):
    dataset = open_dataset(make_folder(images=20), "train")
    shape = (channels, 28, 28)
    measured = compute_statistics(dataset, classic_size(shape), channels=channels)
    dataset.transform = recipe("classic", shape, measured, False)
    inputs = torch.stack([image for image, _ in dataset])
    assert inputs.shape == (60, *shape)
    assert inputs.mean().abs() < 0.05
    # The spread is measured around the mean colour; the mean image takes 1/60 of it away.
    assert abs(inputs.std() - 1) < 0.05


@pytest.mark.parametrize("train", [True, False])
def test_plain_is_pixels_minus_mean_over_spread(make_picture, train):
    measured = statistics(32)
    image = make_picture(32, 32)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    expected = (pixels - measured["mean_image"]) / measured["std"]
    got = recipe("plain", (3, 32, 32), measured, train)(image)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("train", [True, False])
def test_a_recipe_survives_json(make_picture, train):
    measured = statistics(37)
    one = recipe("classic", (3, 32, 32), measured, train)
    two = from_config(json.loads(json.dumps(to_config(one))), measured)
    image = make_picture()
    g = torch.Generator()
    assert torch.equal(one(image, g.manual_seed(1)), two(image, g.manual_seed(1)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("modern", (3, 8, 8)), "unknown recipe 'modern'; known: classic, plain, digits"),
        (("digits", (3, 8, 8)), r"digits has 1 channel \(got input_size=\(3, 8, 8\)\)"),
        (("classic", (2, 8, 8)), r"1 or 3 channels \(got input_size=\(2, 8, 8\)\)"),
        (("classic", (3, 8, 9)), r"square input \(got 8x9\)"),
        (("classic", (3, 8, 8)), r"needs the statistic 'mean_image' \(got none\)"),
        (("classic", (3, 8, 8), {"mean_image": torch.zeros(3, 9, 9)}), r"'std' \(got mean_image\)"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        recipe(*arguments)


def test_an_unknown_choice_is_refused():
    with pytest.raises(ValueError, match=r"mean must be image or color \(got 'grey'\)"):
        recipe("classic", (3, 8, 8), statistics(9), mean="grey")
    with pytest.raises(ValueError, match=r"units must be std or pixels \(got 'metres'\)"):
        recipe("classic", (3, 8, 8), statistics(9), units="metres")
    with pytest.raises(ValueError, match=r"crops must be random or ten \(got 'five'\)"):
        recipe("classic", (3, 8, 8), statistics(9), crops="five")
    with pytest.raises(ValueError, match=r"preprocess must be none or zca or contrast"):
        recipe("classic", (3, 8, 8), statistics(9), preprocess="pca")
    with pytest.raises(ValueError, match=r"the mean image leaves \(got mean='color'\)"):
        recipe("classic", (3, 8, 8), statistics(9), preprocess="zca", mean="color")
