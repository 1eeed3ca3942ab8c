"""scikit-learn's digits: two fixed splits that share nothing and make up the whole."""

import sys

import numpy as np
import pytest
import torch

from fastconv.data import DatasetError, open_dataset, recipe

sklearn_datasets = pytest.importorskip("sklearn.datasets")


def test_the_two_splits_make_up_the_data_and_share_no_sample():
    train, val = open_dataset(None, "train"), open_dataset(None, "val")
    assert (len(train), len(val)) == (1433, 364)
    whole = sklearn_datasets.load_digits()
    expected = np.concatenate([whole.data / 16, whole.target[:, None]], axis=1)
    got = [[*image.flatten().tolist(), target] for part in (train, val) for image, target in part]
    np.testing.assert_array_equal(
        expected[np.lexsort(expected.T)], np.array(got)[np.lexsort(np.array(got).T)]
    )


def test_every_class_has_its_share():
    train, val = open_dataset(None, "train"), open_dataset(None, "val")
    total = np.bincount(train.targets) + np.bincount(val.targets)
    assert np.abs(np.bincount(val.targets) - total / 5).max() < 1


def test_samples_are_tensors_in_0_to_1():
    train = open_dataset(None, "train")
    image, target = train[3]
    assert image.shape == (1, 8, 8) and image.dtype == torch.float32
    images = torch.stack([image for image, _ in train])
    assert (images.min(), images.max()) == (0, 1)
    assert target == train.targets[3]
    assert train.classes == list("0123456789")
    assert torch.equal(train[3, 17][0], image)
    with pytest.raises(IndexError, match="index 1433 is out of range for 1433 samples"):
        train[1433]


def test_the_recipe_gives_the_same_and_resizes_for_larger_networks():
    plain = open_dataset(None, "val")
    for train in (True, False):
        transform = recipe("digits", (1, 8, 8), train=train)
        assert torch.equal(open_dataset(None, "val", transform=transform)[0][0], plain[0][0])
    large = open_dataset(None, "val", transform=recipe("digits", (1, 24, 24)))[0][0]
    assert large.shape == (1, 24, 24)


def test_other_classes_are_refused():
    assert len(open_dataset(None, "val", classes=list("0123456789"))) == 364
    with pytest.raises(DatasetError, match=r"the digits' classes are 0, 1, .* the run's are cat"):
        open_dataset(None, "val", classes=["cat"])


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r'pip install "fastconv\[train\]"'):
        open_dataset(None, "train")
