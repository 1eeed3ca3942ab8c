"""Sampler, keys, batches, and workers: the same samples in every way of loading them."""

import itertools

import pytest
import torch

from fastconv.data import EpochSampler, ImageError, build_loader, collate, open_dataset, recipe
from fastconv.data.loading import mix
from fastconv.data.transforms import Compose, PCANoise, RandomCrop, RandomHorizontalFlip, ToTensor

RANDOM = Compose(
    [
        RandomCrop(24),
        RandomHorizontalFlip(),
        ToTensor(),
        PCANoise(torch.tensor([0.2, 0.1, 0.05]), torch.eye(3)),
    ]
)


class ThreadCount(torch.utils.data.Dataset):
    """Tells how many threads the process that loads it uses."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return torch.full((1, 1, 1), torch.get_num_threads()), index


def keys(sampler, epoch, start=0):
    sampler.set_epoch(epoch, start)
    return list(sampler)


def test_each_epoch_is_a_permutation_and_each_another():
    sampler = EpochSampler(100, seed=3)
    epochs = [[index for index, _ in keys(sampler, epoch)] for epoch in range(5)]
    for order in epochs:
        assert sorted(order) == list(range(100))
    for one, two in itertools.combinations(epochs, 2):
        assert one != two
    assert [i for i, _ in keys(EpochSampler(9, seed=3, shuffle=False), 2)] == list(range(9))


def test_order_and_seeds_depend_on_seed_and_epoch_only():
    torch.manual_seed(0)
    first = keys(EpochSampler(50, seed=1), 4)
    torch.manual_seed(1)
    sampler = EpochSampler(50, seed=1)
    keys(sampler, 2)
    assert keys(sampler, 4) == first
    assert keys(EpochSampler(50, seed=2), 4) != first
    state = torch.get_rng_state()
    list(sampler)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("shuffle", [True, False])
def test_start_leaves_out_exactly_the_first_samples(shuffle):
    sampler = EpochSampler(50, seed=1, shuffle=shuffle)
    whole = keys(sampler, 7)
    for start in (0, 1, 32, 49, 50):
        assert keys(sampler, 7, start) == whole[start:]
        assert len(sampler) == 50 - start
    assert keys(sampler, 8) == keys(sampler, 8, 0), "start does not outlast its epoch"


def test_a_samples_seed_does_not_depend_on_its_place():
    shuffled = EpochSampler(50, seed=1)
    assert sorted(keys(shuffled, 3)) == keys(EpochSampler(50, seed=1, shuffle=False), 3)
    seeds = [seed for epoch in range(50) for _, seed in keys(shuffled, epoch)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_mix_is_splitmix64():
    # First outputs of the generator seeded with 0 and 1234567, from its reference implementation;
    # a chain of one value is one output.
    assert mix(0) == 0xE220A8397B1DCDAF >> 1
    assert mix(1234567) == 6457827717110365317 >> 1
    assert mix(1, 2) != mix(2, 1)
    assert mix(-1) == mix(2**64 - 1)


def test_sampler_errors():
    with pytest.raises(ValueError, match=r"length must be at least 0 \(got -1\)"):
        EpochSampler(-1, seed=0)
    with pytest.raises(ValueError, match=r"between 0 and the length 5 \(got 6\)"):
        EpochSampler(5, seed=0).set_epoch(0, start=6)


def test_collate_leaves_out_what_could_not_be_read():
    one, two = torch.rand(2, 3, 4, 5)
    for channels_last in (False, True):
        images, targets, skipped = collate([(one, 7), None, (two, 8)], channels_last=channels_last)
        assert torch.equal(images, torch.stack([one, two]))
        assert targets.tolist() == [7, 8] and targets.dtype == torch.int64
        assert skipped == 1
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        assert images.is_contiguous(memory_format=memory_format)
    images, targets, skipped = collate([None, None])
    assert (images.shape, targets.shape, skipped) == ((0,), (0,), 2)


def batches(dataset, sampler, **options):
    return [
        (images.clone(), targets.clone(), skipped)
        for images, targets, skipped in build_loader(dataset, sampler, 5, **options)
    ]


def assert_same(one, two):
    assert len(one) == len(two)
    for (images, targets, skipped), (other_images, other_targets, other_skipped) in zip(
        one, two, strict=True
    ):
        assert torch.equal(images, other_images)
        assert torch.equal(targets, other_targets)
        assert skipped == other_skipped


@pytest.mark.parametrize(
    ("start_method", "channels_last"), [("fork", False), ("fork", True), ("spawn", True)]
)
def test_workers_change_nothing(make_folder, start_method, channels_last):
    root = make_folder()
    (root / "train" / "bee" / "1.jpg").write_bytes(b"gone")
    expected = None
    for workers in (0, 1, 2):
        dataset = open_dataset(root, "train", transform=RANDOM)
        sampler = EpochSampler(len(dataset), seed=5)
        sampler.set_epoch(1)
        got = batches(
            dataset,
            sampler,
            workers=workers,
            channels_last=channels_last,
            start_method=start_method,
        )
        assert sum(skipped for _, _, skipped in got) == 1
        assert sum(len(targets) for _, targets, _ in got) == 11
        assert [p.name for p in dataset.unreadable] == ["1.jpg"], "known here, found in a worker"
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        assert all(images.is_contiguous(memory_format=memory_format) for images, _, _ in got)
        expected = got if expected is None else expected
        assert_same(got, expected)


def test_epochs_differ_and_living_workers_follow_the_sampler(make_folder):
    dataset = open_dataset(make_folder(), "train", transform=RANDOM)
    results = []
    for workers in (0, 2):
        sampler = EpochSampler(len(dataset), seed=5)
        loader = build_loader(dataset, sampler, 5, workers=workers)
        for epoch in (0, 1):
            sampler.set_epoch(epoch)
            results.append(torch.cat([images.clone() for images, _, _ in loader]))
    assert torch.equal(results[0], results[2]) and torch.equal(results[1], results[3])
    assert not torch.equal(results[0].sort(0)[0], results[1].sort(0)[0])


def test_a_resumed_epoch_gives_the_batches_that_were_left(make_folder):
    dataset = open_dataset(make_folder(), "train", transform=RANDOM)
    sampler = EpochSampler(len(dataset), seed=5)
    sampler.set_epoch(2)
    whole = batches(dataset, sampler)
    sampler = EpochSampler(len(dataset), seed=5)
    sampler.set_epoch(2, start=5)
    assert_same(batches(dataset, sampler, workers=1), whole[1:])


def test_the_loader_leaves_the_default_generator_alone(make_folder):
    dataset = open_dataset(make_folder(), "train", transform=RANDOM)
    state = torch.get_rng_state()
    for workers in (0, 1):
        batches(dataset, EpochSampler(len(dataset), seed=5), workers=workers)
    assert torch.equal(torch.get_rng_state(), state)


def test_without_a_sampler_the_order_is_the_datasets():
    dataset = open_dataset(None, "val", transform=recipe("digits", (1, 8, 8)))
    loader = build_loader(dataset, None, 50)
    assert torch.cat([targets for _, targets, _ in loader]).tolist() == dataset.targets
    assert len(loader) == 8
    assert len(build_loader(dataset, None, 50, drop_last=True)) == 7


def test_workers_use_one_thread():
    for start_method in ("fork", "spawn"):
        loader = build_loader(ThreadCount(), None, 2, workers=1, start_method=start_method)
        assert next(iter(loader))[0].flatten().tolist() == [1, 1]


def test_strict_errors_come_out_of_workers_as_image_errors(make_folder):
    root = make_folder()
    (root / "train" / "bee" / "1.jpg").write_bytes(b"gone")
    dataset = open_dataset(root, "train", transform=RANDOM, strict=True)
    for workers in (0, 1):
        with pytest.raises(ImageError, match=r"1\.jpg: not an image"):
            batches(dataset, None, workers=workers)


def test_memory_is_pinned_for_cuda_devices_only():
    dataset = open_dataset(None, "val")
    assert build_loader(dataset, None, 8, device="cuda").pin_memory
    assert build_loader(dataset, None, 8, device=torch.device("cuda", 0)).pin_memory
    assert not build_loader(dataset, None, 8, device="cpu").pin_memory
    assert not build_loader(dataset, None, 8).pin_memory


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("workers", [0, 1])
def test_pinned_batches_keep_their_memory_format(make_folder, workers):
    dataset = open_dataset(make_folder(), "train", transform=RANDOM)
    loader = build_loader(dataset, None, 4, device="cuda", channels_last=True, workers=workers)
    for images, targets, skipped in loader:
        assert images.is_pinned() and targets.is_pinned() and skipped == 0
        assert images.is_contiguous(memory_format=torch.channels_last)
