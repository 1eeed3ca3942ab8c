"""``fastconv demo``: a page in the browser that names what pictures show."""

from __future__ import annotations

import argparse
from pathlib import Path

from fastconv.cli._common import add_run_arguments, hint, open_run, positive

DIGITS = Path("runs") / "digits-demo"


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "demo",
        help="serve a page that names what pictures show",
        description="Serve a page on which pictures are dropped and classified.",
        epilog=f"Without RUN it serves a network for digits, {DIGITS}, and trains it first if "
        "need be.",
    )
    add_run_arguments(parser, optional=True, json=False)
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on (127.0.0.1)")
    parser.add_argument(
        "--port", type=int, default=8000, metavar="N", help="port; 0: any free one (8000)"
    )
    parser.add_argument(
        "--top", type=positive, default=5, metavar="K", help="classes an image (default: 5)"
    )
    parser.add_argument(
        "--names", metavar="FILE", help="readable class names: lines of label<TAB>name"
    )
    parser.add_argument("--folder", metavar="DIR", help="where pictures are kept (RUN/demo)")
    parser.add_argument(
        "--keep-hours", type=positive, default=24, metavar="N", help="for so long (default: 24)"
    )
    parser.add_argument(
        "--max-megabytes", type=positive, default=200, metavar="N", help="in all (default: 200)"
    )
    parser.add_argument(
        "--batch-size", type=positive, default=16, metavar="N", help="pictures a pass (16)"
    )
    parser.add_argument(
        "--queue",
        type=positive,
        default=64,
        metavar="N",
        help="pictures in work or waiting; further ones get 503 (default: 64)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from fastconv.demo import Limits, create_app, listen, serve, url_of
    from fastconv.demo.limits import MEGABYTE
    from fastconv.run import read_names

    if not 0 <= args.port <= 65535:
        raise ValueError(f"--port: must be from 0 to 65535 (got {args.port})")
    with listen(args.host, args.port) as listener:  # first: a training would be for nothing
        if args.path is None:
            args.path = str(digits_run())
        run, _ = open_run(args)
        if args.names:
            run.names.update(read_names(args.names))
        limits = Limits(
            keep_seconds=args.keep_hours * 3600,
            store_bytes=args.max_megabytes * MEGABYTE,
            batch=args.batch_size,
            places=args.queue,
        )
        app = create_app(run, args.folder or run.path / "demo", top=args.top, limits=limits)
        url = url_of(listener)
        print(f"{run.path} is served on {url} (Ctrl-C stops)", flush=True)
        hint(f"open {url} in a browser; {url}api tells how programs ask")
        serve(app, listener)
    return 0


def digits_run() -> Path:
    """The digits' network, trained first where it is not there."""
    from fastconv import training
    from fastconv.training.progress import make_progress
    from fastconv.training.settings import resolve

    if (DIGITS / "best.safetensors").exists():
        return DIGITS
    progress = make_progress()
    with training.stop_on_signals() as stop, training.join() as world:
        options = {"progress": progress, "stop": stop, "world": world}
        if (DIGITS / "run.json").exists():
            trainer = training.resume(str(DIGITS), {}, **options)
        else:
            trainer = training.start(resolve({"output": str(DIGITS)}, {}), **options)
        progress.say(f"training a network for digits once: {DIGITS}")
        if not trainer.fit():
            raise KeyboardInterrupt
    return DIGITS
