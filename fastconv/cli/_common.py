"""What several subcommands share."""

from __future__ import annotations

import argparse
import sys


def hint(command: str) -> None:
    """Say on stderr what one would do next; stdout is for results."""
    print(f"next: {command}", file=sys.stderr)


def add_run_arguments(
    parser: argparse.ArgumentParser, *, optional: bool = False, json: bool = True
) -> None:
    """RUN and how to use it."""
    count = "?" if optional else None
    parser.add_argument("path", metavar="RUN", nargs=count, help="folder of the run")
    parser.add_argument(
        "--weights", choices=("best", "last"), default="best", help="which weights (default: best)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads of torch")
    if json:
        parser.add_argument("--json", action="store_true", help="print JSON")


def open_run(args: argparse.Namespace):
    """The run that `add_run_arguments` describes, its model on the device."""
    import torch

    from fastconv.run import Run
    from fastconv.training.devices import pick_device

    if args.threads:
        torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    run = Run.open(args.path, weights=args.weights)
    run.model.to(device)
    torch.manual_seed(0)  # some layers draw in evaluation too, and a command's answer shall stand
    return run, device


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1 (got {text})")
    return int(text)
