"""From datasets to batches: which sample comes when, and how worker processes hand it over.

A training sample is asked for by the key ``(index, seed)``. The seed is a pure function of the
run's seed, the epoch and the index, and a transform draws from a generator of that seed alone.
So a sample is the same whatever process loads it, in whatever order, and after every resume.
"""

from __future__ import annotations

import operator
import signal
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils.data import BatchSampler, DataLoader, Sampler, SequentialSampler, default_collate

from fastconv.data._picture import Parts
from fastconv.data.device import DeviceLoader, PixelBatch

_MASK = (1 << 64) - 1


class EpochSampler(Sampler):
    """Gives the keys ``(index, seed)`` of one epoch: every index once, shuffled anew each epoch.

    Args:
        length: number of samples.
        seed: the run's seed. Order and sample seeds depend on it and on the epoch only.
        shuffle: False keeps the order of the dataset.
    """

    def __init__(self, length: int, *, seed: int, shuffle: bool = True):
        if length < 0:
            raise ValueError(f"EpochSampler: length must be at least 0 (got {length})")
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch, and how many of its first samples to leave out (to resume in it)."""
        if not 0 <= start <= self.length:
            raise ValueError(
                f"EpochSampler: start must be between 0 and the length {self.length} (got {start})"
            )
        self.epoch = epoch
        self.start = start

    def __len__(self) -> int:
        return self.length - self.start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch_seed = mix(self.seed, self.epoch)
        if self.shuffle:
            generator = Generator().manual_seed(epoch_seed)
            order = torch.randperm(self.length, generator=generator)[self.start :].tolist()
        else:
            order = range(self.start, self.length)
        for index in order:
            yield index, mix(epoch_seed, index)


class BatchParts(Sampler):
    """Of each batch of keys the part that one of several processes computes.

    The parts are neighbouring slices, in the order of the processes; their sizes differ by one at
    most, and a batch of fewer keys than processes leaves some with none.

    Args:
        batches: gives lists of keys.
        rank: number of this process.
        size: number of processes.
    """

    def __init__(self, batches: BatchSampler, rank: int = 0, size: int = 1):
        if not 0 <= rank < size:
            raise ValueError(f"BatchParts: rank must be from 0 to size - 1 (got {rank} of {size})")
        self.batches, self.rank, self.size = batches, rank, size

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list]:
        for keys in self.batches:
            ends = [len(keys) * rank // self.size for rank in (self.rank, self.rank + 1)]
            yield keys[slice(*ends)]


def mix(*values: int) -> int:
    """Hash integers to 63 bits: SplitMix64 (Steele, Lea & Flood 2014), chained over the values."""
    state = 0
    for value in values:
        state = ((state ^ value) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def sample_key(key: int | tuple[int, int], length: int) -> tuple[int, Generator | None]:
    """Index and generator of a dataset's key; the index as in a list of ``length``."""
    index, seed = key if isinstance(key, tuple) else (key, None)
    index = operator.index(index)
    if not -length <= index < length:
        raise IndexError(f"index {index} is out of range for {length} samples")
    return index % length, None if seed is None else Generator().manual_seed(seed)


def collate(
    samples: list, *, channels_last: bool = False
) -> tuple[Tensor | PixelBatch, Tensor, int]:
    """Stack samples ``(tensor (C, H, W), target)`` into a batch, leaving out those that are None.

    Returns:
        images (N, C, H, W), in the memory format asked for; targets (N,), int64; and the number of
        samples left out. Where all were left out, images has the shape (0,). Of images that want
        their last pass (`DeviceLoader`) a `PixelBatch`.
    """
    read = [sample for sample in samples if sample is not None]
    skipped = len(samples) - len(read)
    targets = torch.tensor([target for _, target in read], dtype=torch.int64)
    if not read:
        return torch.empty(0), targets, skipped
    if isinstance(read[0][0], Parts):
        return PixelBatch.of([image for image, _ in read]), targets, skipped
    # default_collate stacks straight into shared memory when it runs in a worker.
    if channels_last:
        images = default_collate([image.permute(1, 2, 0) for image, _ in read]).permute(0, 3, 1, 2)
    else:
        images = default_collate([image for image, _ in read])
    return images, targets, skipped


class _Loader(DataLoader):
    """Tells of a lost worker as torch does, also where it ended while it handed a batch over."""

    def __iter__(self) -> Any:  # an iterator of batches
        batches = super().__iter__()
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (ConnectionResetError, ConnectionRefusedError, EOFError) as error:
                raise RuntimeError("DataLoader worker (pid unknown) is lost") from error
            yield batch


def is_lost_worker(error: Exception) -> bool:
    """Whether this is what torch raises, wherever the main thread is, when a worker was ended."""
    return isinstance(error, RuntimeError) and "DataLoader worker (pid" in str(error)


LOST_WORKER = (
    "a process that reads images was ended from outside, perhaps because memory was short; fewer "
    "--workers need less"
)


def build_loader(
    dataset,
    sampler: Sampler | None,
    batch_size: int,
    *,
    workers: int = 0,
    drop_last: bool = False,
    device: torch.device | str | None = None,
    channels_last: bool = False,
    start_method: str | None = None,
    rank: int = 0,
    processes: int = 1,
    device_transforms: bool = False,
    dtype: torch.dtype = torch.float32,
) -> DataLoader | DeviceLoader:
    """A DataLoader of batches ``(images, targets, skipped)``, see `collate`.

    Args:
        dataset: any dataset of this package.
        sampler: an `EpochSampler`; None goes through the dataset in order with plain indices.
        batch_size: samples a batch, before unreadable ones are left out.
        workers: processes that load, one thread each; 0 loads in this process. They live on from
            epoch to epoch.
        drop_last: leave out a last batch that is not full.
        device: where the batches will go; for a CUDA device they are put into pinned memory.
        channels_last: memory format of the images.
        start_method: how workers start: "fork", "spawn" or "forkserver". Default: the platform's.
        rank, processes: load this process's part of each batch only, see `BatchParts`.
        device_transforms: the workers hand over bytes, and this process finishes the images on
            ``device``, where they then are, see `fastconv.data.device`.
        dtype: of images finished there.

    Raises:
        ValueError: ``device_transforms`` with a pipeline that takes more than one pass.
    """
    batches = BatchSampler(sampler or SequentialSampler(dataset), batch_size, drop_last)

    def build(dataset) -> DataLoader:
        return _Loader(
            dataset,
            batch_sampler=BatchParts(batches, rank, processes),
            num_workers=workers,
            collate_fn=partial(collate, channels_last=channels_last),
            pin_memory=device is not None and torch.device(device).type == "cuda",
            persistent_workers=workers > 0,
            worker_init_fn=_start_worker,
            multiprocessing_context=start_method if workers else None,
            # Its own generator, or each epoch would draw a number from torch's default one.
            generator=Generator(),
        )

    if not device_transforms:
        return build(dataset)
    return DeviceLoader(
        dataset, build, device=device or "cpu", dtype=dtype, channels_last=channels_last
    )


def _start_worker(worker: int) -> None:
    torch.set_num_threads(1)
    # Ctrl-C reaches the whole process group. What to do about it is the main process's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
