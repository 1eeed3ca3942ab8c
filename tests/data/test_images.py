"""open_image: every kind of file decodes to what a viewer would show, or says why not."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fastconv.data import ImageError, open_image
from fastconv.data.transforms import Resize


def as_int(image):
    return np.asarray(image).astype(int)


def test_a_jpeg_decodes_as_pillow_decodes_it(tmp_path, make_picture):
    path = tmp_path / "photo.jpg"
    make_picture().save(path)
    image = open_image(path)
    assert image.mode == "RGB"
    with Image.open(path) as expected:
        np.testing.assert_array_equal(as_int(image), as_int(expected.convert("RGB")))
    np.testing.assert_array_equal(as_int(open_image(str(path))), as_int(image))
    with open(path, "rb") as stream:
        np.testing.assert_array_equal(as_int(open_image(stream)), as_int(image))


def test_grey_is_repeated_in_all_channels(tmp_path, make_picture):
    grey = make_picture(channels=1)
    grey.save(tmp_path / "grey.png")
    image = open_image(tmp_path / "grey.png")
    np.testing.assert_array_equal(as_int(image), np.repeat(as_int(grey)[..., None], 3, axis=2))


def test_one_bit_pixels_are_black_and_white(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bits.png")
    assert as_int(open_image(tmp_path / "bits.png")).tolist() == [[[255] * 3, [0] * 3]]


def test_cmyk_jpeg_has_the_colours_it_was_made_from(tmp_path, make_picture):
    original = make_picture()
    original.convert("CMYK").save(tmp_path / "print.jpg", quality=100, subsampling=0)
    with Image.open(tmp_path / "print.jpg") as written:
        assert written.mode == "CMYK"
    assert np.abs(as_int(open_image(tmp_path / "print.jpg")) - as_int(original)).max() <= 8


def test_sixteen_bit_grey_keeps_its_high_byte(tmp_path):
    values = np.array([[0, 255, 256], [32768, 65279, 65535]], np.uint16)
    for name in ("deep.png", "deep.tif", "deep.pgm"):
        Image.fromarray(values).save(tmp_path / name)
        image = as_int(open_image(tmp_path / name))
        np.testing.assert_array_equal(image, np.repeat((values >> 8)[..., None], 3, axis=2), name)


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, color, rows):
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [
            png_chunk(b"IHDR", header),
            png_chunk(b"IDAT", zlib.compress(rows)),
            png_chunk(b"IEND", b""),
        ]
    )


def test_sixteen_bit_colour_keeps_its_high_byte(tmp_path):
    row = b"\0" + struct.pack(">6H", 0x1234, 0x8000, 0xFFFF, 0x00FF, 0x0100, 0x7FFF)
    (tmp_path / "deep.png").write_bytes(png(2, 1, 16, 2, row))
    image = as_int(open_image(tmp_path / "deep.png"))
    assert image.tolist() == [[[0x12, 0x80, 0xFF], [0x00, 0x01, 0x7F]]]


def test_transparency_is_laid_over_white(tmp_path):
    red = Image.new("RGBA", (1, 3), (255, 0, 0, 255))
    red.putpixel((0, 1), (255, 0, 0, 0))
    red.putpixel((0, 2), (0, 0, 0, 128))
    expected = [[[255, 0, 0]], [[255, 255, 255]], [[127, 127, 127]]]
    red.save(tmp_path / "alpha.png")
    assert as_int(open_image(tmp_path / "alpha.png")).tolist() == expected

    palette = Image.fromarray(np.array([[0], [1]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "palette.png", transparency=1)
    image = as_int(open_image(tmp_path / "palette.png"))
    assert image.tolist() == [[[10, 20, 30]], [[255, 255, 255]]]
    palette.save(tmp_path / "plain.png")
    assert as_int(open_image(tmp_path / "plain.png")).tolist() == [[[10, 20, 30]], [[40, 50, 60]]]

    grey = Image.new("LA", (1, 1), (0, 0))
    grey.save(tmp_path / "grey.png")
    assert as_int(open_image(tmp_path / "grey.png")).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, make_picture, orientation):
    upright = make_picture()
    # What a camera stores for each orientation, in numpy: the inverse of what a viewer does.
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](np.asarray(upright))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "camera.jpg"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, quality=100, subsampling=0)
    image = open_image(path)
    assert image.size == upright.size
    assert np.abs(as_int(image) - as_int(upright)).max() <= 8
    assert orientation == 1 or image.getexif().get(0x0112, 1) == 1


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_spoil_the_pixels(tmp_path, make_picture):
    buffer = io.BytesIO()
    make_picture().save(buffer, "jpeg")
    data = buffer.getvalue()
    exif = b"Exif\0\0II*\0\xff\xff\xff\x7f" + b"\xff" * 20
    marker = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    (tmp_path / "odd.jpg").write_bytes(data[:2] + marker + data[2:])
    assert open_image(tmp_path / "odd.jpg").size == (60, 40)


def test_the_first_frame_of_an_animation_is_taken(tmp_path):
    frames = [Image.new("RGB", (3, 2), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    assert as_int(open_image(tmp_path / "film.gif"))[0, 0].tolist() == [255, 0, 0]


def truncated(path, make_picture):
    make_picture(200, 200).save(path)
    path.write_bytes(path.read_bytes()[:1500])


def bomb(path, make_picture):
    path.write_bytes(png(30000, 30000, 8, 2, b""))


@pytest.mark.parametrize(
    ("write", "name", "reason"),
    [
        (truncated, "cut.jpg", "truncated"),
        (truncated, "cut.png", "truncated|broken|Truncated"),
        (lambda path, _: path.write_bytes(b""), "empty.jpg", "the file is empty"),
        (lambda path, _: path.write_text("no image\n" * 99), "text.jpg", "not an image"),
        (lambda path, _: path.write_bytes(b"\xff\xd8\xff\xe0" + b"\0" * 50), "head.jpg", "."),
        (bomb, "bomb.png", "exceeds limit of .* pixels"),
        (lambda path, _: Image.new("F", (2, 2)).save(path), "float.tif", "32-bit pixels .mode F"),
    ],
)
def test_what_cannot_be_decoded_raises_naming_the_file(tmp_path, make_picture, write, name, reason):
    write(tmp_path / name, make_picture)
    with pytest.raises(ImageError, match=f"{name}: .*({reason})"):
        open_image(tmp_path / name)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_way_of_cutting_a_file_short_is_an_image_error_or_an_image(tmp_path, make_picture):
    """Pillow's readers raise many kinds of exceptions; none but ImageError may come through."""
    for kind in ("jpeg", "png", "gif", "bmp", "tiff", "webp"):
        buffer = io.BytesIO()
        make_picture(8, 8).save(buffer, kind)
        data = buffer.getvalue()
        refused = 0
        for length in range(0, len(data), max(1, len(data) // 60)):
            try:
                open_image(io.BytesIO(data[:length]))
            except ImageError:
                refused += 1
        assert refused > 30, kind


def test_a_file_that_cannot_be_read_is_not_an_image_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_image(tmp_path / "missing.jpg")
    with pytest.raises(IsADirectoryError):
        open_image(tmp_path)


@pytest.mark.parametrize("size", [(801, 603), (640, 480), (333, 1001), (1024, 1024), (97, 64)])
def test_reduced_decoding_keeps_the_resized_size_and_nearly_its_pixels(
    tmp_path, make_picture, size
):
    width, height = size
    path = tmp_path / "large.jpg"
    make_picture(height, width).save(path, quality=95)
    whole, reduced = open_image(path), open_image(path, shortest_side=64)
    assert whole.size == size
    assert min(reduced.size) >= min(128, width, height)
    expected, result = Resize(64)(whole), Resize(64)(reduced)
    assert result.size == expected.size
    assert np.abs(as_int(result) - as_int(expected)).mean() < 1


def test_reduced_decoding_does_reduce(tmp_path, make_picture):
    path = tmp_path / "large.jpg"
    make_picture(800, 1000).save(path)
    assert open_image(path, shortest_side=50).size == (125, 100)
    assert open_image(path, shortest_side=51).size == (250, 200)
    assert open_image(path, shortest_side=200).size == (500, 400)
    assert open_image(path, shortest_side=201).size == (1000, 800)
    assert open_image(path, shortest_side=101).size == (500, 400)
    assert open_image(path, shortest_side=201).size == (1000, 800)
