"""What the demo takes and keeps, in one place; the page's texts are made from it."""

from __future__ import annotations

from dataclasses import dataclass

MEGABYTE = 10**6


@dataclass(frozen=True)
class Limits:
    """All of them are at least 1.

    Attributes:
        file_bytes: of one upload.
        pixels: of one picture, before it is resized.
        per_session: pictures that one visitor may keep at a time.
        store_bytes: of all kept files; beyond it the oldest pictures go.
        keep_seconds: how long a picture is kept.
        places: pictures that are decoded, waiting or looked at; beyond it one is asked to come
            back later (503 with Retry-After).
        batch: pictures in one pass of the network.
        upload_seconds: how long one upload may take.

    Raises:
        ValueError: one of them is below 1.
    """

    file_bytes: int = 10 * MEGABYTE
    pixels: int = 50 * 10**6
    per_session: int = 100
    store_bytes: int = 200 * MEGABYTE
    keep_seconds: int = 24 * 3600
    places: int = 64
    batch: int = 16
    upload_seconds: int = 60

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name}: must be at least 1 (got {value})")
