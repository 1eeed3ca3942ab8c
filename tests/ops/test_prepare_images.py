"""prepare_images against the slow definition, to the bit, and against the steps in NumPy."""

import threading
import time

import numpy as np
import pytest
import torch
from op_testing import (
    CAPABILITIES,
    FORMATS,
    assert_compiles,
    assert_passes_with_capability,
    assert_refuses,
    assert_same_for_all_thread_counts,
    awkward,
    standard_proofs,
)

import fastconv
from fastconv import prepare_images
from fastconv._library import _C
from fastconv.ops.prepare_images import prepare_images_ref

op = torch.ops.fastconv.prepare_images
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# (N, C, H, W) and the windows' size: every number of channels, widths around those of vectors.
CASES = [
    ((3, 3, 20, 23), (13, 17)),
    ((2, 3, 40, 64), (33, 48)),
    ((4, 1, 17, 40), (17, 37)),
    ((2, 2, 9, 30), (5, 1)),
    ((5, 4, 12, 25), (11, 19)),
    ((1, 3, 6, 7), (6, 7)),
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(shape, size, mean_margin=3):
    """Images, and one of each argument that goes with them."""
    n, c, h, w = shape
    g = generator(sum(shape))
    mean_size = size[0] + mean_margin, size[1] + mean_margin

    def places(height, width):
        rooms = (height - size[0] + 1, width - size[1] + 1)
        return torch.stack([torch.randint(room, (n,), generator=g) for room in rooms], 1)

    return {
        "images": torch.randint(256, shape, generator=g, dtype=torch.uint8),
        "offsets": places(h, w),
        "flips": torch.arange(n) % 2 == 0,
        "shifts": torch.randn(n, c, generator=g) / 10,
        "mean": torch.rand(c, *mean_size, generator=g),
        "mean_offsets": places(*mean_size),
        "unit": torch.rand(c, generator=g) + 0.1,
    }


def call(a, size, **options):
    arguments = {k: v for k, v in a.items() if k not in ("images", "unit")}
    return prepare_images(a["images"], size, **arguments, unit=a["unit"].tolist(), **options)


def expected_of(a, size):
    return prepare_images_ref(
        a["images"],
        size,
        *(a[k] for k in ("offsets", "flips", "shifts", "mean", "mean_offsets", "unit")),
    )


@pytest.mark.parametrize(("shape", "size"), CASES, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_is_the_definition(dtype, memory_format, shape, size):
    a = drawn(shape, size)
    got = call(a, size, dtype=dtype, memory_format=memory_format)
    assert torch.equal(got, expected_of(a, size).to(dtype))
    assert got.is_contiguous(memory_format=memory_format)


def test_every_pixel_value_is_divided_exactly():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    expected = np.arange(256, dtype=np.uint8) / np.float32(255)
    assert np.array_equal(prepare_images(images).flatten().numpy(), expected)


def test_what_is_left_out_changes_nothing():
    shape, size = CASES[0]
    a = drawn(shape, size, mean_margin=0)
    images = a["images"]
    assert torch.equal(prepare_images(images), images.float() / 255)
    corner = images[:, :, : size[0], : size[1]].float() / 255
    assert torch.equal(prepare_images(images, size), corner)
    assert torch.equal(prepare_images(images, size, flips=a["flips"].byte())[0], corner[0].flip(2))
    assert torch.equal(prepare_images(images, size, unit=0.3), corner / 0.3)
    shifted = corner + a["shifts"][:, :, None, None]
    assert torch.equal(prepare_images(images, size, shifts=a["shifts"]), shifted)
    colour = a["mean"].mean((1, 2))
    assert torch.equal(prepare_images(images, size, mean=colour), corner - colour[:, None, None])
    at = a["offsets"]
    moved = prepare_images(images, size, offsets=at.to(torch.int32))
    for n, (top, left) in enumerate(at.tolist()):
        window = images[n, :, top : top + size[0], left : left + size[1]]
        assert torch.equal(moved[n], window.float() / 255)


def test_a_mean_image_is_cropped_and_mirrored_in_step():
    """Images that equal the mean image are 0 wherever the window lies."""
    images = torch.randint(256, (1, 3, 12, 15), generator=generator(), dtype=torch.uint8)
    a = drawn((8, 3, 12, 15), (7, 9))
    got = prepare_images(
        images.expand(8, 3, 12, 15),
        (7, 9),
        offsets=a["offsets"],
        flips=a["flips"],
        mean=images[0].float() / 255,
    )
    assert torch.equal(got, torch.zeros(8, 3, 7, 9))


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_awkward_memory(memory_format):
    shape, size = CASES[0]
    a = drawn(shape, size)
    expected = call(a, size, memory_format=memory_format)
    for name, images in awkward(a["images"]).items():
        got = call({**a, "images": images}, size, memory_format=memory_format)
        assert torch.equal(got, expected), name
    strided = {k: torch.stack([v, v], -1)[..., 0] for k, v in a.items() if k not in ("unit",)}
    assert torch.equal(call({**a, **strided}, size), expected)
    rows = a["mean"].permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert torch.equal(call({**a, "mean": rows}, size), expected)


def test_thread_counts_give_equal_bits():
    a = drawn((6, 3, 60, 70), (50, 60))
    assert_same_for_all_thread_counts(lambda: [call(a, (50, 60))])


def test_nan_and_infinity_stay_where_they_are():
    a = drawn((2, 3, 6, 7), (4, 5))
    a["shifts"][0, 1], a["shifts"][1, 2] = torch.nan, torch.inf
    a["mean"][0] = -torch.inf
    torch.testing.assert_close(
        call(a, (4, 5)), expected_of(a, (4, 5)), rtol=0, atol=0, equal_nan=True
    )


def test_empty():
    images = torch.empty(0, 3, 8, 9, dtype=torch.uint8)
    got = prepare_images(
        images,
        (4, 5),
        offsets=torch.empty(0, 2, dtype=torch.int64),
        flips=torch.empty(0, dtype=torch.bool),
        shifts=torch.empty(0, 3),
        mean=torch.zeros(3, 8, 9),
        dtype=torch.bfloat16,
    )
    assert got.shape == (0, 3, 4, 5) and got.dtype == torch.bfloat16


@pytest.mark.parametrize("last", [False, True])
def test_standard_proofs(last):
    a = drawn((2, 3, 9, 8), (4, 5))
    given = [a[k] for k in ("offsets", "flips", "shifts", "mean", "mean_offsets")]
    unit = a["unit"].tolist()
    standard_proofs(op, a["images"], *given, unit, [4, 5], torch.float16, last)
    standard_proofs(op, a["images"], *[None] * 5, [1.0], [4, 5], torch.float32, last)


def test_compiles():
    a = drawn((2, 3, 9, 8), (4, 5))
    unit = a.pop("unit").tolist()

    def run(images, offsets, flips, shifts, mean, mean_offsets):
        return prepare_images(
            images,
            (4, 5),
            offsets=offsets,
            flips=flips,
            shifts=shifts,
            mean=mean,
            mean_offsets=mean_offsets,
            unit=unit,
            dtype=torch.bfloat16,
        )

    assert_compiles(run, *a.values())


def test_wrong_inputs():
    a = drawn((2, 3, 9, 8), (4, 5))
    x, at, mean = a["images"], a["offsets"], a["mean"]
    assert_refuses(
        [
            (
                prepare_images,
                (x[0],),
                {},
                "prepare_images: images must have 4 dimensions (N, C, H, W) (got (3, 9, 8))",
            ),
            (prepare_images, (x.float(),), {}, "prepare_images: images must be uint8 (got Float)"),
            (
                prepare_images,
                (x.repeat(1, 2, 1, 1),),
                {},
                "prepare_images: images must have 1 to 4 channels (got shape (2, 6, 9, 8))",
            ),
            (
                prepare_images,
                (x, 10),
                {},
                "prepare_images: size must be from 1 to the images' (got 10x10 for 9x8)",
            ),
            (prepare_images, (x, (4, 0)), {}, "(got 4x0 for 9x8)"),
            (
                prepare_images,
                (x, (4, 5, 6)),
                {},
                "prepare_images: size must be an int or a pair of ints (got size=(4, 5, 6))",
            ),
            (
                prepare_images,
                (x, 4),
                {"offsets": at.float()},
                "prepare_images: offsets must be whole numbers (got torch.float32)",
            ),
            (
                prepare_images,
                (x, 4),
                {"offsets": at[:1]},
                "prepare_images: offsets must have shape (N, 2) (got (1, 2) for images of shape "
                "(2, 3, 9, 8))",
            ),
            (
                prepare_images,
                (x, (4, 5)),
                {"offsets": torch.tensor([[0, 0], [6, 1]])},
                "prepare_images: offsets must keep the windows inside the images (got (6, 1) for "
                "a window of 4x5 in 9x8)",
            ),
            (prepare_images, (x, 4), {"offsets": at - 10}, "offsets must keep the windows inside"),
            (
                prepare_images,
                (x, 4),
                {"flips": at},
                "prepare_images: flips must be Bool (got Long)",
            ),
            (
                prepare_images,
                (x, 4),
                {"shifts": a["shifts"].double()},
                "prepare_images: shifts must be Float (got Double)",
            ),
            (
                prepare_images,
                (x, 4),
                {"shifts": a["shifts"][:, :2]},
                "prepare_images: shifts must have shape (N, C) (got (2, 2) for images of shape",
            ),
            (
                prepare_images,
                (x, 4),
                {"mean": mean[:2]},
                "prepare_images: mean must be a colour (C,) or an image (C, H, W) of the images' "
                "channels (got (2, 7, 8) for images of shape (2, 3, 9, 8))",
            ),
            (
                prepare_images,
                (x, 4),
                {"mean": mean},
                "prepare_images: mean must have the images' size, or mean_offsets tell where in "
                "it the windows lie (got 7x8 for images of 9x8)",
            ),
            (
                prepare_images,
                (x, 4),
                {"mean": mean[:, 0, 0], "mean_offsets": at},
                "prepare_images: mean_offsets needs a mean image (C, H, W)",
            ),
            (
                prepare_images,
                (x, (8, 5)),
                {"mean": mean, "mean_offsets": at},
                "prepare_images: mean must be at least of size (got 7x8 for a size of 8x5)",
            ),
            (
                prepare_images,
                (x, 4),
                {"mean": mean, "mean_offsets": at * 0 + 4},
                "prepare_images: mean_offsets must keep the windows inside the mean (got (4, 4) "
                "for a window of 4x4 in 7x8)",
            ),
            (
                prepare_images,
                (x, 4),
                {"unit": [1.0, 2.0]},
                "prepare_images: unit must be one number, or one a channel (got 2 for 3 channels)",
            ),
            (
                prepare_images,
                (x, 4),
                {"unit": 0},
                "prepare_images: unit must be positive (got 0)",
            ),
            (
                prepare_images,
                (x, 4),
                {"dtype": torch.float64},
                "prepare_images: dtype must be float32, float16 or bfloat16 (got Double)",
            ),
            (
                prepare_images,
                (x, 4),
                {"memory_format": torch.preserve_format},
                "prepare_images: memory_format must be torch.channels_last or",
            ),
        ]
    )


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_instruction_set(capability):
    if capability == fastconv.info()["cpu_capability"]:
        pytest.skip("that is the one that this run uses")
    assert_passes_with_capability(capability, __file__, "definition or pixel_value or nan or numpy")


# -- one image, in NumPy arrays --------------------------------------------------------------------


def numpy_image(height=20, width=33, channels=3):
    rng = np.random.default_rng(height)
    pixels = rng.integers(0, 256, (height + 4, width + 6, channels), dtype=np.uint8)
    mean = rng.random(pixels.shape, dtype=np.float32)
    shift, unit = rng.random((2, channels), dtype=np.float32)
    return pixels[3:-1, 2:-4], mean[3:-1, 2:-4], shift, unit


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_numpy_windows_are_read_in_place(channels, mirrored):
    pixels, mean, shift, unit = numpy_image(channels=channels)
    expected = pixels / np.float32(255) - mean
    expected = ((expected[:, ::-1] if mirrored else expected) + shift) / unit
    got = _C.prepare_image(pixels, mean, shift, unit, mirrored)
    assert got.dtype == np.float32 and np.array_equal(got, expected)
    plain = pixels / np.float32(255)
    plain = plain[:, ::-1] if mirrored else plain
    one = np.ones(channels, np.float32)
    assert np.array_equal(_C.prepare_image(pixels, None, None, one, mirrored), plain)
    assert np.array_equal(_C.prepare_image(pixels, unit, None, one, mirrored), plain - unit)


def test_numpy_arrays_are_refused_by_name():
    pixels, mean, shift, unit = numpy_image()
    assert_refuses(
        [
            (
                _C.prepare_image,
                (pixels[:, ::-1], mean, shift, unit, False),
                {},
                "prepare_image: pixels must be (H, W, C) with 1 to 4 channels, its rows dense",
            ),
            (
                _C.prepare_image,
                (pixels, mean[1:], shift, unit, False),
                {},
                "prepare_image: mean must be (C,), or (H, W, C) as pixels, its rows dense (got "
                "float32 (19, 33, 3))",
            ),
            (
                _C.prepare_image,
                (pixels, mean, shift[:2], unit, False),
                {},
                "prepare_image: shift must be (C,) (got float32 (2))",
            ),
            (
                _C.prepare_image,
                (pixels, mean, shift, unit[::2], False),
                {},
                "prepare_image: unit must be (C,)",
            ),
        ]
    )


def test_numpy_images_are_prepared_while_other_threads_run():
    """With the interpreter held, no count would be made during the calls."""
    pixels, mean, shift, unit = numpy_image(4000, 4000)
    counted, running = [], True

    def count():
        while running:
            counted.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    begin = time.perf_counter()
    _C.prepare_image(pixels, mean, shift, unit, False)
    end = time.perf_counter()
    running = False
    thread.join()
    assert sum(begin < t < end for t in counted) >= 2
