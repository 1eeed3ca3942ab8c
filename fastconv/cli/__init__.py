"""The ``fastconv`` command: one module a subcommand, each with ``add_parser`` and ``run``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from fastconv._version import __version__
from fastconv.cli import (
    demo,
    detect,
    export,
    info,
    pack,
    predict,
    search,
    train,
    transfer,
    visualize,
)
from fastconv.cli import eval as eval_command

COMMANDS = (
    *(info, train, eval_command, predict, visualize),
    *(transfer, detect, search, demo, pack, export),
)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="fastconv",
        description="Train, evaluate and use the classic convnets.",
        epilog="To begin: fastconv train. It needs no data, and says what to do next.",
    )
    parser.add_argument("--version", action="version", version=f"fastconv {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0 done, 1 failed, 2 wrong use, 130 interrupted.

    What the user can put right is said in one line; ``FASTCONV_DEBUG=1`` shows where it arose.
    """
    args = build_parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        status = _status_of(error)
        if status is None or os.environ.get("FASTCONV_DEBUG") == "1":
            raise
        print(f"fastconv {args.command}: {_text_of(error)}", file=sys.stderr)
        return status


def _text_of(error: Exception) -> str:
    """The message; without the traceback that torch adds to what a loader's worker raised."""
    text = str(error)
    if text.startswith("Caught ") and "Original Traceback" in text:
        return text.strip().splitlines()[-1].partition(": ")[2]
    return text


def _status_of(error: Exception) -> int | None:
    """The exit status for errors whose message is for the user; None for our own mistakes."""
    import torch

    from fastconv._files import WriteError
    from fastconv.data.loading import LOST_WORKER, is_lost_worker
    from fastconv.training import ProcessLost, TrainingDiverged

    if isinstance(error, torch.OutOfMemoryError):
        error.args = (
            "out of GPU memory; a smaller --batch-size helps, or --grad-accum-steps 2, which "
            f"computes the same batch in two parts ({error})",
        )
        return 1
    if is_lost_worker(error):
        error.args = (LOST_WORKER,)
        return 1
    if isinstance(error, TrainingDiverged | ProcessLost | WriteError):
        return 1
    user_errors = (ValueError, FileNotFoundError, NotADirectoryError, PermissionError, ImportError)
    return 2 if isinstance(error, user_errors) else None
