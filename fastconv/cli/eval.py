"""``fastconv eval``: top-1 and top-5 of a run on a validation split."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from fastconv.cli._common import add_run_arguments, hint, open_run, positive


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "eval",
        help="measure a run's accuracy",
        description="Measure loss, top-1 and top-5 of a run on the validation split.",
    )
    add_run_arguments(parser)
    parser.add_argument("data", metavar="DATA", nargs="?", help="image folder; the run's own")
    parser.add_argument("--batch-size", type=positive, default=128, metavar="N")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read")
    parser.add_argument("--amp", action="store_true", help="mixed precision, as in train")
    parser.add_argument("--channels-last", action="store_true", help="NHWC memory")
    parser.add_argument("--strict", action="store_true", help="stop at an unreadable image")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import torch

    from fastconv import data
    from fastconv.training.evaluate import evaluate
    from fastconv.training.progress import make_progress

    if args.workers < 0:
        raise ValueError(f"--workers: must be at least 0 (got {args.workers})")
    run, device = open_run(args)
    settings = run.config["settings"]
    source = args.data or settings["data"]
    dataset = data.open_dataset(
        source, "val", transform=run.transform, strict=args.strict, classes=run.classes
    )
    loader = data.build_loader(
        dataset,
        None,
        args.batch_size,
        workers=args.workers,
        device=device,
        channels_last=args.channels_last,
    )
    progress = make_progress()
    progress.start("evaluation", len(loader))
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    try:
        metrics = evaluate(
            run.model.to(memory_format=layout),
            loader,
            device=device,
            amp_dtype=getattr(torch, settings["amp_dtype"]) if args.amp else None,
            channels_last=args.channels_last,
            on_batch=lambda done: progress.update(done),
        )
    finally:
        progress.finish()
    if metrics.images == 0:
        raise ValueError("none of the validation images can be read")
    if args.json:
        result = {"run": str(run.path), "weights": run.weights, "data": source}
        print(json.dumps({**result, **dataclasses.asdict(metrics)}))
    else:
        skipped = f", {metrics.skipped} skipped" if metrics.skipped else ""
        print(
            f"top-1 {100 * metrics.top1:.2f} %  top-5 {100 * metrics.top5:.2f} %  "
            f"loss {metrics.loss:.4f}  ({metrics.images} images{skipped}; {run.weights} weights)"
        )
    if sys.stderr.isatty() or not args.json:
        hint(f"fastconv predict {run.path} IMAGE...")
    return 0
