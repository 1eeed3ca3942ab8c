"""``fastconv predict``: the most probable classes of pictures."""

from __future__ import annotations

import argparse
import json
import sys

from fastconv.cli._common import add_run_arguments, hint, open_run, positive


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "predict",
        help="name what pictures show",
        description="Print the most probable classes of each picture.",
    )
    add_run_arguments(parser)
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="picture files")
    parser.add_argument(
        "--top", type=positive, default=5, metavar="K", help="classes an image (default: 5)"
    )
    parser.add_argument(
        "--names", metavar="FILE", help="readable class names: lines of label<TAB>name"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from fastconv.data import ImageError
    from fastconv.run import read_names

    run, _ = open_run(args)
    if args.names:
        run.names.update(read_names(args.names))
    results, failed = [], 0
    for image in args.images:
        try:
            guesses = run.predict(image, top=args.top)[0]
        except (ImageError, FileNotFoundError, IsADirectoryError) as error:
            failed += 1
            results.append({"image": image, "error": str(error)})
            print(f"fastconv predict: {error}", file=sys.stderr)
            continue
        results.append({"image": image, "predictions": [guess._asdict() for guess in guesses]})
        if not args.json:
            _print(image, guesses)
    if args.json:
        print(json.dumps(results, ensure_ascii=False))
    elif not failed:
        hint(f"fastconv eval {run.path}")
    return 2 if failed else 0


def _print(image: str, guesses) -> None:
    print(image)
    for label, name, probability in guesses:
        known_as = f"{name} ({label})" if name != label else label
        print(f"  {100 * probability:6.2f} %  {known_as}")
