"""``fastconv visualize``: pages of pictures that show what a run has learned."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from fastconv.cli._common import add_run_arguments, hint, open_run, positive

# Name, title, what is there.
PAGES = (
    ("filters", "First-layer filters", "what the first layer looks for; dead filters, aliasing"),
    ("maps", "Feature maps", "what every layer makes of one image"),
    ("patches", "Top patches", "the images that excite a map most, projected back to pixels"),
    ("occlusion", "Occlusion", "which part of an image the network needs to see"),
    ("invariance", "Invariance", "what moving, enlarging and turning the image does"),
    ("diagnostics", "Diagnostics", "activations, gradients, curves and size, with a diagnosis"),
    ("evolution", "Evolution", "how features came about; needs train --snapshots"),
)
_NAMES = tuple(page[0] for page in PAGES)


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "visualize",
        help="show what a run has learned",
        description="Make pages of pictures that show what a run has learned.",
        epilog="pages:\n" + "\n".join(f"  {name:<12} {what}" for name, _, what in PAGES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_run_arguments(parser)
    parser.add_argument(
        "--images",
        metavar="IMAGE",
        nargs="+",
        default=[],
        help="pictures for maps, occlusion and invariance; chosen from the validation images",
    )
    parser.add_argument(
        "--pages",
        type=_pages,
        metavar="NAME,NAME",
        help="which pages (default: all, evolution only where there are snapshots)",
    )
    parser.add_argument("--output", metavar="DIR", help="folder of the pages (RUN/visualize)")
    parser.add_argument("--data", metavar="DATA", help="image folder; the run's own")
    parser.add_argument(
        "--names", metavar="FILE", help="readable class names: lines of label<TAB>name"
    )
    parser.add_argument("--compare", metavar="RUN", help="filters: another run beside this one")
    parser.add_argument(
        "--layers", type=_names, metavar="NAME,NAME", help="layers; those with weights, rectified"
    )
    parser.add_argument(
        "--maps", type=positive, default=12, metavar="N", help="maps a layer (default: 12)"
    )
    parser.add_argument(
        "--top", type=positive, default=9, metavar="N", help="patches: images a map (default: 9)"
    )
    parser.add_argument(
        "--examples", type=positive, default=5, metavar="N", help="images chosen (default: 5)"
    )
    parser.add_argument(
        "--limit", type=positive, metavar="N", help="look at so many validation images only"
    )
    parser.add_argument(
        "--backward",
        choices=("deconvnet", "guided", "gradient"),
        default="deconvnet",
        help="how activations are projected back (default: deconvnet)",
    )
    parser.add_argument("--batch-size", type=positive, default=32, metavar="N", help="default: 32")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from fastconv.run import Run, read_names
    from fastconv.training.progress import duration, make_progress
    from fastconv.visualize.report import Options, Report

    if args.workers < 0:
        raise ValueError(f"--workers: must be at least 0 (got {args.workers})")
    run, _ = open_run(args)
    if args.names:
        run.names.update(read_names(args.names))
    other = Run.open(args.compare, weights=args.weights) if args.compare else None
    options = Options(
        layers=args.layers,
        maps=args.maps,
        top=args.top,
        examples=args.examples,
        limit=args.limit,
        batch_size=args.batch_size,
        workers=args.workers,
        backward=args.backward,
    )
    progress = make_progress()
    folder = Path(args.output) if args.output else run.path / "visualize"
    report = Report(run, folder, args.data, args.images, options, other, progress)
    pages = args.pages or [name for name in _NAMES if name != "evolution" or run.snapshots]
    seconds = {}
    for name in pages:
        began = time.perf_counter()
        try:
            make_page(report, name)
        finally:
            progress.finish()
        seconds[name] = time.perf_counter() - began
        if not args.json:
            print(f"{folder / name}.html  ({duration(seconds[name])})", flush=True)
    index = write_index(report)
    if args.json:
        print(json.dumps({"run": str(run.path), "index": str(index), "seconds": seconds}))
    else:
        hint(f"open {index} in a browser")
    return 0


def make_page(report, name: str) -> None:
    """Make one page by name, into the report's folder."""
    from fastconv.visualize import pages, training_pages

    home = training_pages if name in ("diagnostics", "evolution") else pages
    getattr(home, f"{name}_page")(report)


def write_index(report) -> Path:
    """The page that links those that are there; returns its file."""
    from fastconv.visualize._html import Page

    run = report.run
    best = max((r["val_top1"] for r in run.history if r["val_top1"] is not None), default=None)
    accuracy = f", best validation top-1 {100 * best:.2f} %" if best is not None else ""
    page = Page(
        f"Seeing inside {report.title}",
        f"{len(run.classes)} classes, {run.weights} weights{accuracy}.",
        home=None,
    )
    page.links(
        (f"{name}.html", title, what)
        for name, title, what in PAGES
        if (report.folder / f"{name}.html").exists()
    )
    path = report.place("index.html")
    page.write(path)
    return path


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"must be names with commas between them (got {text!r})")
    return list(dict.fromkeys(names))


def _pages(text: str) -> list[str]:
    names = _names(text)
    for name in names:
        if name not in _NAMES:
            raise argparse.ArgumentTypeError(f"no page {name!r}; there are {', '.join(_NAMES)}")
    return names
