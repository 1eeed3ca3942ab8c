"""``fastconv eval``: top-1 and top-5 of runs, and of their ensemble, on a validation split."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from fastconv.cli._common import add_run_arguments, hint, open_run, positive

_EPILOG = """\
Several runs are an ensemble: the mean of their class probabilities. A last folder that is no run is
the data. Views: center, the centre crop; ten, corners and centre and their mirror images, averaged;
dense, every window of the picture and of its mirror image, by convolution.
"""


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "eval",
        help="measure the accuracy of a run or an ensemble",
        description="Measure loss, top-1 and top-5 of runs on the validation split.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_run_arguments(parser)
    parser.add_argument("more", metavar="RUN|DATA", nargs="*", help="further runs; an image folder")
    parser.add_argument(
        "--views",
        choices=("center", "ten", "dense"),
        default="center",
        help="what is looked at of each picture, see below (default: center)",
    )
    parser.add_argument(
        "--report",
        metavar="FOLDER",
        help="write accuracy by class and the confusion matrix there, as CSV and PNG",
    )
    parser.add_argument("--batch-size", type=positive, metavar="N", help="default: 128; ten: 16")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read")
    parser.add_argument("--amp", action="store_true", help="mixed precision, as in train")
    parser.add_argument("--channels-last", action="store_true", help="NHWC memory")
    parser.add_argument("--strict", action="store_true", help="stop at an unreadable image")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from fastconv import evaluation

    if args.workers < 0:
        raise ValueError(f"--workers: must be at least 0 (got {args.workers})")
    paths, source = _sort_out(args)
    members, lines = [], []
    names: dict[str, str] = {}
    for path in paths:
        run, scores, line = _evaluate(args, path, source)
        names |= run.names
        source = line["data"]  # the first run's, for all
        members.append(scores)
        lines.append(line)
    whole = members[0]
    result = lines[0]
    if len(members) > 1:
        whole = evaluation.ensemble(members)
        result = {"members": lines, "ensemble": dataclasses.asdict(whole.metrics())}
    if args.json:
        print(json.dumps(result))
    else:
        for path, scores in zip(paths, members, strict=True):
            name = f"{path}: " if len(paths) > 1 else ""
            print(f"{name}{_line(scores.metrics(), f'{args.views}, {args.weights} weights')}")
        if len(members) > 1:
            print(f"ensemble of {len(members)}: {_line(whole.metrics(), args.views)}")
    if args.report:
        title = " + ".join(Path(path).name for path in paths)
        for file in evaluation.write_report(args.report, whole, title, names):
            print(file, file=sys.stderr)
    if sys.stderr.isatty() or not args.json:
        hint(f"fastconv predict {paths[0]} IMAGE...")
    return 0


def _sort_out(args: argparse.Namespace) -> tuple[list[str], str | None]:
    """The runs and the data folder among the folders that were named."""
    from fastconv.run import CONFIG

    paths = [args.path, *args.more]
    is_run = [Path(p).name == CONFIG or (Path(p) / CONFIG).is_file() for p in paths]
    if len(paths) > 1 and not is_run[-1]:
        return paths[:-1], paths[-1]
    return paths, None


def _evaluate(args: argparse.Namespace, path: str, source: str | None):
    """An open run, its scores, and what JSON says of them."""
    from fastconv import evaluation
    from fastconv.training.progress import make_progress

    args.path = path
    run, _ = open_run(args)
    progress = make_progress()
    began = False

    def on_batch(done: int, total: int) -> None:
        nonlocal began
        if not began:
            progress.start("evaluation", total)
        began = True
        progress.update(done)

    try:
        scores = evaluation.evaluate_run(
            run,
            source,
            views=args.views,
            batch_size=args.batch_size or (16 if args.views == "ten" else 128),
            workers=args.workers,
            amp=args.amp,
            channels_last=args.channels_last,
            strict=args.strict,
            on_batch=on_batch,
        )
    finally:
        progress.finish()
    metrics = scores.metrics()
    if metrics.images == 0:
        raise ValueError("none of the validation images can be read")
    about = {
        "run": str(run.path),
        "weights": run.weights,
        "data": source or run.config["settings"]["data"],
        "views": args.views,
    }
    return run, scores, {**about, **dataclasses.asdict(metrics)}


def _line(metrics, about: str) -> str:
    skipped = f", {metrics.skipped} skipped" if metrics.skipped else ""
    return (
        f"top-1 {100 * metrics.top1:.2f} %  top-5 {100 * metrics.top5:.2f} %  "
        f"loss {metrics.loss:.4f}  ({metrics.images} images{skipped}; {about})"
    )
