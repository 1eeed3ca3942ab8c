"""From a request to a picture: every limit is enforced while reading, every refusal has a reason.

What a file is called and what the client says that it is are not believed: the contents decide.
"""

from __future__ import annotations

import asyncio
import io
import unicodedata
from collections.abc import AsyncGenerator, AsyncIterator
from typing import NamedTuple

from fastapi import Request
from PIL import Image
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from fastconv.data import ImageError, open_image
from fastconv.data.images import resized_size
from fastconv.demo.limits import MEGABYTE, Limits

SIDE = 256  # of the kept crop; the shortest side is resized to it first
FIELD = "image"

_SIGNATURES = ((b"\xff\xd8\xff", "JPEG"), (b"\x89PNG\r\n\x1a\n", "PNG"), (b"GIF8", "GIF"))
_ENVELOPE = 64 * 1024  # what a multipart form may add to its file
_DRAIN = 32 * MEGABYTE  # what of a refused upload is read on and thrown away
_NAME_LENGTH = 80


class Refused(Exception):
    """An upload that is not taken: the HTTP status and a sentence for the visitor."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status
        self.message = message


class Upload(NamedTuple):
    """A file's contents, and a name that is safe to show."""

    name: str
    contents: bytes


async def read_upload(request: Request, limits: Limits) -> Upload:
    """The one file of a multipart form.

    Raises:
        Refused: no such form or file, too many bytes, too slow.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Refused(415, f"Send the picture as a multipart form with one file, {FIELD!r}.")
    try:
        return await asyncio.wait_for(_read_form(request, limits), limits.upload_seconds)
    except asyncio.TimeoutError:
        raise Refused(408, f"The upload took longer than {limits.upload_seconds} s.") from None


async def _read_form(request: Request, limits: Limits) -> Upload:
    too_large = Refused(413, f"The file is larger than {_megabytes(limits.file_bytes)}.")
    stream = request.stream()
    body = _at_most(stream, limits.file_bytes + _ENVELOPE, too_large)
    parser = MultiPartParser(request.headers, body, max_files=1, max_fields=0)
    try:
        form = await parser.parse()
    except Refused:
        await _drain(stream)  # else the connection breaks before the answer is read
        raise
    except (MultiPartException, KeyError, ValueError) as error:
        reason = getattr(error, "message", "") or "it cannot be read"
        raise Refused(400, f"Not a form with one file, {FIELD!r}: {reason}") from None
    try:
        file = form.get(FIELD)
        if not isinstance(file, UploadFile):
            raise Refused(400, f"The form has no file {FIELD!r}.")
        contents = await file.read()
    finally:
        await form.close()
    if len(contents) > limits.file_bytes:
        raise too_large
    return Upload(clean_name(file.filename or ""), contents)


async def _at_most(
    stream: AsyncIterator[bytes], limit: int, refusal: Refused
) -> AsyncGenerator[bytes, None]:
    seen = 0
    async for chunk in stream:
        seen += len(chunk)
        if seen > limit:
            raise refusal
        yield chunk


async def _drain(stream: AsyncIterator[bytes]) -> None:
    seen = 0
    async for chunk in stream:
        seen += len(chunk)
        if seen > _DRAIN:
            return


def decode(contents: bytes, limits: Limits) -> Image.Image:
    """The picture in a file, upright, RGB: shortest side `SIDE`, its centre `SIDE` x `SIDE`.

    Of an animation it is the first frame.

    Raises:
        Refused: empty, not a JPEG, PNG or GIF by its contents, too many pixels, damaged.
    """
    if not contents:
        raise Refused(422, "The file is empty (0 bytes).")
    kind = next((kind for start, kind in _SIGNATURES if contents.startswith(start)), None)
    if kind is None:
        raise Refused(415, "Not a JPEG, PNG or GIF: the file's contents are of another kind.")
    try:
        _refuse_large(contents, kind, limits)
        image = open_image(io.BytesIO(contents), shortest_side=SIDE)
    except ImageError:
        raise Refused(422, f"The {kind} is damaged or cut off.") from None
    return centre(image)


def _refuse_large(contents: bytes, kind: str, limits: Limits) -> None:
    """Judge by the header alone; no pixel is decoded."""
    formats = ("JPEG", "MPO") if kind == "JPEG" else (kind,)
    try:
        with Image.open(io.BytesIO(contents), formats=formats) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        width = height = 0
    # Readers raise whatever damaged headers make them run into; see fastconv.data.open_image.
    except Exception as error:
        raise ImageError(str(error)) from error
    most = f"at most {limits.pixels / 1e6:g} megapixels are taken."
    if not width:
        raise Refused(413, f"The picture has far too many pixels; {most}")
    if width * height > limits.pixels:
        raise Refused(413, f"The picture has {width} x {height} pixels; {most}")


def centre(image: Image.Image) -> Image.Image:
    """Shortest side to `SIDE`, then the middle `SIDE` x `SIDE`."""
    width, height = resized_size(*image.size, SIDE)
    if image.size != (width, height):
        # The crop's own part of the image alone: a strip of 1 x 50,000,000 pixels costs nothing.
        x, y = image.width / width, image.height / height
        left, top = (width - SIDE) // 2, (height - SIDE) // 2
        box = (left * x, top * y, (left + SIDE) * x, (top + SIDE) * y)
        return image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box)
    left, top = (width - SIDE) // 2, (height - SIDE) // 2
    return image.crop((left, top, left + SIDE, top + SIDE))


def clean_name(name: str) -> str:
    """A file name to show: no folders, no control or direction characters, not overlong."""
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    name = "".join(c for c in name if unicodedata.category(c)[0] != "C").strip()
    if len(name) > _NAME_LENGTH:
        name = name[: _NAME_LENGTH - 1] + "…"
    return name or "picture"


def _megabytes(count: int) -> str:
    return f"{count / MEGABYTE:g} MB"
