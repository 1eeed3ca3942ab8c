"""What a person sees while a run trains: a live bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO


def make_progress(stream: TextIO | None = None) -> Progress:
    """A `BarProgress` where `stream` (default stderr) is a terminal and rich is installed."""
    stream = stream or sys.stderr
    if stream.isatty():
        try:
            return BarProgress(stream)
        except ImportError:
            pass
    return Progress(stream)


def duration(seconds: float) -> str:
    """``3725`` -> ``"1:02:05"``, ``65`` -> ``"1:05"``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Progress:
    """Plain lines: one every `interval` seconds at most, so that logs stay readable."""

    def __init__(self, stream: TextIO | None = None, interval: float = 30.0):
        self.stream = stream or sys.stderr
        self.interval = interval
        self._label, self._total, self._shown = "", 0, 0.0

    def start(self, label: str, total: int, done: int = 0) -> None:
        """A stretch of work begins: `done` of `total` steps are behind us."""
        self._label, self._total = label, total
        self._shown = time.monotonic()

    def update(self, done: int, **values: Any) -> None:
        """`done` steps are behind us; `values` as `describe` takes them."""
        now = time.monotonic()
        if now - self._shown >= self.interval:
            self._shown = now
            text = describe(**values)
            self.say(f"{self._label}  {done}/{self._total}" + (f"  {text}" if text else ""))

    def finish(self) -> None:
        """The stretch of work ends, or is broken off."""

    def say(self, text: str) -> None:
        """A line that stays."""
        print(text, file=self.stream, flush=True)


class BarProgress(Progress):
    """A live bar by rich; lines said while it runs appear above it."""

    def __init__(self, stream: TextIO | None = None):
        super().__init__(stream)
        from rich.console import Console

        self._console = Console(file=self.stream, highlight=False)
        self._bar: Any = None
        self._task: Any = None

    def start(self, label: str, total: int, done: int = 0) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        self.finish()
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            console=self._console,
            transient=True,
            refresh_per_second=5,
            expand=True,
        )
        self._task = self._bar.add_task(label, total=total, completed=done, text="")
        self._bar.start()

    def update(self, done: int, **values: Any) -> None:
        self._bar.update(self._task, completed=done, text=describe(**values))

    def finish(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)


def describe(
    *,
    loss: float | None = None,
    rate: float | None = None,
    wait: float | None = None,
    left: float | None = None,
    left_all: float | None = None,
) -> str:
    """One line of figures: loss, images a second, data-wait share, seconds left (epoch, run)."""
    parts = []
    if loss is not None:
        parts.append(f"loss {loss:.4f}")
    if rate is not None:
        parts.append(f"{rate:,.0f} img/s" if rate >= 10 else f"{rate:.2f} img/s")
    if wait is not None:
        parts.append(f"data wait {100 * wait:.0f} %")
    if left is not None:
        parts.append(f"left {duration(left)}")
    if left_all is not None:
        parts.append(f"run {duration(left_all)}")
    return "  ".join(parts)
