"""prepare_images beside the same in plain torch: ``pytest bench/bench_prepare_images.py``.

AlexNet's training input: windows of 224x224 out of 256x256 in uint8, mirrored or not, minus the
mean image, plus a colour shift, over the spread. What people write is a loop over the images; where
no place and no mirror differs from image to image, as in evaluation, one composition does the
batch.
`GB/s` counts each byte of a window and each element of the result once; the mean image stays in a
cache.
"""

import pytest
import torch
from measuring import measure
from shapes import BATCH

import fastconv

WHOLE, SIZE, UNIT = 256, 224, 0.27
FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def arguments(batch=BATCH):
    """(images, offsets, flips, shifts, mean), images and mean in channels_last memory."""
    g = torch.Generator().manual_seed(0)
    images = torch.randint(256, (batch, WHOLE, WHOLE, 3), generator=g, dtype=torch.uint8)
    offsets = torch.randint(WHOLE - SIZE + 1, (batch, 2), generator=g)
    flips = torch.rand(batch, generator=g) < 0.5
    shifts = torch.randn(batch, 3, generator=g) / 10
    mean = torch.rand(WHOLE, WHOLE, 3, generator=g)
    return images.permute(0, 3, 1, 2), offsets, flips, shifts, mean.permute(2, 0, 1)


def moved(batch=BATCH, dtype=torch.float32):
    """Bytes of the windows and of the result."""
    return batch * 3 * SIZE * SIZE * (1 + dtype.itemsize)


def prepared(images, offsets, flips, shifts, mean, **options):
    return fastconv.prepare_images(
        images,
        SIZE,
        offsets=offsets,
        flips=flips,
        shifts=shifts,
        mean=mean,
        unit=UNIT,
        **options,
    )


def composed(
    images,
    offsets,
    flips,
    shifts,
    mean,
    dtype=torch.float32,
    memory_format=torch.channels_last,
):
    """Slice, flip, float, subtract, add, divide: one image after the other, then stacked."""
    done = []
    for n, (top, left) in enumerate(offsets.tolist()):
        window = (slice(None), slice(top, top + SIZE), slice(left, left + SIZE))
        image = images[n][window].float().div_(255).sub_(mean[window])
        image = image.flip(2) if flips[n] else image
        done.append(image.add_(shifts[n][:, None, None]).div_(UNIT))
    return torch.stack(done).to(dtype).contiguous(memory_format=memory_format)


def composed_centre(images, mean, dtype=torch.float32, memory_format=torch.channels_last):
    """All images of the batch at once, which takes one place for all."""
    edge = (WHOLE - SIZE) // 2
    window = slice(edge, edge + SIZE)
    x = images[..., window, window].float().div_(255).sub_(mean[:, window, window]).div_(UNIT)
    return x.to(dtype).contiguous(memory_format=memory_format)


def prepared_centre(images, mean, **options):
    centre = torch.full((len(images), 2), (WHOLE - SIZE) // 2, device=images.device)
    return fastconv.prepare_images(images, SIZE, offsets=centre, mean=mean, unit=UNIT, **options)


TRAINING = {"fastconv": prepared, "torch": composed}
EVALUATION = {"fastconv": prepared_centre, "torch": composed_centre}


@pytest.mark.parametrize("implementation", TRAINING)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_training(benchmark, memory_format, dtype, implementation):
    given = arguments()
    options = {"dtype": DTYPES[dtype], "memory_format": FORMATS[memory_format]}
    benchmark.group = f"prepare_images training, {dtype} {memory_format}"
    measure(
        benchmark,
        lambda: TRAINING[implementation](*given, **options),
        lambda: composed(*given, **options),
        moved=moved(dtype=DTYPES[dtype]),
    )


@pytest.mark.parametrize("implementation", EVALUATION)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_evaluation(benchmark, memory_format, implementation):
    images, _, _, _, mean = arguments()
    options = {"memory_format": FORMATS[memory_format]}
    benchmark.group = f"prepare_images evaluation, float32 {memory_format}"
    measure(
        benchmark,
        lambda: EVALUATION[implementation](images, mean, **options),
        lambda: composed_centre(images, mean, **options),
        moved=moved(),
    )
