"""``fastconv transfer``: how well a run's features tell other classes apart, layer by layer."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fastconv.cli._common import add_run_arguments, hint, open_run, positive


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "transfer",
        help="use a run's features on other data",
        description="Train linear classifiers on the features of each layer of a run, for other "
        "data, and write a table and plots of their accuracy.",
    )
    add_run_arguments(parser)
    parser.add_argument(
        "data", metavar="DATA", nargs="?", help="folder of class folders; the digits without"
    )
    parser.add_argument(
        "--layers", default="1-7", metavar="1-7", help="numbers or names (default: 1-7)"
    )
    parser.add_argument(
        "--per-class",
        type=_numbers,
        default=[30],
        metavar="N,N",
        help="training images a class; several give a curve (default: 30)",
    )
    parser.add_argument(
        "--test-per-class", type=positive, metavar="N", help="at most so many test images a class"
    )
    parser.add_argument(
        "--splits", type=positive, default=5, metavar="N", help="random splits (default: 5)"
    )
    parser.add_argument(
        "--classifiers",
        nargs="+",
        choices=("svm", "softmax"),
        default=["svm", "softmax"],
        metavar="NAME",
        help="svm, softmax (default: both)",
    )
    parser.add_argument(
        "--controls",
        nargs="*",
        choices=("untrained", "pixels"),
        default=["untrained", "pixels"],
        metavar="NAME",
        help="what to compare with: untrained (the same net, not trained), pixels (default: both)",
    )
    parser.add_argument(
        "--fine-tune",
        nargs="+",
        choices=("top", "all", "scratch"),
        default=[],
        metavar="MODE",
        help="train the net too: its top, all of it, or all from scratch; on one split",
    )
    parser.add_argument("--epochs", type=positive, default=10, metavar="N", help="of --fine-tune")
    parser.add_argument("--lr", type=float, default=0.001, metavar="X", help="of --fine-tune")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the splits")
    parser.add_argument("--batch-size", type=positive, default=64, metavar="N", help="default: 64")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read")
    parser.add_argument(
        "--cache", metavar="DIR", help="where features are kept (RUN/transfer/features)"
    )
    parser.add_argument("--output", metavar="DIR", help="folder of the results (RUN/transfer)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from fastconv.training.progress import make_progress
    from fastconv.transfer.study import Options, Study

    if args.workers < 0:
        raise ValueError(f"--workers: must be at least 0 (got {args.workers})")
    run, _ = open_run(args)
    options = Options(
        layers=args.layers,
        per_class=args.per_class,
        test_per_class=args.test_per_class,
        splits=args.splits,
        classifiers=args.classifiers,
        controls=args.controls,
        fine_tune=args.fine_tune,
        epochs=args.epochs,
        lr=args.lr,
        seed=args.seed,
        batch_size=args.batch_size,
        workers=args.workers,
    )
    folder = Path(args.output) if args.output else run.path / "transfer"
    cache = Path(args.cache) if args.cache else folder / "features"
    progress = make_progress()
    try:
        rows = Study(run, args.data, folder, cache, options, progress).run_all()
    finally:
        progress.finish()
    if args.json:
        print(json.dumps({"run": str(run.path), "folder": str(folder), "scores": rows}))
    else:
        print((folder / "table.md").read_text(encoding="utf-8"), end="")
        hint(f"look at {folder / 'layers.png'}")
    return 0


def _numbers(text: str) -> list[int]:
    return sorted({positive(part.strip()) for part in text.split(",")})
