"""The files of a run that follow from its training state: weights, log, curves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastconv._files import atomic_open, write_tensors
from fastconv.run import LOG, UNREADABLE, Run
from fastconv.training import history

if TYPE_CHECKING:
    from fastconv.training.engine import Trainer

_PLOT_EVERY = 60.0  # seconds; a plot costs about one


class Record:
    """Writes a run's weights, log and curves. Each can be written again from state.pt.

    Args:
        run: whose folder it is.
        datasets: those whose unreadable images are named.
        writes: False for processes other than the first, which write nothing.
    """

    def __init__(self, run: Run, datasets: Sequence[Any], *, writes: bool = True):
        self.run, self.datasets, self.writes = run, datasets, writes
        self._plotted = time.monotonic()

    def epoch_end(self, trainer: Trainer) -> None:
        """Bring all files up to date with a trainer that stands at an epoch's end."""
        self.weights("last", trainer)
        if trainer.best["step"] == trainer.global_step:
            self.weights("best", trainer)
        if trainer.epoch in (trainer.settings.snapshots or ()):
            self.weights(trainer.epoch, trainer)
        if self.writes:
            history.write_log(self.run.path / LOG, trainer.history)
            self._name_unreadable()
        if time.monotonic() - self._plotted > _PLOT_EVERY:
            self.plot(trainer)

    def weights(self, name: str | int, trainer: Trainer) -> None:
        """Write the trainer's weights as the run's last, best or an epoch's."""
        if self.writes:
            self.run.weights_path(name).parent.mkdir(exist_ok=True)
            metadata = {"format": "pt", "epoch": trainer.epoch, "step": trainer.global_step}
            write_tensors(self.run.weights_path(name), trainer.model.state_dict(), metadata)

    def plot(self, trainer: Trainer) -> None:
        """Draw the curves."""
        if self.writes:
            title = f"{self.run.config['model']['name']}, {self.run.path.name}"
            history.plot_curves(self.run.path / "curves.png", trainer.history, title)
        self._plotted = time.monotonic()

    def _name_unreadable(self) -> None:
        """Name the images that were skipped, one a line."""
        names = sorted({str(n) for d in self.datasets for n in getattr(d, "unreadable", ())})
        if names:
            with atomic_open(self.run.path / UNREADABLE) as f:
                f.write("".join(f"{name}\n" for name in names).encode())
