"""``fastconv pack``: an image folder resized once, in shards that training reads fast."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from fastconv.cli._common import hint, positive

_EPILOG = """\
A pack that was stopped goes on with the same command. fastconv train OUT trains on it.
The shards are WebDataset's: tar files of NAME.jpg (or NAME.npy) and NAME.cls, the class index.
"""


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "pack",
        help="resize a data set once, into shards",
        description="Resize every picture of an image folder once and write tar shards.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="DATA", nargs="?", help="image folder, as for train")
    parser.add_argument("target", metavar="OUT", nargs="?", help="folder to write")
    parser.add_argument(
        "--size", type=positive, default=256, metavar="N", help="shortest side (default: 256)"
    )
    parser.add_argument(
        "--square", action="store_true", help="cut to the centre square, as the classic recipe does"
    )
    parser.add_argument(
        "--encoding", choices=("jpeg", "raw"), default="jpeg", help="raw: uint8 pixels, no decoding"
    )
    parser.add_argument(
        "--quality", type=positive, default=95, metavar="Q", help="of JPEG (default: 95)"
    )
    parser.add_argument(
        "--shard-images", type=positive, default=1000, metavar="N", help="default: 1000"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes; one a core")
    parser.add_argument("--verify", metavar="OUT", help="compare a pack with its checksums instead")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from fastconv.training.progress import make_progress

    progress = make_progress()
    began: set[str] = set()

    def on_shard(split: str, done: int, total: int) -> None:
        if split not in began:
            progress.start(f"{split} shards", total)
            began.add(split)
        progress.update(done)

    try:
        if args.verify:
            return _verify(args.verify, on_shard)
        return _pack(args, on_shard)
    finally:
        progress.finish()


def _verify(target: str, on_shard) -> int:
    from fastconv.data.packing import read_manifest, verify

    problems = verify(target, on_shard)
    for problem in problems:
        print(problem)
    if not problems:
        shards = sum(split["shards"] for split in read_manifest(Path(target))["splits"].values())
        print(f"{target}: all {shards} shards are as they were packed")
    return 1 if problems else 0


def _pack(args: argparse.Namespace, on_shard) -> int:
    from fastconv.data.packing import PackOptions, pack

    if not (args.source and args.target):
        raise ValueError("name the image folder and the folder to write: fastconv pack DATA OUT")
    workers = args.workers if args.workers is not None else os.cpu_count() or 1
    if workers < 0:
        raise ValueError(f"--workers: must be at least 0 (got {workers})")
    options = PackOptions(args.size, args.square, args.encoding, args.quality, args.shard_images)
    packed = pack(args.source, args.target, options, workers=workers, progress=on_shard)
    for name in packed["skipped"]:
        print(f"left out, unreadable: {name}")
    size = sum(file.stat().st_size for file in Path(args.target).glob("*/*.tar"))
    images = sum(split["images"] for split in packed["splits"].values()) - len(packed["skipped"])
    print(f"{args.target}: {images} images in {size / 1e6:.1f} MB")
    hint(f"fastconv train {args.target}   or   fastconv pack --verify {args.target}")
    return 0
