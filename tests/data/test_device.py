"""Images finished on the device against the same images finished by the workers, to the bit."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from fastconv import data
from fastconv.data import EpochSampler, PackOptions, build_loader, open_dataset, pack, recipe
from fastconv.data.device import DeviceLoader, HostSteps, PixelBatch
from fastconv.data.transforms import Compose, Resize, ToTensor

SHAPE = (3, 28, 28)


@pytest.fixture
def sources(make_folder, tmp_path):
    """The same pictures as a folder, JPEG shards and raw shards: {name: root}."""
    root = make_folder(images=5)
    (root / "train" / "bee" / "2.jpg").write_bytes(b"no picture")
    pack(root, tmp_path / "jpeg", PackOptions(40, shard_images=4))
    pack(root, tmp_path / "raw", PackOptions(32, True, "raw", shard_images=4))
    return {"folder": root, "jpeg": tmp_path / "jpeg", "raw": tmp_path / "raw"}


def opened(root, train=True, shape=SHAPE, **options):
    dataset = open_dataset(root, "train")
    measured = data.compute_statistics(dataset, 32, channels=shape[0])
    dataset.transform = recipe("classic", shape, measured, train, **options)
    return dataset


def batches(dataset, on_device, *, workers=0, epoch=2, size=4, train=True, **options):
    sampler = EpochSampler(len(dataset), seed=5) if train else None
    loader = build_loader(
        dataset, sampler, size, workers=workers, device_transforms=on_device, **options
    )
    if train:
        sampler.set_epoch(epoch)
    assert isinstance(loader, DeviceLoader) == on_device
    return list(loader)


def assert_same(got, expected, dtype=torch.float32):
    assert len(got) == len(expected) > 0
    for (images, targets, skipped), (other, other_targets, other_skipped) in zip(
        got, expected, strict=True
    ):
        assert torch.equal(images, other.to(dtype)) and images.dtype == dtype
        assert images.stride() == other.stride()
        assert torch.equal(targets, other_targets) and skipped == other_skipped


@pytest.mark.parametrize("source", ["folder", "jpeg", "raw"])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"mean": "image"},
        {"mean": "color", "units": "pixels", "pca_noise": 0.0},
        {"crops": "ten", "mean": "image"},
    ],
    ids=str,
)
def test_images_are_those_of_the_workers(sources, source, train, options):
    dataset = opened(sources[source], train, **options)
    for channels_last in (False, True):
        layout = {"train": train, "channels_last": channels_last}
        expected = batches(dataset, False, **layout)
        assert_same(batches(dataset, True, **layout), expected)
        assert_same(
            batches(dataset, True, dtype=torch.bfloat16, **layout), expected, torch.bfloat16
        )
        assert any(skipped for _, _, skipped in expected) == (source == "folder")


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_workers_hand_over_bytes(sources, start_method):
    dataset = opened(sources["raw"])
    expected = batches(dataset, False)
    assert_same(batches(dataset, True, workers=2, start_method=start_method), expected)
    loader = build_loader(dataset, None, 4, device_transforms=True)
    batch, _, _ = next(iter(loader.loader))
    assert isinstance(batch, PixelBatch)
    assert batch.pixels.dtype == torch.uint8 and batch.pixels.shape == (4, *SHAPE)
    assert batch.pixels.is_contiguous(memory_format=torch.channels_last)
    assert loader.dataset is dataset and len(loader) == 4


def test_grey_images(sources):
    dataset = opened(sources["folder"], shape=(1, 28, 28))
    assert_same(batches(dataset, True), batches(dataset, False))


def test_a_batch_of_which_nothing_can_be_read(sources):
    for path in sources["folder"].glob("train/*/*.jpg"):
        good = path.read_bytes()
        path.write_bytes(b"no picture")
    path.write_bytes(good)
    dataset = open_dataset(sources["folder"], "train")
    measured = data.compute_statistics(dataset, 32)
    dataset.transform = recipe("classic", SHAPE, measured, True)
    got, expected = batches(dataset, True, size=1), batches(dataset, False, size=1)
    assert sorted(len(images) for images, _, _ in got) == [*[0] * 14, 1]
    for (images, _, skipped), (other, _, other_skipped) in zip(got, expected, strict=True):
        assert torch.equal(images, other) and skipped == other_skipped
    assert len(dataset.unreadable) == 14


def test_pipelines_that_take_more_than_a_pass_are_refused(sources):
    dataset = open_dataset(sources["folder"], "train")
    measured = data.compute_statistics(dataset, 32)
    for transform in (
        recipe("classic", SHAPE, measured, True, preprocess="contrast"),
        Compose([Resize(32), lambda image: image, ToTensor()]),
        Compose([Resize(32)]),
    ):
        assert not data.suits_device(transform)
        dataset.transform = transform
        with pytest.raises(ValueError, match="device_transforms: the pipeline must end in a mean"):
            build_loader(dataset, None, 4, device_transforms=True)
    assert data.suits_device(recipe("classic", SHAPE, measured, True))


def test_host_steps_know_what_is_left(sources):
    dataset = opened(sources["raw"])
    steps = pickle.loads(pickle.dumps(HostSteps(dataset.transform)))
    assert torch.equal(steps.mean, dataset.transform.transforms[3].mean)
    assert steps.unit == pytest.approx([dataset.transform.transforms[-1].std[0]] * 3)
    image = Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3))
    parts = steps(image, torch.Generator().manual_seed(1))
    top, left = parts.place
    assert np.array_equal(parts.pixels, np.asarray(image)[top : top + 28, left : left + 28])
