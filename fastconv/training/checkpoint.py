"""The resumable state of a training run.

``state.pt`` is the one truth: weights, optimizer, schedule, position, log, all in one file that is
replaced in one atomic step. ``last.safetensors``, ``best.safetensors`` and ``log.csv`` are written
after it and follow from it, so a kill at any moment leaves a state to go on from; where it left a
derived file one step behind, resuming writes that again. Between epochs' ends only ``state.pt`` is
written.
"""

from __future__ import annotations

from typing import Any

import torch

from fastconv._files import atomic_open
from fastconv.run import Run, RunError, brief

STATE = "state.pt"
STATE_FORMAT = 1


def save_state(run: Run, state: dict[str, Any]) -> None:
    """Replace the run's state.pt by `state` (tensors and plain values) in one step."""
    with atomic_open(run.path / STATE) as f:
        torch.save({"format": STATE_FORMAT, **state}, f)


def load_state(run: Run) -> dict[str, Any] | None:
    """The run's state on the CPU; None where training was stopped before its first save.

    Raises:
        RunError: state.pt is damaged or of another format.
    """
    path = run.path / STATE
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = state["format"]
    except Exception as error:  # torch and pickle raise whatever a damaged file leads them to
        raise RunError(f"{path}: damaged, cannot resume ({brief(error)})") from None
    if found != STATE_FORMAT:
        raise RunError(f"{path}: state of format {found}, this fastconv reads {STATE_FORMAT}")
    return state
