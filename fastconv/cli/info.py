"""``fastconv info``: what was built and what is running."""

from __future__ import annotations

import argparse

from fastconv.cli._common import hint


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "info",
        help="show versions, libraries and architectures",
        description="Show what was built, what is running, and for which architectures.",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import fastconv

    for key, value in fastconv.info().items():
        print(f"{key:<20}{_text(value)}")
    hint("fastconv train")
    return 0


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
