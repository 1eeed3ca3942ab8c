"""The package on real photographs: Imagenette, and every other folder beside it."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastconv.data import (
    EpochSampler,
    build_loader,
    classic_size,
    compute_statistics,
    open_dataset,
    open_image,
    recipe,
)

pytestmark = pytest.mark.data


class Every:
    """Each `step`-th sample of a dataset."""

    def __init__(self, dataset, step):
        self.dataset, self.step = dataset, step
        self.transform = dataset.transform

    def __len__(self):
        return len(self.dataset) // self.step

    def __getitem__(self, key):
        self.dataset.transform = self.transform
        if isinstance(key, tuple):
            return self.dataset[key[0] * self.step, key[1]]
        return self.dataset[key * self.step]


def test_imagenette_from_folder_to_normalised_batches(photographs):
    train = open_dataset(photographs / "imagenette", "train", strict=True)
    val = open_dataset(photographs / "imagenette", "val", strict=True, classes=train.classes)
    assert len(train.classes) == 10 and all(name.startswith("n0") for name in train.classes)
    assert (len(train), len(val)) == (9469, 3925)
    sample = Every(train, 40)
    statistics = compute_statistics(sample, classic_size((3, 224, 224)), workers=2)
    # The means of natural photographs: near (0.47, 0.45, 0.43), spread near 0.28.
    assert ((statistics["mean_color"] - torch.tensor([0.47, 0.45, 0.43])).abs() < 0.04).all()
    assert 0.24 < statistics["std"].item() < 0.32
    # Brightness is the first component: all of its entries have one sign, and it dominates.
    assert (statistics["pca_vectors"][:, 0] > 0.4).all()
    assert statistics["pca_values"][0] > 10 * statistics["pca_values"][1]

    sample.transform = recipe("classic", (3, 224, 224), statistics, True)
    sampler = EpochSampler(len(sample), seed=0)
    reference = None
    for workers in (0, 2):
        loader = build_loader(sample, sampler, 59, workers=workers, channels_last=True)
        inputs = torch.cat([images for images, _, _ in loader])
        assert inputs.shape == (236, 3, 224, 224)
        assert inputs.mean().abs() < 0.05 and abs(inputs.std() - 1) < 0.05
        reference = inputs if reference is None else reference
        assert torch.equal(inputs, reference)


@pytest.mark.parametrize("pattern", ["imagenette/val/*/*", "cifar10/test/*/*", "caltech101/*/*"])
def test_photographs_decode_as_pillow_decodes_them(photographs, pattern):
    paths = sorted(photographs.glob(pattern))[::50]
    if not paths:
        pytest.skip(f"FASTCONV_DATA holds no {pattern}")
    for path in paths:
        with Image.open(path) as expected:
            np.testing.assert_array_equal(
                np.asarray(open_image(path)), np.asarray(expected.convert("RGB")), str(path)
            )


def test_cifar_folders_are_image_folders(photographs):
    if not (photographs / "cifar10").is_dir():
        pytest.skip("FASTCONV_DATA holds no cifar10")
    train = open_dataset(photographs / "cifar10", "train")
    test = open_dataset(photographs / "cifar10", "val", classes=train.classes)
    assert (len(train), len(test)) == (50000, 10000)
    assert np.bincount(train.targets).tolist() == [5000] * 10
    assert train[0][0].size == (32, 32)
